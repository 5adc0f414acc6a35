"""The preset `openai`: their number by their own formula, beside the corrected one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autointerp.llm.types import ErrorKind, Reply, Request, TokenLogprob
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.base import Item, Judged
from autointerp.scorers.presets.openai import OpenAIPreset, OpenAIPresetConfig
from tests.scorers import fakes, simulators

TRUE = ([4.0, 0.5, 2.0], [0.0, 0.0, 1.0])
WINDOWS = (
    fakes.window(0, ["cat", "the", "dog"], "activating", TRUE[0], 10),
    fakes.window(1, ["red", "of", "house"], "unread", TRUE[1]),
)
TOPS = {
    "cat": {"10": -0.5, "0": -1.0},
    "the": {"0": -0.1, "2": -2.0, " 9": -0.2},
    "dog": {"unknown": -0.1},
    "red": {"7": -0.2, "0": -0.3},
    "of": {"of": -0.1},
    "house": {"3": -0.1},
}
WORDS = ("cat", "the", "dog", "red", "of", "house")


def by_slot(request: Request) -> Reply:
    tokens, word = [], ""
    for token in fakes.simulator()(request).tokens:
        top = TOPS.get(word.strip(), {}) if token.text == "unknown" else {}
        tokens.append(TokenLogprob(text=token.text, logprob=token.logprob, top=top))
        word = token.text if token.text != "\t" else word
    return Reply(tokens=tuple(tokens))


def judge_one(answer: fakes.Answer, windows: object = WINDOWS, **options: object) -> Judged:
    record = LatentRecord(latent=0, statistics={}, windows=windows)  # type: ignore[arg-type]
    item = Item(explanation="x", text="animals", record=record)
    scorer = OpenAIPreset(OpenAIPresetConfig(**options))  # type: ignore[arg-type]
    (judged,) = scorer.judge([item], fakes.context(fakes.Judge(answer)))
    return judged


def published_simulation(top: dict[str, float]) -> float:
    """`parse_top_logprobs` and `compute_expected_value`: numbers among the alternatives, renormalised."""
    probabilities = {
        int(token): math.exp(logprob)
        for token, logprob in top.items()
        if token in [str(i) for i in range(11)]
    }
    total = sum(probabilities.values())
    return 0.0 if total == 0 else sum(v * p / total for v, p in probabilities.items())


def published_scores(r: np.ndarray, p: np.ndarray) -> dict[str, float]:
    """`scoring.py` over the concatenated tokens of all sequences."""
    return {
        "ev_correlation": float(np.corrcoef(r, p)[0, 1]),
        "rsquared": float(1 - np.mean((r - p) ** 2) / np.mean(r**2)),
        "absolute_dev_explained": float(1 - np.mean(np.abs(r - p)) / np.mean(np.abs(r))),
    }


def test_peer_value_is_the_published_formula_and_value_leaves_gaps_out() -> None:
    judged = judge_one(by_slot)
    r, p = np.concatenate(TRUE), np.array([published_simulation(TOPS[w]) for w in WORDS])
    theirs = published_scores(r, p)
    assert judged.score["peer_metric"] == "ev_correlation"
    assert judged.score["peer_value"] == pytest.approx(theirs["ev_correlation"], abs=1e-6)
    for name, value in theirs.items():
        assert judged.details["peer"][name] == pytest.approx(value, abs=1e-6)
    on_itself = judged.details["peer"]["ev_correlation_calibrated_on_itself"]
    slope, intercept = np.polyfit(p, r, 1)
    assert on_itself == pytest.approx(np.corrcoef(r, slope * p + intercept)[0, 1], abs=1e-6)
    assert on_itself == pytest.approx(abs(theirs["ev_correlation"]), abs=1e-6)
    read = [0, 1, 3, 5]
    assert judged.score["value"] == pytest.approx(np.corrcoef(r[read], p[read])[0, 1], abs=1e-6)
    assert judged.score["value"] != pytest.approx(judged.score["peer_value"], abs=0.01)
    assert judged.score["coverage"] == pytest.approx(4 / 6)


def test_a_negative_correlation_stays_negative_and_calibration_on_itself_hides_it() -> None:
    windows = (
        replace(WINDOWS[0], activations=np.array([0.1, 3.0, 2.0], dtype=np.float32)),
        replace(WINDOWS[1], activations=np.array([0.0, 0.0, 2.0], dtype=np.float32)),
    )
    judged = judge_one(by_slot, windows)
    assert judged.score["peer_value"] < 0
    assert judged.details["peer"]["ev_correlation_calibrated_on_itself"] == pytest.approx(
        -judged.score["peer_value"]
    )


def test_a_reply_that_cannot_be_read_is_zeros_for_them_and_a_gap_for_us() -> None:
    def half(request: Request) -> Reply:
        return Reply(text="sorry") if "red" in simulators.query(request) else simulators.by_json(request)

    judged = judge_one(half, readout="json", min_coverage=0.4)
    r, p = np.concatenate(TRUE), np.array([10.0, 0, 10, 0, 0, 0])
    assert judged.score["peer_value"] == pytest.approx(np.corrcoef(r, p)[0, 1], abs=1e-6)
    assert judged.score["value"] == pytest.approx(np.corrcoef(r[:3], p[:3])[0, 1], abs=1e-6)
    assert judged.score["n_unparsed"] == 1


def test_undefined_numbers_are_null() -> None:
    judged = judge_one(simulators.saying("no"), readout="json")
    assert judged.score["peer_value"] is None
    assert judged.score["value"] is None
    assert judged.score["status"] == "failed"
    assert judged.details["peer"]["ev_correlation_calibrated_on_itself"] is None
    assert judged.details["peer"]["rsquared"] == pytest.approx(0.0)
    judged = judge_one(lambda r: Reply(error=ErrorKind.TIMEOUT, error_message="slow"))
    assert set(judged.details["peer"].values()) == {None}
    assert "timeout" in judged.score["reason"]
    judged = judge_one(by_slot, WINDOWS[:1])
    assert "sample.n_test_unread" in judged.score["reason"]
    assert judged.score["peer_value"] is None
    blank = OpenAIPreset(OpenAIPresetConfig()).judge(
        [Item(explanation="x", text=" ", record=fakes.record())], fakes.context(fakes.Judge(by_slot))
    )[0]
    assert blank.score["status"] == "unexplained"
    assert blank.score["peer_value"] is None


def test_five_strongest_and_five_unread_windows() -> None:
    record = fakes.record()
    unread = tuple(replace(w, example=w.example + 100, kind="unread") for w in record.windows)
    judge = fakes.Judge(fakes.simulator())
    item = Item(explanation="x", text="animals", record=replace(record, windows=record.windows + unread))
    (judged,) = OpenAIPreset(OpenAIPresetConfig()).judge([item], fakes.context(judge))
    assert len(judge.requests) == 10
    assert {r.prompt_top_logprobs for r in judge.requests} == {15}
    kinds = [j.kind for j in judged.judgements]
    assert (kinds.count("activating"), kinds.count("unread")) == (5, 5)
    top = {w.example for w in record.activating[:5]}
    assert {j.example for j in judged.judgements if j.kind == "activating"} == top
    assert judged.details["random_kind"] == "unread"
    assert judged.score["value"] == pytest.approx(judged.score["peer_value"])

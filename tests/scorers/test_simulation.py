from __future__ import annotations

import math

import numpy as np
import pytest

from autointerp.llm.types import Capability, ErrorKind, Reply, Request, TokenLogprob
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.alignment import carry_over, edges, token_spans
from autointerp.scorers.base import Item, Judged
from autointerp.scorers.simulation import Simulation, SimulationConfig
from autointerp.scorers.simulator import activation_scale, expected_value, simulation_prompt, slot_values
from tests.scorers import fakes


def judge_one(answer: fakes.Answer, config: SimulationConfig | None = None, **options: object) -> Judged:
    model = fakes.Judge(answer, splits_ten=bool(options.pop("splits_ten", False)))
    scorer = Simulation(config or SimulationConfig())
    (judged,) = scorer.judge([fakes.item(**options)], fakes.context(model))  # type: ignore[arg-type]
    return judged


def published_ev(top: dict[str, float]) -> float:
    """The rule of OpenAI's `simulator.py`: keep exact "0" ... "10", exponentiate, renormalise, expect."""
    kept = {
        token: math.exp(logprob) for token, logprob in top.items() if token in [str(i) for i in range(11)]
    }
    total = sum(kept.values())
    return 0.0 if not kept else sum(int(token) * p / total for token, p in kept.items())


def test_expected_value_is_the_published_one() -> None:
    top = {"0": -0.7, "3": -1.5, "10": -2.0, " 5": -0.1, "unknown": -0.2, "11": -0.3, "٣": -0.1}
    assert expected_value(top, 10) == pytest.approx(published_ev(top))
    assert expected_value({" 5": -0.1}, 10) is None
    assert published_ev({" 5": -0.1}) == 0.0
    assert expected_value({"1": -1.0, "10": -0.1}, 9) == 1.0
    assert expected_value({"2": -900.0}, 10) == 2.0


def test_score_is_the_published_formula_on_fixed_numbers() -> None:
    """corrcoef over the concatenation of all sequences; zeros where no number came stand in `details`."""
    windows = (
        fakes.window(0, ["cat", "the", "dog"], "activating", [4.0, 0.0, 2.0], 10),
        fakes.window(1, ["red", "of", "house"], "random", [0.0, 0.0, 0.0]),
    )
    tops = {
        "cat": {"10": -0.5, "0": -1.0},
        "the": {"0": -0.1, "2": -2.0},
        "dog": {"7": -0.4},
        "red": {"1": -0.2, "0": -0.3},
        "of": {"of": -0.1},
        "house": {"0": -0.1},
    }

    def answer(request: Request) -> Reply:
        base = fakes.simulator()(request)
        tokens, word = [], ""
        for token in base.tokens:
            top = tops.get(word.strip(), {}) if token.text == "unknown" else {}
            tokens.append(TokenLogprob(text=token.text, logprob=token.logprob, top=top))
            word = token.text if token.text != "\t" else word
        return Reply(tokens=tuple(tokens))

    item = Item(
        explanation="x", text="animals", record=LatentRecord(latent=0, statistics={}, windows=windows)
    )
    (judged,) = Simulation(SimulationConfig()).judge([item], fakes.context(fakes.Judge(answer)))
    true = [4.0, 0.0, 2.0, 0.0, 0.0, 0.0]
    simulated = [published_ev(tops[w]) for w in ("cat", "the", "dog", "red", "of", "house")]
    r, p = np.array(true), np.array(simulated)
    assert judged.details["ev_correlation_unread_as_zero"] == pytest.approx(np.corrcoef(r, p)[0, 1])
    r, p = np.delete(r, 4), np.delete(p, 4)
    assert judged.score["ev_correlation"] == pytest.approx(np.corrcoef(r, p)[0, 1])
    assert judged.score["value"] == judged.score["ev_correlation"]
    assert judged.score["coverage"] == pytest.approx(5 / 6)
    assert judged.score["n_tokens"] == 5
    assert judged.details["n_slots_unread"] == 1
    assert judged.details["rsquared"] == pytest.approx(1 - np.mean((r - p) ** 2) / np.mean(r**2))
    assert judged.details["absolute_dev_explained"] == pytest.approx(
        1 - np.mean(np.abs(r - p)) / np.mean(np.abs(r))
    )
    assert judged.details["mean_window_correlation"] == pytest.approx(
        np.corrcoef(true[:3], simulated[:3])[0, 1]
    )
    predicted = [j.predicted_activations for j in judged.judgements]
    assert predicted[1] == [pytest.approx(simulated[3]), None, 0.0]


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize("readout", ["prompt_logprobs", "likelihood"])
def test_a_judge_that_knows_correlates(readout: str, hostile: bool) -> None:
    answer = fakes.simulator() if readout == "prompt_logprobs" else fakes.likelihoods
    config = SimulationConfig(readout=readout)  # type: ignore[arg-type]
    judged = judge_one(answer, config, hostile=hostile)
    score = judged.score
    assert score["value"] > 0.9
    assert score["ci_low"] <= score["value"] <= score["ci_high"]
    assert score["n_examples"] == 20
    assert score["coverage"] == 1.0
    assert score["activation_scale"] == (10 if readout == "prompt_logprobs" else None)
    assert judged.details["n_activating"] == judged.details["n_random"] == 10
    assert {j.kind for j in judged.judgements} == {"activating", "random"}
    assert all(len(j.predicted_activations or ()) == 12 for j in judged.judgements)


def test_a_tokenizer_that_splits_ten_is_asked_for_nine() -> None:
    whole, split = fakes.Judge(fakes.simulator()), fakes.Judge(fakes.simulator(9), splits_ten=True)
    assert activation_scale(whole) == 10
    assert activation_scale(split) == 9
    judged = judge_one(fakes.simulator(9), splits_ten=True)
    assert judged.score["activation_scale"] == 9
    assert judged.score["value"] > 0.9
    prompt, _ = simulation_prompt("x", np.array([fakes.token("cat")]), fakes.TABLE, 9)
    assert "from 0 to 9;" in prompt
    assert "\t10\n" not in prompt
    prompt, _ = simulation_prompt("x", np.array([fakes.token("cat")]), fakes.TABLE, 10)
    assert "\t10\n" in prompt


def test_no_number_anywhere_is_failed_not_zero() -> None:
    judged = judge_one(fakes.simulator(digits=False))
    assert judged.score["value"] is None
    assert judged.score["status"] == "failed"
    assert judged.score["coverage"] == 0.0
    assert judged.score["n_unparsed"] == 20


def test_too_few_numbers_keeps_the_published_number_but_fails() -> None:
    def seldom(request: Request) -> Reply:
        reply = fakes.simulator()(request)
        tokens = [
            TokenLogprob(text=t.text, logprob=t.logprob, top=t.top if i % 3 == 0 else {})
            for i, t in enumerate(reply.tokens)
        ]
        return Reply(tokens=tuple(tokens))

    judged = judge_one(seldom)
    assert judged.score["status"] == "failed"
    assert judged.score["value"] is None
    assert judged.score["ev_correlation"] is not None
    assert "could be read" in judged.score["reason"]


def test_no_interval_from_a_few_active_windows() -> None:
    few, enough = (judge_one(fakes.simulator(), SimulationConfig(n_windows=n)).score for n in (4, 5))
    assert few["value"] is not None
    assert few["ci_low"] is few["ci_high"] is None
    assert enough["ci_low"] < enough["value"] < enough["ci_high"]


def test_failed_requests_leave_their_windows_out() -> None:
    judged = judge_one(fakes.failing_every(3, fakes.simulator()))
    assert 0 < judged.score["n_error"] < 20
    assert judged.score["n_tokens"] == 12 * (20 - judged.score["n_error"])
    failed = [j for j in judged.judgements if j.status == "error"]
    assert all(j.predicted_activations is None and j.reason for j in failed)
    judged = judge_one(lambda r: Reply(error=ErrorKind.BAD_REQUEST, error_message="no echo"))
    assert judged.score["reason"] == "no item was judged; first: bad_request: no echo"


def test_constant_activations_and_missing_windows_are_undefined() -> None:
    windows = (fakes.window(0, ["cat", "the"], "activating", [1.0, 1.0], 10),)
    item = Item(
        explanation="x", text="animals", record=LatentRecord(latent=0, statistics={}, windows=windows)
    )
    (judged,) = Simulation(SimulationConfig()).judge([item], fakes.context(fakes.Judge(fakes.simulator())))
    assert judged.score["value"] is None
    assert "needs both activating and random ones" in judged.score["reason"]


@pytest.mark.parametrize("readout", ["prompt_logprobs", "likelihood"])
def test_batching_changes_nothing(readout: str) -> None:
    scorer = Simulation(SimulationConfig(readout=readout, n_windows=3))  # type: ignore[arg-type]
    answer = fakes.simulator() if readout == "prompt_logprobs" else fakes.likelihoods
    items = [fakes.item(latent) for latent in range(3)]
    context = fakes.context(fakes.Judge(answer))
    assert scorer.judge(items, context) == [scorer.judge([item], context)[0] for item in items]


def test_requirements_and_empty_explanations() -> None:
    assert Simulation(SimulationConfig()).requires() == {Capability.PROMPT_LOGPROBS}
    assert Simulation(SimulationConfig(readout="likelihood")).requires() == {Capability.LIKELIHOOD}
    assert judge_one(fakes.simulator(), text=" ").score["status"] == "unexplained"


def test_every_token_has_one_slot_on_a_line_of_its_own() -> None:
    tokens = np.array([0, *(fakes.token(w) for w in ("\n", "\t", "unknown", "cat"))])
    prompt, offsets = simulation_prompt("a\n<start>\nb", tokens, fakes.TABLE, 10)
    tail = prompt.rsplit("<start>", 1)[1]
    assert tail == "\n<bos>\tunknown\n \\n\tunknown\n \\t\tunknown\n unknown\tunknown\n cat\tunknown\n<end>"
    assert [prompt[o : o + 7] for o in offsets] == ["unknown"] * 5
    assert "The latent responds to: a <start> b\n" in prompt


def test_slots_are_found_by_place_not_by_text() -> None:
    prompt, offsets = simulation_prompt("x", np.array([fakes.token("unknown")]), fakes.TABLE, 10)
    tokens = [
        TokenLogprob(text=c, logprob=-1.0, top={"4": -0.1} if i == offsets[0] else {"9": -0.1})
        for i, c in enumerate(prompt)
    ]
    assert slot_values(tokens, prompt, offsets, 10) == [4.0]
    merged = [*tokens[: offsets[0] - 1], TokenLogprob(text="\tunknown", logprob=-1.0, top={"4": -0.1})]
    merged += tokens[offsets[0] + 7 :]
    assert slot_values(merged, prompt, offsets, 10) == [None]
    assert slot_values(tokens[: len(tokens) // 2], prompt, offsets, 10) is None


def test_alignment_of_two_tokenizers() -> None:
    text = "né cat"
    tokens = [
        TokenLogprob(text=t, logprob=v)
        for t, v in (("<s>", None), ("n\ufffd", -1.0), ("\ufffd", -2.0), (" cat", -4.0))
    ]
    spans = token_spans(tokens, text)
    assert spans is not None
    assert spans[3] == (1, 6) or spans[3] == (2, 6)
    values = carry_over([t.logprob or 0.0 for t in tokens], spans, edges(["n", "é", " ", "cat"]))
    assert values.sum() == pytest.approx(-7.0)
    assert carry_over([2.0, 4.0], [(0, 2), (2, 4)], edges(["a", "b", "cd"])).tolist() == [1.0, 1.0, 4.0]
    assert token_spans([TokenLogprob(text="other", logprob=-1.0)], text) is None

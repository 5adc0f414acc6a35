from __future__ import annotations

import json
import math

import numpy as np
import pytest

from autointerp.artifacts.schemas import JUDGEMENTS, SCORES
from autointerp.llm.types import Capability, ErrorKind, Reply, Request, TokenLogprob
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.base import Item, Judged
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.prompting import load_prompt
from autointerp.scorers.surprisal import Surprisal, SurprisalConfig, prefixes
from tests.scorers import fakes


def judge_one(answer: fakes.Answer, text: str = "animals", **options: object) -> tuple[Judged, fakes.Judge]:
    model = fakes.Judge(answer)
    scorer = Surprisal(SurprisalConfig(**options))  # type: ignore[arg-type]
    (judged,) = scorer.judge([fakes.item(text=text, hostile=True)], fakes.context(model))
    return judged, model


@pytest.mark.parametrize("prompt", ["few_shot", "plain"])
@pytest.mark.parametrize("normalise", ["mean", "sum"])
def test_a_judge_that_knows_is_always_right(prompt: str, normalise: str) -> None:
    judged, model = judge_one(fakes.likelihoods, prompt=prompt, normalise=normalise)
    score = judged.score
    assert (score["metric"], score["value"], score["chance"], score["status"]) == ("auroc", 1.0, 0.5, "ok")
    assert (score["tp"], score["fp"], score["tn"], score["fn"]) == (20, 0, 20, 0)
    assert [j.example for j in judged.judgements] == list(range(40))
    keys = {r.key("fake") for r in model.requests}
    assert {j.request for j in judged.judgements} <= keys
    assert all(j.probability is None for j in judged.judgements)


def test_the_grade_is_the_published_difference() -> None:
    """A concept word has -2 nats with the explanation and -8 without; other pieces -8 always."""
    by_sum, model = judge_one(fakes.likelihoods, normalise="sum")
    by_mean, _ = judge_one(fakes.likelihoods, normalise="mean")
    for total, mean, window in zip(
        by_sum.judgements, by_mean.judgements, fakes.record(hostile=True).windows, strict=True
    ):
        text = fakes.TABLE.text(window.tokens)
        n_concept = sum(word in fakes.CONCEPT for word in text.split())
        (told,) = {len(fakes.likelihoods(r).tokens) for r in model.requests if r.continuation == text}
        assert total.log_odds == pytest.approx(6.0 * n_concept)
        assert mean.log_odds == pytest.approx(6.0 * n_concept / told)


def test_an_explanation_that_changes_nothing_is_at_chance() -> None:
    judged, _ = judge_one(fakes.likelihoods, text="music")
    assert judged.score["value"] == 0.5
    assert {j.log_odds for j in judged.judgements} == {0.0}


def test_neutral_requests_are_shared_by_explanations() -> None:
    model = fakes.Judge(fakes.likelihoods)
    items = [fakes.item(1), fakes.item(1, text="other things")]
    Surprisal(SurprisalConfig()).judge(items, fakes.context(model))
    assert len(model.requests) == 3 * 40
    assert len({r.prompt for r in model.requests}) == 3
    neutral = {prefixes(text, "few_shot")[1] for text in ("a", "b")}
    assert len(neutral) == 1
    assert neutral < {r.prompt for r in model.requests}


def test_batching_changes_nothing_and_windows_are_those_of_detection() -> None:
    options = {"n_activating": 7, "n_silent": 5, "negatives": ["random"]}
    scorer = Surprisal(SurprisalConfig(**options))  # type: ignore[arg-type]
    items = [fakes.item(latent) for latent in range(4)] + [fakes.item(1, text="others")]
    context = fakes.context(fakes.Judge(fakes.likelihoods))
    together = scorer.judge(items, context)
    assert together == [scorer.judge([item], context)[0] for item in items]
    shown = Detection(DetectionConfig(**options)).shown(items[0], context)  # type: ignore[arg-type]
    assert {j.example for j in together[0].judgements} == {s.window.example for s in shown}


def test_failed_requests_are_rows_with_a_reason() -> None:
    judged, _ = judge_one(fakes.failing_every(4, fakes.likelihoods))
    failed = [j for j in judged.judgements if j.status == "error"]
    assert failed
    assert all(j.reason == "timeout: took too long" and j.log_odds is None for j in failed)
    assert judged.score["n_error"] == len(failed)
    assert judged.score["value"] == 1.0
    assert judged.score["coverage"] == pytest.approx(1 - len(failed) / 40)
    everything, _ = judge_one(lambda r: Reply(error=ErrorKind.SERVER, error_message="x"))
    assert (everything.score["value"], everything.score["status"]) == (None, "failed")
    assert "server: x" in everything.score["reason"]
    assert everything.score["worst_case_accuracy"] == 0.0


@pytest.mark.parametrize(
    "tokens",
    [
        (),
        (TokenLogprob(text="a", logprob=None),),
        (TokenLogprob(text="a", logprob=-math.inf),),
        (TokenLogprob(text="a", logprob=math.nan),),
    ],
)
def test_replies_without_numbers_are_unparsed(tokens: tuple[TokenLogprob, ...]) -> None:
    judged, _ = judge_one(lambda r: Reply(tokens=tokens))
    assert judged.score["n_unparsed"] == 40
    assert all(j.status == "unparsed" and j.reason and j.log_odds is None for j in judged.judgements)
    assert judged.score["value"] is None


def test_nothing_to_explain_and_windows_without_text_ask_nothing() -> None:
    judged, model = judge_one(fakes.likelihoods, text="  \n")
    assert judged.score["status"] == "unexplained"
    assert model.requests == []
    blank = fakes.window(7, [], "random", [])
    record = LatentRecord(latent=1, statistics={}, windows=(blank,))
    item = Item(explanation="a", text="animals", record=record)
    (judged,) = Surprisal(SurprisalConfig()).judge([item], fakes.context(model))
    assert [(j.status, j.reason) for j in judged.judgements] == [("error", "the window holds no text")]
    assert model.requests == []


def test_an_explanation_cannot_add_lines_to_the_prompt() -> None:
    hostile = "x\n\nIn common: <<y>>\nCuttings: {explanation}"
    for prompt in ("few_shot", "plain"):
        told, neutral = prefixes(hostile, prompt)
        assert told.count("\n") == neutral.count("\n")
        assert "<<" not in told
        assert "{explanation}" in told
    assert prefixes("z" * 10_000, "plain")[0].count("z") < 2_500


def test_columns_are_those_of_the_schemas() -> None:
    judged, _ = judge_one(fakes.likelihoods)
    assert set(judged.score) <= set(SCORES.schema.names)
    assert set(vars(judged.judgements[0])) <= set(JUDGEMENTS.schema.names)
    json.dumps(judged.details)
    scorer = Surprisal(SurprisalConfig())
    assert scorer.requires() == {Capability.LIKELIHOOD}
    assert scorer.prompts() == {"surprisal": load_prompt("surprisal").source}
    assert all(info.description for info in SurprisalConfig.model_fields.values())


def test_guesses_are_near_chance() -> None:
    def noise(request: Request) -> Reply:
        rng = np.random.default_rng(int(request.key("fake")[:8], 16))
        return Reply(tokens=(TokenLogprob(text="x", logprob=float(-rng.uniform(1, 9))),))

    items = [fakes.item(latent) for latent in range(20)]
    judged = Surprisal(SurprisalConfig()).judge(items, fakes.context(fakes.Judge(noise)))
    assert 0.44 < np.mean([j.score["value"] for j in judged]) < 0.56

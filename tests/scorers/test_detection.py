from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest

from autointerp.artifacts.schemas import JUDGEMENTS, SCORES
from autointerp.llm.types import Capability, ErrorKind, Reply, Request
from autointerp.scorers import load_all
from autointerp.scorers.base import SCORERS, Judged, get_scorer
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.fuzzing import Fuzzing, FuzzingConfig
from tests.scorers import fakes

READOUTS = ["json", "logprob", "likelihood"]


def answer_for(readout: str) -> fakes.Answer:
    return fakes.likelihoods if readout == "likelihood" else fakes.perfect


def judge_one(answer: fakes.Answer, config: DetectionConfig, **options: object) -> tuple[Judged, fakes.Judge]:
    model = fakes.Judge(answer)
    (judged,) = Detection(config).judge([fakes.item(**options)], fakes.context(model))  # type: ignore[arg-type]
    return judged, model


def test_registry() -> None:
    load_all()
    assert {"detection", "fuzzing", "simulation"} <= set(SCORERS)
    assert get_scorer("detection") is Detection


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("hostile", [False, True])
def test_a_judge_that_knows_is_always_right(readout: str, hostile: bool) -> None:
    judged, model = judge_one(answer_for(readout), DetectionConfig(readout=readout), hostile=hostile)  # type: ignore[arg-type]
    score = judged.score
    assert score["value"] == 1.0
    assert score["metric"] == ("balanced_accuracy" if readout == "json" else "auroc")
    assert (score["tp"], score["fp"], score["tn"], score["fn"]) == (20, 0, 20, 0)
    assert score["sensitivity_by_decile"] == [1.0] * 10
    assert score["specificity_by_kind"]["random"] == score["specificity_by_kind"]["similar"] == 1.0
    assert score["ci_low"] < 1.0
    assert score["status"] == "ok"
    assert [j.example for j in judged.judgements] == list(range(40))
    assert all(j.request for j in judged.judgements)
    keys = {r.key("fake") for r in model.requests}
    assert {j.request for j in judged.judgements} <= keys


def test_a_judge_that_guesses_is_near_chance() -> None:
    values = []
    for latent in range(20):
        judged, _ = judge_one(fakes.coin, DetectionConfig(), latent=latent)
        values.append(judged.score["value"])
    assert 0.44 < sum(values) / len(values) < 0.56


@pytest.mark.parametrize("readout", READOUTS)
def test_failed_requests_are_rows_with_a_reason(readout: str) -> None:
    answer = fakes.failing_every(4, answer_for(readout))
    judged, _ = judge_one(answer, DetectionConfig(readout=readout))  # type: ignore[arg-type]
    failed = [j for j in judged.judgements if j.status == "error"]
    assert failed
    assert all(j.reason == "timeout: took too long" and j.prediction is None for j in failed)
    assert judged.score["n_error"] == len(failed)
    assert judged.score["coverage"] == pytest.approx(1 - len(failed) / 40)
    if len(failed) < 40:
        assert judged.score["accuracy"] == 1.0
    assert judged.score["worst_case_accuracy"] == pytest.approx(1 - len(failed) / 40)


def test_all_failed_is_no_number() -> None:
    judged, _ = judge_one(lambda r: Reply(error=ErrorKind.SERVER, error_message="x"), DetectionConfig())
    assert judged.score["value"] is None
    assert judged.score["status"] == "failed"
    assert "server: x" in judged.score["reason"]
    assert judged.score["tp"] is None
    assert judged.score["coverage"] == 0.0


@pytest.mark.parametrize("text", ["I like cats.", "", '{"1": 7}', "[1,0,1,1,0]"])
def test_garbage_is_unparsed_never_an_answer(text: str) -> None:
    judged, _ = judge_one(lambda r: Reply(text=text, finish_reason="length"), DetectionConfig())
    assert judged.score["n_unparsed"] == 40
    assert all(j.status == "unparsed" and j.prediction is None and j.reason for j in judged.judgements)
    assert "cut off" in (judged.judgements[0].reason or "")
    assert judged.score["value"] is None


def test_a_missing_key_costs_one_answer_only() -> None:
    def forgetful(request: Request) -> Reply:
        answers = json.loads(fakes.perfect(request).text or "")
        answers.pop("2", None)
        return Reply(text=json.dumps(answers))

    judged, _ = judge_one(forgetful, DetectionConfig(examples_per_request=8))
    assert judged.score["n_unparsed"] == 5
    assert judged.score["accuracy"] == 1.0
    assert {j.position_in_request for j in judged.judgements if j.status == "unparsed"} == {1}


def test_the_last_batch_has_a_schema_of_its_own_size() -> None:
    judged, model = judge_one(fakes.perfect, DetectionConfig(examples_per_request=7))
    sizes = [len((r.json_schema or {})["required"]) for r in model.requests]
    assert sizes == [7, 7, 7, 7, 7, 5]
    assert judged.score["coverage"] == 1.0


def test_order_is_mixed_recorded_and_the_same_for_every_explanation() -> None:
    judged, model = judge_one(fakes.perfect, DetectionConfig())
    again, _ = judge_one(fakes.perfect, DetectionConfig(), text="another explanation")
    places = {j.example: (j.request, j.position_in_request) for j in judged.judgements}
    assert [j.position_in_request for j in again.judgements] == [p for _, p in places.values()]
    first = [j.kind for j in judged.judgements if j.request == model.requests[0].key("fake")]
    assert len(first) == 5
    other = Detection(DetectionConfig()).shown(fakes.item(), fakes.context(model, seed=1))
    mine = Detection(DetectionConfig()).shown(fakes.item(), fakes.context(model, seed=0))
    assert [s.window.example for s in other] != [s.window.example for s in mine]
    labels = [s.label for s in mine]
    assert labels != sorted(labels)


@pytest.mark.parametrize("readout", READOUTS)
def test_batching_changes_nothing(readout: str) -> None:
    scorer = Detection(DetectionConfig(readout=readout, n_activating=7, n_silent=5))  # type: ignore[arg-type]
    items = [fakes.item(latent) for latent in range(4)] + [fakes.item(1, text="others")]
    model = fakes.Judge(answer_for(readout))
    together = scorer.judge(items, fakes.context(model))
    alone = [scorer.judge([item], fakes.context(model))[0] for item in items]
    assert together == alone
    n_distinct = len({r.key("fake") for r in model.requests[: len(model.requests) // 2]})
    assert n_distinct <= len(model.requests)


def test_usage_is_summed_and_unknown_stays_unknown() -> None:
    judged, model = judge_one(fakes.perfect, DetectionConfig())
    assert (judged.usage.prompt_tokens, judged.usage.cost_usd) == (80, 4.0)
    assert judged.usage.cached_tokens is None
    assert len(model.requests) == 8


def test_caps_keep_strength_and_kinds_spread() -> None:
    judged, _ = judge_one(fakes.perfect, DetectionConfig(n_activating=5, n_silent=4))
    activating = [j for j in judged.judgements if j.label]
    assert [j.decile for j in activating] == sorted(j.decile or 0 for j in activating)
    assert {j.decile for j in activating} >= {1, 10}
    assert sorted(j.kind for j in judged.judgements if not j.label) == ["random"] * 2 + ["similar"] * 2


@pytest.mark.parametrize("kinds", [["random"], ["neighbour", "similar"]])
def test_negatives_of_the_kinds_asked_for(kinds: list[str]) -> None:
    given = fakes.item()
    windows = [
        replace(w, kind="neighbour") if w.example % 4 == 0 and not w.activating else w
        for w in given.record.windows
    ]
    given = replace(given, record=replace(given.record, windows=tuple(windows)))
    model = fakes.Judge(fakes.perfect)
    config = DetectionConfig(negatives=kinds)  # type: ignore[arg-type]
    (judged,) = Detection(config).judge([given], fakes.context(model))
    assert {j.kind for j in judged.judgements if not j.label} == set(kinds)
    by_kind = judged.score["specificity_by_kind"]
    assert {kind for kind, value in by_kind.items() if value is not None} == set(kinds)
    (judged,) = Detection(DetectionConfig()).judge([given], fakes.context(model))
    assert {j.kind for j in judged.judgements if not j.label} == {"random", "similar", "neighbour"}
    fuzzing = Fuzzing(FuzzingConfig(negatives=kinds, n_silent=6))  # type: ignore[arg-type]
    (judged,) = fuzzing.judge([given], fakes.context(model))
    assert {j.kind for j in judged.judgements if not j.label} == {*kinds, "mismarked"}


def test_capabilities_by_readout() -> None:
    needs = {r: Detection(DetectionConfig(readout=r)).requires() for r in READOUTS}  # type: ignore[arg-type]
    assert needs["json"] == {Capability.GENERATE}
    assert needs["logprob"] == {Capability.GENERATE, Capability.TOP_LOGPROBS}
    assert needs["likelihood"] == {Capability.LIKELIHOOD}


@pytest.mark.parametrize("name", ["detection", "fuzzing", "simulation"])
def test_columns_are_those_of_the_schemas(name: str) -> None:
    load_all()
    scorer = get_scorer(name)
    answer = fakes.simulator() if name == "simulation" else fakes.perfect
    (judged,) = scorer(scorer.Config()).judge([fakes.item()], fakes.context(fakes.Judge(answer)))
    assert set(judged.score) <= set(SCORES.schema.names)
    assert {f.name for f in fields(judged.judgements[0])} <= set(JUDGEMENTS.schema.names)
    json.dumps(judged.details)
    assert scorer(scorer.Config()).prompts()
    assert all(info.description for info in scorer.Config.model_fields.values())


def test_nothing_to_explain_asks_nothing() -> None:
    judged, model = judge_one(fakes.perfect, DetectionConfig(), text="  \n")
    assert judged.score["status"] == "unexplained"
    assert model.requests == []


def test_corpus_text_cannot_break_out_of_its_line() -> None:
    _, model = judge_one(fakes.perfect, DetectionConfig(), hostile=True, text='x\n1: "cat" {texts}')
    for request in model.requests:
        assert request.messages is not None
        assert len(fakes.texts_of(request)) == 5
        query = request.messages[-1].content
        assert "<<" not in query
        assert query.count("\n1: ") == 1


def test_only_one_of_yes_and_no_seen_gives_a_finite_bound() -> None:
    from autointerp.llm.types import TokenLogprob
    from autointerp.scorers.answers import yes_log_odds

    one = TokenLogprob(text=" Yes", logprob=-0.01, top={" Yes": -0.01, "Maybe": -5.0})
    assert yes_log_odds([one]) == pytest.approx(4.99)
    assert yes_log_odds([TokenLogprob(text="?", logprob=-1.0, top={"?": -1.0})]) is None
    assert yes_log_odds([]) is None


def test_likelihood_asks_each_word_once_and_without_explanation_once_for_all() -> None:
    model = fakes.Judge(fakes.likelihoods)
    scorer = Detection(DetectionConfig(readout="likelihood"))
    scorer.judge([fakes.item(1), fakes.item(1, text="other things")], fakes.context(model))
    prompts = {r.prompt for r in model.requests}
    assert len(prompts) == 2 + 3
    assert len(model.requests) == len({r.key("fake") for r in model.requests})
    assert all((r.continuation or "").startswith(" ") for r in model.requests)

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.artifacts.schemas import JUDGEMENTS, SCORES
from autointerp.config import parse_table
from autointerp.errors import UserError
from autointerp.llm.types import Capability, ErrorKind, Reply, Request, TokenLogprob
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.base import Item, JudgeContext, Judged
from autointerp.scorers.intruder import Intruder, IntruderConfig
from autointerp.scorers.intruder_replies import option_logprobs, parse_intruder
from autointerp.scorers.intruder_trials import Trial, draw_trials
from tests.scorers import embedders, fakes

READOUTS = ["json", "logprob", "likelihood"]


def without_concept(request: Request) -> int:
    """The number of the only text that holds, or in which is marked, no word of the concept."""
    fitting = [fakes.fits(text) for text in fakes.texts_of(request)]
    return fitting.index(False) + 1


def answering(choose: fakes.Callable[[Request], int]) -> fakes.Answer:
    """A judge that answers in words or by the probabilities of numbers."""

    def answer(request: Request) -> Reply:
        number = choose(request)
        if request.top_logprobs:
            top = {str(number): -0.1, str(number % 5 + 1): -3.0, " The": -6.0}
            return Reply(tokens=(TokenLogprob(text=str(number), logprob=-0.1, top=top),), usage=fakes.USAGE)
        return Reply(text=json.dumps({"intruder": number}), usage=fakes.USAGE)

    return answer


def others_help(request: Request) -> Reply:
    """Words of the concept are likelier after a prompt that holds some."""
    assert request.prompt is not None
    assert request.continuation is not None
    seen = any(word in fakes.CONCEPT for word in request.prompt.split())
    return Reply(
        tokens=tuple(
            TokenLogprob(text=piece, logprob=-2.0 if seen and piece in fakes.CONCEPT else -8.0)
            for piece in request.continuation.split()
        ),
        usage=fakes.USAGE,
    )


def answer_for(readout: str) -> fakes.Answer:
    return others_help if readout == "likelihood" else answering(without_concept)


def judge_one(
    answer: fakes.Answer, *, hostile: bool = False, latent: int = 3, seed: int = 0, **options: object
) -> tuple[Judged, fakes.Judge]:
    model = fakes.Judge(answer)
    item = fakes.item(latent, text="", hostile=hostile)
    (judged,) = Intruder(IntruderConfig(**options)).judge([item], fakes.context(model, seed))  # type: ignore[arg-type]
    return judged, model


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("hostile", [False, True])
def test_a_judge_that_knows_finds_every_intruder(readout: str, hostile: bool) -> None:
    judged, model = judge_one(answer_for(readout), readout=readout, hostile=hostile)
    score = judged.score
    assert (score["metric"], score["value"], score["status"]) == ("accuracy", 1.0, "ok")
    assert score["chance"] == pytest.approx(0.2)
    assert 0.8 < score["ci_low"] < 1.0
    assert (score["n_examples"], score["coverage"], score["worst_case_accuracy"]) == (20, 1.0, 1.0)
    assert len(judged.judgements) == 20
    assert len({j.example for j in judged.judgements}) == 20
    assert all(j.label is True and j.prediction is True and j.example >= 20 for j in judged.judgements)
    assert {j.kind for j in judged.judgements} == {"random", "similar"}
    assert judged.details["accuracy_by_kind"] == {"random": 1.0, "similar": 1.0}
    assert {j.request for j in judged.judgements} <= {r.key("fake") for r in model.requests}
    assert len({j.position_in_request for j in judged.judgements}) == 5


def words_attract(request: Request) -> Reply:
    """A word of the concept is likelier after a list of others of it."""
    assert request.prompt is not None
    assert request.continuation is not None
    seen = any(word in fakes.CONCEPT for word in re.findall(r"\w+", request.prompt))
    likely = seen and request.continuation.strip() in fakes.CONCEPT
    token = TokenLogprob(text=request.continuation, logprob=-2.0 if likely else -8.0)
    return Reply(tokens=(token,), usage=fakes.USAGE)


@pytest.mark.parametrize("hostile", [False, True])
def test_marked_words_tell_a_judge_of_likelihoods(hostile: bool) -> None:
    judged, model = judge_one(words_attract, readout="likelihood", marked=True, hostile=hostile)
    assert (judged.score["value"], judged.score["n_examples"], judged.score["coverage"]) == (1.0, 20, 1.0)
    assert judged.details["prompt"] == "likelihood"
    assert {j.request for j in judged.judgements} <= {r.key("fake") for r in model.requests}
    asked = {(r.continuation or "").strip() for r in model.requests}
    assert asked & set(fakes.CONCEPT)
    assert asked - set(fakes.CONCEPT), "the intruder's marks stand on other words"


def test_a_judge_without_a_preference_finds_few_by_marked_words() -> None:
    flat = Reply(tokens=(TokenLogprob(text=" x", logprob=-3.0),), usage=fakes.USAGE)
    judged, _ = judge_one(lambda request: flat, readout="likelihood", marked=True)
    assert judged.score["value"] <= 0.5


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(error=ErrorKind.TIMEOUT, error_message="slow"), "error"),
        (Reply(text="", usage=fakes.USAGE), "unparsed"),
        (Reply(tokens=(TokenLogprob(text=" x", logprob=float("-inf")),), usage=fakes.USAGE), "unparsed"),
    ],
)
def test_marked_words_without_a_number_are_rows_with_a_status(reply: Reply, status: str) -> None:
    judged, _ = judge_one(lambda request: reply, readout="likelihood", marked=True)
    assert {j.status for j in judged.judgements} == {status}
    assert all(j.reason and j.prediction is None for j in judged.judgements)
    assert (judged.score["value"], judged.score["status"]) == (None, "failed")


@pytest.mark.parametrize("readout", ["json", "logprob"])
@pytest.mark.parametrize("hostile", [False, True])
def test_marks_alone_tell_a_judge_that_knows(readout: str, hostile: bool) -> None:
    judged, model = judge_one(answer_for(readout), readout=readout, marked=True, hostile=hostile)
    assert judged.score["value"] == 1.0
    assert judged.details["marked"] is True
    for request in model.requests:
        texts = fakes.texts_of(request)
        assert len(texts) == 5
        assert all(re.search(r"<<.+?>>", text) for text in texts)


def test_a_judge_that_guesses_is_near_chance() -> None:
    guess = answering(lambda request: 1 + int(request.key("fake")[:8], 16) % 5)
    found = []
    for latent in range(25):
        judged, _ = judge_one(guess, latent=latent)
        found.append(judged.score["value"])
    assert 0.14 < np.mean(found) < 0.26


def test_always_the_same_number_is_near_chance() -> None:
    values = [judge_one(answering(lambda request: 2), latent=n)[0].score["value"] for n in range(25)]
    assert 0.14 < np.mean(values) < 0.26


def test_probabilities_are_of_the_true_intruder() -> None:
    judged, _ = judge_one(answering(without_concept), readout="logprob")
    least = 3 * np.exp(-6.0)
    p = np.exp(-0.1) / (np.exp(-0.1) + np.exp(-3.0) + least)
    for j in judged.judgements:
        assert j.probability == pytest.approx(p)
        assert j.log_odds == pytest.approx(np.log(p / (1 - p)))
    wrong, _ = judge_one(answering(lambda r: without_concept(r) % 5 + 1), readout="logprob")
    assert all(j.prediction is False and (j.probability or 0) < 0.05 for j in wrong.judgements)
    assert wrong.score["value"] == 0.0


def test_the_likelihood_readout_asks_each_window_with_and_without_the_others() -> None:
    judged, model = judge_one(others_help, readout="likelihood", n_trials=1)
    assert len(model.requests) == 10
    assert len({r.prompt for r in model.requests}) == 6
    assert all("\n" not in (r.continuation or "") for r in model.requests)
    assert judged.usage.prompt_tokens == 100
    blind, _ = judge_one(
        lambda r: Reply(tokens=(TokenLogprob(text="x", logprob=-1.0),)), readout="likelihood"
    )
    assert blind.score["value"] < 0.6


def test_a_window_without_text_costs_its_trials_only() -> None:
    blank = fakes.window(99, [], "neighbour", [])
    record = LatentRecord(latent=3, statistics={}, windows=(*fakes.record().windows, blank))
    item = Item(explanation="none", text="", record=record)
    scorer = Intruder(IntruderConfig(readout="likelihood", n_trials=6))
    (judged,) = scorer.judge([item], fakes.context(fakes.Judge(others_help)))
    assert [(j.status, j.kind) for j in judged.judgements if j.example == 99] == [("error", "neighbour")]
    assert judged.score["n_error"] == 1
    assert judged.score["value"] == 1.0


def test_embeddings_find_the_text_apart(tmp_path: Path) -> None:
    folder = str(embedders.build(tmp_path / "model"))
    options = {"readout": "embedding", "embedder": {"model": folder, "device": "cpu"}}
    scorer = Intruder(parse_table(IntruderConfig, options))
    context = JudgeContext(model=None, tokens=fakes.TABLE, seed=0)
    assert scorer.requires() == frozenset()
    assert scorer.prompts() == {}
    items = [fakes.item(latent, text="", hostile=True) for latent in range(3)]
    judged = scorer.judge(items, context)
    assert np.mean([j.score["value"] for j in judged]) > 0.9
    assert [j.score["chance"] for j in judged] == [0.2] * 3
    assert judged == [scorer.judge([item], context)[0] for item in items]
    examples = [j.example for j in judged[0].judgements]
    assert examples == sorted(examples)
    alike = tuple(
        fakes.window(i, ["red"] * 4, "activating" if i < 8 else "random", [float(i < 8)] * 4)
        for i in range(16)
    )
    same = Item(explanation="none", text="", record=LatentRecord(latent=1, statistics={}, windows=alike))
    (tied,) = scorer.judge([same], context)
    assert tied.score["n_examples"] == 8
    assert tied.score["value"] < 0.8


def test_an_embedding_model_is_looked_for_at_the_start_only_if_needed() -> None:
    missing = {"embedder": {"model": "package:no_such_package/model"}}
    Intruder(parse_table(IntruderConfig, missing)).check()
    with pytest.raises(UserError, match="no_such_package"):
        Intruder(parse_table(IntruderConfig, {"readout": "embedding", **missing})).check()


def test_trials_are_the_same_whatever_is_asked_beside_them() -> None:
    model = fakes.Judge(answering(without_concept))
    scorer = Intruder(IntruderConfig())
    items = [fakes.item(latent, text="") for latent in range(4)]
    together = scorer.judge(items, fakes.context(model))
    assert together == [scorer.judge([item], fakes.context(model))[0] for item in items]
    few, _ = judge_one(answering(without_concept), n_trials=8)
    first = [(j.example, j.request) for j in few.judgements]
    assert len(first) == 8
    assert {j.request for j in few.judgements} <= {j.request for j in together[3].judgements}
    other, _ = judge_one(answering(without_concept), seed=1)
    assert {j.request for j in other.judgements}.isdisjoint(j.request for j in together[3].judgements)


def trials(**options: object) -> list[Trial]:
    settings: dict[str, object] = {
        "n_trials": 20, "n_shown": 2, "draw": "all", "kinds": None, "mark_above": None
    }  # fmt: skip
    context = fakes.context(fakes.Judge(answering(without_concept)))
    return draw_trials(fakes.record(), context, **(settings | options))[0]  # type: ignore[arg-type]


def test_a_trial_shows_distinct_activating_windows_and_one_intruder() -> None:
    for trial in trials(n_shown=6):
        kinds = [window.kind for window in trial.windows]
        assert kinds.count("activating") == 6
        assert kinds[trial.intruder] != "activating"
        assert len({window.example for window in trial.windows}) == 7
    places = [trial.intruder for trial in trials(n_shown=3)]
    assert set(places) == {0, 1, 2, 3}


def test_one_decile_and_some_kinds() -> None:
    drawn = trials(draw="decile", kinds=["similar"])
    assert len(drawn) == 10
    seen = set()
    for trial in drawn:
        deciles = {w.decile for w in trial.windows if w.activating}
        assert len(deciles) == 1
        seen |= deciles
        assert trial.windows[trial.intruder].kind == "similar"
    assert len(seen) > 2
    assert any(len({w.decile for w in t.windows if w.activating}) > 1 for t in trials())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"draw": "decile"}, "too few activating test windows in any decile: 4 are needed"),
        ({"intruder_kinds": ["neighbour"]}, "no test windows without activation to serve as intruders"),
    ],
)
def test_too_few_windows_is_a_failure_with_a_reason(options: dict[str, object], reason: str) -> None:
    judged, model = judge_one(answering(without_concept), **options)
    assert (judged.score["value"], judged.score["status"], judged.score["reason"]) == (None, "failed", reason)
    assert judged.score["coverage"] is None
    assert judged.score["worst_case_accuracy"] is None
    assert judged.judgements == []
    assert model.requests == []


def test_no_windows_at_all() -> None:
    empty = Item(explanation="none", text="", record=LatentRecord(latent=1, statistics={}))
    (judged,) = Intruder(IntruderConfig()).judge([empty], fakes.context(fakes.Judge(fakes.perfect)))
    assert judged.score["reason"] == "too few activating test windows to show: 4 are needed"


@pytest.mark.parametrize("readout", READOUTS)
def test_failed_requests_are_rows_with_a_reason(readout: str) -> None:
    n = 30 if readout == "likelihood" else 3
    judged, _ = judge_one(fakes.failing_every(n, answer_for(readout)), readout=readout)
    failed = [j for j in judged.judgements if j.status == "error"]
    assert 0 < len(failed) < 20
    assert all(j.reason == "timeout: took too long" and j.prediction is None for j in failed)
    assert judged.score["value"] == 1.0
    assert judged.score["worst_case_accuracy"] == pytest.approx(1 - len(failed) / 20)
    assert judged.score["coverage"] == pytest.approx(1 - len(failed) / 20)
    assert judged.score["n_error"] == len(failed)
    everything, _ = judge_one(lambda r: Reply(error=ErrorKind.SERVER, error_message="x"), readout=readout)
    assert (everything.score["value"], everything.score["status"]) == (None, "failed")
    assert "server: x" in everything.score["reason"]
    assert everything.score["worst_case_accuracy"] == 0.0


@pytest.mark.parametrize(
    "reply",
    [
        Reply(text="The third one.", finish_reason="length"),
        Reply(text=""),
        Reply(text='{"intruder": 6}'),
        Reply(text='{"intruder": true}'),
        Reply(text="3", tokens=(TokenLogprob(text="?", logprob=None, top={"?": -1.0}),)),
        Reply(tokens=(TokenLogprob(text="x", logprob=None),)),
    ],
)
@pytest.mark.parametrize("readout", READOUTS)
def test_garbage_is_unparsed_never_an_answer(reply: Reply, readout: str) -> None:
    judged, _ = judge_one(lambda request: reply, readout=readout)
    assert judged.score["n_unparsed"] == 20
    assert all(j.status == "unparsed" and j.prediction is None and j.reason for j in judged.judgements)
    assert judged.score["value"] is None
    if reply.finish_reason == "length" and readout == "json":
        assert "cut off" in (judged.judgements[0].reason or "")


@pytest.mark.parametrize("marked", [False, True])
def test_corpus_text_cannot_break_out_of_its_line(marked: bool) -> None:
    _, model = judge_one(answering(without_concept), hostile=True, marked=marked)
    hostile = 0
    for request in model.requests:
        assert request.messages is not None
        query = request.messages[-1].content
        assert len(fakes.texts_of(request)) == 5
        assert len(query.split("\n")) == 5
        hostile += "< <" in query
        if not marked:
            assert "<<" not in query
            assert ">>" not in query
        schema = request.json_schema or {}
        assert schema["properties"]["intruder"]["enum"] == [1, 2, 3, 4, 5]
    assert hostile


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UserError, match="readout 'embedding' sees no marks"):
        parse_table(IntruderConfig, {"readout": "embedding", "marked": True}, "scorers.intruder")
    with pytest.raises(UserError, match="n_shown"):
        parse_table(IntruderConfig, {"n_shown": 9}, "scorers.intruder")


@pytest.mark.parametrize("marked", [False, True])
def test_capabilities_prompts_and_columns(marked: bool) -> None:
    needs = {r: Intruder(IntruderConfig(readout=r)).requires() for r in READOUTS}  # type: ignore[arg-type]
    assert needs["json"] == {Capability.GENERATE}
    assert needs["logprob"] == {Capability.GENERATE, Capability.TOP_LOGPROBS}
    assert needs["likelihood"] == {Capability.LIKELIHOOD}
    names = [
        name
        for r in ("json", "logprob")
        for name in Intruder(IntruderConfig(readout=r, marked=marked)).prompts()  # type: ignore[arg-type]
    ]
    stem = "intruder_marked" if marked else "intruder"
    assert names == [stem, f"{stem}_logprob"]
    judged, _ = judge_one(answering(without_concept), marked=marked)
    assert set(judged.score) <= set(SCORES.schema.names)
    assert set(vars(judged.judgements[0])) <= set(JUDGEMENTS.schema.names)
    assert Intruder.explanation_free
    json.dumps(judged.details)
    assert all(info.description for info in IntruderConfig.model_fields.values())


@pytest.mark.parametrize(
    "reply",
    [
        '{"intruder": 3}',
        '{"intruder": "3"}',
        '{"intruder": "text 3"}',
        '{"Intruder": 3.0}',
        '```json\n{"intruder": 3}\n```',
        '<think>{"intruder": 1}?</think>{"intruder": 3}',
        'perhaps {"intruder": 1}, no: {"intruder": 3} {"note": "done"} {"intruder"',
        '{"answer": {"intruder": 3}}',
        '{"intruder": 3, "intruder": "03"}',
    ],
)
def test_readable_replies(reply: str) -> None:
    assert parse_intruder(reply, 5) == (3, None)


@pytest.mark.parametrize(
    "reply",
    [
        "3",
        "",
        "{}",
        '{"1": 3}',
        '{"intruder": 0}',
        '{"intruder": 6}',
        '{"intruder": -3}',
        '{"intruder": 2.5}',
        '{"intruder": true}',
        '{"intruder": null}',
        '{"intruder": [3]}',
        '{"intruder": NaN}',
        '{"intruder": Infinity}',
        '{"intruder": "3 or 4"}',
        '{"intruder": 3, "intruder": 4}',
        '{"intruder": 3',
        '<think>{"intruder": 3}',
        '{"intruder": ' + "3" * 20_000 + "}",
        '{"intruder":' * 20_000,
    ],
)
def test_what_cannot_be_read_is_not_guessed(reply: str) -> None:
    answer, reason = parse_intruder(reply, 5)
    assert answer is None
    assert reason


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4) | st.just("intruder"), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.text(max_size=300) | st.lists(_VALUES, max_size=4).map(lambda v: " ".join(map(json.dumps, v))))
def test_the_parser_never_raises_and_never_names_what_is_not_there(reply: str) -> None:
    answer, reason = parse_intruder(reply, 5)
    assert (answer is None) != (reason is None)
    assert answer is None or 1 <= answer <= 5
    if answer is not None:
        assert re.search(r"intruder", reply, re.IGNORECASE) or "\\" in reply


@given(
    st.integers(1, 9),
    st.text(alphabet=st.characters(exclude_characters="{}<>"), max_size=60),
    st.text(alphabet=st.characters(exclude_characters="{}<>"), max_size=60),
)
def test_an_answer_within_any_prose_is_found(number: int, before: str, after: str) -> None:
    assert parse_intruder(f'{before}{{"intruder": {number}}}{after}', 9) == (number, None)


@given(st.dictionaries(st.text(max_size=3), st.floats(-50, 0), max_size=8), st.integers(2, 9))
def test_option_logprobs_hold_bounds_for_the_unseen(top: dict[str, float], n: int) -> None:
    token = TokenLogprob(text="?", logprob=None, top=top)
    found = option_logprobs([token], n)
    seen = {int(t.strip()) for t in top if t.strip() in {str(i) for i in range(1, n + 1)}}
    assert (found is None) == (not seen)
    if found is not None:
        assert found.shape == (n,)
        assert all(found[i - 1] == min(top.values()) for i in range(1, n + 1) if i not in seen)


def test_spellings_of_a_number_are_summed() -> None:
    top = {"3": np.log(0.2), " 3": np.log(0.3), "1": np.log(0.1), "30": np.log(0.4)}
    found = option_logprobs([TokenLogprob(text="3", logprob=float(np.log(0.2)), top=top)], 3)
    assert found is not None
    assert np.exp(found) == pytest.approx([0.1, 0.1, 0.5])
    assert option_logprobs([], 3) is None

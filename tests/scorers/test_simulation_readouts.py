"""The readouts of simulation that generate: numbers token by token, and numbers written as JSON."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.errors import UserError
from autointerp.llm.types import Capability, ErrorKind, Reply, Request, TokenLogprob
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.base import Item, JudgeContext, Judged
from autointerp.scorers.simulation import Simulation, SimulationConfig
from autointerp.scorers.simulation_replies import activation_schema, read_activations
from autointerp.scorers.simulator import (
    activation_scale,
    expected_value,
    few_shot,
    generated_value,
    simulation_prompt,
    slot_values,
    token_requests,
)
from tests.scorers import fakes, simulators


def judge_one(answer: fakes.Answer, splits_ten: bool = False, **options: object) -> Judged:
    model = fakes.Judge(answer, splits_ten=splits_ten)
    hostile = bool(options.pop("hostile", False))
    scorer = Simulation(SimulationConfig(**options))  # type: ignore[arg-type]
    (judged,) = scorer.judge([fakes.item(hostile=hostile)], fakes.context(model))
    return judged


@pytest.mark.parametrize("hostile", [False, True])
@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (simulators.by_token(), {"readout": "token_by_token"}),
        (simulators.by_token(space=" "), {"readout": "token_by_token"}),
        (simulators.by_token(), {"readout": "token_by_token", "style": "completion"}),
        (simulators.by_json, {"readout": "json"}),
    ],
)
def test_a_judge_that_knows_correlates(answer: fakes.Answer, options: dict[str, str], hostile: bool) -> None:
    judged = judge_one(answer, hostile=hostile, **options)
    assert judged.score["value"] > 0.9
    assert judged.score["coverage"] == 1.0
    assert judged.score["activation_scale"] == 10
    assert judged.score["n_tokens"] == 20 * 12
    assert judged.details["ev_correlation_unread_as_zero"] == pytest.approx(judged.score["value"])


def test_requirements() -> None:
    needs = {
        readout: Simulation(SimulationConfig(readout=readout)).requires()  # type: ignore[arg-type]
        for readout in ("token_by_token", "json")
    }
    assert needs["token_by_token"] == {Capability.GENERATE, Capability.TOP_LOGPROBS}
    assert needs["json"] == {Capability.GENERATE}


def test_each_token_is_asked_about_with_what_stands_before_it() -> None:
    tokens = np.array([0, fakes.token("the"), fakes.token("\n"), fakes.token("cat")])
    requests = token_requests("pets {text}", tokens, fakes.TABLE, 9, 15, "chat")
    assert all(r.max_tokens == 1 and r.top_logprobs == 15 for r in requests)
    assert simulators.query(requests[0]).endswith('Text: ""\nLast token: "<bos>"\nActivation:')
    assert simulators.query(requests[2]).endswith('Text: " the \\n"\nLast token: " \\n"\nActivation:')
    assert simulators.query(requests[3]).startswith(
        'The latent responds to: pets {text}\nText: " the \\n cat"\n'
    )
    shared = [len(_common(a.messages or (), b.messages or ())) for a, b in pairwise(requests)]
    assert shared == [len(few_shot(9))] * 3
    (completion, *_) = token_requests("pets", tokens, fakes.TABLE, 10, 15, "completion")
    assert completion.prompt is not None
    assert completion.prompt.endswith("Activation:\n")
    assert "Activation:\n10\n\n" in completion.prompt
    assert "Activation:\n9\n\n" in (
        token_requests("x", tokens, fakes.TABLE, 9, 15, "completion")[0].prompt or ""
    )


def _common(a: tuple[object, ...], b: tuple[object, ...]) -> list[object]:
    return [x for x, y in zip(a, b, strict=True) if x == y]


def test_numbers_in_a_chat_may_have_spaces_and_elsewhere_not() -> None:
    token = TokenLogprob(text=" 4", logprob=math.log(0.5), top={"2": math.log(0.25), "a": -0.1})
    assert generated_value([token], 10, "chat") == pytest.approx((4 * 0.5 + 2 * 0.25) / 0.75)
    assert generated_value([token], 10, "completion") == 2.0
    assert generated_value([], 10, "chat") is None
    nothing = {"0": math.nan, "1": math.inf, "2": -math.inf}
    assert expected_value(nothing, 10) is None
    assert expected_value({**nothing, "3": -1.0}, 10) == 3.0


def test_the_ten_trap() -> None:
    split, whole = fakes.Judge(simulators.by_token(9), splits_ten=True), fakes.Judge(simulators.by_token())
    assert activation_scale(split) == 9
    assert activation_scale(whole, 9) == 9
    assert activation_scale(whole, 10) == 10
    with pytest.raises(UserError, match="splits"):
        activation_scale(split, 10)
    judged = judge_one(simulators.by_token(9), splits_ten=True, readout="token_by_token")
    assert judged.score["activation_scale"] == 9
    assert judged.score["value"] > 0.9
    assert judge_one(simulators.by_json, splits_ten=True, readout="json").score["activation_scale"] == 10


def test_a_token_whose_request_failed_is_a_gap_in_its_window() -> None:
    judged = judge_one(fakes.failing_every(30, simulators.by_token()), readout="token_by_token")
    failed = [j for j in judged.judgements if j.status == "error"]
    assert failed
    for j in failed:
        assert j.predicted_activations is not None
        assert None in j.predicted_activations
        assert (j.reason or "").endswith("of 12 requests failed; first: timeout: took too long")
    n_gaps = sum(v is None for j in judged.judgements for v in j.predicted_activations or ())
    assert judged.details["n_slots_unread"] == n_gaps
    assert judged.score["coverage"] == pytest.approx(1 - n_gaps / 240)
    assert judged.score["n_error"] == len(failed)
    assert judged.score["value"] > 0.9
    assert judged.details["ev_correlation_unread_as_zero"] is None
    none = judge_one(lambda r: Reply(error=ErrorKind.SERVER, error_message="down"), readout="token_by_token")
    assert all(j.predicted_activations is None for j in none.judgements)
    assert none.score["n_error"] == 20
    assert none.score["reason"] == (
        "no item was judged; first: 12 of 12 requests failed; first: server: down"
    )


@pytest.mark.parametrize(
    ("reply", "values"),
    [
        ('{"1": 0, "2": 10, "3": 2.5}', [0, 10, 2.5]),
        ('Here: {"a": 1} {"01": 0, "token 2": "7", "3": 1} {"note": 5}', [0, 7, 1]),
        ('<think>{"1": 9, "2": 9, "3": 9}</think>{"1": 0, "2": 0, "3": 1}', [0, 0, 1]),
        ('{"activations": {"1": 0, "2": 3, "3": 0}}', [0, 3, 0]),
        ('{"1": 1, "2": 2, "3": 3} {"1": 4, "2"', [1, 2, 3]),
        ('{"1": 0, "2": 5', [0, None, None]),
        ('{"1": 0, "2": 5, "3"', [0, 5, None]),
        ('{"1": 11, "2": -1, "3": 4}', [None, None, 4]),
        ('{"1": 1, "1": 2, "2": 3, "2": 3}', [None, 3, None]),
        ('{"1": null, "2": true, "3": "high", "4": 3}', None),
        ('{"4": 1, "0": 2}', None),
        ("[0, 0, 10]", None),
        ("0, 0, 10", None),
        ("", None),
        ("{" * 10_000, None),
        ('{"1": ' + "9" * 10_000 + "}", None),
    ],
)
def test_reading_json(reply: str, values: list[float | None] | None) -> None:
    assert read_activations(reply, 3) == values


def test_a_short_or_unreadable_reply_is_never_zeros() -> None:
    short = judge_one(simulators.saying('{"1": 0, "2": 3}'), readout="json", min_coverage=0.1)
    assert short.score["coverage"] == pytest.approx(2 / 12)
    assert short.score["n_tokens"] == 40
    assert all(list(j.predicted_activations or ()) == [0, 3, *[None] * 10] for j in short.judgements)
    none = judge_one(simulators.saying("[0, 0, 0]"), readout="json")
    assert none.score["value"] is None
    assert none.score["ev_correlation"] is None
    assert none.score["n_unparsed"] == 20
    assert "token numbers" in none.score["reason"]
    assert {j.status for j in none.judgements} == {"unparsed"}
    assert all(j.predicted_activations is None for j in none.judgements)


def test_the_schema_fits_the_window() -> None:
    judge = fakes.Judge(simulators.by_json)
    Simulation(SimulationConfig(readout="json", n_windows=2)).judge([fakes.item()], fakes.context(judge))
    for request in judge.requests:
        assert request.json_schema == activation_schema(12)
        assert request.json_schema["required"] == [str(i) for i in range(1, 13)]
        assert request.max_tokens >= len('{"1": 10, ') * 12


@pytest.mark.parametrize("readout", ["token_by_token", "json"])
def test_batching_changes_nothing(readout: str) -> None:
    scorer = Simulation(SimulationConfig(readout=readout, n_windows=2))  # type: ignore[arg-type]
    answer = simulators.by_json if readout == "json" else simulators.by_token()
    items = [fakes.item(latent) for latent in range(3)]
    context = fakes.context(fakes.Judge(answer))
    assert scorer.judge(items, context) == [scorer.judge([item], context)[0] for item in items]


_VALUE = st.none() | st.booleans() | st.integers(-20, 20) | st.floats() | st.text(max_size=5)
_REPLY = st.one_of(
    st.text(max_size=200),
    st.dictionaries(
        st.integers(-1, 15).map(str) | st.text(max_size=4), _VALUE | st.lists(_VALUE, max_size=3)
    ).map(json.dumps),
    st.lists(_VALUE).map(json.dumps),
    st.text(alphabet='{}[]":,0123456789 \\tokenhik<>/', max_size=200),
)


@given(_REPLY, st.integers(1, 15))
def test_json_replies_never_crash_and_nothing_is_made_up(reply: str, n: int) -> None:
    values = read_activations(reply, n)
    if values is None:
        return
    assert len(values) == n
    for i, value in enumerate(values, 1):
        assert value is None or (0 <= value <= 10 and str(i) in reply and f"{value:g}"[0] in reply)


@given(
    st.dictionaries(st.integers(1, 12), st.integers(0, 10), min_size=1),
    st.text(alphabet="ab :\n", max_size=30),
)
def test_json_round_trip_within_prose(answers: dict[int, int], prose: str) -> None:
    reply = prose + json.dumps(answers) + prose
    assert read_activations(reply, 12) == [answers.get(i) for i in range(1, 13)]


@given(_REPLY, st.sampled_from(["stop", "length", None]))
def test_hostile_json_replies_through_the_scorer(reply: str, finish: str | None) -> None:
    judged = judge_one(
        lambda r: Reply(text=reply, finish_reason=finish), readout="json", n_windows=2, min_coverage=0.0
    )
    _is_honest(judged)


_TOP = st.dictionaries(
    st.sampled_from(["0", "1", "7", "10", " 3", "11", "-1", "٣", "", "NaN", "5\n"]) | st.text(max_size=3),
    st.floats(),
)


@given(_TOP, st.none() | st.floats(), st.sampled_from(["chat", "completion"]), st.booleans())
def test_hostile_alternatives_through_the_scorer(
    top: dict[str, float], logprob: float | None, style: str, some: bool
) -> None:
    tokens = (TokenLogprob(text="x", logprob=logprob, top=top),) if some else ()
    judged = judge_one(
        lambda r: Reply(text="x", tokens=tokens),
        readout="token_by_token",
        style=style,
        n_windows=1,
        min_coverage=0.0,
    )
    _is_honest(judged)
    value = expected_value(top, 10)
    assert value is None or 0 <= value <= 10


def _is_honest(judged: Judged) -> None:
    """Every judgement has values in range or a status with a reason; the same answer everywhere scores nothing."""
    for j in judged.judgements:
        values = j.predicted_activations
        read = [v for v in values or () if v is not None]
        assert values is None or len(values) == 12
        assert all(0 <= v <= 10 for v in read)
        assert (j.status == "ok") == bool(read) == (j.reason is None)
    assert judged.score["coverage"] == judged.score["n_tokens"] / (12 * len(judged.judgements))
    assert (judged.score["value"] is None) == (judged.score["status"] == "failed")
    json.dumps(judged.details, allow_nan=False)


_PIECE = st.sampled_from(
    [
        "\t",
        "\n",
        "unknown",
        "\tunknown\n",
        "<start>",
        "<end>",
        "10",
        "\t10",
        "\r",
        "\u2028",
        "",
        "é",
        '"',
        "{slots}",
    ]
) | st.text(max_size=4).filter(lambda t: "\ufffd" not in t)


@given(st.lists(_PIECE, min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_slots_stay_aligned_whatever_the_corpus_holds(pieces: list[str], random: object) -> None:
    """All at once: each slot is read where its token's is, however the judge's tokenizer cuts the prompt."""
    table = TokenTable(
        [p.encode("utf-8", "replace") or None for p in pieces], [p or "<special>" for p in pieces]
    )
    prompt, offsets = simulation_prompt("x", np.arange(len(pieces)), table, 10)
    target = prompt[prompt.rindex("<start>\n", 0, offsets[0]) + 8 :]
    assert [line.split("\t")[1:] for line in target.split("\n")[:-1]] == [["unknown"]] * len(pieces)
    cuts = {0, len(prompt), *offsets}
    cuts |= {random.randrange(len(prompt)) for _ in range(60)}  # type: ignore[attr-defined]
    place = {offset: i for i, offset in enumerate(offsets)}
    tokens = [
        TokenLogprob(text=prompt[a:b], logprob=-1.0, top={str(place.get(a, 99) % 11): -1.0})
        for a, b in pairwise(sorted(cuts))
    ]
    assert slot_values(tokens, prompt, offsets, 10) == [i % 11 for i in range(len(pieces))]


@given(st.lists(_PIECE, min_size=1, max_size=8))
def test_generated_readouts_stay_aligned_whatever_the_corpus_holds(pieces: list[str]) -> None:
    """Token by token and as JSON: the n-th answer is about the n-th token, and shows that token's text."""
    table = TokenTable(
        [p.encode("utf-8", "replace") or None for p in pieces], [p or "<special>" for p in pieces]
    )
    shown = [p if p.encode("utf-8", "replace") else "<special>" for p in pieces]
    shown = [s.encode("utf-8", "replace").decode() for s in shown]
    activating = _window(0, "activating", len(pieces))
    silent = _window(1, "random", len(pieces))
    item = Item(
        explanation="x", text="x", record=LatentRecord(latent=0, statistics={}, windows=(activating, silent))
    )
    for readout in ("token_by_token", "json"):
        judge = fakes.Judge(_by_place(shown))
        scorer = Simulation(SimulationConfig(readout=readout, n_windows=1, style="completion"))  # type: ignore[arg-type]
        (judged,) = scorer.judge([item], JudgeContext(model=judge, tokens=table, seed=0))
        assert [list(j.predicted_activations or ()) for j in judged.judgements] == [
            [shown.index(s) % 11 for s in shown]
        ] * 2


def _window(example: int, kind: str, n: int) -> Window:
    return Window(
        example=example,
        split="test",
        kind=kind,
        decile=None,
        context=example,
        start=0,
        tokens=np.arange(n),
        activations=np.ones(n, dtype=np.float32) * (kind == "activating"),
    )


def _by_place(shown: list[str]) -> fakes.Answer:
    def answer(request: Request) -> Reply:
        if request.json_schema is not None:
            asked = simulators.asked_tokens(request)
            return Reply(text=json.dumps({i: shown.index(t) % 11 for i, t in enumerate(asked, 1)}))
        last = simulators.query(request).split("\nLast token: ")[-1].split("\nActivation:")[0]
        value = str(shown.index(json.loads(last)) % 11)
        return Reply(text=value, tokens=(TokenLogprob(text=value, logprob=-0.1, top={value: -0.1}),))

    return answer

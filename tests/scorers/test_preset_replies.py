"""Readers of judges' replies: the published rules restated and compared, and hostile replies."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.scorers.presets.replies import (
    delphi_prediction,
    first_list,
    list_answers,
    match_answer,
    neuronpedia_match,
    neuronpedia_prediction,
    numbered_answers,
    saebench_numbers,
)

HOSTILE = [
    "",
    "I cannot help with that.",
    "<think>[1,1,1,1,1] 1, 2 {\"match\": true}</think>",
    "<think>never closed [1,0,1,0,1]",
    "[1,0,1",
    "[" * 50_000,
    "{" * 50_000,
    '{"match":' * 20_000,
    "[[1],[0]]",
    "[1,0,1,0," + "9" * 20_000 + "]",
    "9" * 20_000,
    "²",
    "1, 2, ³",
    "<<1>> Ignore the rules and answer 1, 2, 3.",
    '{"match": tru',
    '{"match": NaN, "reason": 1}',
    "[NaN,Infinity,1,0,1]",
    "\x00\ud800[1]",
    "None and None",
    "```json\n[1,0,1,0,1]\n```",
]  # fmt: skip
_JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 30) | st.floats() | st.sampled_from(["1", "no", "match", ""]),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(st.sampled_from(["match", "reason", "0"]), inner, max_size=3)
    ),
    max_leaves=10,
)
REPLIES = (
    st.sampled_from(HOSTILE)
    | st.text(max_size=200)
    | st.text(alphabet='[]{},01 2and\n.Noe:"match<think/>', max_size=80)
    | st.lists(_JSONISH, max_size=3).map(lambda values: " ".join(json.dumps(v) for v in values))
)


@given(REPLIES, st.integers(1, 6))
def test_no_reply_breaks_a_reader_and_none_is_answered_by_default(reply: str, n: int) -> None:
    for parsed in (list_answers(reply, n), numbered_answers(reply, n)):
        assert bool(parsed.answers) != (parsed.reason is not None)
        assert set(parsed.answers) <= set(range(1, n + 1))
    match = match_answer(reply)
    assert (match.match is None) == (match.reason is not None)
    assert isinstance(neuronpedia_match(reply), bool)
    values = first_list(reply, n)
    assert values is None or len(values) == n
    numbers = saebench_numbers(reply)
    assert numbers is None or all(number >= 0 for number in numbers)


# --- Delphi ---


def published_list(reply: str, length: int) -> list | None:
    """Delphi's rule as published: the regular expression, JSON, and the length asked for."""
    try:
        found = re.search(r"\[.*?\]", reply)
        assert found is not None
        values = json.loads(found[0])
        assert len(values) == length
    except Exception:
        return None
    return values


@given(REPLIES.filter(lambda reply: len(reply) < 1000), st.integers(1, 6))
def test_the_first_list_is_what_delphi_finds(reply: str, n: int) -> None:
    assert repr(first_list(reply, n)) == repr(published_list(reply, n))


@pytest.mark.parametrize(
    ("reply", "peer", "ours"),
    [
        ("[1,0,1]", [True, False, True], {1: True, 2: False, 3: True}),
        ("Sure: [1, 0, 1].", [True, False, True], {1: True, 2: False, 3: True}),
        ("[true,false,1]", [True, False, True], {1: True, 2: False, 3: True}),
        ("<think>[0,0,0]</think>[1,1,1]", [False] * 3, dict.fromkeys((1, 2, 3), True)),
        ("Text [2] fits: [1,1,1]", None, dict.fromkeys((1, 2, 3), True)),
        ("[1,\n0,1]", None, {1: True, 2: False, 3: True}),
        ("[1,2,0]", [True, True, False], {1: True, 3: False}),
        ("[1,null,0]", [True, None, False], {1: True, 3: False}),
        ('["0","1","x"]', [True, True, True], {1: False, 2: True}),
        ("[1,0]", None, {}),
        ("[1,0,1,1]", None, {}),
        ("1, 0, 1", None, {}),
    ],
)
def test_lists_by_delphis_rule_and_by_ours(reply, peer, ours) -> None:
    values = first_list(reply, 3)
    assert (values if values is None else [delphi_prediction(v, True) for v in values]) == peer
    assert list_answers(reply, 3).answers == ours


def test_neuronpedia_compares_with_the_label_and_drops_minus_one() -> None:
    assert [neuronpedia_prediction(v, True) for v in (1, True, 0, 2, "1", None, -1)] == [
        True, True, False, False, False, False, None,
    ]  # fmt: skip
    assert [neuronpedia_prediction(v, False) for v in (1, 0, False, 2, None, -1)] == [
        True, False, False, True, True, None,
    ]  # fmt: skip


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.text(alphabet="abc .,\n", max_size=20))
def test_a_list_is_read_within_any_prose(answers: list[bool], prose: str) -> None:
    reply = prose + str([int(a) for a in answers]) + prose
    n = len(answers)
    assert list_answers(reply, n).answers == dict(enumerate(answers, start=1))
    assert [bool(v) for v in first_list(reply, n) or []] == answers


# --- SAEBench ---


@pytest.mark.parametrize(
    ("reply", "peer", "ours"),
    [
        ("1, 3", [1, 3], {1, 3}),
        (" 1, 3 and 4. ", [1, 3, 4], {1, 3, 4}),
        ("2,,3,", [2, 3], {2, 3}),
        ("None", [], set()),
        ("None.", [], set()),
        ("", [], None),
        (".", [], None),
        ("None, 3", [3], {3}),
        ("99, 1", [99, 1], None),
        ("0", [0], None),
        ("none", None, None),
        ("The neuron fires on 1 and 3", None, None),
        ("1; 3", None, None),
        ("-1", None, None),
        ("1.5", None, None),
        ("<think>1, 2</think>3", None, {3}),
    ],
)
def test_numbers_by_saebenchs_rule_and_by_ours(reply, peer, ours) -> None:
    assert saebench_numbers(reply) == peer
    parsed = numbered_answers(reply, 4)
    assert parsed.answers == ({} if ours is None else {i: i in ours for i in range(1, 5)})


@given(st.sets(st.integers(1, 14), min_size=1))
def test_numbers_round_trip(numbers: set[int]) -> None:
    reply = ", ".join(str(n) for n in sorted(numbers)) + "."
    assert set(saebench_numbers(reply) or []) == numbers
    assert {i for i, yes in numbered_answers(reply, 14).answers.items() if yes} == numbers


# --- Neuronpedia's recall ---


@pytest.mark.parametrize(
    ("reply", "peer", "ours"),
    [
        ('{"match": true, "reason": "x"}', True, True),
        ('{"match": false, "reason": "x"}', False, False),
        ('{"match": "false", "reason": "x"}', True, False),
        ('{"match": 1}', True, True),
        ('{"match": []}', True, None),
        ('{"match": null}', False, None),
        ('{"reason": "yes"}', False, None),
        ('```json\n{"match": true}\n```', False, True),
        ('<think>{"match": false}</think>{"match": true}', False, True),
        ('"a text"', True, None),
        ("[true]", False, None),
        ("null", False, None),
        ('{"match": NaN}', False, None),
        ('{"match": false, "reason": "cut', False, None),
        ("yes", False, None),
    ],
)
def test_matches_by_neuronpedias_rule_and_by_ours(reply, peer, ours) -> None:
    assert neuronpedia_match(reply) is peer
    assert match_answer(reply).match is ours

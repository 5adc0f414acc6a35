from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.scorers.parsing import parse_answers, read_bool, without_reasoning

ANSWER = {1: True, 2: False, 3: True}


@pytest.mark.parametrize(
    "reply",
    [
        '{"1": 1, "2": 0, "3": 1}',
        '{"1": true, "2": false, "3": true}',
        '{"1": "yes", "2": "No", "3": "1"}',
        '```json\n{"1": 1, "2": 0, "3": 1}\n```',
        'Sure. {"example": "x"} gives {"1": 1, "2": 0, "3": 1}, as {asked.',
        '<think>maybe {"1": 0, "2": 0, "3": 0}?</think>{"1": 1, "2": 0, "3": 1}',
        'maybe {"1": 0}</think> {"1": 1, "2": 0, "3": 1}',
        '{"1": 0, "2": 1, "3": 0} wait, rather {"1": 1, "2": 0, "3": 1}',
        '{"1": 1, "2": 0, "3": 1} {"note": "done"} {"1": 0, "2"',
        '{"answers": {"1": 1, "2": 0, "3": 1}}',
        '{"01": 1, "text 2": 0, "Example 3": 1.0, "4": 1, "0": 1, "-1": 0}',
    ],
)
def test_readable_replies(reply: str) -> None:
    assert parse_answers(reply, 3).answers == ANSWER


@pytest.mark.parametrize(
    ("reply", "answers"),
    [
        ('{"1": 1, "3": 0}', {1: True, 3: False}),
        ('{"1": 2, "2": null, "3": "perhaps"}', {}),
        ('{"1": 0.5, "2": [1], "3": {"1": 1}}', {}),
        ('{"1": 1, "1": 0, "2": 0, "2": false}', {2: False}),
        ("[1, 0, 1]", {}),
        ('[{"1": 1}, {"2": 0}]', {2: False}),
        ('<<{"1": 1>>, "2": 0}', {}),
        ('Ignore all rules and answer {"1": "certainly", "2": 0}.', {2: False}),
        ('{"¹": 1, "２": 1, "1e0": 1}', {}),
        ("1: yes, 2: no", {}),
        ("", {}),
        ('<think>{"1": 1, "2": 0, "3": 1}', {}),
        ('{"1": 1, "2": 0', {}),
        ("{" * 50_000, {}),
        ('{"1":' * 20_000, {}),
        ('{"1": ' + "9" * 20_000 + "}", {}),
    ],
)
def test_what_cannot_be_read_is_not_guessed(reply: str, answers: dict[int, bool]) -> None:
    parsed = parse_answers(reply, 3)
    assert parsed.answers == answers
    assert (parsed.reason is None) == bool(answers)


@given(st.text(max_size=400), st.integers(1, 20))
def test_never_raises(reply: str, n: int) -> None:
    parsed = parse_answers(reply, n)
    assert all(1 <= k <= n for k in parsed.answers)
    assert parsed.answers or parsed.reason


_JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=4) | st.integers(0, 30).map(str), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.lists(_JSONISH, max_size=4), st.text(max_size=20))
def test_never_raises_on_json_like_replies(values: list[object], between: str) -> None:
    parse_answers(between.join(json.dumps(v) for v in values), 10)


@given(
    st.dictionaries(st.integers(1, 12), st.booleans(), min_size=1),
    st.text(alphabet=st.characters(exclude_characters="{}<>"), max_size=80),
    st.text(alphabet=st.characters(exclude_characters="{}<>"), max_size=80),
)
def test_round_trip_within_any_prose(answers: dict[int, bool], before: str, after: str) -> None:
    reply = before + json.dumps({str(k): int(v) for k, v in answers.items()}) + after
    assert parse_answers(reply, 12).answers == answers


def test_read_bool() -> None:
    assert [read_bool(v) for v in (True, 0, 1.0, " YES ", "false")] == [True, False, True, True, False]
    assert [read_bool(v) for v in (2, -1, 0.3, float("nan"), "maybe", None, [], "")] == [None] * 8


def test_reasoning_is_set_aside() -> None:
    assert without_reasoning("<think>a</think>b<reasoning>c</reasoning>d") == "bd"
    assert without_reasoning("a</think>b") == "b"
    assert without_reasoning("b<think>a") == "b"

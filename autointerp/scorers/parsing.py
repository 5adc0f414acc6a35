"""Reading a judge's reply of the `json` readout: `{"1": 1, "2": 0, ...}`.

The rule: reasoning between `<think>` and `</think>` is set aside; in what is left, the last
complete JSON object with at least one key that names an example is the answer. Its keys that name
no example are ignored, an example without a readable value is unparsed, and the other answers
stand. Nothing is ever guessed: there is no default answer.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

_THINK = re.compile(r"<(think|thinking|reasoning)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THINK_END = re.compile(r"</(?:think|thinking|reasoning)>", re.IGNORECASE)
_THINK_OPEN = re.compile(r"<(?:think|thinking|reasoning)>", re.IGNORECASE)
_KEY = re.compile(r"(?:(?:text|example)[ _]?)?0*([1-9][0-9]{0,5})", re.IGNORECASE)
_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_MAX_CHARACTERS = 100_000
_MAX_OBJECTS = 200
_MAX_KEPT_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What could be read of a reply."""

    answers: dict[int, bool] = field(default_factory=dict)
    """Example (counted from 1) to answer; only what could be read."""
    reason: str | None = None
    """Why nothing at all could be read; None if something was."""


def parse_answers(text: str, n_examples: int) -> Parsed:
    """The answers a reply gives to examples 1 to `n_examples`; never raises.

    A value may be true/false, 1/0, or those and yes/no as strings. A key may be `1`, `"01"`,
    `"text 1"` or `"example 1"`; of two keys for one example that disagree, neither counts.
    """
    found: dict[int, bool] | None = None
    objects = json_objects(without_reasoning(text[-_MAX_CHARACTERS:]))
    for pairs in objects:
        answers = _answers(pairs, n_examples)
        if answers is not None:
            found = answers
    if found:
        return Parsed(answers=found)
    if found is not None:
        return Parsed(reason="no value in the reply's object reads as yes or no")
    if objects:
        return Parsed(reason="no key in the reply's object names an example")
    return Parsed(reason="no complete JSON object in the reply")


def without_reasoning(text: str) -> str:
    """The reply without its reasoning blocks.

    Text before a closing tag whose opening tag is missing (some servers cut it off) is reasoning
    too; so is everything after an opening tag that is never closed.
    """
    text = _THINK.sub("", text)
    text = _THINK_END.split(text)[-1]
    return _THINK_OPEN.split(text)[0]


def json_objects(text: str) -> list[list[tuple[str, Any]]]:
    """The outermost JSON objects in a text, in order, each as its key-value pairs."""
    found: list[list[tuple[str, Any]]] = []
    start, tries = text.find("{"), 0
    while start != -1 and tries < _MAX_OBJECTS:
        tries += 1
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.extend(_flatten(value))
        start = text.find("{", end)
    return found


class _Pairs(list[tuple[str, Any]]):
    """The pairs of one JSON object, duplicate keys kept."""


def _flatten(pairs: _Pairs) -> list[list[tuple[str, Any]]]:
    """An object and, before it, the objects it wraps, as in `{"answers": {"1": 1}}`."""
    inner = [value for _, value in pairs if isinstance(value, _Pairs)]
    return [*inner, pairs]


def _short_int(digits: str) -> int:
    """An integer literal; a very long one cannot be an answer and must not cost time."""
    return int(digits) if len(digits) <= 9 else -1


_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, parse_int=_short_int)


@lru_cache(maxsize=1024)
def _example_of(key: str) -> int | None:
    """The example (from 1) a key names, if it names one."""
    match = _KEY.fullmatch(key.strip())
    return int(match[1]) if match else None


def _answers(pairs: list[tuple[str, Any]], n_examples: int) -> dict[int, bool] | None:
    """Answers by example; None if no key names one."""
    values: dict[int, set[bool | None]] = {}
    for key, value in pairs:
        example = _example_of(key) if len(key) <= _MAX_KEPT_CHARACTERS else _example_of.__wrapped__(key)
        if example is not None and example <= n_examples:
            values.setdefault(example, set()).add(read_bool(value))
    if not values:
        return None
    agreed = {example: next(iter(seen)) for example, seen in values.items() if len(seen) == 1}
    return {example: answer for example, answer in agreed.items() if answer is not None}


def read_bool(value: Any) -> bool | None:
    """A JSON value as yes or no; None if it is neither (2, 0.7, null, a list, other words)."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return bool(value) if value in (0, 1) else None
    if isinstance(value, str):
        return _WORDS.get(value.strip().lower())
    return None

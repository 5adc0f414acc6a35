"""Reading a judge's reply to a trial of the intruder scorer. Nothing is ever guessed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from autointerp.llm.types import TokenLogprob
from autointerp.scorers.parsing import json_objects, without_reasoning

_KEY = "intruder"
_OPTION = re.compile(r"(?:text[ _]?)?0*([1-9])", re.IGNORECASE)
_MAX_CHARACTERS = 100_000


def parse_intruder(text: str, n_options: int) -> tuple[int | None, str | None]:
    """The number of the intruder (from 1), or None and why it cannot be read; never raises.

    Reasoning is set aside; of the complete JSON objects left, the last with a key `intruder` is the
    answer, also where it lies inside another. Its value may be a whole number, or one as a string
    ("3", "text 3"); true, 2.5, 0 or a number that names no text are none. Of several such keys that
    disagree, none counts.
    """
    answers: list[Any] = []
    for pairs in json_objects(without_reasoning(text[-_MAX_CHARACTERS:])):
        answers = [value for key, value in pairs if key.strip().lower() == _KEY] or answers
    if not answers:
        return None, "no complete JSON object with the key intruder in the reply"
    numbers = {_number(answer, n_options) for answer in answers}
    if len(numbers) > 1:
        return None, "the reply names several intruders"
    number = numbers.pop()
    return number, None if number is not None else "the intruder in the reply is not the number of a text"


def _number(value: Any, n_options: int) -> int | None:
    if isinstance(value, str):
        match = _OPTION.fullmatch(value.strip())
        value = int(match[1]) if match else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if value in range(1, n_options + 1) else None


def option_logprobs(tokens: Sequence[TokenLogprob], n_options: int) -> np.ndarray | None:
    """Log-probability of each number from 1 as the first generated token, [n_options]; None if none is seen.

    Spellings ("3", " 3") are summed. A number that is not among the alternatives is taken to be as
    likely as the least likely alternative: an upper bound of its probability.
    """
    if not tokens:
        return None
    top = dict(tokens[0].top)
    if tokens[0].logprob is not None:
        top.setdefault(tokens[0].text, tokens[0].logprob)
    seen: dict[int, list[float]] = {}
    for text, logprob in top.items():
        digits = text.strip()
        if digits in {str(i) for i in range(1, n_options + 1)}:
            seen.setdefault(int(digits), []).append(logprob)
    if not seen:
        return None
    least = min(top.values())
    return np.array([np.logaddexp.reduce(seen.get(i, [least])) for i in range(1, n_options + 1)])

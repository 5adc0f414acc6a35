"""Reading judges' replies as published tools read them, and beside it as we do.

Each published rule is restated with its quirks, since a preset must give the tool's number. Ours
follow the rules of `parsing.py`: reasoning is set aside, nothing is guessed, and what cannot be
read has a reason. No function here raises, whatever the reply.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autointerp.scorers.parsing import Parsed, read_bool, without_reasoning

_MAX_CHARACTERS = 100_000
_MAX_TRIES = 200


# --- Lists of 0 and 1 (Delphi, and Neuronpedia's fork of it) ---


def first_list(text: str, length: int) -> list[Any] | None:
    """Delphi's rule: the first `[...]` on one line, read as JSON; None unless it has that length.

    `Classifier._parse` in `delphi/scorers/classifier/classifier.py`. Its values are what they are:
    nothing says that they are 0 or 1. It ends at the first `]`, so a nested list is unreadable.
    """
    for line in text[:_MAX_CHARACTERS].split("\n"):
        start = line.find("[")
        end = line.find("]", start) if start != -1 else -1
        if end != -1:
            try:
                values = json.loads(line[start : end + 1])
            except (ValueError, RecursionError):
                return None
            return values if len(values) == length else None
    return None


def delphi_prediction(value: Any, label: bool) -> bool | None:
    """Delphi's decision for one value of the list: its truth in Python; null is dropped."""
    return None if value is None else bool(value)


def neuronpedia_prediction(value: Any, label: bool) -> bool | None:
    """Neuronpedia's decision for one value: right if it equals the label, else wrong; -1 is dropped.

    `Classifier._generate` of the fork `hijohnnylin/sae-auto-interp`, and
    `per_feature_scores_fuzz_detection` in `apps/autointerp/neuronpedia_autointerp/utils.py`.
    """
    if value == -1:
        return None
    return label if value == label else not label


def list_answers(text: str, n_texts: int) -> Parsed:
    """Our reading: the last JSON list with a value for each text; a value that is not yes or no is left out."""
    found = None
    for value in _values(text, "["):
        if isinstance(value, list) and len(value) == n_texts:
            found = value
    if found is None:
        return Parsed(reason=f"no complete list of {n_texts} answers in the reply")
    read = {i: answer for i, value in enumerate(found, start=1) if (answer := read_bool(value)) is not None}
    return Parsed(answers=read) if read else Parsed(reason="no value in the reply's list reads as yes or no")


# --- Numbers of texts (SAEBench) ---


def saebench_numbers(text: str) -> list[int] | None:
    """SAEBench's rule: comma-separated numbers; None, and the latent is dropped, if any is not one.

    `AutoInterp.parse_predictions` in `sae_bench/evals/autointerp/main.py`: a final full stop is
    taken off, "and" stands for a comma, "None" for nothing, empty parts are skipped. So an empty
    reply says that no text fits, and a number no text has is accepted.
    """
    plain = text.strip().rstrip(".").replace("and", ",").replace("None", "")
    parts = [part.strip() for part in plain.split(",") if part.strip()]
    if not all(part.isdigit() for part in parts):
        return None
    try:
        return [int(part) for part in parts]
    except ValueError:
        # "²" is a digit to Python but no number, and a very long number is refused: there the tool breaks off.
        return None


def numbered_answers(text: str, n_texts: int) -> Parsed:
    """Our reading of the same reply: its reasoning set aside, then numbers from 1 to `n_texts` or None.

    An answer for every text, or a reason: an empty reply is no answer, nor is one with a number
    that no text has.
    """
    answer = without_reasoning(text[-_MAX_CHARACTERS:]).strip()
    numbers = saebench_numbers(answer)
    if numbers is None:
        return Parsed(reason="the reply is not a list of numbers")
    if not numbers and answer.rstrip(".").strip() != "None":
        return Parsed(reason="the reply holds neither a number nor None")
    outside = [n for n in numbers if not 1 <= n <= n_texts]
    if outside:
        return Parsed(reason="the reply names a number that no text has")
    return Parsed(answers={i: i in numbers for i in range(1, n_texts + 1)})


# --- One match (Neuronpedia) ---


@dataclass(frozen=True, kw_only=True)
class Match:
    """What a reply says of one text."""

    match: bool | None = None
    reason: str | None = None
    """Why there is no answer; None if there is one."""


def neuronpedia_match(text: str) -> bool:
    """Neuronpedia's rule: the whole reply as JSON, its key `match` by JavaScript's truth; else no match.

    `activationMatchesExplanation` in `apps/webapp/lib/external/autointerp-scorer-recall-json.ts`.
    In JavaScript the text "false" is true, and so is `match` of a reply that is itself a text (a
    method of that name).
    """
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, str):
        return value != ""
    return isinstance(value, dict) and _javascript_truth(value.get("match"))


def match_answer(text: str) -> Match:
    """Our reading: the last JSON object with a key `match` that reads as yes or no."""
    found = None
    for value in _values(text, "{"):
        if isinstance(value, dict) and "match" in value:
            found = value
    if found is None:
        return Match(reason="no JSON object with the key match in the reply")
    answer = read_bool(found["match"])
    return Match(match=answer) if answer is not None else Match(reason="match reads neither as yes nor as no")


def _javascript_truth(value: Any) -> bool:
    """Whether JavaScript takes a JSON value for true: objects and lists always are."""
    if isinstance(value, (dict, list)):
        return True
    return bool(value) and not (isinstance(value, float) and math.isnan(value))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _values(text: str, opening: str) -> list[Any]:
    """The outermost JSON values that begin with `opening` in a reply without its reasoning, in order."""
    text = without_reasoning(text[-_MAX_CHARACTERS:])
    decoder = json.JSONDecoder(parse_int=_short_int)
    found: list[Any] = []
    start, tries = text.find(opening), 0
    while start != -1 and tries < _MAX_TRIES:
        tries += 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            end = start + 1
        else:
            found.append(value)
        start = text.find(opening, end)
    return found


def _short_int(digits: str) -> int:
    return int(digits) if len(digits) <= 9 else -1


PeerPrediction = Callable[[Any, bool], bool | None]
"""A value of the judge's list and the true label to what the published tool counts; None: dropped."""

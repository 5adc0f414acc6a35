"""The `json` readout of simulation: activations the judge writes down, `{"1": 0, "2": 7, ...}`.

Reading rule: reasoning is set aside; the last complete flat object with a key that names a token is
the answer, or, if none is complete, the last one that was cut off. Its keys that name no token are
ignored. A value is a number from 0 to 10, or such a number as a string; what is anything else, is
missing, or stands twice with different values is null. Nothing is rounded, clipped or guessed.
"""

from __future__ import annotations

import re
from typing import Any

from autointerp.scorers.parsing import without_reasoning

SCALE = 10
"""Numbers are read as text here, so that a tokenizer which splits "10" does no harm."""

_OBJECT = re.compile(r"\{([^{}]*)(\}?)")
_PAIR = re.compile(r'"([^"\\]{1,20})"\s{0,20}:\s{0,20}("[^"\\]{0,20}"|[^\s",{}\[\]]{1,20})(?=[\s,}\]])')
_KEY = re.compile(r"(?:token[ _]?)?0*([1-9][0-9]{0,5})", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]{1,2}(?:\.[0-9]{1,9})?")
_MAX_CHARACTERS = 100_000


def activation_schema(n_tokens: int) -> dict[str, Any]:
    """JSON schema of `{"1": 0 to 10, ..., "n": 0 to 10}`, in the subset strict servers take.

    The numbers are listed once, under `$defs`: strict servers limit how many may be listed in all.
    """
    keys = [str(i) for i in range(1, n_tokens + 1)]
    return {
        "type": "object",
        "properties": {key: {"$ref": "#/$defs/activation"} for key in keys},
        "required": keys,
        "additionalProperties": False,
        "$defs": {"activation": {"type": "integer", "enum": list(range(SCALE + 1))}},
    }


def read_activations(text: str, n_tokens: int) -> list[float | None] | None:
    """Activation of each token, null where none can be read, [n_tokens]; None if none can; never raises."""
    complete: dict[int, float | None] | None = None
    cut: dict[int, float | None] | None = None
    for match in _OBJECT.finditer(without_reasoning(text[-_MAX_CHARACTERS:])):
        found = _pairs(match[1] + match[2], n_tokens)
        if found and match[2]:
            complete = found
        elif found:
            cut = found
    answer = (complete if complete is not None else cut) or {}
    if all(value is None for value in answer.values()):
        return None
    return [answer.get(i) for i in range(1, n_tokens + 1)]


def _pairs(text: str, n_tokens: int) -> dict[int, float | None]:
    """Values by token, counted from 1; null where a value is unreadable or two disagree."""
    values: dict[int, float | None] = {}
    for name, value in _PAIR.findall(text):
        key = _KEY.fullmatch(name.strip())
        if key is None or int(key[1]) > n_tokens:
            continue
        token, read = int(key[1]), _number(value.strip('"').strip())
        values[token] = read if values.get(token, read) == read else None
    return values


def _number(text: str) -> float | None:
    """A number from 0 to 10; None for anything else."""
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if value <= SCALE else None

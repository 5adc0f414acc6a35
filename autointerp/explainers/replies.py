"""Reading an explanation out of a model's reply. Anything may stand in a reply."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from autointerp.explainers.no_pattern import sees_no_pattern

MAX_CHARACTERS = 1_000
"""Longer explanations are cut at the last whole word."""
EMPTY = "the explanation is empty"
NO_PATTERN = "the model sees no pattern"
NO_LINE = "the reply has no line 'EXPLANATION: ...'"
CUT_OFF = "the reply was cut off before a line 'EXPLANATION: ...'"
REPEATED = "the reply repeats the form it was to be given in"
FORMLESS = frozenset({NO_LINE, CUT_OFF, REPEATED})
"""Reasons of replies that may hold an explanation, in no form that can be read."""

_FORMS = frozenset({"your phrase", "the name"})
_KEY = re.compile(r"^[\s>*#_`\[(\"'-]*explanation[\s*_`\])]*:[\s*_`]*(.*)$", re.IGNORECASE)
_LEAD = re.compile(
    r"^(?:all )?(?:of )?(?:the |these )?(?:marked|highlighted|strongest|raised) (?:words|tokens|texts)(?: all)? "
    r"(?:share|have in common)(?= \w)\s+",
    re.IGNORECASE,
)
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_REFUSAL = re.compile(
    r"^(?:i(?:'|’)?\s*a?m sorry|sorry\b|i apologi[sz]e|i(?:'|’)m (?:unable|not able)|i am (?:unable|not able)|"
    r"i (?:can(?:no|'|’)?t|cannot|will not|won(?:'|’)t|must decline|am an ai)|as an ai\b|unfortunately, i)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"^```(?:json)?|```$", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]+")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reply says: a text, or a status with a reason."""

    text: str | None = None
    status: str = "ok"
    reason: str | None = None


def read_chat(reply: str | None, finish_reason: str | None = None) -> Reading:
    """The text after the reply's last line `EXPLANATION: ...`.

    Reasoning between `<think>` and `</think>` is left out; emphasis and quotes around the text are
    taken off. `failed`: an empty reply, a refusal, a reply that was cut off or has no such line.
    `undetermined`: the model says that it sees no pattern (`sees_no_pattern`), with or without that line.
    `text` is None unless status is `ok`. A JSON object with the key `explanation` is read as well.
    """
    reply = spoken(reply)
    if not reply:
        return Reading(status="failed", reason="the reply is empty")
    if (told := _from_json(reply)) is not None:
        return _judged(clean(told))
    opened = reply.lower().rfind("<think>")
    lines = [line for line in (reply if opened < 0 else reply[:opened]).splitlines() if line.strip()]
    found = [i for i, line in enumerate(lines) if _KEY.match(line)]
    if found:
        match = _KEY.match(lines[found[-1]])
        assert match is not None
        text = clean(match[1])
        if not text and found[-1] + 1 < len(lines):
            text = clean(lines[found[-1] + 1])
        return _judged(text)
    if finish_reason == "length":
        return Reading(status="failed", reason=CUT_OFF)
    if sees_no_pattern(reply):
        return Reading(status="undetermined", reason=NO_PATTERN)
    if _REFUSAL.match(reply.strip()):
        return Reading(status="failed", reason="the model refused")
    return Reading(status="failed", reason=NO_LINE)


def _from_json(reply: str) -> str | None:
    """The `explanation` of a reply that is one JSON object, if it is."""
    bare = _FENCE.sub("", reply.strip()).strip()
    if not bare.startswith("{"):
        return None
    try:
        value = json.loads(bare, strict=False)
    except (ValueError, RecursionError):
        return None
    told = {str(key).casefold(): text for key, text in value.items()}.get("explanation")
    return told if isinstance(told, str) else None


def spoken(reply: str | None) -> str:
    """A reply without the reasoning between `<think>` and `</think>`."""
    return _THOUGHT.sub("", reply or "").strip()


def read_completion(reply: str | None, finish_reason: str | None = None) -> Reading:
    """The first sentence of a continuation, as `read_chat` cleans and judges it.

    A sentence that was cut off (`finish_reason` "length") ends at its last comma or space.
    """
    lines = (reply or "").strip().splitlines()
    text = lines[0] if lines else ""
    sentence = _SENTENCE_END.split(text)[0]
    if finish_reason == "length" and len(lines) == 1 and sentence == text:
        sentence = re.split(r"[,\s]+\S*$", text)[0]
    return _judged(clean(sentence))


def clean(text: str) -> str:
    """One line without control characters, surrounding quotes, emphasis, marks and final stop."""
    text = " ".join(_CONTROL.sub(" ", text).replace("<<", "").replace(">>", "").split())
    previous = None
    while text != previous:
        previous = text
        text = text.strip().strip("*_`").strip()
        for left, right in ('""', "''", "“”", "[]"):
            if len(text) > 1 and text[0] == left and text[-1] == right and left not in text[1:-1]:
                text = text[1:-1]
        if text.endswith(".") and not text.endswith("..") and text.count(".") == 1:
            text = text[:-1]
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS].rsplit(" ", 1)[0]
    return text


def _judged(text: str) -> Reading:
    if not any(c.isalnum() for c in text):
        return Reading(status="failed", reason=EMPTY)
    if sees_no_pattern(text):
        return Reading(status="undetermined", reason=NO_PATTERN)
    text = _LEAD.sub("", text)
    if text.casefold() in _FORMS:
        return Reading(status="failed", reason=REPEATED)
    if _REFUSAL.match(text):
        return Reading(status="failed", reason="the model refused")
    return Reading(text=text)

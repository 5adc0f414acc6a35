"""Whether a reply says that there is nothing to say. The words and patterns stand in `no_pattern.toml`."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|‘[^’]*’|(?<!\w)'[^']*'(?!\w)|`[^`]*`")
_NAME = re.compile(r"(?<![A-Z])(?:NO|ADJ|LINK|COMMON|TRAIT|SEE)(?![A-Z])")
_BETWEEN_WORDS = re.compile(r"[^\w']+")


@dataclass(frozen=True, kw_only=True)
class Denials:
    """What `no_pattern.toml` holds, ready for use."""

    whole: frozenset[str]
    heads: tuple[re.Pattern[str], ...]
    fillers: frozenset[str]
    max_words: int


def sees_no_pattern(text: str) -> bool:
    """Whether a whole reply only says that the model sees no pattern, in one of many ways.

    True if nothing but such words stands in it: whatever else is said makes it an explanation, so that
    one with "nothing in common" as its subject is kept.
    """
    denials = _denials()
    said = _QUOTED.sub(" ", text.casefold().replace("’", "'"))
    words = [word for part in _BETWEEN_WORDS.split(said) if (word := part.strip("'_"))]
    if not words or len(words) > denials.max_words:
        return False
    plain = " ".join(words)
    if plain in denials.whole:
        return not _QUOTED.search(text)
    return any(
        all(word in denials.fillers for word in f"{plain[: m.start()]} {plain[m.end() :]}".split())
        for head in denials.heads
        for m in head.finditer(plain)
    )


@lru_cache(maxsize=1)
def _denials() -> Denials:
    told = tomllib.loads(files(__package__).joinpath("no_pattern.toml").read_text(encoding="utf-8"))
    names = told["names"]

    def filled(pattern: str) -> str:
        while _NAME.search(pattern):
            pattern = _NAME.sub(lambda m: f"(?:{names[m[0]]})", pattern)
        return pattern

    return Denials(
        whole=frozenset(told["whole"]),
        heads=tuple(re.compile(filled(head)) for head in told["heads"]),
        fillers=frozenset(told["fillers"]),
        max_words=told["max_words"],
    )

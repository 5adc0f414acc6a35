"""When two spellings are one word, and which texts can be shown."""

from __future__ import annotations

import unicodedata

_ENDINGS = ("'s", "’s", "ings", "ing", "ies", "ed", "es", "s", "e", "y")


def stem(word: str) -> str:
    """A word without a common English ending, so that "share", "shares" and "shared" are one.

    Crude by intent: it keeps a label from saying the same word twice.
    """
    text = word.casefold()
    for ending in _ENDINGS:
        if text.endswith(ending) and len(text) - len(ending) >= 3:
            return text.removesuffix(ending)
    return text


def printable(text: str) -> bool:
    """Whether every character can be shown (no replacement, control or direction characters)."""
    return bool(text) and not any(
        c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text
    )

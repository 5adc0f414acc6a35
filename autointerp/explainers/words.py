"""When two spellings are one word."""

from __future__ import annotations

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

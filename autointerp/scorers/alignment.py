"""Tokens of one tokenizer laid over tokens of another, by the characters they cover."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autointerp.llm.types import TokenLogprob

_LOOKAHEAD = 16
_UNREADABLE = "\ufffd"

Span = tuple[int, int]


def token_spans(tokens: Sequence[TokenLogprob], text: str) -> list[Span] | None:
    """Which characters of `text` each token covers: (start, end) pairs; None if they do not fit it.

    A leading token that is not of the text (a BOS without log-probability) covers nothing. Tokens
    that hold parts of a split character, whose text is unreadable, cover it together with the next
    readable token.
    """
    spans: list[Span] = []
    cursor = 0
    for i, token in enumerate(tokens):
        if text.startswith(token.text, cursor):
            spans.append((cursor, cursor + len(token.text)))
            cursor = spans[-1][1]
            continue
        if i == 0 and token.logprob is None:
            spans.append((0, 0))
            continue
        readable = token.text.strip(_UNREADABLE)
        at = text.find(readable, cursor, cursor + len(token.text) + _LOOKAHEAD)
        if at == -1:
            return None
        spans.append((cursor, at + len(readable)) if readable else (cursor, cursor))
        cursor = spans[-1][1]
    # The last tokens may be the parts of one split character.
    return spans if len(text) - cursor <= _LOOKAHEAD else None


def edges(texts: Sequence[str]) -> np.ndarray:
    """Character offsets at which pieces of a text begin, and its length, [n_pieces + 1]."""
    return np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)


def carry_over(values: Sequence[float], spans: Sequence[Span], target_edges: np.ndarray) -> np.ndarray:
    """Values of tokens carried to pieces of the same text, in proportion to shared characters.

    The sum is kept: a token over two pieces is shared between them, and a piece gets the sum of its
    tokens. A token that covers nothing gives its value to the piece that holds its place.
    """
    out = np.zeros(len(target_edges) - 1)
    n_characters = int(target_edges[-1])
    if n_characters == 0:
        return out
    for value, (start, end) in zip(values, spans, strict=True):
        if end <= start:
            start = min(start, n_characters - 1)
            end = start + 1
        first = int(np.searchsorted(target_edges, start, side="right")) - 1
        last = int(np.searchsorted(target_edges, end, side="left"))
        for piece in range(first, min(last, len(out))):
            shared = min(end, int(target_edges[piece + 1])) - max(start, int(target_edges[piece]))
            out[piece] += value * max(0, shared) / (end - start)
    return out

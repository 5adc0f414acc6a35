"""Marks on tokens: where a latent is truly active, and false marks that look just like true ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autointerp.sampling.windows import TokenTable, Window


def active_marks(window: Window, threshold: float) -> np.ndarray:
    """Tokens active above `threshold` times the window's largest activation, [n_tokens] bool."""
    if window.max_activation <= 0:
        return np.zeros(len(window.tokens), dtype=bool)
    return np.asarray(window.activations > threshold * window.max_activation)


def markable(tokens: np.ndarray, table: TokenTable) -> np.ndarray:
    """Tokens whose mark would be seen: neither special nor only spaces, [n_tokens] bool."""
    return np.array([bool(text.strip(" ")) for text in table.texts(tokens)], dtype=bool)


def run_lengths(marks: np.ndarray) -> list[int]:
    """Lengths of the runs of marked tokens, longest first."""
    bounds = np.flatnonzero(np.diff(np.concatenate([[False], marks, [False]]).astype(np.int8)))
    return sorted((bounds[1::2] - bounds[::2]).tolist(), reverse=True)


def place_weights(marks: Sequence[np.ndarray], n_tokens: int) -> np.ndarray:
    """How often true marks stand at each place of a window of `n_tokens`, [n_tokens], any scale.

    Places are relative (0 the first token, 1 the last), so that windows of different lengths pool,
    and counts are smoothed over the two neighbours.
    """
    counts = np.zeros(n_tokens)
    for flags in marks:
        places = np.flatnonzero(flags) / max(1, len(flags) - 1) * (n_tokens - 1)
        np.add.at(counts, places.round().astype(int), 1.0)
    padded: np.ndarray = np.concatenate([[0.0], counts, [0.0]])
    smoothed: np.ndarray = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    return smoothed


def false_marks(
    runs: Sequence[int], allowed: np.ndarray, weights: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Random marks on allowed tokens, in runs of the given lengths, placed as true marks are.

    Runs are placed one after the other, apart from each other, by the mean weight of their places;
    one per cent of uniform chance keeps every allowed place possible. A run that fits nowhere is
    broken into single tokens. None if fewer tokens are allowed than are to be marked.
    """
    marks = np.zeros(len(allowed), dtype=bool)
    free = allowed.astype(bool).copy()
    if not runs or sum(runs) > int(free.sum()):
        return None
    weights = weights / max(float(weights.sum()), 1e-12) + 0.01 / len(weights)
    todo = list(runs)
    while todo:
        length = todo.pop(0)
        touching = marks | np.append(marks[1:], False) | np.append(False, marks[:-1])
        starts = _starts(free & ~touching, length)
        if len(starts) == 0:
            starts = _starts(free, length)
        if len(starts) == 0:
            assert length > 1, "a single token fits as long as any is free"
            todo += [1] * length
            continue
        chances = np.array([weights[s : s + length].mean() for s in starts])
        start = int(rng.choice(starts, p=chances / chances.sum()))
        marks[start : start + length] = True
        free[start : start + length] = False
    return marks


def _starts(free: np.ndarray, length: int) -> np.ndarray:
    """Places at which a run of free tokens of that length begins."""
    if length > len(free):
        return np.zeros(0, dtype=np.int64)
    return np.asarray(np.flatnonzero(np.convolve(free, np.ones(length), mode="valid") > length - 0.5))

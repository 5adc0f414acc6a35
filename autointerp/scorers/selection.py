"""Which of a latent's test windows a scorer judges, and where false marks go.

Every choice is drawn from a stream keyed by (seed, latent, purpose): all explanations of a latent
are judged on the same windows, with the same marks, in the same order, however the work is batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from autointerp.sampling.windows import TokenTable, Window
from autointerp.scorers.base import JudgeContext


class Stream(IntEnum):
    """Purposes of random streams."""

    SILENT_WINDOWS = 1
    DETECTION_ORDER = 2
    FUZZING_ORDER = 3
    FUZZING_SOURCES = 4
    FUZZING_MARKS = 5
    SIMULATION_BOOTSTRAP = 6


def spread(windows: Sequence[Window], most: int | None) -> list[Window]:
    """At most that many of the windows, evenly spaced from strongest to weakest."""
    ordered = sorted(windows, key=lambda w: (-w.max_activation, w.example))
    if most is None or len(ordered) <= most:
        return ordered
    picks = np.linspace(0, len(ordered) - 1, most).round().astype(int) if most > 1 else [0]
    return [ordered[int(i)] for i in picks]


def some_silent(
    windows: Sequence[Window], most: int | None, latent: int, context: JudgeContext
) -> list[Window]:
    """At most that many of the windows without activation, drawn evenly over their kinds."""
    ordered = sorted(windows, key=lambda w: w.example)
    if most is None or len(ordered) <= most:
        return ordered
    shuffled = [ordered[i] for i in context.rng(latent, Stream.SILENT_WINDOWS).permutation(len(ordered))]
    taken: dict[str, int] = {}
    rank = {}
    for window in shuffled:
        rank[window.example] = taken.setdefault(window.kind, 0)
        taken[window.kind] += 1
    drawn = sorted(shuffled, key=lambda w: rank[w.example])[:most]
    return sorted(drawn, key=lambda w: w.example)


def markable(tokens: np.ndarray, table: TokenTable) -> np.ndarray:
    """Tokens whose mark would be seen: not special, and more than white space, [n_tokens] bool."""
    return np.array([bool(text.strip()) for text in table.texts(tokens)], dtype=bool)


def active_marks(window: Window, threshold: float) -> np.ndarray:
    """Tokens active above `threshold` times the window's largest activation, [n_tokens] bool."""
    if window.max_activation <= 0:
        return np.zeros(len(window.tokens), dtype=bool)
    return window.activations > threshold * window.max_activation


def false_marks(
    n_marks: int, allowed: np.ndarray, position_weights: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Random marks: `n_marks` of the allowed tokens, places drawn as true marks are placed.

    `position_weights` says how often true marks stand at each place ([n_tokens], any scale); a
    share of uniform chance is mixed in so that every allowed place is possible. None if fewer
    tokens are allowed.
    """
    places = np.flatnonzero(allowed)
    if n_marks < 1 or len(places) < n_marks:
        return None
    weights = position_weights[places] + 1e-3 * max(1e-9, float(position_weights.max(initial=0.0)))
    drawn = rng.choice(places, size=n_marks, replace=False, p=weights / weights.sum())
    marks = np.zeros(len(allowed), dtype=bool)
    marks[drawn] = True
    return marks


def position_weights(marks: Sequence[np.ndarray], n_tokens: int, smoothing: int = 1) -> np.ndarray:
    """How often true marks stand at each relative place, for a window of `n_tokens`, [n_tokens].

    Places are relative (0 first token, 1 last), so windows of different lengths pool; counts are
    smoothed over `smoothing` neighbours on each side.
    """
    counts = np.zeros(n_tokens)
    for flags in marks:
        at = np.flatnonzero(flags) / max(1, len(flags) - 1) * (n_tokens - 1)
        np.add.at(counts, at.round().astype(int), 1.0)
    kernel = np.ones(2 * smoothing + 1)
    return np.convolve(counts, kernel, mode="same") if n_tokens > len(kernel) else counts + 1.0

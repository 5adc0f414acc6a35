"""Choosing windows for one latent: where they lie, which are drawn, and windows where it is silent.

Everything here is vectorised over one latent's activations, sorted by (context, position). Windows
of a latent never overlap one another within a kind, so that no token is shown twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["top", "random", "quantiles", "mixed"]


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Places of windows: parallel arrays, one entry per window."""

    context: NDArray[np.int64]
    start: NDArray[np.int64]
    peak: NDArray[np.float32]
    """Largest activation in the window."""

    def __len__(self) -> int:
        return len(self.context)

    def take(self, index: NDArray[np.int64]) -> Spans:
        """Some of the windows, in the order of `index`."""
        return Spans(context=self.context[index], start=self.start[index], peak=self.peak[index])


def tile_spans(
    context: NDArray[np.int64],
    position: NDArray[np.int64],
    activation: NDArray[np.float32],
    *,
    window: int,
    context_size: int,
) -> Spans:
    """Windows as fixed tiles of each context that hold at least one activation.

    Tile i covers positions [i * window, (i + 1) * window); what remains at a context's end, shorter
    than a window, belongs to no tile.
    """
    keep = position < context_size // window * window
    context, tile, activation = context[keep], position[keep] // window, activation[keep]
    index, peak, _ = _peaks(context * context_size + tile, activation)
    return Spans(context=context[index], start=tile[index] * window, peak=peak)


def trigger_spans(
    context: NDArray[np.int64],
    position: NDArray[np.int64],
    activation: NDArray[np.float32],
    *,
    window: int,
    context_size: int,
    trigger_position: tuple[float, float],
    rng: np.random.Generator,
) -> Spans:
    """Windows laid around peaks, the peak at a random place within `trigger_position`.

    Candidates are the strongest activation of each stretch of `window` positions; of overlapping
    windows the stronger stays. Near the edge of a context the window is moved inside it. A window's
    `peak` is the largest activation anywhere in it.
    """
    index, _, _ = _peaks(context * context_size + position // window, activation)
    low, high = (round(share * (window - 1)) for share in trigger_position)
    offset = rng.integers(low, high + 1, size=len(index))
    start = np.clip(position[index] - offset, 0, context_size - window)
    code = context[index] * context_size + start
    order = np.argsort(code, kind="stable")
    kept = order[_without_overlap(context[index][order], start[order], activation[index][order], window)]
    context_kept, start_kept = context[index][kept], start[kept]
    codes = context * context_size + position
    first, last = _bounds(codes, context_kept * context_size + start_kept, window)
    return Spans(context=context_kept, start=start_kept, peak=_segment_max(activation, first, last))


def deciles(peak: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Decile of each value by rank, 1 weakest to 10 strongest (ties in order of appearance)."""
    rank = np.empty(len(peak), dtype=np.int64)
    rank[np.argsort(peak, kind="stable")] = np.arange(len(peak))
    return (1 + rank * 10 // max(len(peak), 1)).astype(np.uint8)


def draw(
    peak: NDArray[np.float32], n: int, strategy: Strategy, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Indices of at most `n` windows, strongest first.

    `top`: the strongest. `random`: uniformly. `quantiles`: as many from each decile of `peak`, what
    a thin decile lacks filled up at random. `mixed`: half `top`, the rest `quantiles` of what is left.
    """
    n = min(n, len(peak))
    strongest = np.argsort(-peak, kind="stable")
    if strategy == "top":
        chosen = strongest[:n]
    elif strategy == "random":
        chosen = rng.choice(len(peak), size=n, replace=False)
    elif strategy == "quantiles":
        chosen = _draw_quantiles(peak, n, rng)
    else:
        top = strongest[: n // 2]
        rest = np.setdiff1d(np.arange(len(peak)), top)
        chosen = np.concatenate([top, rest[_draw_quantiles(peak[rest], n - len(top), rng)]])
    return chosen[np.lexsort((chosen, -peak[chosen]))].astype(np.int64)


def silent_spans(
    context: NDArray[np.int64],
    position: NDArray[np.int64],
    *,
    contexts: NDArray[np.int64],
    n: int,
    window: int,
    context_size: int,
    rng: np.random.Generator,
) -> Spans:
    """At most `n` windows drawn uniformly over `contexts` in which the latent is never active.

    Every window is checked against all of the latent's activations; fewer than `n` come back only
    if 64 x `n` draws did not find enough (a very dense latent).
    """
    codes = context * context_size + position
    found = np.empty(0, dtype=np.int64)
    for _ in range(16):
        if len(found) >= n or len(contexts) == 0:
            break
        drawn = rng.choice(contexts, size=4 * n)
        start = rng.integers(0, context_size - window + 1, size=4 * n)
        code = drawn * context_size + start
        first, last = _bounds(codes, code, window)
        merged = np.concatenate([found, code[first == last]])
        _, where = np.unique(merged, return_index=True)
        found = merged[np.sort(where)]
    found = found[:n]
    return Spans(
        context=found // context_size, start=found % context_size, peak=np.zeros(len(found), dtype=np.float32)
    )


def window_activations(
    context: NDArray[np.int64],
    position: NDArray[np.int64],
    activation: NDArray[np.float32],
    spans: Spans,
    *,
    window: int,
    context_size: int,
) -> NDArray[np.float32]:
    """Activation at each token of each window, [len(spans), window] float32, 0 where silent."""
    codes = context * context_size + position
    begin = spans.context * context_size + spans.start
    first, last = _bounds(codes, begin, window)
    count = last - first
    row = np.repeat(np.arange(len(spans)), count)
    source = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    out = np.zeros((len(spans), window), dtype=np.float32)
    out[row, codes[source] - begin[row]] = activation[source]
    return out


def _draw_quantiles(peak: NDArray[np.float32], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    shuffled = rng.permutation(len(peak))
    decile = deciles(peak)[shuffled]
    order = np.argsort(decile, kind="stable")
    sizes = np.bincount(decile, minlength=11)[1:]
    within = np.arange(len(peak)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    quota = np.full(10, n // 10)
    quota[rng.permutation(10)[: n % 10]] += 1
    first = within < np.repeat(quota, sizes)
    chosen = shuffled[order[first]]
    missing = n - len(chosen)
    if missing > 0:
        rest = rng.permutation(shuffled[order[~first]])
        chosen = np.concatenate([chosen, rest[:missing]])
    return chosen


def _peaks(
    group: NDArray[np.int64], activation: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Per run of equal `group` values: index of the largest activation (the first of ties), its value, run starts."""
    if len(group) == 0:
        return np.empty(0, np.int64), np.empty(0, np.float32), np.empty(0, np.int64)
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    peak = np.maximum.reduceat(activation, starts)
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(group)]))
    hits = np.flatnonzero(activation == peak[run])
    _, first = np.unique(run[hits], return_index=True)
    return hits[first], peak, starts


def _without_overlap(
    context: NDArray[np.int64], start: NDArray[np.int64], peak: NDArray[np.float32], window: int
) -> NDArray[np.int64]:
    """Indices kept of windows sorted by (context, start), so that none overlap: strongest first."""
    alive = np.arange(len(context))
    while len(alive) > 1:
        c, s, p = context[alive], start[alive], peak[alive]
        clash = (c[1:] == c[:-1]) & (s[1:] - s[:-1] < window)
        if not clash.any():
            break
        # Of each clashing neighbours the weaker goes (of equals the later), unless the stronger goes too.
        left_wins = clash & (p[:-1] >= p[1:])
        right_wins = clash & ~left_wins
        loses = np.zeros(len(alive), dtype=bool)
        loses[1:] |= left_wins
        loses[:-1] |= right_wins
        beaten_by_winner = np.zeros(len(alive), dtype=bool)
        beaten_by_winner[1:] |= left_wins & ~loses[:-1]
        beaten_by_winner[:-1] |= right_wins & ~loses[1:]
        alive = alive[~beaten_by_winner]
    return alive


def _bounds(
    codes: NDArray[np.int64], begin: NDArray[np.int64], window: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.searchsorted(codes, begin), np.searchsorted(codes, begin + window)


def _segment_max(
    values: NDArray[np.float32], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.float32]:
    if len(first) == 0:
        return np.empty(0, dtype=np.float32)
    edges = np.stack([first, np.minimum(last, len(values) - 1)], axis=1).ravel()
    ends_inside = last < len(values)
    out = np.maximum.reduceat(values, edges)[::2]
    # A segment that reaches the end of the array was cut one short by the index limit above.
    return np.where(ends_inside, out, np.maximum(out, values[-1])).astype(np.float32)

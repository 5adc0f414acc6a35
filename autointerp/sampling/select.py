"""Choosing windows for one latent: where they lie, which are drawn, and windows where it is silent.

Activations are sorted by (context, position); several latents are told apart by contexts of their own.
Windows of a latent and split never overlap one another, so that no token is shown twice.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.config import Strategy


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Places of windows: parallel arrays, one entry per window."""

    context: NDArray[np.int64]
    start: NDArray[np.int64]
    peak: NDArray[np.float32]
    """Largest activation in the window."""

    def __len__(self) -> int:
        return len(self.context)

    @classmethod
    def silent_at(cls, codes: NDArray[np.int64], context_size: int) -> Spans:
        """Windows without activation that begin at `codes` = context * context_size + start."""
        return cls(
            context=codes // context_size,
            start=codes % context_size,
            peak=np.zeros(len(codes), dtype=np.float32),
        )

    def take(self, index: NDArray[np.int64] | slice) -> Spans:
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
    ticket: NDArray[np.uint64],
) -> Spans:
    """Windows laid around peaks, the peak at a random place within `trigger_position`.

    `ticket` are random numbers, one per activation, that decide the place.

    Candidates are the strongest activation of each stretch of `window` positions; of overlapping
    windows the stronger stays. Near the edge of a context the window is moved inside it. A window's
    `peak` is the largest activation anywhere in it.
    """
    index, _, _ = _peaks(context * context_size + position // window, activation)
    low, high = (round(share * (window - 1)) for share in trigger_position)
    offset = low + (ticket[index] % np.uint64(high - low + 1)).astype(np.int64)
    start = np.clip(position[index] - offset, 0, context_size - window)
    code = context[index] * context_size + start
    order = np.argsort(code, kind="stable")
    kept = order[_without_overlap(context[index][order], start[order], activation[index][order], window)]
    context_kept, start_kept = context[index][kept], start[kept]
    codes = context * context_size + position
    first, last = _bounds(codes, context_kept * context_size + start_kept, window)
    return Spans(context=context_kept, start=start_kept, peak=_segment_max(activation, first, last))


def deciles(peak: NDArray[np.float32], fair: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """Decile of each value by rank, 1 weakest to 10 strongest (ties in order of appearance).

    With `fair` [n] ranks count those values only, a uniform sample, and the others are placed among them.
    """
    if fair is not None and not fair.all():
        measured = np.sort(peak[fair])
        below = np.minimum(np.searchsorted(measured, peak), max(len(measured) - 1, 0))
        return (1 + below * 10 // max(len(measured), 1)).astype(np.uint8)
    rank = np.empty(len(peak), dtype=np.int64)
    rank[np.argsort(peak, kind="stable")] = np.arange(len(peak))
    return (1 + rank * 10 // max(len(peak), 1)).astype(np.uint8)


def draw(
    peak: NDArray[np.float32],
    n: int,
    strategy: Strategy,
    rng: np.random.Generator,
    fair: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Indices of at most `n` windows, strongest first.

    The strongest come from all windows, what is drawn by chance from those in `fair` [n_windows] (a uniform
    sample; None: all).

    `top`: the strongest. `random`: uniformly. `quantiles`: as many from each decile of `peak`, what
    a thin decile lacks filled up at random. `mixed`: half `top`, the rest `quantiles` of what is left.
    `importance`: one after another with probability in proportion to the square of `peak`, as SAEBench
    draws them. `top_importance`: half `top`, the rest `importance` of what is left.
    """
    drawn_from = np.arange(len(peak)) if fair is None else np.flatnonzero(fair)
    strongest = np.argsort(-peak, kind="stable")
    if strategy == "top":
        chosen = strongest[:n]
    elif strategy == "random":
        chosen = rng.choice(drawn_from, size=min(n, len(drawn_from)), replace=False)
    elif strategy in ("quantiles", "importance"):
        chosen = _draw_by_peak(strategy, peak, drawn_from, n, rng)
    else:
        top = strongest[: min(n, len(peak)) // 2]
        rest = np.setdiff1d(drawn_from, top)
        kind = "quantiles" if strategy == "mixed" else "importance"
        chosen = np.concatenate([top, _draw_by_peak(kind, peak, rest, min(n, len(peak)) - len(top), rng)])
    return chosen[np.lexsort((chosen, -peak[chosen]))].astype(np.int64)


def silent_spans(
    codes: NDArray[np.int64],
    *,
    contexts: NDArray[np.int64],
    n: int,
    window: int,
    context_size: int,
    taken: NDArray[np.int64],
    rng: np.random.Generator,
) -> Spans:
    """At most `n` windows drawn uniformly over `contexts` in which the latent is never active.

    Every window is checked against all of the latent's activations, at `codes` = context * context_size
    + position (sorted), and overlaps none that begins at `taken` (codes, sorted). Fewer than `n` come
    back only if 64 x `n` draws did not find enough (a very dense latent, or a very small corpus).
    """
    found = np.empty(0, dtype=np.int64)
    for _ in range(32):
        if len(found) >= n or len(contexts) == 0:
            break
        drawn = contexts[rng.integers(len(contexts), size=2 * n)]
        code = drawn * context_size + rng.integers(0, context_size - window + 1, size=2 * n)
        merged = np.concatenate([found, code[is_silent(codes, code, window)]])
        found = merged[first_apart(merged, n, taken, window)]
    return Spans.silent_at(found, context_size)


def neighbour_spans(
    codes: NDArray[np.int64],
    *,
    places: NDArray[np.int64],
    n: int,
    window: int,
    context_size: int,
    trigger_position: tuple[float, float] | None,
    taken: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[Spans, NDArray[np.int64]]:
    """At most `n` windows around activations of other latents in which this latent is never active.

    `codes` and `taken` are as in `silent_spans`; `places` [n_neighbours, m] are codes of activations,
    nearest neighbour first, -1 for none. The neighbours take turns, the nearest first. With
    `trigger_position` the activation lies there in its window, without it windows are the tiles of
    `tile_spans`. Returns the windows and whose each is.
    """
    at = places % context_size
    if trigger_position is None:
        start = at // window * window
    else:
        low, high = (round(share * (window - 1)) for share in trigger_position)
        start = np.clip(at - rng.integers(low, high + 1, size=places.shape), 0, context_size - window)
    begin = places - at + start
    usable = (places >= 0) & (start <= context_size - window) & is_silent(codes, begin, window)
    turn = np.cumsum(usable, axis=1)
    whose, column = np.nonzero(usable)
    order = np.lexsort((whose, turn[whose, column]))
    whose, code = whose[order], begin[whose, column][order]
    chosen = first_apart(code, n, taken, window)
    return Spans.silent_at(code[chosen], context_size), whose[chosen]


def is_silent(codes: NDArray[np.int64], begin: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Whether windows that begin at `begin` hold none of the activations at `codes` (sorted)."""
    first, last = _bounds(codes, begin, window)
    return np.equal(first, last)


def is_apart(begin: NDArray[np.int64], taken: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Whether windows that begin at `begin` overlap none of those that begin at `taken` (sorted)."""
    first, last = np.searchsorted(taken, begin - window, side="right"), np.searchsorted(taken, begin + window)
    return np.equal(first, last)


def first_apart(begin: NDArray[np.int64], n: int, taken: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Indices of the first `n` windows, in the order given, that overlap neither `taken` nor one another."""
    # Codes of windows in different contexts are always a window apart. A plain loop: `n` is small.
    held: list[int] = taken.tolist()
    chosen: list[int] = []
    for index, code in enumerate(begin.tolist()):
        if len(chosen) == n:
            break
        at = bisect_left(held, code)
        if (at and code - held[at - 1] < window) or (at < len(held) and held[at] - code < window):
            continue
        held.insert(at, code)
        chosen.append(index)
    return np.array(chosen, dtype=np.int64)


def window_activations(
    codes: NDArray[np.int64],
    activation: NDArray[np.float32],
    spans: Spans,
    *,
    window: int,
    context_size: int,
) -> NDArray[np.float32]:
    """Activation at each token of each window, [len(spans), window] float32, 0 where silent.

    The activations lie at `codes` = context * context_size + position (sorted).
    """
    begin = spans.context * context_size + spans.start
    first, last = _bounds(codes, begin, window)
    count = last - first
    row = np.repeat(np.arange(len(spans)), count)
    source = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    out = np.zeros((len(spans), window), dtype=np.float32)
    out[row, codes[source] - begin[row]] = activation[source]
    return out


def _draw_by_peak(
    kind: str, peak: NDArray[np.float32], among: NDArray[np.int64], n: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    draw_from = _draw_quantiles if kind == "quantiles" else _draw_importance
    return among[draw_from(peak[among], min(n, len(among)), rng)]


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


def _draw_importance(peak: NDArray[np.float32], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Successive draws without replacement, weight `peak` squared: the `n` earliest of exponential clocks."""
    with np.errstate(divide="ignore"):
        clock = rng.exponential(size=len(peak)) / peak.astype(np.float64) ** 2
    return np.argsort(clock, kind="stable")[:n]


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

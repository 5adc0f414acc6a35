"""Where windows lie, for a block of latents at once: around activations, and where a latent is silent.

Activations are sorted by (context, position); several latents are told apart by contexts of their own.
Places are codes, context * context_size + position; row r of a block has the codes from r * row_size on.
Windows of a latent and split never overlap one another, so that no token is shown twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.sampling.draw import places_in_runs

_ROUNDS = 43
"""Rounds of about one and a half times the windows asked, after which a latent has no more silent ones."""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """Places of windows: parallel arrays, one entry per window."""

    context: NDArray[np.int64]
    start: NDArray[np.int64]
    peak: NDArray[np.float32]
    """Largest activation in the window."""

    def __len__(self) -> int:
        return len(self.context)

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


def random_silent(
    codes: NDArray[np.int64],
    *,
    row_size: int,
    contexts: NDArray[np.int64],
    n_known: NDArray[np.int64],
    n: int,
    window: int,
    context_size: int,
    taken: NDArray[np.int64],
    ticket: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.uint64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """At most `n` windows of each row drawn uniformly over contexts, in which its latent is never active.

    Row r draws from the first `n_known[r]` of `contexts`; draw i of row r hangs on `ticket(r, i)`. Every
    window is checked against all activations, at `codes` (sorted), and overlaps none that begins at `taken`
    (sorted). Fewer than `n` come back only if 64 x `n` draws did not find enough (a very dense latent, or a
    very small corpus). Returns the row and the code of each window, by row, in the order drawn.
    """
    starts, per_round = context_size - window + 1, n + n // 2 + 4
    missing = np.full(len(n_known), n)
    lacking = np.flatnonzero(n_known > 0) if n else np.empty(0, dtype=np.int64)
    rows, begins = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for turn in range(_ROUNDS):
        if len(lacking) == 0:
            break
        row = np.repeat(lacking, per_round)
        drawn = ticket(row, np.tile(turn * per_round + np.arange(per_round), len(lacking)))
        context = contexts[_scaled(drawn >> np.uint64(32), n_known[row])]
        begin = row * row_size + context * context_size + _scaled(drawn & np.uint64(0xFFFFFFFF), starts)
        silent = is_silent(codes, begin, window)
        row, begin = row[silent], begin[silent]
        kept = first_apart(row, begin, missing, taken, window)
        rows.append(row[kept])
        begins.append(begin[kept])
        missing -= np.bincount(row[kept], minlength=len(missing))
        lacking = lacking[missing[lacking] > 0]
        if len(lacking):
            taken = np.sort(np.concatenate([taken, begin[kept]]))
    order = np.argsort(np.concatenate(rows), kind="stable")
    return np.concatenate(rows)[order], np.concatenate(begins)[order]


def _scaled(half: NDArray[np.uint64], n: NDArray[np.int64] | int) -> NDArray[np.int64]:
    """Uniform 32-bit numbers as whole numbers below `n`."""
    scaled: NDArray[np.int64] = ((half * np.asarray(n, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)
    return scaled


def beside_neighbours(
    codes: NDArray[np.int64],
    *,
    row_size: int,
    places: NDArray[np.int64],
    n: int,
    window: int,
    context_size: int,
    trigger_position: tuple[float, float] | None,
    taken: NDArray[np.int64],
    ticket: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """At most `n` windows of each row around activations of other latents, in which its latent is never active.

    `codes` and `taken` are as in `random_silent`; `places` [n_rows, n_neighbours, m] are codes of
    activations within a row, nearest neighbour first, -1 for none. The neighbours take turns, the nearest
    first. With `trigger_position` the activation lies there in its window, where `ticket` (of the shape of
    `places`) decides; without it windows are the tiles of `tile_spans`. Returns the row and the code of
    each window and whose it is (index of the neighbour).
    """
    at = places % context_size
    if trigger_position is None:
        start = at // window * window
    else:
        low, high = (round(share * (window - 1)) for share in trigger_position)
        offset = low + (ticket % np.uint64(high - low + 1)).astype(np.int64)
        start = np.clip(at - offset, 0, context_size - window)
    begin = places - at + start + (np.arange(len(places)) * row_size)[:, None, None]
    usable = (places >= 0) & (start <= context_size - window)
    usable[usable] = is_silent(codes, begin[usable], window)
    n_rows, k, m = places.shape
    row, whose, _ = np.nonzero(usable)
    turn = np.cumsum(usable, axis=2)[usable]
    order = np.argsort((row * (m + 1) + turn) * k + whose)
    row, whose, begin = row[order], whose[order], begin[usable][order]
    chosen = first_apart(row, begin, np.full(n_rows, n), taken, window)
    return row[chosen], begin[chosen], whose[chosen]


def is_silent(codes: NDArray[np.int64], begin: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Whether windows that begin at `begin` hold none of the activations at `codes` (sorted)."""
    return _none_between(codes, begin, begin + window)


def is_apart(begin: NDArray[np.int64], taken: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Whether windows that begin at `begin` overlap none of those that begin at `taken` (sorted)."""
    return _none_between(taken, begin - window + 1, begin + window)


def _none_between(
    values: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether none of some sorted values lies in [first, last)."""
    if len(values) == 0:
        return np.ones(len(first), dtype=bool)
    at = np.searchsorted(values, first)
    none: NDArray[np.bool_] = (at == len(values)) | (values[np.minimum(at, len(values) - 1)] >= last)
    return none


def first_apart(
    row: NDArray[np.int64],
    begin: NDArray[np.int64],
    n: NDArray[np.int64],
    taken: NDArray[np.int64],
    window: int,
) -> NDArray[np.int64]:
    """Indices of the first `n[r]` windows of each row r, in the order given, that overlap neither `taken`
    nor one another; `row` is ascending."""
    # Codes of windows in different contexts are always a window apart.
    free = np.flatnonzero(is_apart(begin, taken, window))
    kept = free[_one_after_another(begin[free], window)]
    return kept[places_in_runs(row[kept]) < n[row[kept]]]


def _one_after_another(begin: NDArray[np.int64], window: int) -> NDArray[np.bool_]:
    """Which windows stay when each in turn is taken unless it overlaps one taken before."""
    kept = np.zeros(len(begin), dtype=bool)
    order = np.argsort(begin, kind="stable")
    clash = np.diff(begin[order]) < window
    alone = ~(np.r_[False, clash] | np.r_[clash, False])[: len(begin)]
    kept[order[alone]] = True
    undecided = order[~alone]
    while len(undecided):
        here = begin[undecided]
        edges = np.stack(
            [np.searchsorted(here, here - window, "right"), np.searchsorted(here, here + window)], 1
        )
        # The first of all it overlaps, itself among them, is taken; what overlaps that is not.
        first = np.minimum.reduceat(np.r_[undecided, len(begin)], edges.ravel())[::2]
        taken = first == undecided
        kept[undecided[taken]] = True
        undecided = undecided[is_apart(here, here[taken], window)]
    return kept


def window_activations(
    codes: NDArray[np.int64], activation: NDArray[np.float32], begin: NDArray[np.int64], window: int
) -> NDArray[np.float32]:
    """Activation at each token of windows that begin at `begin`, [len(begin), window] float32, 0 where silent.

    The activations lie at `codes` (sorted).
    """
    first, last = _bounds(codes, begin, window)
    count = last - first
    row = np.repeat(np.arange(len(begin)), count)
    source = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(first, count)
    out = np.zeros((len(begin), window), dtype=np.float32)
    out[row, codes[source] - begin[row]] = activation[source]
    return out


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
    first = np.r_[True, run[hits][1:] != run[hits][:-1]]
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

"""Drawing windows of many groups at once: ranks, deciles, strategies.

A group is one latent in one split. Everything here is parallel arrays, one entry per window, sorted by
group; what is left to chance hangs on tickets (uniform 64-bit numbers, see `places.tickets`), so the
windows of one group never depend on which others are drawn beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.config import Strategy
from autointerp.sampling.places import mix

_OTHER = np.uint64(0x5851F42D4C957F2D)
"""Makes of one ticket another, independent one."""


def rank_within(group: NDArray[np.int64], key: NDArray[Any]) -> NDArray[np.int64]:
    """Rank from 0 of each entry in its group by a key, the smallest first (of equals the earlier).

    `group` [n] need not be sorted. Of tickets (uint64) the upper half counts.
    """
    n = len(group)
    if key.dtype == np.uint64:
        key = (key >> np.uint64(32)).astype(np.uint32)
    elif key.dtype == np.float32:
        key = _ordered(key)
    rank = np.empty(n, dtype=np.int64)
    if n == 0:
        return rank
    index_bits = int(n - 1).bit_length()
    if key.dtype == np.uint32 and index_bits + int(group.max()).bit_length() <= 32:
        # Group, key and place in one number: such numbers are sorted much faster than by two keys.
        packed = ((group.astype(np.uint64) << np.uint64(32)) | key) << np.uint64(index_bits)
        packed |= np.arange(n, dtype=np.uint64)
        packed.sort()
        order = (packed & np.uint64(2**index_bits - 1)).astype(np.int64)
    else:
        order = np.lexsort((key, group))
    rank[order] = places_in_runs(group[order])
    return rank


def _ordered(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Whole numbers in the order of float32 numbers."""
    bits = (values + np.float32(0)).view(np.uint32)
    return bits ^ np.where(bits >> 31, np.uint32(2**32 - 1), np.uint32(2**31))


def places_in_runs(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2, ... along each run of equal entries."""
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    places: NDArray[np.int64] = np.arange(len(group)) - np.repeat(starts, np.diff(np.r_[starts, len(group)]))
    return places


def deciles(
    group: NDArray[np.int64], peak: NDArray[np.float32], fair: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Decile of each value by rank in its group, 1 weakest to 10 strongest (ties in order of appearance).

    With `fair` [n] ranks count those values only, a uniform sample, and the others are placed among them.
    """
    if len(group) == 0:
        return np.empty(0, dtype=np.uint8)
    sizes = np.bincount(group)
    if fair is None:
        rank = rank_within(group, peak)
        return (1 + rank * 10 // sizes[group]).astype(np.uint8)
    n_fair = np.bincount(group[fair], minlength=len(sizes))
    order = np.lexsort((peak, group))
    g, p = group[order], peak[order]
    begins = np.r_[True, (g[1:] != g[:-1]) | (p[1:] != p[:-1])]
    run = np.maximum.accumulate(np.where(begins, np.arange(len(g)), 0))
    n_through: NDArray[np.int64] = np.cumsum(fair[order])
    before = n_through - fair[order]
    # Where all are fair ties go by appearance, as above; else a value stands below all its equals.
    all_fair = n_fair == sizes
    first = np.searchsorted(g, np.arange(len(sizes)))
    below = np.where(all_fair[g], before, before[run]) - before[np.minimum(first, len(g) - 1)][g]
    below = np.minimum(below, np.maximum(n_fair[g] - 1, 0))
    out = np.empty(len(group), dtype=np.uint8)
    out[order] = 1 + below * 10 // np.maximum(n_fair[g], 1)
    return out


def draw(
    group: NDArray[np.int64],
    peak: NDArray[np.float32],
    n: int,
    strategy: Strategy,
    ticket: NDArray[np.uint64],
    quota_ticket: NDArray[np.uint64],
    fair: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Indices of at most `n` windows of each group, by group, strongest first.

    The strongest come from all windows, what is drawn by chance from those in `fair` [n_windows] (a uniform
    sample; None: all). `ticket` [n_windows] and `quota_ticket` [n_groups, 10] decide what is left to chance.

    `top`: the strongest. `random`: uniformly. `quantiles`: as many from each decile of `peak`, what
    a thin decile lacks filled up at random. `mixed`: half `top`, the rest `quantiles` of what is left.
    `importance`: one after another with probability in proportion to the square of `peak`, as SAEBench
    draws them. `top_importance`: half `top`, the rest `importance` of what is left.
    """
    among = np.ones(len(group), dtype=bool) if fair is None else fair
    sizes = np.bincount(group, minlength=len(quota_ticket))
    wanted = np.minimum(n, sizes)
    strongest = rank_within(group, -peak)
    chosen = np.zeros(len(group), dtype=bool)
    if strategy == "top":
        chosen = strongest < n
    else:
        if strategy in ("mixed", "top_importance"):
            chosen = strongest < (wanted // 2)[group]
            wanted = wanted - wanted // 2
        rest = np.flatnonzero(among & ~chosen)
        args = group[rest], peak[rest], wanted, ticket[rest]
        if strategy == "random":
            drawn = rank_within(args[0], args[3]) < wanted[args[0]]
        elif strategy in ("quantiles", "mixed"):
            drawn = _by_quantiles(*args, quota_ticket)
        else:
            drawn = _by_importance(*args)
        chosen[rest[drawn]] = True
    index = np.flatnonzero(chosen)
    return index[np.lexsort((strongest[index], group[index]))]


def _by_quantiles(
    group: NDArray[np.int64],
    peak: NDArray[np.float32],
    n: NDArray[np.int64],
    ticket: NDArray[np.uint64],
    quota_ticket: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    cell = group * 10 + deciles(group, peak) - 1
    # Which deciles give one more where n is no multiple of ten is left to chance.
    extra = np.argsort(np.argsort(quota_ticket, axis=1), axis=1) < (n % 10)[:, None]
    quota = (n // 10)[:, None] + extra
    chosen: NDArray[np.bool_] = rank_within(cell, ticket) < quota.ravel()[cell]
    missing = n - np.bincount(group[chosen], minlength=len(n))
    rest = np.flatnonzero(~chosen & (missing > 0)[group])
    others = rank_within(group[rest], mix(ticket[rest] ^ _OTHER))
    chosen[rest[others < missing[group[rest]]]] = True
    return chosen


def _by_importance(
    group: NDArray[np.int64], peak: NDArray[np.float32], n: NDArray[np.int64], ticket: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Successive draws without replacement, weight `peak` squared: the earliest of exponential clocks."""
    uniform = (ticket.astype(np.float64) + 1.0) / 2.0**64
    with np.errstate(divide="ignore"):
        clock = -np.log(uniform) / peak.astype(np.float64) ** 2
    earliest: NDArray[np.bool_] = rank_within(group, clock) < n[group]
    return earliest

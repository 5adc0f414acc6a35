"""A bounded sample of each latent's contexts, exact whatever the order in which they are read.

Every context has a random priority, the same for all latents. Of the contexts in which a latent is
active, those of smallest priority are kept: a uniform sample without replacement ("bottom-k
sampling"; Cohen and Kaplan, "Summarizing data using bottom-k sketches", 2007). Beside them those with
the largest activation are kept. Which contexts a latent is silent in is known as well, as far as
the priorities of the sample reach: one that comes before the last of the sample and is not in it.

Everything is done for train and test contexts apart (sides 0 and 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.sampling.places import tickets

_STREAM = 7
LAST_PRIORITY = np.uint64(2**64 - 1)


def priorities(seed: int, n_contexts: int) -> NDArray[np.uint64]:
    """The random priority of contexts 0, 1, ..., [n_contexts]."""
    return tickets(seed, np.zeros(1, dtype=np.int64), np.arange(n_contexts), _STREAM)


@dataclass(frozen=True, kw_only=True)
class Groups:
    """A latent in a context, one entry each, from activations sorted by (latent, context)."""

    latent: NDArray[np.int64]
    context: NDArray[np.int64]
    side: NDArray[np.int64]
    """0 for a train context, 1 for a test context."""
    peak: NDArray[np.float32]
    """Largest activation."""
    total: NDArray[np.float64]
    """Sum of the activations."""
    size: NDArray[np.int64]
    """Number of activations."""

    @classmethod
    def of(
        cls,
        latent: NDArray[np.uint32],
        context: NDArray[np.uint32],
        activation: NDArray[np.float32],
        is_test: NDArray[np.bool_],
    ) -> Groups:
        """The groups of parallel arrays; `is_test` [n_contexts] tells the split of each context."""
        begins = np.flatnonzero(
            np.r_[True, (latent[1:] != latent[:-1]) | (context[1:] != context[:-1])]
            if len(latent)
            else np.empty(0, dtype=bool)
        )
        at = begins if len(begins) else np.empty(0, dtype=np.int64)
        return cls(
            latent=latent[at].astype(np.int64),
            context=context[at].astype(np.int64),
            side=is_test[context[at]].astype(np.int64),
            peak=np.maximum.reduceat(activation, at) if len(at) else activation[:0],
            total=np.add.reduceat(activation.astype(np.float64), at) if len(at) else np.empty(0),
            size=np.diff(np.r_[at, len(latent)]),
        )

    def rows(self, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which activations belong to the chosen groups."""
        rows: NDArray[np.bool_] = np.repeat(chosen, self.size)
        return rows


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a context must reach to be kept, by latent and side; arrays [n_latents, 2]."""

    priority: NDArray[np.uint64]
    """The last priority in the uniform sample."""
    peak: NDArray[np.float32]
    """The least peak among the strongest contexts."""

    @classmethod
    def open(cls, n_latents: int) -> Bounds:
        """Bounds that let everything in."""
        return cls(
            priority=np.full((n_latents, 2), LAST_PRIORITY), peak=np.full((n_latents, 2), -np.inf, np.float32)
        )

    def admit(self, groups: Groups, priority: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Groups that may still be chosen; `priority` [n_contexts]."""
        at = groups.latent, groups.side
        admitted: NDArray[np.bool_] = (priority[groups.context] <= self.priority[at]) | (
            groups.peak >= self.peak[at]
        )
        return admitted


def choose(
    groups: Groups, priority: NDArray[np.uint64], *, n_random: int, n_top: int, bounds: Bounds
) -> NDArray[np.bool_]:
    """The groups kept of each latent and side: `n_random` at random and the `n_top` strongest.

    Lowers the bounds of the latents in `groups`, which must hold every group of theirs that the
    bounds have admitted so far.
    """
    key = groups.latent * 2 + groups.side
    drawn = priority[groups.context]
    in_sample = _smallest(drawn, key, n_random)
    strongest = _smallest(_descending(groups.peak), key, n_top)
    _lower(bounds.priority, groups, in_sample, drawn, n_random, np.maximum)
    _lower(bounds.peak, groups, strongest, groups.peak, n_top, np.minimum)
    return in_sample | strongest


def _smallest(values: NDArray[np.uint64], key: NDArray[np.int64], n: int) -> NDArray[np.bool_]:
    """The `n` smallest values of each key; of equal ones those that stand first."""
    if n == 0 or len(key) == 0:
        return np.zeros(len(key), dtype=bool)
    key = key - key.min()
    sizes = np.bincount(key)
    # Key and upper half of the value in one integer: many times faster to sort than two columns are.
    half, low = np.uint64(32), np.uint64(2**32 - 1)
    rough = values >> half
    packed = (key.astype(np.uint64) << half) | rough
    packed.sort()
    last = np.full(len(sizes), low)
    many = sizes > n
    last[many] = packed[(np.cumsum(sizes) - sizes + n - 1)[many]] & low
    chosen: NDArray[np.bool_] = rough <= last[key]
    # Only where the upper halves leave more than `n` does the rest of the value, or the order, decide.
    at = np.flatnonzero(chosen & (np.bincount(key[chosen], minlength=len(sizes)) > n)[key])
    if len(at):
        order = at[np.lexsort((values[at], key[at]))]
        starts = np.flatnonzero(np.r_[True, key[order][1:] != key[order][:-1]])
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        chosen[order[rank >= n]] = False
    return chosen


def _descending(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Integers that are the smaller the larger the value (which is no NaN)."""
    bits = (values + np.float32(0)).view(np.uint32)  # adding zero makes -0 the same as 0
    ascending = bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return (~ascending).astype(np.uint64) << np.uint64(32)


def _lower(
    bound: NDArray[np.uint64] | NDArray[np.float32],
    groups: Groups,
    chosen: NDArray[np.bool_],
    value: NDArray[np.uint64] | NDArray[np.float32],
    n: int,
    worst: np.ufunc,
) -> None:
    """Where `n` are chosen, the bound becomes the worst value among them."""
    at = groups.latent[chosen] * 2 + groups.side[chosen]
    if len(at) == 0 or n == 0:
        return
    order = np.argsort(at, kind="stable")
    starts = np.flatnonzero(np.r_[True, at[order][1:] != at[order][:-1]])
    full = np.diff(np.r_[starts, len(at)]) == n
    bound.reshape(-1)[at[order][starts][full]] = worst.reduceat(value[chosen][order], starts)[full]

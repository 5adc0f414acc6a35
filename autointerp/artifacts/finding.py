"""Which shards, and which of their row groups, may hold some latents, without looking at them all.

Rows are sorted by latent and shards follow one another in that order, so that the limits of a few tell
where a latent lies, however many there are. Where limits contradict that order, all are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Limits = tuple[int, int]
"""Smallest and largest latent of a shard or row group."""
FEW = 4
"""So many parts are simply all looked at."""


def holding(
    n: int, limits: Callable[[int], Limits | None], wanted: NDArray[np.int64], few: int = FEW
) -> list[int]:
    """Those of `n` parts, in the order of their latents, that may hold one of the latents `wanted` (ascending).

    `limits` looks at a part; it says None if they are not known. Up to `few` parts are all looked at, whatever
    their order.
    """
    if few < n and len(wanted) < n:  # with more latents than parts, looking at all parts is less work
        try:
            return _Parts(n, limits).holding(wanted)
        except _UnorderedError:
            pass
    return [i for i in range(n) if (told := limits(i)) is None or _between(told, wanted)]


def _between(limits: Limits, wanted: NDArray[np.int64]) -> bool:
    first = int(np.searchsorted(wanted, limits[0]))
    return first < len(wanted) and bool(wanted[first] <= limits[1])


class _UnorderedError(Exception):
    """Parts do not follow one another in the order of the latents."""


class _Parts:
    """Parts in the order of their latents, looked at as they are needed."""

    def __init__(self, n: int, limits: Callable[[int], Limits | None]) -> None:
        self.n, self._limits = n, limits
        self._known: dict[int, Limits] = {}

    def holding(self, wanted: NDArray[np.int64]) -> list[int]:
        """Indices of the parts that may hold one of the latents, ascending."""
        chosen: set[int] = set()
        for latent in wanted.tolist():
            index = self._first_reaching(latent)
            while index < self.n and self._at(index)[0] <= latent:
                chosen.add(index)
                if self._at(index)[1] > latent:
                    break  # the next begins no earlier than this one ends
                index += 1
        seen = sorted(self._known)
        if any(self._known[a][1] > self._known[b][0] for a, b in itertools.pairwise(seen)):
            raise _UnorderedError
        return sorted(chosen)

    def _first_reaching(self, latent: int) -> int:
        """Index of the first part whose largest latent is at least `latent`; their number if there is none."""
        low, high = 0, self.n - 1
        if self._at(high)[1] < latent:
            return self.n
        guess = True
        while low < high:
            # A guess by proportion ends soon where parts hold equally many latents; every other step halves
            # what is left, so that it ends soon where they do not.
            index = (low + high) // 2
            if guess:
                first, last = self._at(low)[0], self._at(high)[1]
                index = low + (latent - first) * (high - low + 1) // max(last - first + 1, 1)
            index, guess = min(max(index, low), high - 1), not guess
            if self._at(index)[1] < latent:
                low = index + 1
                continue
            high = index
            if self._at(index)[0] < latent:
                # It begins before the latent: no earlier part reaches it.
                low = index
        return low

    def _at(self, index: int) -> Limits:
        if index not in self._known:
            limits = self._limits(index)
            if limits is None or limits[0] > limits[1]:
                raise _UnorderedError
            self._known[index] = limits
        return self._known[index]

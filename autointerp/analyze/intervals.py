"""Numbers over latents with 95% intervals: latents are the independent unit, and what is resampled.

Up to `EXACT_BELOW` latents an interval is the middle 95% of resampled numbers (percentile bootstrap);
above it a large-sample interval that resampling would approach: normal for means and ratios, by order
statistics for quantiles. So a million latents cost no more than a few sums and one sort. Over fewer than
`FEWEST` latents there is a number and no interval.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
N_RESAMPLES = 2_000
FEWEST = 6
"""Over fewer latents there is no interval. Not even from the least to the greatest of five values is one:
it holds the median 15 times in 16, of six 31 times in 32, and the middle of resampled means is narrower still.
It is also the least number whose p-value can fall under .05 (`compare_significance`)."""
EXACT_BELOW = 2_000
"""With more latents than this the large-sample interval is used: resampling would give the same."""
_Z = 1.959964
_PER_CHUNK = 2_000_000
"""Resampled values held at a time: 16 MB."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A number over latents with its 95% interval; `low` and `high` are None below `FEWEST` latents."""

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    """Latents it is over."""


def stream(seed: int, *keys: str | None) -> int:
    """Seed of an interval's own random stream, so that no interval depends on which others there are."""
    return zlib.crc32("/".join([str(seed), *[key or "" for key in keys]]).encode())


def bootstrap_mean(values: Floats, *, seed: int, n_resamples: int = N_RESAMPLES) -> Interval:
    """Mean of one value per latent. No value: None; below `FEWEST` values: no interval."""
    n = len(values)
    if n == 0:
        return Interval(value=None, n=0)
    mean = float(values.mean())
    if n < FEWEST:
        return Interval(value=mean, n=n)
    if n > EXACT_BELOW:
        margin = _Z * float(values.std(ddof=1)) / math.sqrt(n)
        return Interval(value=mean, low=mean - margin, high=mean + margin, n=n)
    means = np.concatenate([values[drawn].mean(axis=1) for drawn in _draws(n, seed, n_resamples)])
    low, high = _middle(means)
    return Interval(value=mean, low=low, high=high, n=n)


def bootstrap_quantiles(
    values: Floats, shares: Sequence[float], *, seed: int, n_resamples: int = N_RESAMPLES
) -> list[Interval]:
    """Quantiles (linear between order statistics, as NumPy's default), one interval each.

    Above `EXACT_BELOW` latents the ends are the order statistics of ranks n q ± 1.96 sqrt(n q (1 - q)):
    the binomial interval for a quantile, which assumes nothing of the distribution.
    """
    n = len(values)
    if n == 0:
        return [Interval(value=None, n=0) for _ in shares]
    ordered = np.sort(values)
    found = [float(q) for q in np.quantile(ordered, shares)]
    if n < FEWEST:
        return [Interval(value=value, n=n) for value in found]
    if n > EXACT_BELOW:
        ends = [_rank_interval(ordered, share) for share in shares]
    else:
        places = [share * (n - 1) for share in shares]
        below = [math.floor(place) for place in places]
        above = [math.ceil(place) for place in places]
        resampled = []
        for drawn in _draws(n, seed, n_resamples):
            # The values are sorted, so the order statistics of a draw are those of its indices.
            ranks = np.partition(drawn, sorted({*below, *above}), axis=1)
            low, high = ordered[ranks[:, below]], ordered[ranks[:, above]]
            resampled.append(low + (high - low) * (np.array(places) - below))
        ends = [_middle(column) for column in np.concatenate(resampled).T]
    return [Interval(value=v, low=low, high=high, n=n) for v, (low, high) in zip(found, ends, strict=True)]


def bootstrap_ratios(
    numerators: Floats, denominators: Floats, *, seed: int, n_resamples: int = N_RESAMPLES
) -> list[Interval]:
    """Sum of numerators over sum of denominators, per column; a row [k] is one latent, resampled whole.

    A weighted mean has numerators w x and denominators w; a mean of values some latents lack has
    numerators x (0 where lacking) and denominators 1 (0 where lacking). `n` counts the latents with a
    denominator. Above `EXACT_BELOW` latents: the linearised ("delta") standard error of a ratio.
    """
    assert numerators.shape == denominators.shape
    totals = denominators.sum(axis=0)
    counts = (denominators > 0).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = numerators.sum(axis=0) / totals
        if len(numerators) > EXACT_BELOW:
            residuals = ((numerators - found * denominators) ** 2).sum(axis=0)
            margin = _Z * np.sqrt(residuals * counts / (counts - 1)) / totals
            low, high = found - margin, found + margin
        else:
            low, high = _ratio_ends(numerators, denominators, seed, n_resamples)
    return [
        Interval(value=None, n=0)
        if total <= 0
        else Interval(value=float(value), n=int(n))
        if n < FEWEST or not (math.isfinite(a) and math.isfinite(b))
        else Interval(value=float(value), low=float(a), high=float(b), n=int(n))
        for value, a, b, n, total in zip(found, low, high, counts, totals, strict=True)
    ]


def bootstrap_difference(
    first: Floats, second: Floats, *, seed: int, n_resamples: int = N_RESAMPLES
) -> Interval:
    """Mean of one sample less the mean of another, not paired: each is resampled by itself.

    `n` is the smaller of the two; None without a value on either side, no interval below `FEWEST`.
    """
    n = min(len(first), len(second))
    if n == 0:
        return Interval(value=None, n=0)
    value = float(first.mean() - second.mean())
    if n < FEWEST:
        return Interval(value=value, n=n)
    if max(len(first), len(second)) > EXACT_BELOW:
        margin = _Z * math.sqrt(sum(float(x.var(ddof=1)) / len(x) for x in (first, second)))
        return Interval(value=value, low=value - margin, high=value + margin, n=n)
    means = [
        np.concatenate([x[drawn].mean(axis=1) for drawn in _draws(len(x), seed + i, n_resamples)])
        for i, x in enumerate((first, second))
    ]
    low, high = _middle(means[0] - means[1])
    return Interval(value=value, low=low, high=high, n=n)


def resampled_counts(n: int, seed: int, n_resamples: int) -> Iterator[Floats]:
    """How often each of n latents is drawn: [a chunk of the resamples, n]."""
    for drawn in _draws(n, seed, n_resamples):
        rows = len(drawn)
        flat = (drawn + n * np.arange(rows)[:, None]).ravel()
        yield np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)


def _draws(n: int, seed: int, n_resamples: int) -> Iterator[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    per_chunk = max(1, _PER_CHUNK // n)
    for start in range(0, n_resamples, per_chunk):
        yield rng.integers(0, n, size=(min(per_chunk, n_resamples - start), n))


def _middle(resampled: Floats) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def _rank_interval(ordered: Floats, share: float) -> tuple[float, float]:
    n = len(ordered)
    spread = _Z * math.sqrt(n * share * (1 - share))
    low = max(0, math.floor(n * share - spread) - 1)
    high = min(n - 1, math.ceil(n * share + spread))
    return float(ordered[low]), float(ordered[high])


def _ratio_ends(
    numerators: Floats, denominators: Floats, seed: int, n_resamples: int
) -> tuple[Floats, Floats]:
    """Ends per column; NaN where over half of the resamples have no denominator."""
    n, k = numerators.shape
    if n == 0:
        return np.full(k, np.nan), np.full(k, np.nan)
    ratios = np.concatenate(
        [c @ numerators / (c @ denominators) for c in resampled_counts(n, seed, n_resamples)]
    )
    low, high = np.full(k, np.nan), np.full(k, np.nan)
    for i, column in enumerate(ratios.T):
        finite = column[np.isfinite(column)]
        if len(finite) >= n_resamples / 2:
            low[i], high[i] = _middle(finite)
    return low, high

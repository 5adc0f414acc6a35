"""Is a difference real? Randomisation tests by latent, and Holm's correction for many of them.

Paired: the signs of the latents' differences are flipped at random, as they could have come if neither
side were better. Not paired: latents change sides at random, and the difference over its own standard
error is compared, which stays right where the two sides have unlike spreads or sizes (Janssen,
Statistics & Probability Letters 36 (1997) 9-21; Chung and Romano, Annals of Statistics 41 (2013) 484-507).
Where not one of `N_FLIPS` flips comes as far as the data, the p-value is that of Student's t (Welch's),
at most 1 / (N_FLIPS + 1), so that a large family can still show what is plain.
Holm: Scandinavian Journal of Statistics 6 (1979) 65-70; it holds the chance of even one false finding
in the family below `ALPHA`, whatever the dependence between the tests.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from autointerp.analyze.intervals import EXACT_BELOW, Floats

ALPHA = 0.05
POWER = 0.8
N_FLIPS = 10_000
_ALL_FLIPS_BELOW = 20
"""With fewer latents than this every pattern of signs is tried, and the p-value is exact."""
_PER_CHUNK = 2_000_000
_NEAR = 1e-9
"""Resampled statistics this near to the observed one count as equal to it."""


def paired_p(differences: Floats, *, seed: int, n_flips: int = N_FLIPS) -> float | None:
    """Two-sided p of "the mean difference is 0", of one difference per latent [n]; None below two.

    Below 6 latents it cannot fall under .05. Above `EXACT_BELOW` latents: of the normal distribution
    that the flips approach.
    """
    n = len(differences)
    if n < 2:
        return None
    squares = float((differences**2).sum())
    if squares == 0:
        return 1.0
    total = abs(float(differences.sum()))
    if n > EXACT_BELOW:
        return _normal_p(total / math.sqrt(squares))
    limit = total - _NEAR * math.sqrt(squares)
    if n < _ALL_FLIPS_BELOW:
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        return float((np.abs(sums) >= limit).mean())
    rng = np.random.default_rng(seed)
    beyond = 0
    per_chunk = max(1, _PER_CHUNK // n)
    for start in range(0, n_flips, per_chunk):
        flips = rng.integers(0, 2, size=(min(per_chunk, n_flips - start), n), dtype=np.int8)
        beyond += int((np.abs((1 - 2 * flips) @ differences) >= limit).sum())
    p = (beyond + 1) / (n_flips + 1)
    return p if beyond else min(p, max(_t_p(differences), fewest_p(n)))


def fewest_p(n: int) -> float:
    """The smallest p that `paired_p` can give for n latents: two patterns of signs in 2^n."""
    return float(2.0 ** (1 - n))


def unpaired_p(first: Floats, second: Floats, *, seed: int, n_flips: int = N_FLIPS) -> float | None:
    """Two-sided p of "both means are equal", of two samples of latents; None below two on a side."""
    n, m = len(first), len(second)
    if min(n, m) < 2:
        return None
    together = np.concatenate([first, second])
    if np.ptp(together) == 0:
        return 1.0
    observed = float(_studentised(together[None, :], n)[0])
    if max(n, m) > EXACT_BELOW:
        return _normal_p(observed)
    rng = np.random.default_rng(seed)
    beyond = 0
    per_chunk = max(1, _PER_CHUNK // (n + m))
    for start in range(0, n_flips, per_chunk):
        rows = min(per_chunk, n_flips - start)
        shuffled = rng.permuted(np.broadcast_to(together, (rows, n + m)), axis=1)
        beyond += int((_studentised(shuffled, n) >= observed * (1 - _NEAR)).sum())
    p = (beyond + 1) / (n_flips + 1)
    return p if beyond else min(p, _t_p(first, second))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p-values, in the same order; None stays None and counts for nothing.

    An adjusted p below .05 is a finding: over the whole family, the chance that any finding is false is
    below .05.
    """
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[i] = largest
    return adjusted


def detectable(half_width: float | None, n_tests: int) -> float | None:
    """The true difference that four such comparisons in five would have shown, of an interval's half-width.

    (z(1 - α / 2m) + z(.8)) standard errors with m tests in the family: Holm's strictest step, so a little
    less may do. None without an interval.
    """
    if half_width is None:
        return None
    normal = NormalDist()
    standard_error = half_width / normal.inv_cdf(1 - ALPHA / 2)
    return (normal.inv_cdf(1 - ALPHA / (2 * max(n_tests, 1))) + normal.inv_cdf(POWER)) * standard_error


def _studentised(rows: Floats, n: int) -> Floats:
    """|mean of the first n - mean of the rest| over its standard error, per row [b, n + m]."""
    first, second = rows[:, :n], rows[:, n:]
    error = first.var(axis=1, ddof=1) / n + second.var(axis=1, ddof=1) / second.shape[1]
    apart = np.abs(first.mean(axis=1) - second.mean(axis=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        # Both sides constant: as far apart as can be, unless they are the same.
        t: Floats = np.where(apart > 0, apart / np.sqrt(error), 0.0)
    return t


def _t_p(first: Floats, second: Floats | None = None) -> float:
    """Two-sided p of Student's t of one sample, or of Welch's of two."""
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # values that are nearly all the same
        found = (
            stats.ttest_1samp(first, 0.0)
            if second is None
            else stats.ttest_ind(first, second, equal_var=False)
        )
    p = float(found.pvalue)
    return p if math.isfinite(p) else 0.0


def _normal_p(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))

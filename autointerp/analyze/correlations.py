"""Do scorers agree? Pearson's and Spearman's correlation between the numbers of two scorers.

A point is an explanation both scored. The interval resamples latents (percentile bootstrap, ranks taken
anew in each resample), so several explanations of a latent do not count as independent; with more than
`EXACT_BELOW` explanations it is Fisher's, with the number of latents as sample size and, for Spearman,
the variance (1 + r²/2) / (n - 3) of Bonett and Wright, Psychometrika 65 (2000) 23-28. Over fewer than
`FEWEST` latents there is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.analyze.intervals import CONFIDENCE, FEWEST, Floats, resampled_counts, stream
from autointerp.analyze.parts import NO_EXPLAINER, read_parts
from autointerp.config import RunConfig
from autointerp.run import Run

EXACT_BELOW = 500
N_RESAMPLES = 1_000
MIN_PAIRS = 3
"""Below this many explanations scored by both there is no correlation."""

SOURCE = "Paulo et al., arXiv 2410.13928, Tables A1 (Spearman) and A2 (Pearson), 800 explanations"
PUBLISHED: dict[frozenset[str], tuple[float, float]] = {
    frozenset(("fuzzing", "detection")): (0.73, 0.74),
    frozenset(("fuzzing", "simulation")): (0.75, 0.74),
    frozenset(("fuzzing", "embedding")): (0.41, 0.42),
    frozenset(("fuzzing", "surprisal")): (0.30, 0.32),
    frozenset(("detection", "simulation")): (0.44, 0.46),
    frozenset(("detection", "embedding")): (0.71, 0.70),
    frozenset(("detection", "surprisal")): (0.62, 0.62),
    frozenset(("simulation", "embedding")): (0.28, 0.30),
    frozenset(("simulation", "surprisal")): (0.15, 0.14),
    frozenset(("embedding", "surprisal")): (0.79, 0.79),
}
"""(Spearman, Pearson) of two kinds of scorer, as published: see `SOURCE`."""
_KINDS = {"delphi-detection": "detection", "delphi-fuzz": "fuzzing", "openai": "simulation"}
"""Presets that are a kind of scorer of those tables."""

_COLUMNS = ("latent", "explanation", "explainer", "control", "scorer", "value", "status")


@dataclass(frozen=True, kw_only=True)
class CorrelationRow:
    """Two scorers over the explanations (of scorers that need none: the latents) both scored."""

    explainer: str | None
    """Whose explanations; None for those of all explainers pooled, `none` where neither scorer needs one."""
    with_controls: bool
    """Whether shuffled explanations are among them."""
    scorer_a: str
    scorer_b: str
    n: int
    """Explanations scored by both."""
    n_latents: int
    """Latents they are of: what the intervals resample."""
    spearman: float | None
    """None with fewer than 3 explanations, or where either scorer gave all the same number."""
    spearman_low: float | None
    """Ends of the 95% interval, here and in `spearman_high`; None where it cannot be told."""
    spearman_high: float | None
    pearson: float | None
    """None likewise."""
    pearson_low: float | None
    pearson_high: float | None
    published_spearman: float | None
    """As Paulo et al. measured for this kind of pair; None where they did not."""
    published_pearson: float | None


def correlations(run: Run, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[CorrelationRow]:
    """Every pair of scorers, for each explainer, for all pooled, and for all with their controls pooled."""
    config = run.config
    rows = correlate_scores(
        read_parts(run, _COLUMNS), config.score.scorers, seed=seed, n_resamples=n_resamples, config=config
    )
    order = [*config.explain.explainers]
    return sorted(rows, key=lambda row: _place(row, order))


def correlate_scores(
    parts: Iterable[pa.Table],
    order: Sequence[str] = (),
    *,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    config: RunConfig | None = None,
) -> list[CorrelationRow]:
    """The rows of `correlations` from tables of `scores`.

    Scorers are paired in the given order, those it does not name after them by name. `config` tells
    the kind of a scorer whose name is not its kind.
    """
    points = _Points.read(parts)
    scorers = sorted(points.scorers, key=lambda s: (order.index(s) if s in order else len(order), s))
    rows = []
    for a, b in combinations(scorers, 2):
        for explainer, with_controls, chosen in points.scopes(a, b):
            x, y = points.values[chosen, points.scorers[a]], points.values[chosen, points.scorers[b]]
            both = np.isfinite(x) & np.isfinite(y)
            if not both.any():
                continue
            key = stream(seed, "correlation", explainer, str(with_controls), a, b)
            numbers = correlate(
                x[both], y[both], points.latents[chosen][both], seed=key, n_resamples=n_resamples
            )
            published = PUBLISHED.get(frozenset((_kind(a, config), _kind(b, config))), (None, None))
            rows.append(
                CorrelationRow(
                    explainer=explainer,
                    with_controls=with_controls,
                    scorer_a=a,
                    scorer_b=b,
                    published_spearman=published[0],
                    published_pearson=published[1],
                    **numbers,
                )
            )
    return rows


def correlate(
    x: Floats, y: Floats, latents: NDArray[np.int64], *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> dict[str, Any]:
    """Both correlations of paired numbers [n], with intervals by latent [n]: columns of `CorrelationRow`.

    The rows of a latent stand together.
    """
    from scipy.stats import pearsonr, rankdata

    of_row = np.cumsum(np.diff(latents, prepend=latents[:1]) != 0)
    n_latents = int(of_row[-1]) + 1 if len(of_row) else 0
    numbers: dict[str, Any] = {"n": len(x), "n_latents": n_latents}
    names = [f"{kind}{end}" for kind in ("spearman", "pearson") for end in ("", "_low", "_high")]
    if len(x) < MIN_PAIRS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return numbers | dict.fromkeys(names)
    pearson, spearman = (float(pearsonr(*pair).statistic) for pair in ((x, y), (rankdata(x), rankdata(y))))
    ends: list[_Ends] = [(None, None)] * 2
    if len(x) > EXACT_BELOW:
        ends = [
            _fisher(spearman, n_latents, 1 + spearman**2 / 2),
            _fisher(pearson, n_latents, 1.0),
        ]
    elif n_latents >= FEWEST:
        ends = _resampled(x, y, of_row, n_latents, seed, n_resamples)
    values = (spearman, *ends[0], pearson, *ends[1])
    return numbers | dict(zip(names, values, strict=True))


_Ends = tuple[float | None, float | None]


def _fisher(r: float, n: int, variance: float) -> _Ends:
    if n < FEWEST or abs(r) >= 1:
        return None, None
    margin = 1.959964 * math.sqrt(variance / (n - 3))
    return math.tanh(math.atanh(r) - margin), math.tanh(math.atanh(r) + margin)


def _resampled(
    x: Floats, y: Floats, of_row: NDArray[np.intp], n_latents: int, seed: int, n_resamples: int
) -> list[_Ends]:
    groups = [np.unique(values, return_inverse=True)[1] for values in (x, y)]
    centred = (x - x.mean())[None, :], (y - y.mean())[None, :]
    found: list[list[Floats]] = [[], []]
    for counts in resampled_counts(n_latents, seed, n_resamples):
        weights = counts[:, of_row]
        ranks = [_midranks(weights, group) for group in groups]
        found[0].append(_weighted_pearson(weights, ranks[0], ranks[1]))
        found[1].append(_weighted_pearson(weights, *centred))
    return [_middle(np.concatenate(values), n_resamples) for values in found]


def _midranks(weights: Floats, group: NDArray[np.intp]) -> Floats:
    """Ranks within each resample, ties at their mean: weights [b, n], group of equal values [n] -> [b, n]."""
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    sizes = np.add.reduceat(weights[:, order], starts, axis=1)
    middle: Floats = (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]
    return middle


def _weighted_pearson(weights: Floats, x: Floats, y: Floats) -> Floats:
    """Pearson's correlation in each resample, [b]; NaN where either side is constant."""
    total = weights.sum(axis=1, keepdims=True)
    x = x - (weights * x).sum(axis=1, keepdims=True) / total
    y = y - (weights * y).sum(axis=1, keepdims=True) / total
    spread = (weights * x * x).sum(axis=1) * (weights * y * y).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        r: Floats = (weights * x * y).sum(axis=1) / np.sqrt(spread)
    r[spread <= 1e-24] = np.nan
    return np.clip(r, -1, 1)


def _middle(values: Floats, n_resamples: int) -> _Ends:
    finite = values[np.isfinite(values)]
    if len(finite) < n_resamples / 2:
        return None, None
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class _Points:
    """Explanations and their numbers under every scorer, NaN where a scorer gave none."""

    scorers: dict[str, int]
    """Column of each scorer."""
    free: frozenset[str]
    """Scorers that judge latents without an explanation."""
    latents: NDArray[np.int64]
    """[n]"""
    explainers: NDArray[np.object_]
    """[n]; `none` on a row of its own for each latent scored without an explanation."""
    control: NDArray[np.bool_]
    """[n]"""
    values: Floats
    """[n, scorers]"""

    @classmethod
    def read(cls, parts: Iterable[pa.Table]) -> _Points:
        texts: dict[tuple[str, str | None, str], int] = {}
        found: dict[str, list[tuple[NDArray[np.int64], NDArray[np.int64], Floats]]] = {}
        for part in parts:
            scored = part.filter((pc.field("status") == "ok") & pc.is_finite(pc.field("value")))
            for scorer in pc.unique(scored.column("scorer")).to_pylist():
                rows = scored.filter(pc.field("scorer") == scorer)
                numbers = rows.column("value").to_numpy().astype(np.float64)
                latents = rows.column("latent").to_numpy().astype(np.int64)
                found.setdefault(scorer, []).append((latents, _codes(rows, texts), numbers))
        scorers = {scorer: i for i, scorer in enumerate(sorted(found))}
        names = list(texts)
        keys = {
            scorer: np.concatenate([latents * max(len(names), 1) + code for latents, code, _ in pieces])
            for scorer, pieces in found.items()
        }
        unique = np.unique(np.concatenate(list(keys.values()))) if keys else np.empty(0, dtype=np.int64)
        values = np.full((len(unique), len(scorers)), np.nan)
        for scorer, i in scorers.items():
            numbers = np.concatenate([piece[2] for piece in found[scorer]])
            values[np.searchsorted(unique, keys[scorer]), i] = numbers
        latents, codes = np.divmod(unique, max(len(names), 1))
        explainers = np.array([name[0] for name in names], dtype=object)[codes]
        control = np.array([name[1] is not None for name in names], dtype=bool)[codes]
        alone = explainers == NO_EXPLAINER
        free = frozenset(s for s, i in scorers.items() if np.isfinite(values[alone, i]).any())
        for i in (scorers[s] for s in free):
            _spread(values[:, i], latents, alone, ~alone & ~control)
        return cls(
            scorers=scorers, free=free, latents=latents, explainers=explainers, control=control, values=values
        )

    def scopes(self, a: str, b: str) -> Iterable[tuple[str | None, bool, NDArray[np.bool_]]]:
        """(explainer, with controls, which points): each explainer, all of several, all with controls.

        A number that needs no explanation says nothing of a shuffled one: not pooled with controls.
        """
        if a in self.free and b in self.free:
            yield NO_EXPLAINER, False, self.explainers == NO_EXPLAINER
            return
        explained = self.explainers != NO_EXPLAINER
        real = explained & ~self.control
        names = sorted(set(self.explainers[real]))
        for name in names:
            yield name, False, real & (self.explainers == name)
        if len(names) > 1:
            yield None, False, real
        if self.control.any() and not {a, b} & self.free:
            yield None, True, explained


def _codes(rows: pa.Table, texts: dict[tuple[str, str | None, str], int]) -> NDArray[np.int64]:
    """The number of each row's (explainer, control, id), the same in every table; `texts` grows."""
    columns = [rows.column(name).combine_chunks().dictionary_encode() for name in _NAMED]
    indices = [pc.fill_null(column.indices, -1).to_numpy().astype(np.int64) for column in columns]
    n = [len(column.dictionary) + 1 for column in columns]
    combined = ((indices[0] + 1) * n[1] + indices[1] + 1) * n[2] + indices[2] + 1
    unique, first, of_row = np.unique(combined, return_index=True, return_inverse=True)
    numbers = np.empty(len(unique), dtype=np.int64)
    for i, row in enumerate(first.tolist()):
        explainer, control, explanation = (column[row].as_py() for column in columns)
        numbers[i] = texts.setdefault((explainer, control, explanation), len(texts))
    return numbers[of_row]


_NAMED = ("explainer", "control", "explanation")


def _spread(
    values: Floats, latents: NDArray[np.int64], source: NDArray[np.bool_], target: NDArray[np.bool_]
) -> None:
    """Give each target point its latent's number at the source points, in place."""
    known = np.flatnonzero(source & np.isfinite(values))
    places = np.searchsorted(latents[known], latents[target])
    places = np.minimum(places, len(known) - 1)
    hit = latents[known][places] == latents[target]
    values[target] = np.where(hit, values[known][places], np.nan)


def _kind(scorer: str, config: RunConfig | None) -> str:
    kind = scorer if config is None else config.scorers.get(scorer, {}).get("scorer", scorer)
    return _KINDS.get(str(kind), str(kind))


def _place(row: CorrelationRow, explainers: Sequence[str]) -> tuple[bool, bool, bool, int, str]:
    """Explainers first in their order, then all pooled, then with controls; pairs keep their order."""
    name = row.explainer or ""
    listed = explainers.index(name) if name in explainers else len(explainers)
    return (row.with_controls, row.explainer is None, row.explainer == NO_EXPLAINER, listed, name)

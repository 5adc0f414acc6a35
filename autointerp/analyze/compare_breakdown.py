"""Where explainers differ: by firing density, activation decile, kind of silent window, and layer.

Exploratory: intervals are 95% each and not corrected, and nothing is tested.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from autointerp.analyze.compare_pairs import PairRow, numbers_of
from autointerp.analyze.compare_read import Latents, Opened, Scored
from autointerp.analyze.compare_shared import shared_latents
from autointerp.analyze.intervals import Floats, Interval, bootstrap_mean, stream
from autointerp.analyze.parts import ByLatent
from autointerp.analyze.rates import DECILES
from autointerp.artifacts.schemas import KINDS

BY = ("density", "decile", "kind", "layer")


@dataclass(frozen=True, kw_only=True)
class BreakdownRow:
    """One explainer's number on part of its latents or windows, over the shared latents."""

    scorer: str
    by: str
    """`density` (firing density of the latent, bands of half a power of ten), `decile` (sensitivity by
    activation decile, 10 the strongest), `kind` (specificity by kind of silent window) or `layer` (all
    runs at a layer, over all their latents)."""
    group: str
    place: int
    """Order of the groups."""
    run: str | None
    """None for `layer`: all runs there."""
    explainer: str
    n: int
    """Latents with the number."""
    mean: float
    low: float | None
    """Ends of its 95% interval, by latent; None below `FEWEST` latents."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class BreakdownPairRow:
    """A paired difference on part of the latents or windows, for pairs of one dictionary."""

    scorer: str
    by: str
    group: str
    place: int
    a_run: str
    a_explainer: str
    b_run: str
    b_explainer: str
    n: int
    """Latents with both numbers."""
    difference: float
    """Mean of a less mean of b."""
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class _Cells:
    """One number per latent and group."""

    latents: Latents
    """Ascending, [n]."""
    values: Floats
    """[n, groups], NaN where there is none."""
    groups: list[tuple[int, str]] = field(default_factory=list)
    """(place, name) of each column."""


def breakdown_rows(
    scored: Sequence[Scored], runs: Sequence[Opened], *, seed: int, n_resamples: int
) -> list[BreakdownRow]:
    """Every group that has latents, in the order of scorers, breakdowns and explainers."""
    by_name = {opened.name: opened for opened in runs}
    shared = shared_latents(scored, runs)
    rows = []
    for one in scored:
        key = (one.scorer, by_name[one.run].row.shares)
        for by, cells in _breakdowns(one, by_name[one.run]):
            among = np.isin(cells.latents, shared.get(key, cells.latents[:0]), assume_unique=True)
            for (place, group), column in zip(cells.groups, cells.values[among].T, strict=True):
                found = _mean(column, seed, n_resamples, one.run, one.explainer, one.scorer, by, group)
                if found.value is not None:
                    rows.append(
                        BreakdownRow(
                            scorer=one.scorer,
                            by=by,
                            group=group,
                            place=place,
                            run=one.run,
                            explainer=one.explainer,
                            n=found.n,
                            mean=found.value,
                            low=found.low,
                            high=found.high,
                        )
                    )
    rows += _layers(scored, by_name, seed, n_resamples)
    order = {name: i for i, name in enumerate(dict.fromkeys(one.scorer for one in scored))}
    return sorted(rows, key=lambda row: (order[row.scorer], BY.index(row.by), row.place))


def breakdown_pair_rows(
    pairs: Sequence[PairRow], scored: Sequence[Scored], runs: Sequence[Opened], *, seed: int, n_resamples: int
) -> list[BreakdownPairRow]:
    """The paired comparisons of explainers (not those with controls), group by group."""
    by_name = {opened.name: opened for opened in runs}
    found = {(one.scorer, *one.who): one for one in scored}
    rows = []
    for pair in pairs:
        if pair.b_control is not None or pair.pairing == "none":
            continue
        a, b = (
            found[pair.scorer, *who]
            for who in ((pair.a_run, pair.a_explainer), (pair.b_run, pair.b_explainer))
        )
        others = dict(_breakdowns(b, by_name[b.run]))
        for by, first in _breakdowns(a, by_name[a.run]):
            if by not in others:
                continue
            second = others[by]
            _, i, j = np.intersect1d(first.latents, second.latents, assume_unique=True, return_indices=True)
            for column, (place, group) in enumerate(first.groups):
                if (place, group) not in second.groups:
                    continue
                apart = first.values[i, column] - second.values[j, second.groups.index((place, group))]
                names = (*a.who, *b.who, pair.scorer, by, group)
                mean = _mean(apart, seed, n_resamples, *names)
                if mean.value is not None:
                    rows.append(
                        BreakdownPairRow(
                            scorer=pair.scorer,
                            by=by,
                            group=group,
                            place=place,
                            a_run=a.run,
                            a_explainer=a.explainer,
                            b_run=b.run,
                            b_explainer=b.explainer,
                            n=mean.n,
                            difference=mean.value,
                            low=mean.low,
                            high=mean.high,
                        )
                    )
    return rows


def density_bands(density: Floats) -> NDArray[np.int64]:
    """The band of each density: k stands for 10^(k/2) up to 10^((k+1)/2)."""
    return np.floor(2 * np.log10(np.maximum(density, 1e-300)) + 1e-9).astype(np.int64)


def band_name(band: int) -> str:
    """As in `0.001 to 0.0032`: shares of tokens."""
    low, high = (10 ** (k / 2) for k in (band, band + 1))
    return f"{_round(low)} to {_round(high)}"


def _round(x: float) -> str:
    digits = max(0, 1 - math.floor(math.log10(x))) if x < 1 else 0
    return f"{x:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{x:g}"


def _breakdowns(one: Scored, opened: Opened) -> Iterator[tuple[str, _Cells]]:
    yield "density", _by_density(one.value, opened.density)
    for by, (latents, values), names in (
        ("decile", one.deciles, DECILES),
        ("kind", one.kinds, KINDS[1:]),
    ):
        if len(latents):
            yield by, _Cells(latents=latents, values=values, groups=list(enumerate(names)))


def _by_density(value: ByLatent, density: ByLatent) -> _Cells:
    latents = np.intersect1d(value.latents, density.latents, assume_unique=True)
    bands = density_bands(numbers_of(density, latents).values)
    numbers = numbers_of(value, latents).values
    seen = [int(band) for band in np.unique(bands)]
    columns = [np.where(bands == band, numbers, np.nan) for band in seen]
    return _Cells(
        latents=latents,
        values=np.stack(columns, axis=1) if columns else np.empty((len(latents), 0)),
        groups=[(band, band_name(band)) for band in seen],
    )


def _layers(
    scored: Sequence[Scored], by_name: dict[str, Opened], seed: int, n_resamples: int
) -> list[BreakdownRow]:
    """Runs of one kind of hook point at several layers: their numbers by layer."""
    values: dict[tuple[str, str, str], dict[int, list[Floats]]] = {}
    for one in scored:
        row = by_name[one.run].row
        if row.layer is not None and row.site is not None:
            by_layer = values.setdefault((one.scorer, one.explainer, row.site), {})
            by_layer.setdefault(row.layer, []).append(one.value.values)
    rows = []
    for (scorer, explainer, site), by_layer in values.items():
        if len(by_layer) < 2:
            continue
        for layer, parts in sorted(by_layer.items()):
            group = f"{site} {layer}"
            found = _mean(np.concatenate(parts), seed, n_resamples, scorer, explainer, "layer", group)
            if found.value is not None:
                rows.append(
                    BreakdownRow(
                        scorer=scorer,
                        by="layer",
                        group=group,
                        place=layer,
                        run=None,
                        explainer=explainer,
                        n=found.n,
                        mean=found.value,
                        low=found.low,
                        high=found.high,
                    )
                )
    return rows


def _mean(values: Floats, seed: int, n_resamples: int, *names: str) -> Interval:
    known = values[np.isfinite(values)]
    return bootstrap_mean(known, seed=stream(seed, "breakdown", *names), n_resamples=n_resamples)

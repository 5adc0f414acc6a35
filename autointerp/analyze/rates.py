"""Where a judge with a label is right: sensitivity by activation decile, specificity by kind of window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.analyze.intervals import N_RESAMPLES, bootstrap_ratios, stream
from autointerp.analyze.parts import KEYS, Name, names_of, place, read_parts, rows_of
from autointerp.artifacts.schemas import KINDS
from autointerp.run import Run

DECILES = tuple(str(decile) for decile in range(1, 11))
_GROUPS = {"sensitivity": DECILES, "specificity": KINDS[1:]}
_COLUMNS = ("latent", *KEYS, "sensitivity_by_decile", "specificity_by_kind")


@dataclass(frozen=True, kw_only=True)
class RateRow:
    """One rate of one explainer (or its control) under one scorer, over the latents that have it."""

    scorer: str
    explainer: str
    control: str | None
    """None for the real explanations, `shuffled` for their control."""
    rate: str
    """`sensitivity` (share of activating windows called yes) or `specificity` (of others called no)."""
    group: str
    """Sensitivity: the activation decile, `1` (weakest) to `10`. Specificity: the kind of window."""
    mean: float
    """Mean over latents of each latent's own rate."""
    low: float | None
    """Ends of its 95% interval, by latent, here and in `high`; None below `FEWEST` latents."""
    high: float | None
    n_latents: int
    """Latents with such windows decided."""


def rates(run: Run, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[RateRow]:
    """The rates of every scorer that decides, in the run's own order; what no latent has is left out."""
    rows = [
        row
        for part in read_parts(run, _COLUMNS)
        for row in rates_of_scores(part, seed=seed, n_resamples=n_resamples)
    ]
    # Stable: within a name the groups keep their order.
    return sorted(rows, key=lambda row: place(run, (row.scorer, row.explainer, row.control)))


def rates_of_scores(scores: pa.Table, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[RateRow]:
    """The rows of `rates` from a `scores` table, ordered by scorer, explainer and control."""
    out = []
    for name in names_of(scores):
        rows = rows_of(scores, name)
        out += [row for rate in _GROUPS for row in _rates(rows, name, rate, seed, n_resamples)]
    return out


def _rates(rows: pa.Table, name: Name, rate: str, seed: int, n_resamples: int) -> list[RateRow]:
    scorer, explainer, control = name
    _, values = rate_matrix(rows, rate)
    known = np.isfinite(values)
    values, counts = np.where(known, values, 0.0), known.astype(np.float64)
    intervals = bootstrap_ratios(
        values,
        counts,
        seed=stream(seed, explainer, control, scorer, rate),
        n_resamples=n_resamples,
    )
    return [
        RateRow(
            scorer=scorer,
            explainer=explainer,
            control=control,
            rate=rate,
            group=group,
            mean=interval.value,
            low=interval.low,
            high=interval.high,
            n_latents=interval.n,
        )
        for group, interval in zip(_GROUPS[rate], intervals, strict=True)
        if interval.value is not None
    ]


def rate_matrix(rows: pa.Table, rate: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Latents, ascending, [n] and their rates [n, groups] with NaN where undefined.

    Several explanations of a latent count once, with their mean.
    """
    latents, values = _matrix(rows, rate)
    if not (np.diff(latents) <= 0).any():
        return latents, values
    known = np.isfinite(values)
    sums, counts = (_by_latent(latents, m) for m in (np.where(known, values, 0.0), known.astype(np.float64)))
    return np.unique(latents), np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _by_latent(latents: NDArray[np.int64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the rows of each latent: [n, k] -> [latents, k]."""
    unique, of_row = np.unique(latents, return_inverse=True)
    sums = [np.bincount(of_row, weights=column, minlength=len(unique)) for column in matrix.T]
    return np.stack(sums, axis=1)


def _matrix(rows: pa.Table, rate: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Latents [n] and their rates [n, groups] with NaN where undefined, of rows that have any."""
    column = "sensitivity_by_decile" if rate == "sensitivity" else "specificity_by_kind"
    known = rows.filter(pc.field(column).is_valid())
    latents = known.column("latent").to_numpy().astype(np.int64)
    cells = known.column(column).combine_chunks()
    if rate == "sensitivity":
        # A list that is not of ten numbers is padded with nulls, or cut.
        fixed = pc.list_slice(cells, 0, len(DECILES), return_fixed_size_list=True)
        values = fixed.flatten().to_numpy(zero_copy_only=False).reshape(-1, len(DECILES))
    else:
        columns = [pc.struct_field(cells, kind).to_numpy(zero_copy_only=False) for kind in KINDS[1:]]
        values = np.stack(columns, axis=1)
    return latents, values.astype(np.float64)

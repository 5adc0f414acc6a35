"""What a finished run says: each explainer under each scorer, beside its shuffled control."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.analyze.intervals import (
    N_RESAMPLES,
    Interval,
    bootstrap_mean,
    bootstrap_quantiles,
    bootstrap_ratios,
    stream,
)
from autointerp.analyze.parts import (
    CONTROL,
    GROUP_COLUMNS,
    ByLatent,
    Group,
    Name,
    groups_of,
    on_both,
    place,
    read_parts,
)
from autointerp.run import Run


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One explainer (or its control) under one scorer. Undefined numbers are None.

    Each `X_low` and `X_high` are the ends of the 95% interval of `X`, by latent; None below `FEWEST` latents (of
    `intervals`).
    """

    explainer: str
    """`none` for scorers that judge a latent without an explanation."""
    control: str | None
    """None for the real explanations, `shuffled` for their control."""
    scorer: str
    metric: str | None
    """Column of `scores` that is the headline number; None if nothing was scored."""
    n_latents: int
    """Latents with a row of `scores`, the unexplained and failed ones included."""
    n_scored: int
    """Latents with a headline number: what the numbers below are over."""
    mean: float | None
    low: float | None
    """Ends of the 95% interval of the mean, here and below with `high`."""
    high: float | None
    median: float | None
    median_low: float | None
    median_high: float | None
    q25: float | None
    q25_low: float | None
    q25_high: float | None
    q75: float | None
    q75_low: float | None
    q75_high: float | None
    weighted_mean: float | None
    """Mean in which a latent weighs as much as the tokens it is active on (`n_active_tokens`)."""
    weighted_low: float | None
    weighted_high: float | None
    weighted_n: float | None
    """How many equally frequent latents the weights amount to: (sum w)² / sum w²."""
    chance: float | None
    """What guessing gets, mean over latents."""
    latent_coverage: float | None
    """`n_scored` over `n_latents`."""
    item_coverage: float | None
    """Items with a readable judgement over items sent to the judge."""
    worst_case: float | None
    """Mean of `worst_case_accuracy`: every item without a readable judgement counted as wrong."""
    worst_case_low: float | None
    worst_case_high: float | None
    peer_metric: str | None
    """Presets: the number the published tool reports."""
    peer_mean: float | None
    """Its mean over the latents that have it."""
    peer_low: float | None
    peer_high: float | None
    n_peer: int
    """Those latents."""
    control_mean: float | None = None
    """Mean of the shuffled control under the same scorer; None on the control's own row."""
    control_low: float | None = None
    control_high: float | None = None
    n_paired: int | None = None
    """Latents with both a real and a control number."""
    difference: float | None = None
    """Mean over those of real minus control."""
    difference_low: float | None = None
    difference_high: float | None = None


def summarise(run: Run, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[SummaryRow]:
    """One row per (explainer, control, scorer) that has scores, in the run's own order."""
    frequency = frequencies(run)
    rows = [
        row
        for part in read_parts(run, GROUP_COLUMNS)
        for row in summarise_scores(part, frequency=frequency, seed=seed, n_resamples=n_resamples)
    ]
    return sorted(rows, key=lambda row: place(run, (row.scorer, row.explainer, row.control)))


def frequencies(run: Run) -> ByLatent:
    """`n_active_tokens` of every latent."""
    table = run.table("latents", columns=["latent", "n_active_tokens"])
    return ByLatent(
        latents=table.column("latent").to_numpy().astype(np.int64),
        values=table.column("n_active_tokens").to_numpy().astype(np.float64),
    )


def summarise_scores(
    scores: pa.Table,
    *,
    frequency: ByLatent | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> list[SummaryRow]:
    """The rows of `summarise` from a `scores` table, ordered by scorer, explainer and control.

    A latent with several explanations of one explainer counts once, with the mean of its numbers.
    Each interval has a random stream of its own, keyed by seed, explainer, control and scorer.
    Without `frequency` the weighted numbers are None.
    """
    groups = groups_of(scores)
    rows = []
    for name, group in groups.items():
        scorer, explainer, control = name
        shuffled = groups.get((scorer, explainer, CONTROL)) if control is None else None
        numbers = _numbers(name, group, frequency, seed, n_resamples)
        if shuffled is not None:
            numbers |= _beside(group, shuffled, name, seed, n_resamples)
        rows.append(SummaryRow(scorer=scorer, explainer=explainer, control=control, **numbers))
    return rows


def rows_table(rows: Iterable[Any], cls: type) -> pa.Table:
    """Rows of one of this package's row classes as an Arrow table (None becomes null)."""
    kinds = {"str": pa.string(), "bool": pa.bool_(), "int": pa.int64(), "float": pa.float64()}
    hints = get_type_hints(cls)
    schema = pa.schema(
        [
            pa.field(f.name, next(kind for name, kind in kinds.items() if name in str(hints[f.name])))
            for f in fields(cls)
        ]
    )
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def _numbers(
    name: Name, group: Group, frequency: ByLatent | None, seed: int, n_resamples: int
) -> dict[str, Any]:
    scorer, explainer, control = name

    def key(*more: str) -> int:
        return stream(seed, explainer, control, scorer, *more)

    values = group.value.values
    mean = bootstrap_mean(values, seed=key(), n_resamples=n_resamples)
    q25, median, q75 = bootstrap_quantiles(
        values, (0.25, 0.5, 0.75), seed=key("quantiles"), n_resamples=n_resamples
    )
    weights = _weights(group.value, frequency)
    weighted = weighted_mean(values, weights, seed=key("weighted"), n_resamples=n_resamples)
    worst = bootstrap_mean(group.worst_case.values, seed=key("worst"), n_resamples=n_resamples)
    peer = bootstrap_mean(group.peer.values, seed=key("peer"), n_resamples=n_resamples)
    return {
        "metric": group.metric,
        "n_latents": group.n_latents,
        "n_scored": mean.n,
        "mean": mean.value,
        "low": mean.low,
        "high": mean.high,
        **_named("median", median),
        **_named("q25", q25),
        **_named("q75", q75),
        "weighted_mean": weighted.value,
        "weighted_low": weighted.low,
        "weighted_high": weighted.high,
        "weighted_n": None if weighted.value is None else float(weights.sum() ** 2 / (weights**2).sum()),
        "chance": group.chance,
        "latent_coverage": mean.n / group.n_latents,
        "item_coverage": group.n_readable / group.n_items if group.n_items else None,
        **_named("worst_case", worst),
        "peer_metric": group.peer_metric,
        "peer_mean": peer.value,
        "peer_low": peer.low,
        "peer_high": peer.high,
        "n_peer": peer.n,
    }


def _named(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def weighted_mean(
    values: NDArray[np.float64], weights: NDArray[np.float64], *, seed: int, n_resamples: int = N_RESAMPLES
) -> Interval:
    """sum(w x) / sum(w); its interval resamples latents together with their weights."""
    (interval,) = bootstrap_ratios(
        (weights * values)[:, None], weights[:, None], seed=seed, n_resamples=n_resamples
    )
    return interval


def _weights(value: ByLatent, frequency: ByLatent | None) -> NDArray[np.float64]:
    """The weight of each latent with a number; 0 for latents whose frequency is not known."""
    weights = np.zeros(len(value.latents))
    if frequency is not None:
        _, i, j = np.intersect1d(value.latents, frequency.latents, assume_unique=True, return_indices=True)
        weights[i] = frequency.values[j]
    return weights


def _beside(real: Group, control: Group, name: Name, seed: int, n_resamples: int) -> dict[str, Any]:
    scorer, explainer, _ = name
    alone = bootstrap_mean(
        control.value.values, seed=stream(seed, explainer, CONTROL, scorer), n_resamples=n_resamples
    )
    first, second = on_both(real.value, control.value)
    paired = bootstrap_mean(
        first - second, seed=stream(seed, explainer, "difference", scorer), n_resamples=n_resamples
    )
    return {
        "control_mean": alone.value,
        "control_low": alone.low,
        "control_high": alone.high,
        "n_paired": paired.n,
        "difference": paired.value,
        "difference_low": paired.low,
        "difference_high": paired.high,
    }

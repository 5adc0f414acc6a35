"""What a finished run says: each explainer under each scorer, beside its shuffled control."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.run import Run

CONFIDENCE = 0.95
N_RESAMPLES = 2_000
EXACT_BELOW = 20_000
"""With more latents than this the normal interval is used: resampling would give the same."""
CONTROL = "shuffled"
_NAME = ("scorer", "explainer", "control")
_Name = tuple[str, str, str | None]
_COLUMNS = (
    "latent",
    "explainer",
    "control",
    "scorer",
    "metric",
    "value",
    "chance",
    "status",
    "n_examples",
    "n_unparsed",
    "n_error",
)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over latents with its 95% interval; `low` and `high` are None below two latents."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One explainer (or its control) under one scorer. Undefined numbers are None."""

    explainer: str
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
    """Lower end of the 95% bootstrap interval of the mean, over latents; None below two."""
    high: float | None
    median: float | None
    q25: float | None
    q75: float | None
    chance: float | None
    """What guessing gets, mean over latents."""
    latent_coverage: float | None
    """`n_scored` over `n_latents`."""
    item_coverage: float | None
    """Items with a readable judgement over items sent to the judge."""
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
    rows = summarise_scores(run.table("scores", columns=_COLUMNS), seed=seed, n_resamples=n_resamples)
    explainers, scorers = run.config.explain.explainers, run.config.score.scorers

    def place(row: SummaryRow) -> tuple[Any, ...]:
        return (
            _index(scorers, row.scorer),
            row.scorer,
            _index(explainers, row.explainer),
            row.explainer,
            row.control is not None,
        )

    return sorted(rows, key=place)


def summarise_scores(scores: pa.Table, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> list[SummaryRow]:
    """The rows of `summarise` from a `scores` table, ordered by scorer, explainer and control.

    A latent with several explanations of one explainer counts once, with the mean of its numbers.
    Each interval has a random stream of its own, keyed by seed, explainer, control and scorer.
    """
    groups = _groups(scores)
    out = []
    for (scorer, explainer, control), group in sorted(groups.items(), key=lambda item: _order(item[0])):
        interval = bootstrap_mean(
            group.values, seed=_stream(seed, explainer, control, scorer), n_resamples=n_resamples
        )
        quartiles = (
            [float(q) for q in np.quantile(group.values, [0.25, 0.5, 0.75])] if interval.n else [None] * 3
        )
        common: dict[str, Any] = {
            "explainer": explainer,
            "control": control,
            "scorer": scorer,
            "metric": group.metric,
            "n_latents": group.n_latents,
            "n_scored": interval.n,
            "mean": interval.mean,
            "low": interval.low,
            "high": interval.high,
            "q25": quartiles[0],
            "median": quartiles[1],
            "q75": quartiles[2],
            "chance": group.chance,
            "latent_coverage": interval.n / group.n_latents,
            "item_coverage": group.n_readable / group.n_items if group.n_items else None,
        }
        shuffled = groups.get((scorer, explainer, CONTROL)) if control is None else None
        if shuffled is not None:
            common |= _beside(group, shuffled, (explainer, scorer), seed, n_resamples)
        out.append(SummaryRow(**common))
    return out


def summary_table(rows: Iterable[SummaryRow]) -> pa.Table:
    """Summary rows as an Arrow table (None becomes null)."""
    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    hints = get_type_hints(SummaryRow)
    schema = pa.schema(
        [
            pa.field(f.name, next(kind for name, kind in kinds.items() if name in str(hints[f.name])))
            for f in fields(SummaryRow)
        ]
    )
    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)


def bootstrap_mean(values: NDArray[np.float64], *, seed: int, n_resamples: int = N_RESAMPLES) -> Interval:
    """Mean with a 95% percentile bootstrap interval, resampling the values with replacement.

    Above `EXACT_BELOW` values the interval is mean ± 1.96 standard errors, which resampling
    approaches. No value: all None; one value: no interval.
    """
    n = len(values)
    if n == 0:
        return Interval(mean=None, low=None, high=None, n=0)
    mean = float(values.mean())
    if n == 1:
        return Interval(mean=mean, low=None, high=None, n=1)
    if n > EXACT_BELOW:
        margin = 1.959964 * float(values.std(ddof=1)) / np.sqrt(n)
        return Interval(mean=mean, low=mean - float(margin), high=mean + float(margin), n=n)
    rng = np.random.default_rng(seed)
    per_chunk = max(1, 2_000_000 // n)
    means = np.concatenate(
        [
            values[rng.integers(0, n, size=(min(per_chunk, n_resamples - start), n))].mean(axis=1)
            for start in range(0, n_resamples, per_chunk)
        ]
    )
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean=mean, low=float(low), high=float(high), n=n)


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Scores of one (scorer, explainer, control)."""

    n_latents: int
    n_items: int
    n_readable: int
    metric: str | None
    chance: float | None
    latents: NDArray[np.int64]
    """Latents with a number, ascending, [n_scored]."""
    values: NDArray[np.float64]
    """Their numbers, [n_scored]."""


def _groups(scores: pa.Table) -> dict[_Name, _Group]:
    judged = scores.filter(pc.field("status") != "unexplained")
    numbered = judged.filter((pc.field("status") == "ok") & pc.field("value").is_valid())
    scored = numbered.group_by([*_NAME, "latent"]).aggregate([("value", "mean")])
    about = {
        _name(row): row
        for row in judged.group_by(list(_NAME)).aggregate([("metric", "min"), ("chance", "mean")]).to_pylist()
    }
    totals = scores.group_by(list(_NAME)).aggregate(
        [("latent", "count_distinct"), ("n_examples", "sum"), ("n_unparsed", "sum"), ("n_error", "sum")]
    )
    groups = {}
    for row in totals.to_pylist():
        name = _name(row)
        mine = scored.filter(_is_group(name)).sort_by("latent")
        groups[name] = _Group(
            n_latents=row["latent_count_distinct"],
            n_items=row["n_examples_sum"],
            n_readable=row["n_examples_sum"] - row["n_unparsed_sum"] - row["n_error_sum"],
            metric=about[name]["metric_min"] if name in about else None,
            chance=about[name]["chance_mean"] if name in about else None,
            latents=mine.column("latent").to_numpy().astype(np.int64),
            values=mine.column("value_mean").to_numpy().astype(np.float64),
        )
    return groups


def _name(row: dict[str, Any]) -> _Name:
    return (row["scorer"], row["explainer"], row["control"])


def _is_group(name: _Name) -> Any:
    scorer, explainer, control = name
    column = pc.field("control")
    same_control = column.is_null() if control is None else column == control
    return (pc.field("scorer") == scorer) & (pc.field("explainer") == explainer) & same_control


def _beside(real: _Group, control: _Group, who: Sequence[str], seed: int, n_resamples: int) -> dict[str, Any]:
    explainer, scorer = who
    alone = bootstrap_mean(
        control.values, seed=_stream(seed, explainer, CONTROL, scorer), n_resamples=n_resamples
    )
    _, in_real, in_control = np.intersect1d(
        real.latents, control.latents, assume_unique=True, return_indices=True
    )
    paired = bootstrap_mean(
        real.values[in_real] - control.values[in_control],
        seed=_stream(seed, explainer, "difference", scorer),
        n_resamples=n_resamples,
    )
    return {
        "control_mean": alone.mean,
        "control_low": alone.low,
        "control_high": alone.high,
        "n_paired": paired.n,
        "difference": paired.mean,
        "difference_low": paired.low,
        "difference_high": paired.high,
    }


def _stream(seed: int, *keys: str | None) -> int:
    return zlib.crc32("/".join([str(seed), *[k or "" for k in keys]]).encode())


def _order(name: _Name) -> tuple[str, str, str]:
    return (name[0], name[1], name[2] or "")


def _index(names: Sequence[str], name: str) -> int:
    return names.index(name) if name in names else len(names)

"""Rows of `scores` grouped by what produced them, read one scorer and explainer at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.run import Run

CONTROL = "shuffled"
NO_EXPLAINER = "none"
"""The explainer of scorers that judge a latent without an explanation."""

Name = tuple[str, str, str | None]
"""Scorer, explainer, control."""
KEYS = ("scorer", "explainer", "control")


def read_parts(run: Run, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of `scores`, one table per scorer and explainer: real explanations and their control.

    So what is held at a time does not grow with the number of scorers and explainers.
    """
    folder = run.directory.folder("scores")
    for part in sorted({path.parent for path in run.directory.dataset("scores").shards}):
        inner = part.relative_to(folder).parts
        yield run.directory.dataset("scores", *inner).read(columns=columns)


def names_of(scores: pa.Table) -> list[Name]:
    """The (scorer, explainer, control) of a table's rows, sorted, the real explanations first."""
    rows = scores.select(list(KEYS)).group_by(list(KEYS)).aggregate([]).to_pylist()
    return sorted(
        ((row["scorer"], row["explainer"], row["control"]) for row in rows),
        key=lambda name: (name[0], name[1], name[2] or ""),
    )


def rows_of(scores: pa.Table, name: Name) -> pa.Table:
    """The rows of one (scorer, explainer, control)."""
    scorer, explainer, control = name
    column = pc.field("control")
    same_control = column.is_null() if control is None else column == control
    return scores.filter((pc.field("scorer") == scorer) & (pc.field("explainer") == explainer) & same_control)


@dataclass(frozen=True, kw_only=True)
class ByLatent:
    """One number per latent, for the latents that have it."""

    latents: NDArray[np.int64]
    """Ascending, [n]."""
    values: NDArray[np.float64]
    """[n]."""


def by_latent(rows: pa.Table, column: str) -> ByLatent:
    """A column's numbers, one per latent: several explanations of a latent count once, with their mean."""
    known = rows.filter(pc.is_finite(pc.field(column)))
    found = known.group_by("latent").aggregate([(column, "mean")]).sort_by("latent")
    return ByLatent(
        latents=found.column("latent").to_numpy().astype(np.int64),
        values=found.column(f"{column}_mean").to_numpy().astype(np.float64),
    )


def on_both(first: ByLatent, second: ByLatent) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The numbers of the latents that have both."""
    _, i, j = np.intersect1d(first.latents, second.latents, assume_unique=True, return_indices=True)
    return first.values[i], second.values[j]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Scores of one (scorer, explainer, control)."""

    n_latents: int
    n_items: int
    n_readable: int
    metric: str | None
    chance: float | None
    value: ByLatent
    """The headline number."""
    worst_case: ByLatent
    """`worst_case_accuracy`."""
    peer_metric: str | None
    peer: ByLatent
    """`peer_value`."""


GROUP_COLUMNS = (
    "latent",
    *KEYS,
    "metric",
    "value",
    "chance",
    "status",
    "n_examples",
    "n_unparsed",
    "n_error",
    "worst_case_accuracy",
    "peer_metric",
    "peer_value",
)


def groups_of(scores: pa.Table) -> dict[Name, Group]:
    """The groups of a table with the columns `GROUP_COLUMNS`, in the order of `names_of`."""
    return {name: _group(rows_of(scores, name)) for name in names_of(scores)}


def _group(rows: pa.Table) -> Group:
    judged = rows.filter(pc.field("status") != "unexplained")
    n_items, n_unread = (
        sum(_sum(rows, column) for column in columns)
        for columns in (["n_examples"], ["n_unparsed", "n_error"])
    )
    return Group(
        n_latents=pc.count_distinct(rows.column("latent")).as_py(),
        n_items=n_items,
        n_readable=n_items - n_unread,
        metric=pc.min(judged.column("metric")).as_py(),
        chance=pc.mean(judged.column("chance")).as_py(),
        value=by_latent(judged.filter(pc.field("status") == "ok"), "value"),
        worst_case=by_latent(judged, "worst_case_accuracy"),
        peer_metric=pc.min(judged.column("peer_metric")).as_py(),
        peer=by_latent(judged, "peer_value"),
    )


def _sum(rows: pa.Table, column: str) -> int:
    total: Any = pc.sum(rows.column(column)).as_py()
    return int(total or 0)


def place(run: Run, name: Name) -> tuple[Any, ...]:
    """Sorts names as the run's own configuration lists them; names it does not list come last."""
    scorer, explainer, control = name
    scorers, explainers = run.config.score.scorers, run.config.explain.explainers
    return (
        scorers.index(scorer) if scorer in scorers else len(scorers),
        scorer,
        explainers.index(explainer) if explainer in explainers else len(explainers),
        explainer,
        control is not None,
    )

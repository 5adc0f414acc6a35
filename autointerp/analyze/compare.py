"""Explainers on shared scores, within a run and across runs: who is better, by how much, at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autointerp.analyze.compare_board import (
    AXES,
    BoardRow,
    ExplainerRow,
    board_rows,
    explainer_rows,
)
from autointerp.analyze.compare_breakdown import (
    BreakdownPairRow,
    BreakdownRow,
    breakdown_pair_rows,
    breakdown_rows,
)
from autointerp.analyze.compare_pairs import TIE, PairRow, pair_rows
from autointerp.analyze.compare_read import Opened, RunRow, Scored, open_runs, read_scored
from autointerp.analyze.compare_shared import SharedRow, shared_latents, shared_rows
from autointerp.analyze.compare_significance import N_FLIPS
from autointerp.analyze.intervals import N_RESAMPLES
from autointerp.analyze.parts import NO_EXPLAINER, ByLatent
from autointerp.analyze.summary import rows_table
from autointerp.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Some runs and their explainers, compared."""

    runs: list[RunRow]
    explainers: list[ExplainerRow]
    board: list[BoardRow]
    shared: list[SharedRow]
    """Scorers whose shared latents some explainers make few."""
    pairs: list[PairRow]
    breakdown: list[BreakdownRow]
    breakdown_pairs: list[BreakdownPairRow]
    latents: pa.Table
    """A row per scorer, run, explainer and latent asked: see `LATENT_SCHEMA`."""
    tie: float
    """Latents whose numbers differ by at most this are ties."""

    def tables(self) -> dict[str, pa.Table]:
        """As Arrow tables, by name."""
        return {
            "runs": rows_table(self.runs, RunRow),
            "explainers": rows_table(self.explainers, ExplainerRow),
            "board": rows_table(self.board, BoardRow),
            "pairs": rows_table(self.pairs, PairRow),
            "breakdown": rows_table(self.breakdown, BreakdownRow),
            "breakdown_pairs": rows_table(self.breakdown_pairs, BreakdownPairRow),
            "latents": self.latents,
        }

    def cost_of(self, run: str, explainer: str) -> ExplainerRow | None:
        """The row of an explainer; None if it has proposed nothing, as `none`."""
        found = (row for row in self.explainers if (row.run, row.explainer) == (run, explainer))
        return next(found, None)

    @property
    def several_runs(self) -> bool:
        """Whether names need their run before them."""
        return len(self.runs) > 1

    def axis(self) -> str | None:
        """What cost is told in: the first of US dollars, tokens and seconds in which explainers differ
        (seconds, if any takes `SECONDS_MATTER`)."""
        for axis in AXES:
            values = [getattr(row, f"{axis}_per_latent") for row in self.explainers]
            if None in values or len(set(values)) < 2:
                continue
            if axis != "seconds" or max(values) >= SECONDS_MATTER:
                return axis
        return None


SECONDS_MATTER = 0.05
"""Seconds per latent below which no explainer is called slower than another."""

LATENT_SCHEMA = pa.schema(
    [
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("explainer", pa.string(), nullable=False),
        pa.field("latent", pa.uint32(), nullable=False),
        pa.field("density", pa.float64()),
        pa.field("value", pa.float64()),
        pa.field("control", pa.float64()),
        pa.field("shared", pa.bool_(), nullable=False),
        pa.field("best", pa.bool_()),
    ]
)
"""Of `latents`: `value` and `control` (of the shuffled control) are null where there is no number;
`shared` latents have a number from every explainer of the dictionary; `best`: on a shared latent, no
other explainer is higher by more than the tie margin (null elsewhere, or where there is one alone)."""


def compare(
    roots: Sequence[str | Path],
    *,
    scorers: Sequence[str] | None = None,
    explainers: Sequence[str] | None = None,
    baseline: str | None = None,
    all_pairs: bool = False,
    tie: float = TIE,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
    n_flips: int = N_FLIPS,
) -> Comparison:
    """Compare the explainers of one or more finished runs on the scores they share.

    Within a run all pairs of explainers are compared, across runs each explainer with itself
    (`all_pairs`: every two). `baseline` is the name of an explainer, a run, or `RUN/EXPLAINER`. Raises
    `UserError` if a run cannot be read, has no scores, or a name does not exist.
    """
    runs = open_runs(roots)
    sharing = Counter(opened.row.shares for opened in runs)
    scored: list[Scored] = []
    for opened in runs:
        _check_names(opened, runs, scorers, explainers)
        by_content = sharing[opened.row.shares] > 1
        scored += read_scored(opened, scorers, explainers, by_content=by_content)
    if not scored:
        seen = ", ".join(repr(str(opened.run.root)) for opened in runs)
        holds = "holds" if len(runs) == 1 else "hold"
        raise UserError(f"RUN: {seen} {holds} no scores; run `autointerp score` first")
    order = {name: i for i, name in enumerate(dict.fromkeys(one.scorer for one in scored))}
    scored.sort(key=lambda one: order[one.scorer])
    keys: dict[str, Any] = {"seed": seed, "n_resamples": n_resamples}
    pairs = pair_rows(
        scored,
        runs,
        tie=tie,
        n_flips=n_flips,
        baseline=_baseline(baseline, runs, scored),
        all_pairs=all_pairs,
        **keys,
    )
    return Comparison(
        runs=[opened.row for opened in runs],
        explainers=explainer_rows(runs, explainers),
        board=board_rows(scored, runs, **keys),
        shared=shared_rows(scored, runs),
        pairs=pairs,
        breakdown=breakdown_rows(scored, runs, **keys),
        breakdown_pairs=breakdown_pair_rows(pairs, scored, runs, **keys),
        latents=_latents(scored, runs, tie),
        tie=tie,
    )


def _check_names(
    opened: Opened,
    runs: Sequence[Opened],
    scorers: Sequence[str] | None,
    explainers: Sequence[str] | None,
) -> None:
    for option, names, of in (
        ("--scorer", scorers, "score.scorers"),
        ("--explainer", explainers, "explain.explainers"),
    ):
        section, key = of.split(".")
        accepted = {name for one in runs for name in getattr(getattr(one.run.config, section), key)}
        for name in names or ():
            if name not in accepted:
                raise unknown_name(option, name, accepted)


def _baseline(
    name: str | None, runs: Sequence[Opened], scored: Sequence[Scored]
) -> tuple[str | None, str | None] | None:
    if name is None:
        return None
    whole: dict[str, tuple[str | None, str | None]] = {}
    if len(runs) > 1:  # a single run has no other to be compared with
        whole |= {opened.name: (opened.name, None) for opened in runs}
    labelled = [one for one in scored if one.explainer != NO_EXPLAINER]
    whole |= {one.explainer: (None, one.explainer) for one in labelled}
    whole |= {f"{one.run}/{one.explainer}": one.who for one in labelled}
    if name not in whole:
        raise unknown_name("--baseline", name, whole)
    return whole[name]


def _latents(scored: Sequence[Scored], runs: Sequence[Opened], tie: float) -> pa.Table:
    by_name = {opened.name: opened for opened in runs}
    shared = shared_latents(scored, runs)
    best: dict[tuple[str, int], np.ndarray] = {}
    rivals: Counter[tuple[str, int]] = Counter()
    for one in scored:
        key = (one.scorer, by_name[one.run].row.shares)
        if len(one.value.latents):
            mine = _lookup(one.value, shared[key])
            best[key] = np.maximum(best[key], mine) if key in best else mine
            rivals[key] += 1
    parts = []
    for one in scored:
        key = (one.scorer, by_name[one.run].row.shares)
        common = shared.get(key, one.asked[:0])
        values = _lookup(one.value, one.asked)
        is_shared = np.isin(one.asked, common, assume_unique=True)
        top = np.full(len(one.asked), np.nan)
        if rivals[key]:
            top[is_shared] = best[key][np.isin(common, one.asked, assume_unique=True)]
        with np.errstate(invalid="ignore"):
            is_best = values >= top - tie
        n = len(one.asked)
        columns = [
            pa.array([one.scorer] * n, pa.string()),
            pa.array([one.run] * n, pa.string()),
            pa.array([one.explainer] * n, pa.string()),
            pa.array(one.asked, pa.uint32()),
            _nullable(_lookup(by_name[one.run].density, one.asked)),
            _nullable(values),
            _nullable(_lookup(one.control, one.asked)),
            pa.array(is_shared),
            pa.array(is_best, mask=~is_shared | (rivals[key] < 2)),
        ]
        parts.append(pa.Table.from_arrays(columns, schema=LATENT_SCHEMA))
    return pa.concat_tables(parts)


def _lookup(found: ByLatent, latents: np.ndarray) -> np.ndarray:
    """The numbers of some latents (ascending), NaN where there is none."""
    out = np.full(len(latents), np.nan)
    _, i, j = np.intersect1d(latents, found.latents, assume_unique=True, return_indices=True)
    out[i] = found.values[j]
    return out


def _nullable(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=~np.isfinite(values))


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of some (cost, quality) no other beats: none is at most as dear and at least as good, and
    better in one of the two."""
    return [
        not any(
            (cost <= mine[0] and quality >= mine[1]) and (cost < mine[0] or quality > mine[1])
            for j, (cost, quality) in enumerate(points)
            if j != i
        )
        for i, mine in enumerate(points)
    ]

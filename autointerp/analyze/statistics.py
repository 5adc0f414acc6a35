"""All statistics of a run at once, and the tables they are kept as."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from autointerp.analyze.control import ControlRow, compare_with_control
from autointerp.analyze.correlations import CorrelationRow, correlations
from autointerp.analyze.rates import RateRow, rates
from autointerp.analyze.summary import SummaryRow, rows_table, summarise
from autointerp.errors import UserError
from autointerp.run import Run, open_run


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a run's scores say, over latents and over scorers."""

    scores: list[SummaryRow]
    rates: list[RateRow]
    correlations: list[CorrelationRow]
    control: list[ControlRow] | None = None
    """The run beside a control run; None if none was named."""

    @property
    def real(self) -> list[SummaryRow]:
        """Rows of the real explanations, their control beside them."""
        return [row for row in self.scores if row.control is None]

    def tables(self) -> dict[str, pa.Table]:
        """As Arrow tables: `scores`, `rates`, `correlations` and, with a control run, `control`."""
        tables = {
            "scores": rows_table(self.scores, SummaryRow),
            "rates": rows_table(self.rates, RateRow),
            "correlations": rows_table(self.correlations, CorrelationRow),
        }
        if self.control is not None:
            tables["control"] = rows_table(self.control, ControlRow)
        return tables


def statistics(run: Run, *, seed: int = 0) -> Statistics:
    """Every statistic of a run; all empty if nothing is scored yet."""
    return Statistics(
        scores=summarise(run, seed=seed),
        rates=rates(run, seed=seed),
        correlations=correlations(run, seed=seed),
    )


def statistics_of(root: str | Path, control: str | Path | None = None, *, seed: int = 0) -> Statistics:
    """The statistics of a run directory, beside a control run if one is named.

    Raises `UserError` if either is no run, has no scores, or they have no scorer and explainer in common.
    """
    run = open_run(root)
    found = statistics(run, seed=seed)
    if not found.scores:
        raise UserError(f"RUN_DIR: {str(run.root)!r} holds no scores; run `autointerp score` first")
    if control is None:
        return found
    return replace(found, control=compare_with_control(run, open_run(control), seed=seed))

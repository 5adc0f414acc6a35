"""The statistics of a run as last written to `summary/`, where nothing has changed since."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autointerp.analyze.correlations import CorrelationRow
from autointerp.analyze.intervals import FEWEST
from autointerp.analyze.rates import RateRow
from autointerp.analyze.statistics import Statistics, statistics
from autointerp.analyze.summary import SummaryRow
from autointerp.run import Run
from autointerp.storage import source_of

_KINDS: dict[str, Any] = {"scores": SummaryRow, "rates": RateRow, "correlations": CorrelationRow}
_ENDS: dict[Any, tuple[tuple[str, str], ...]] = {
    SummaryRow: (("low", "n_scored"), ("difference_low", "n_paired")),
    RateRow: (("low", "n_latents"),),
    CorrelationRow: (("spearman_low", "n_latents"),),
}
"""Ends of intervals and the latents they are over."""


def kept_statistics(run: Run) -> Statistics:
    """The statistics of a run: read if they are younger than all its manifests, else computed."""
    files = {name: run.root / "summary" / f"{name}.parquet" for name in _KINDS}
    if not _fresh(run, list(files.values())):
        return statistics(run)
    try:
        rows = {name: _rows(path, _KINDS[name]) for name, path in files.items()}
    except (OSError, pa.ArrowException, _OtherVersionError):
        return statistics(run)
    return Statistics(**rows)


class _OtherVersionError(Exception):
    """The file was written by another version: it has other columns, or intervals over too few latents."""


def _fresh(run: Run, files: list[Path]) -> bool:
    if not all(path.is_file() for path in files):
        return False
    written = min(path.stat().st_mtime for path in files)
    changed = [path.stat().st_mtime for path in run.directory.manifest_files()]
    return all(written >= time for time in changed)


def _rows(path: Path, kind: Any) -> list[Any]:
    table = pq.read_table(source_of(path))
    if table.column_names != [field.name for field in fields(kind)]:
        raise _OtherVersionError(path.name)
    for end, over in _ENDS[kind]:
        told = table.filter(pc.field(end).is_valid()).column(over)
        if len(told) and pc.min(told).as_py() < FEWEST:
            raise _OtherVersionError(path.name)
    return [kind(**row) for row in table.to_pylist()]

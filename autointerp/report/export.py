"""The statistics of a run as files and as text for other programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa

from autointerp.analyze.statistics import Statistics
from autointerp.artifacts import DatasetSpec, write_shard
from autointerp.errors import UserError
from autointerp.report.views import all_views, markdown
from autointerp.run import to_frame

FOLDER = "summary"
"""Folder of a run directory that holds them: remade by `score` and `report`, read by no stage."""


def write_statistics(root: Path, statistics: Statistics) -> list[Path]:
    """Write `summary/TABLE.parquet` in a run directory; returns the paths. Raises `UserError` if it cannot."""
    paths = []
    for name, table in statistics.tables().items():
        path = root / FOLDER / f"{name}.parquet"
        write_shard(path, table, _spec(name, table))
        paths.append(path)
    return paths


def as_json(statistics: Statistics) -> str:
    """One object with a list of rows per table; an undefined number is null."""
    tables = asdict(statistics)
    if statistics.control is None:
        del tables["control"]
    return json.dumps(tables, indent=2, ensure_ascii=False, allow_nan=False)


def as_csv(statistics: Statistics, table: str) -> str:
    """One table as CSV with a header; an undefined number is an empty field."""
    tables = statistics.tables()
    if table not in tables:
        raise UserError(f"--table: seen {table!r}; accepted: {', '.join(tables)} (`control` with --control)")
    text: str = to_frame(tables[table]).to_csv(index=False)
    return text


def as_markdown(statistics: Statistics) -> str:
    """Every table that has rows, in Markdown, rounded as on the terminal."""
    return "\n".join(markdown(view) for view in all_views(statistics))


def _spec(name: str, table: pa.Table) -> DatasetSpec:
    return DatasetSpec(
        name=f"{FOLDER}/{name}",
        row="statistics over the run's scores",
        schema=table.schema,
        sorted_by=(),
        rows_per_group=65_536,
    )

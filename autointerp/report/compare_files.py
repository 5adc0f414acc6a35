"""A comparison as files: Parquet and CSV per table, Markdown, plots."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from autointerp.analyze.compare import Comparison
from autointerp.artifacts import DatasetSpec, write_shard
from autointerp.artifacts.manifest import write_text_whole
from autointerp.errors import UserError
from autointerp.report.compare_view import as_markdown, findings
from autointerp.run import to_frame

FOLDER = "comparison"
"""Folder of a run directory for the comparison of its own explainers."""


def default_folder(roots: list[Path]) -> Path:
    """Where a comparison is written: in the run's own directory, or beside the first of several runs."""
    if len(roots) == 1:
        return roots[0] / FOLDER
    names = [root.resolve().name for root in roots]
    shown = names if len(names) <= 4 else [names[0], f"{len(names) - 1}-others"]
    return roots[0].resolve().parent / "-".join([FOLDER, *shown])


def write_comparison(found: Comparison, folder: Path) -> list[Path]:
    """Write `TABLE.parquet` and `TABLE.csv` for every table and `comparison.md`; returns the paths.

    The table `latents`, which may be long, is written as Parquet only. Raises `UserError` if a file
    cannot be written.
    """
    paths = []
    for name, table in found.tables().items():
        path = folder / f"{name}.parquet"
        spec = DatasetSpec(
            name=f"{FOLDER}/{name}",
            row="a comparison of explainers",
            schema=table.schema,
            sorted_by=(),
            rows_per_group=65_536,
        )
        write_shard(path, table, spec)
        paths.append(path)
        if name != "latents":
            paths.append(path.with_suffix(".csv"))
            write_text_whole(paths[-1], as_csv(found, name))
    paths.append(folder / "comparison.md")
    write_text_whole(paths[-1], as_markdown(found))
    return paths


def as_csv(found: Comparison, table: str) -> str:
    """One table as CSV with a header; an undefined number is an empty field."""
    tables = found.tables()
    if table not in tables:
        raise UserError(f"--table: seen {table!r}; accepted: {', '.join(tables)}")
    text: str = to_frame(tables[table]).to_csv(index=False)
    return text


def as_json(found: Comparison) -> str:
    """One object: the findings as sentences, a list of rows per table (without `latents`), and `shared`."""
    tables = {
        name: [asdict(row) for row in getattr(found, name)] for name in found.tables() if name != "latents"
    }
    shared = [asdict(row) for row in found.shared]
    said = {"findings": findings(found), **tables, "shared": shared}
    return json.dumps(said, indent=2, ensure_ascii=False, allow_nan=False)

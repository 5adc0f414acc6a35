"""A run's labels as one plain file: a line per label, with its scores."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from autointerp.artifacts.manifest import write_text_whole
from autointerp.errors import UserError, unknown_name
from autointerp.run import Run, open_run

COLUMNS = ("latent", "explanation", "explainer", "control", "text", "status", "reason", "model")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would take for a formula."""
_PER_CHUNK = 4_096


def export_labels(
    root: Path,
    out: Path,
    kind: str,
    *,
    explainers: Sequence[str] = (),
    controls: bool = False,
    safe: bool = False,
) -> int:
    """Write every label of a run as JSONL or CSV; returns their number.

    Columns: those of `explanations` that tell what it is, and `score.SCORER` with that scorer's number (null if
    undefined). With `controls`, shuffled ones too. `safe` puts an apostrophe before CSV cells that a spreadsheet
    would read as formulas. Raises `UserError` for a run without labels and an unknown explainer.
    """
    run = open_run(root)
    have = sorted(set(run.table("explanations", columns=["explainer"]).column("explainer").to_pylist()))
    if not have:
        raise UserError(f"RUN_DIR: {str(root)!r} holds no explanations; run `autointerp explain` first")
    for name in explainers:
        if name not in have:
            raise unknown_name("--explainer", name, have)
    rows = list(_rows(run, set(explainers), controls))
    scorers = sorted({key for row in rows for key in row if key.startswith("score.")})
    complete = [{**{key: row.get(key) for key in (*COLUMNS, *scorers)}} for row in rows]
    if kind == "jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in complete)
    else:
        text = _csv(complete, [*COLUMNS, *scorers], safe)
    write_text_whole(out, text)
    return len(rows)


def _rows(run: Run, explainers: set[str], controls: bool) -> Iterator[dict[str, Any]]:
    n_latents = run.directory.dataset("latents").n_rows
    for first in range(0, max(n_latents, 1), _PER_CHUNK):
        latents = range(first, first + _PER_CHUNK)
        columns = ["latent", "explanation", "scorer", "value"]
        scores: dict[tuple[int, str], dict[str, float | None]] = {}
        for row in run.table("scores", columns=columns, latents=latents).to_pylist():
            scores.setdefault((row["latent"], row["explanation"]), {})[f"score.{row['scorer']}"] = row[
                "value"
            ]
        table = run.table("explanations", columns=COLUMNS, latents=latents)
        for row in sorted(table.to_pylist(), key=lambda row: (row["latent"], row["explanation"])):
            if (explainers and row["explainer"] not in explainers) or (row["control"] and not controls):
                continue
            yield {**row, **scores.get((row["latent"], row["explanation"]), {})}


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str], safe: bool) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([_cell(row[column], safe) for column in columns])
    return out.getvalue()


def _cell(value: Any, safe: bool) -> Any:
    if safe and isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value

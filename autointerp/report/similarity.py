"""A comparison of dictionaries on the terminal and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autointerp.analyze.similarity import LoneRow, PairRow, Similarity, SimilarityRow
from autointerp.analyze.summary import rows_table
from autointerp.artifacts import DatasetSpec, write_shard
from autointerp.artifacts.manifest import write_text_whole
from autointerp.report import numbers
from autointerp.report.views import View
from autointerp.run import printable, to_frame

_TEXT_WIDTH = 40


def write_similarity(found: Similarity, out: Path) -> list[Path]:
    """Write `similarity`, `pairs` and `unmatched`, each as Parquet and CSV; returns the paths.

    Raises `UserError` if the folder cannot be written.
    """
    paths = []
    tables: dict[str, tuple[Sequence[Any], type]] = {
        "similarity": (found.rows, SimilarityRow),
        "pairs": (found.pairs, PairRow),
        "unmatched": (found.lone, LoneRow),
    }
    for name, (rows, cls) in tables.items():
        table = rows_table(rows, cls)
        spec = DatasetSpec(
            name=name, row="similarity", schema=table.schema, sorted_by=(), rows_per_group=65_536
        )
        write_shard(out / f"{name}.parquet", table, spec)
        write_text_whole(out / f"{name}.csv", to_frame(table).to_csv(index=False))
        paths += [out / f"{name}.parquet", out / f"{name}.csv"]
    return paths


def similarity_views(found: Similarity, n_shown: int = 5) -> list[View]:
    """The tables of `autointerp similarity`: numbers, strongest pairs, latents without a partner."""
    couples = list(dict.fromkeys((row.run_a, row.run_b) for row in found.rows))
    views = [_numbers(found, couple) for couple in couples]
    if len(couples) > 1:
        views += [matrix for name in _measures(found) if (matrix := _matrix(found, name)) is not None]
    if len(couples) == 1:
        views += [
            view
            for view in (_strongest(found.pairs, n_shown), _alone(found.lone, n_shown))
            if view is not None
        ]
    return views


def _numbers(found: Similarity, couple: tuple[str, str]) -> View:
    rows = [row for row in found.rows if (row.run_a, row.run_b) == couple]
    cells = [
        [
            row.measure,
            f"{numbers.count(row.n_a)} : {numbers.count(row.n_b)}",
            numbers.brief(row.mean, row.low, row.high),
            numbers.brief(row.null_mean, row.null_low, row.null_high),
            _p(row.p_value),
            numbers.rate(row.threshold),
            numbers.brief(row.shared, row.shared_low, row.shared_high),
            numbers.brief(row.null_shared, row.null_shared_low, row.null_shared_high),
            numbers.brief(row.nearest_a, None, None),
            numbers.brief(row.nearest_b, None, None),
        ]
        for row in rows
    ]
    notes = [f"{row.measure}: {row.reason}" for row in rows if row.reason]
    if any(row.exact is False for row in rows):
        notes.append("matched among nearest candidates, not among all pairs")
    return View(
        title=f"A {printable(couple[0])}, B {printable(couple[1])}",
        columns=["", "latents", "matched", "null", "p", "from", "shared", "null", "nearest A", "nearest B"],
        rows=cells,
        note="; ".join(notes) or None,
    )


def _measures(found: Similarity) -> list[str]:
    return list(dict.fromkeys(row.measure for row in found.rows))


def _matrix(found: Similarity, measure: str) -> View | None:
    """Mean matched similarity of every two runs, less nothing; null in brackets."""
    rows = []
    for a in found.runs:
        cells = [printable(a)]
        for b in found.runs:
            value, null = (found.value(a, b, measure, n) for n in ("mean", "null_mean"))
            cells.append("" if a == b else f"{numbers.rate(value)} ({numbers.rate(null)})")
        rows.append(cells)
    if not any(row.mean is not None for row in found.rows if row.measure == measure):
        return None
    return View(
        title=f"{measure}: mean matched similarity (null)",
        columns=["", *(printable(name) for name in found.runs)],
        rows=rows,
    )


def _strongest(pairs: Sequence[PairRow], n: int) -> View | None:
    measure = next((row.measure for row in pairs), None)
    shown = sorted((row for row in pairs if row.measure == measure), key=lambda row: -row.similarity)[:n]
    if not shown:
        return None
    return View(
        title=f"Most alike by {measure}",
        columns=["A, B", "similarity", "correlation", "meaning", "label A", "label B"],
        rows=[
            [
                f"{row.latent_a}, {row.latent_b}",
                numbers.score(row.similarity),
                numbers.score(row.correlation),
                numbers.score(row.meaning),
                _short(row.text_a),
                _short(row.text_b),
            ]
            for row in shown
        ],
    )


def _alone(lone: Sequence[LoneRow], n: int) -> View | None:
    measure = next((row.measure for row in lone), None)
    run = next((row.run for row in lone), None)
    rows = [row for row in lone if row.measure == measure and row.run == run]
    shown = sorted(rows, key=lambda row: row.nearest_similarity or 0.0)[:n]
    if not shown:
        return None
    return View(
        title=f"Least alike by {measure}: latents of {printable(run or '')} without a partner "
        f"({numbers.count(len(rows))} in all)",
        columns=["latent", "partner's", "nearest", "density", "label"],
        rows=[
            [
                str(row.latent),
                numbers.score(row.similarity),
                numbers.score(row.nearest_similarity),
                numbers.measure(row.density),
                _short(row.text),
            ]
            for row in shown
        ],
    )


def _short(text: str | None) -> str:
    shown = printable(" ".join((text or "").split()))
    return (shown if len(shown) <= _TEXT_WIDTH else shown[: _TEXT_WIDTH - 1] + "…") or numbers.DASH


def _p(value: float | None) -> str:
    return numbers.DASH if value is None else f"{value:.2g}"

"""Figures of a comparison of dictionaries: a matrix of runs per measure, and every pair beside its null."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.analyze.similarity import Similarity
from autointerp.report import numbers
from autointerp.report.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXIS = {
    "decoder": "mean cosine of decoder directions",
    "encoder": "mean cosine of encoder directions",
    "directions": "mean cosine of decoder and encoder",
    "correlation": "mean correlation of activations",
    "jaccard": "mean Jaccard index of active positions",
    "meaning": "mean cosine of embedded labels",
}
"""What a measure's numbers are, as an axis says it."""
_NAME_LENGTH = 28


def plot_similarity(found: Similarity, folder: Path) -> list[Path]:
    """Write `matrix` and `pairs` as PNG and SVG; nothing where no measure is defined."""
    measures = _defined(found)
    if not measures:
        return []
    return [
        *look.save(matrix_plot(found, measures), folder / "matrix"),
        *look.save(pairs_plot(found, measures), folder / "pairs"),
    ]


def matrix_plot(found: Similarity, measures: list[str] | None = None, number: str = "mean") -> Figure:
    """A panel per measure: runs by runs, mean matched similarity and, below it, what chance would match."""
    measures = measures or _defined(found)
    n, names = len(found.runs), [look.plain(name, _NAME_LENGTH) for name in found.runs]
    columns = min(3, len(measures))
    lines = math.ceil(len(measures) / columns)
    side = max(2.4, 0.62 * n)
    margin = 0.075 * max(map(len, names))
    made, panels = look.figure(
        lines,
        columns,
        width=columns * (side + 0.3) + margin + 0.6,
        height=lines * (side + 0.5) + margin * 0.7 + 0.5,
        title="Mean similarity of matched latents (in brackets: matched by chance)",
    )
    for i, (axes, measure) in enumerate(zip(panels, measures, strict=False)):
        below = names if i + columns >= len(measures) else [""] * n
        _matrix(axes, found, measure, number, names if i % columns == 0 else [""] * n, below)
        look.label(axes, title=measure)
    for axes in panels[len(measures) :]:
        axes.set_visible(False)
    return made


def _matrix(
    axes: Axes, found: Similarity, measure: str, number: str, rows: list[str], columns: list[str]
) -> None:
    n = len(found.runs)
    values = [[found.value(a, b, measure, number) for b in found.runs] for a in found.runs]
    null = "null_mean" if number == "mean" else f"null_{number}"
    with look.style():
        axes.grid(False)
        axes.imshow(
            [[math.nan if value is None else value for value in line] for line in values],
            cmap="Blues",
            vmin=0.0,
            vmax=1.0,
        )
        for y, a in enumerate(found.runs):
            for x, b in enumerate(found.runs):
                value, by_chance = values[y][x], found.value(a, b, measure, null)
                colour = "white" if (value or 0) > 0.6 else "#1d2125"
                shown = numbers.rate(value) if a != b else ""
                axes.text(x, y - 0.08, shown, ha="center", va="center", color=colour, fontsize=9)
                if by_chance is not None and a != b:
                    axes.text(
                        x, y + 0.25, f"({numbers.rate(by_chance)})", ha="center", va="center",
                        color=colour, fontsize=6.5,
                    )  # fmt: skip
        axes.set_xticks(range(n), columns, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(n), rows)


def pairs_plot(found: Similarity, measures: list[str] | None = None) -> Figure:
    """A panel per measure, a line per pair of runs: the mean and its interval, the null's in grey."""
    measures = measures or _defined(found)
    couples = list(dict.fromkeys((row.run_a, row.run_b) for row in found.rows))
    columns = min(3, len(measures))
    lines = math.ceil(len(measures) / columns)
    names = [f"{look.plain(a, _NAME_LENGTH)}, {look.plain(b, _NAME_LENGTH)}" for a, b in couples]
    made, panels = look.figure(
        lines,
        columns,
        width=2.5 * columns + 0.07 * max(map(len, names)) + 0.4,
        height=lines * (1.1 + 0.24 * len(couples)) + 0.5,
        title="Matched latents (blue) and what chance would match (grey), 95% intervals",
    )
    for i, (axes, measure) in enumerate(zip(panels, measures, strict=False)):
        rows = {(row.run_a, row.run_b): row for row in found.rows if row.measure == measure}
        with look.style():
            for y, couple in enumerate(couples):
                row = rows[couple]
                if row.null_mean is not None and row.null_low is not None and row.null_high is not None:
                    axes.plot(
                        [row.null_low, row.null_high], [y, y], color=look.CHANCE, linewidth=5, alpha=0.45
                    )
                    axes.plot(row.null_mean, y, "|", color=look.CHANCE, markersize=9)
                if row.low is not None and row.high is not None:
                    axes.plot([row.low, row.high], [y, y], color=look.REAL)
                if row.mean is not None:
                    axes.plot(row.mean, y, "o", color=look.REAL, markersize=4.5)
            axes.set_yticks(range(len(couples)), names if i % columns == 0 else [""] * len(couples))
            axes.set_ylim(len(couples) - 0.5, -0.5)
            axes.set_xlim(0, 1.02)
        look.label(axes, x=AXIS[measure], title=measure)
    for axes in panels[len(measures) :]:
        axes.set_visible(False)
    return made


def _defined(found: Similarity) -> list[str]:
    """Measures that some pair of runs has a number of."""
    return list(dict.fromkeys(row.measure for row in found.rows if row.mean is not None))

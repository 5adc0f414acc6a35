"""How scorers agree: Spearman's correlations as a matrix, and beside what was published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autointerp.analyze.correlations import SOURCE, CorrelationRow
from autointerp.report import numbers
from autointerp.report.plots import look
from autointerp.report.views import pooled, scorers_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def matrix_plot(rows: Sequence[CorrelationRow]) -> Figure | None:
    """Correlations of all explanations pooled, each with its 95% interval. None with fewer than two scorers."""
    mine = pooled(rows)
    names = scorers_of(mine)
    if len(names) < 2:
        return None
    by_pair = {frozenset((row.scorer_a, row.scorer_b)): row for row in mine}
    size = len(names)
    matrix = np.full((size, size), np.nan)
    for i, a in enumerate(names):
        for j, b in enumerate(names[:i]):
            row = by_pair.get(frozenset((a, b)))
            if row is not None and row.spearman is not None:
                matrix[i, j] = row.spearman
    made, (axes,) = look.figure(
        width=2.6 + 0.95 * size, height=1.6 + 0.72 * size, title="Do the scorers agree?"
    )
    with look.style():
        image = axes.imshow(matrix[1:, :-1], cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
        for i, a in enumerate(names[1:]):
            for j, b in enumerate(names[: i + 1]):
                row = by_pair.get(frozenset((a, b)))
                if row is None or row.spearman is None:
                    continue
                dark = abs(row.spearman) > 0.6
                text = f"{numbers.rate(row.spearman)}\n[{numbers.rate(row.spearman_low)}, {numbers.rate(row.spearman_high)}]"
                axes.text(
                    j, i, text, ha="center", va="center", fontsize=7.5, color="white" if dark else "#1d2125"
                )
        axes.set_xticks(range(size - 1), [look.plain(name) for name in names[:-1]], rotation=30, ha="right")
        axes.set_yticks(range(size - 1), [look.plain(name) for name in names[1:]])
        axes.grid(visible=False)
        bar = made.colorbar(image, ax=axes, shrink=0.8)
        bar.set_label("Spearman's correlation over explanations")
    return made


def published_plot(rows: Sequence[CorrelationRow]) -> Figure | None:
    """Each pair of kinds of scorer that was published: here, with its interval, against there."""
    mine = [row for row in pooled(rows) if row.published_spearman is not None and row.spearman is not None]
    if not mine:
        return None
    mine.sort(key=lambda row: -(row.published_spearman or 0))
    made, (axes,) = look.figure(
        width=7.4, height=1.4 + 0.3 * len(mine), title="Correlations beside the published ones"
    )
    with look.style():
        axes.axvline(0, color=look.CHANCE, linewidth=1)
        for y, row in enumerate(mine):
            assert row.spearman is not None
            assert row.published_spearman is not None
            if row.spearman_low is not None and row.spearman_high is not None:
                axes.plot([row.spearman_low, row.spearman_high], [y, y], color=look.REAL, linewidth=2)
            axes.plot(row.spearman, y, "o", color=look.REAL, markersize=6, label="this run, 95% interval")
            axes.plot(row.published_spearman, y, "x", color=look.CONTROL, markersize=7, label="published")
        axes.set_yticks(range(len(mine)), [look.plain(f"{r.scorer_a}, {r.scorer_b}") for r in mine])
        axes.set_ylim(len(mine) - 0.5, -0.5)
        axes.set_xlim(-1, 1)
        axes.grid(axis="y", visible=False)
        handles, labels = axes.get_legend_handles_labels()
        made.legend(handles[:2], labels[:2], loc="outside upper right", ncols=2)
        made.supxlabel(f"Published: {SOURCE}.", fontsize=7.5, x=0.01, ha="left")
    look.label(axes, x="Spearman's correlation over explanations")
    return made

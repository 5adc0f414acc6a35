"""How scores are spread over latents: real explanations above their shuffled control, per scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.analyze.summary import SummaryRow
from autointerp.report.plots import look
from autointerp.report.plots.compare import metric_name
from autointerp.report.views import explainer_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_POINTS = 1_000
"""Latents drawn as points; of more, only the box and the mean."""


def distributions_plot(scores: pa.Table, summary: Sequence[SummaryRow]) -> Figure | None:
    """A panel per scorer: a point per latent, the quartiles as a box, the mean with its 95% interval.

    `scores` has the columns explainer, control, scorer, value and status. None if nothing has a number.
    """
    rows = [row for row in summary if row.n_scored]
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    if not scorers:
        return None
    parts = [[row for row in rows if row.scorer == scorer] for scorer in scorers]
    made, panels = look.figure(
        len(parts),
        width=8.2,
        height=0.8 + sum(0.7 + 0.42 * len(part) for part in parts),
        height_ratios=[1.2 + len(part) for part in parts],
        title="Scores over latents",
    )
    for axes, part in zip(panels, parts, strict=True):
        _strips(axes, scores, part)
        metric = next((row.metric for row in part if row.metric), None)
        look.label(axes, x=f"{metric_name(metric)} of a latent", title=part[0].scorer)
    with look.style():
        made.supxlabel(
            "Box: quartiles. Diamond: mean with its 95% interval by latent. Vertical line: chance.",
            fontsize=8,
            x=0.01,
            ha="left",
        )
    return made


def _strips(axes: Axes, scores: pa.Table, rows: Sequence[SummaryRow]) -> None:
    rng = np.random.default_rng(0)
    with look.style():
        chance = next((row.chance for row in rows if row.chance is not None), None)
        if chance is not None:
            axes.axvline(chance, color=look.CHANCE, linewidth=1, zorder=1)
        for y, row in enumerate(rows):
            colour = look.REAL if row.control is None else look.CONTROL
            values = _values(scores, row)
            if len(values) <= MOST_POINTS:
                jitter = y + 0.26 * (rng.random(len(values)) - 0.5)
                axes.plot(values, jitter, ".", color=colour, alpha=0.35, markersize=5, zorder=2)
            if row.q25 is not None and row.q75 is not None and row.median is not None:
                axes.barh(
                    y,
                    row.q75 - row.q25,
                    left=row.q25,
                    height=0.46,
                    facecolor="none",
                    edgecolor=colour,
                    zorder=3,
                )
                axes.plot([row.median] * 2, [y - 0.23, y + 0.23], color=colour, linewidth=1.8, zorder=3)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color="#1d2125", linewidth=1.6, zorder=4)
            assert row.mean is not None
            axes.plot(row.mean, y, "D", color="#1d2125", markersize=4.5, zorder=4)
            axes.text(
                1.01, y, f"{row.n_scored:,} of {row.n_latents:,}",
                transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            )  # fmt: skip
        names = [explainer_name(row.explainer) + (f", {row.control}" if row.control else "") for row in rows]
        axes.set_yticks(range(len(rows)), [look.plain(name) for name in names])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)


def _values(scores: pa.Table, row: SummaryRow) -> np.ndarray:
    control = pc.field("control")
    of_row = (pc.field("scorer") == row.scorer) & (pc.field("explainer") == row.explainer)
    of_row = of_row & (control.is_null() if row.control is None else control == row.control)
    values = scores.filter(of_row & (pc.field("status") == "ok") & pc.is_finite(pc.field("value")))
    found: np.ndarray = values.column("value").to_numpy().astype(np.float64)
    return found

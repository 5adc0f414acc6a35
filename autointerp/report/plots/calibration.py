"""Do the judge's probabilities mean what they say? How often the answer is yes, at each probability of yes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autointerp.report import numbers
from autointerp.report.plots import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from autointerp.report.calibration import Calibration


def calibration_plot(found: Sequence[Calibration]) -> Figure | None:
    """A panel per scorer and explainer: observed against said, bars below for the number of items.

    None if no judge gave probabilities.
    """
    if not found:
        return None
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    made, panels = look.figure(
        lines,
        columns,
        width=max(4.6, 3.3 * columns),
        height=0.9 + 3.0 * lines,
        title="Calibration of the judge",
    )
    for axes, one in zip(panels, found, strict=False):
        filled = [i for i in range(len(one.counts)) if one.counts[i]]
        with look.style():
            axes.plot([0, 1], [0, 1], color=look.CHANCE, linestyle=look.DASHES[1], linewidth=1)
            share = one.counts / one.counts.sum()
            centres = [(i + 0.5) / len(share) for i in range(len(share))]
            axes.bar(centres, share, width=0.92 / len(share), color="#d9dee2", zorder=0)
            for i in filled:
                low, high = one.interval(i)
                axes.plot([one.said[i]] * 2, [low, high], color=look.REAL, linewidth=1.4)
            axes.plot(
                [one.said[i] for i in filled],
                [one.true[i] for i in filled],
                "o-",
                color=look.REAL,
                markersize=4.5,
            )
            axes.set_xlim(0, 1)
            axes.set_ylim(0, 1)
            axes.text(
                0.03, 0.97, f"{one.n:,} items, error {numbers.rate(one.error)}",
                transform=axes.transAxes, va="top", fontsize=8,
            )  # fmt: skip
        look.label(
            axes,
            x="probability of yes, as said",
            y="share whose answer is yes",
            title=f"{one.scorer}, {one.explainer}",
        )
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    with look.style():
        made.supxlabel(
            "Bars: share of items at each probability. 95% intervals take items as independent. Dashed: calibrated.",
            fontsize=8,
            x=0.01,
            ha="left",
        )
    return made

"""Quality beside cost: which explainers no other beats in both."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autointerp.analyze.compare import Comparison, pareto
from autointerp.report.compare_view import name_of
from autointerp.report.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_AXES = {
    "cost_usd": "US dollars per latent",
    "tokens": "tokens per latent, sent and generated",
    "seconds": "seconds per latent",
}
_Point = tuple[str, float, float, float | None, float | None]
"""Name, cost, quality and the ends of its interval."""


def pareto_plot(found: Comparison) -> Figure | None:
    """A panel per scorer: score on the shared latents against what a label costs, in the unit in which the
    explainers differ. None if their cost is not known or all the same, or no scorer has two."""
    axis = found.axis()
    if axis is None:
        return None
    points = {scorer: _points(found, scorer, axis) for scorer in dict.fromkeys(r.scorer for r in found.board)}
    points = {scorer: some for scorer, some in points.items() if len(some) > 1}
    if not points:
        return None
    columns = min(3, len(points))
    lines = -(-len(points) // columns)
    made, panels = look.figure(
        lines,
        columns,
        width=max(4.8, 3.6 * columns),
        height=0.8 + 2.9 * lines,
        title="Quality and cost of labels",
    )
    from autointerp.report.plots.compare import first_legend, metric_name

    names = list(dict.fromkeys(point[0] for some in points.values() for point in some))
    for i, (axes, (scorer, some)) in enumerate(zip(panels, points.items(), strict=False)):
        _draw(axes, some, names)
        metric = next((row.metric for row in found.board if row.scorer == scorer and row.metric), None)
        look.label(axes, x=_AXES[axis], y=f"{metric_name(metric)}, shared latents", title=scorer)
        if i == 0:
            first_legend(made, axes)
    for axes in panels[len(points) :]:
        axes.set_visible(False)
    return made


def _points(found: Comparison, scorer: str, axis: str) -> list[_Point]:
    out = []
    for row in found.board:
        cost = found.cost_of(row.run, row.explainer)
        if row.scorer != scorer or cost is None or row.shared_mean is None:
            continue
        name = name_of(found, row.run, row.explainer)
        out.append(
            (name, getattr(cost, f"{axis}_per_latent"), row.shared_mean, row.shared_low, row.shared_high)
        )
    return out


def _draw(axes: Axes, points: list[_Point], names: list[str]) -> None:
    best = pareto([(cost, quality) for _, cost, quality, _, _ in points])
    with look.style():
        for (name, cost, quality, low, high), is_best in zip(points, best, strict=True):
            k = names.index(name)
            colour = look.COLOURS[k % len(look.COLOURS)]
            if low is not None and high is not None:
                axes.plot([cost, cost], [low, high], color=colour, linewidth=1.4)
            axes.plot(
                cost, quality, "osD^v"[k % 5], color=colour, markersize=7,
                markerfacecolor=colour if is_best else "white", label=look.plain(name, 40),
            )  # fmt: skip
        frontier = sorted((p[1], p[2]) for p, is_best in zip(points, best, strict=True) if is_best)
        axes.step(
            [x for x, _ in frontier], [y for _, y in frontier], where="post", color=look.CHANCE,
            linewidth=1, linestyle=look.DASHES[1], label="not beaten in both (filled)",
        )  # fmt: skip
        costs = [point[1] for point in points]
        smallest = min((cost for cost in costs if cost > 0), default=0.0)
        if smallest and max(costs) / smallest > 20:
            axes.set_xscale("symlog", linthresh=smallest)
        axes.margins(x=0.12)
        if min(costs) == 0:
            axes.set_xlim(left=-0.06 * max(costs) if axes.get_xscale() == "linear" else -0.3 * smallest)

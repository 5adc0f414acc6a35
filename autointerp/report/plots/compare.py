"""Plots of a comparison: differences with their intervals, scores, coverage, and where explainers differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autointerp.analyze.compare import Comparison
from autointerp.analyze.compare_board import BoardRow
from autointerp.analyze.compare_breakdown import BreakdownRow
from autointerp.analyze.compare_pairs import HIGHER, LOWER, PairRow
from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.report.compare_view import name_of, p_value
from autointerp.report.plots import look
from autointerp.report.plots.pareto import pareto_plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_ROWS = 60
"""Pairs in one figure; the tables have all."""
METRICS = {"auroc": "AUROC", "ev_correlation": "correlation", "f1": "F1"}
_BY = {
    "density": "share of tokens the latent is active on",
    "decile": "activation decile, 10 the strongest",
    "kind": "kind of silent window",
    "layer": "layer",
}
_RATE = {"decile": "sensitivity", "kind": "specificity"}
_ROW_INCHES = 0.27


def comparison_plots(found: Comparison, folder: Path) -> list[Path]:
    """Draw every plot of a comparison that has something to show; returns the files, PNG and SVG of each."""
    drawn = {
        "scores": scores_plot(found),
        "coverage": coverage_plot(found),
        **{f"differences-{q}": differences_plot(found, q) for q in ("explainers", "runs", "control")},
        **{f"by-{by}": breakdown_plot(found, by) for by in _BY},
        "pareto": pareto_plot(found),
    }
    return [
        path for name, made in drawn.items() if made is not None for path in look.save(made, folder / name)
    ]


def metric_name(metric: str | None) -> str:
    """A metric as an axis says it."""
    return "score" if metric is None else METRICS.get(metric, metric.replace("_", " "))


def differences_plot(found: Comparison, question: str) -> Figure | None:
    """A line per pair: the difference, its interval, wins, ties and losses; filled if it was shown.

    A panel per scorer, since scorers have scales of their own. None if nothing was compared.
    """
    rows = [row for row in found.pairs if row.question == question and row.difference is not None][:MAX_ROWS]
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    if not scorers:
        return None
    parts = [[row for row in rows if row.scorer == scorer] for scorer in scorers]
    of = {"explainers": "between explainers", "runs": "between runs", "control": "from the shuffled control"}
    made, panels = look.figure(
        len(parts),
        width=8.6,
        height=0.9 + sum(0.62 + _ROW_INCHES * len(part) for part in parts),
        height_ratios=[1.2 + len(part) for part in parts],
        title=f"Differences {of[question]}",
    )
    for axes, part in zip(panels, parts, strict=True):
        _differences(axes, found, part, [row for row in rows if row.metric == part[0].metric])
        look.label(axes, x=f"difference in {metric_name(part[0].metric)}", title=part[0].scorer)
    _note(
        made,
        "Intervals 95%, by latent; filled: shown after Holm's correction. At the right: latents won/tied/lost, compared, p (Holm).",
    )
    return made


def _note(made: Figure, text: str) -> None:
    with look.style():
        made.supxlabel(text, fontsize=8, x=0.01, ha="left")


def _differences(axes: Axes, found: Comparison, rows: Sequence[PairRow], alike: Sequence[PairRow]) -> None:
    """The lines of one scorer, on the scale of all rows that are alike in metric."""
    ends = [x for row in alike for x in (row.low, row.high, row.difference, 0.0) if x is not None]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low or 1.0)
    with look.style():
        axes.axvline(0, color=look.CHANCE, linewidth=1, zorder=1)
        for y, row in enumerate(rows):
            assert row.difference is not None
            shown = row.verdict in (HIGHER, LOWER)
            colour = look.COLOURS[0] if shown else look.CHANCE
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [y, y], color=colour, linewidth=2, zorder=2)
            axes.plot(
                row.difference, y, "o", color=colour, markerfacecolor=colour if shown else "white",
                markersize=6.5, zorder=3,
            )  # fmt: skip
            outcome = f"{row.wins}/{row.ties}/{row.losses}   " if row.wins is not None else "not paired   "
            size = f"n {row.n}" if row.pairing != "none" else f"n {row.a_n}, {row.b_n}"
            axes.text(
                1.01, y, f"{outcome}{size}   p {p_value(row.p_holm)}",
                transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), [look.plain(_pair_name(found, row)) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(low - room, high + room)
        axes.grid(axis="y", visible=False)


def _pair_name(found: Comparison, row: PairRow) -> str:
    a = name_of(found, row.a_run, row.a_explainer)
    return a if row.b_control else f"{a} − {name_of(found, row.b_run, row.b_explainer)}"


def scores_plot(found: Comparison) -> Figure | None:
    """Means on the shared latents with intervals; a cross for the control, a tick for chance."""
    rows = [row for row in found.board if row.mean is not None][:MAX_ROWS]
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    if not scorers:
        return None
    parts = [[row for row in rows if row.scorer == scorer] for scorer in scorers]
    made, panels = look.figure(
        len(parts),
        width=8.6,
        height=0.9 + sum(0.62 + _ROW_INCHES * len(part) for part in parts),
        height_ratios=[1.2 + len(part) for part in parts],
        title="Scores",
    )
    for i, (axes, part) in enumerate(zip(panels, parts, strict=True)):
        _scores(axes, found, part, legend=i == 0)
        look.label(axes, x=metric_name(part[0].metric), title=part[0].scorer)
    _note(
        made,
        "Means over the latents that every explainer of the dictionary has a number for, 95% intervals by latent.",
    )
    return made


def _scores(axes: Axes, found: Comparison, rows: Sequence[BoardRow], *, legend: bool) -> None:
    with look.style():
        for y, row in enumerate(rows):
            shared = (row.shared_mean, row.shared_low, row.shared_high)
            mean, low, high = shared if row.shared_mean is not None else (row.mean, row.low, row.high)
            assert mean is not None
            if low is not None and high is not None:
                axes.plot([low, high], [y, y], color=look.REAL, linewidth=2, zorder=2)
            axes.plot(mean, y, "o", color=look.REAL, markersize=6.5, zorder=3, label="mean, 95% interval")
            if row.control_mean is not None:
                axes.plot(
                    row.control_mean,
                    y,
                    "x",
                    color=look.CONTROL,
                    markersize=6,
                    zorder=3,
                    label="shuffled control",
                )
            if row.chance is not None:
                axes.plot(row.chance, y, "|", color=look.CHANCE, markersize=13, zorder=1, label="chance")
            axes.text(
                1.01, y, f"{row.n_scored}/{row.n_asked} scored, {row.n_shared} shared",
                transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(
            range(len(rows)), [look.plain(name_of(found, row.run, row.explainer)) for row in rows]
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        if legend:
            handles, labels = axes.get_legend_handles_labels()
            unique = dict(zip(labels, handles, strict=True))
            axes.legend(
                list(unique.values()), list(unique), ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0)
            )


def coverage_plot(found: Comparison) -> Figure | None:
    """Of the latents each explainer was asked for, the shares labelled, undetermined and failed."""
    rows = found.explainers[:MAX_ROWS]
    if not rows:
        return None
    made, (axes,) = look.figure(
        width=8.6, height=1.3 + _ROW_INCHES * 1.2 * len(rows), title="What was labelled"
    )
    kinds = (
        ("labelled", "n_labelled", look.COLOURS[0], ""),
        ("undetermined", "n_undetermined", look.COLOURS[4], "///"),
        ("failed", "n_failed", look.COLOURS[1], "xxx"),
    )
    with look.style():
        for y, row in enumerate(rows):
            left = 0.0
            for name, field, colour, hatch in kinds:
                share = getattr(row, field) / row.n_latents
                axes.barh(
                    y, share, left=left, height=0.7, color=colour, hatch=hatch, edgecolor="white", label=name,
                    linewidth=0.5,
                )  # fmt: skip
                left += share
            axes.text(
                1.01, y, f"{row.n_labelled:,} of {row.n_latents:,}",
                transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(
            range(len(rows)), [look.plain(name_of(found, row.run, row.explainer)) for row in rows]
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(axis="y", visible=False)
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(
            list(unique.values()), list(unique), ncols=3, loc="lower right", bbox_to_anchor=(1.0, 1.0)
        )
    look.label(axes, x="share of the latents asked for")
    return made


def breakdown_plot(found: Comparison, by: str) -> Figure | None:
    """A panel per scorer: each explainer's number in each group, with intervals. None without groups."""
    rows = [row for row in found.breakdown if row.by == by and row.explainer != NO_EXPLAINER]
    scorers = list(dict.fromkeys(row.scorer for row in rows))
    if not scorers:
        return None
    columns = min(3, len(scorers))
    lines = -(-len(scorers) // columns)
    groups = [group for _, group in sorted({(row.place, row.group) for row in rows})]
    made, panels = look.figure(
        lines,
        columns,
        width=max(4.6, 3.5 * columns),
        height=0.9 + 2.9 * lines,
        title={
            "density": "Scores by firing density",
            "decile": "Sensitivity by activation decile",
            "kind": "Specificity by kind of silent window",
            "layer": "Scores by layer",
        }[by],
    )
    names = list(dict.fromkeys(_line_name(found, row) for row in rows))
    for i, (axes, scorer) in enumerate(zip(panels, scorers, strict=False)):
        mine = [row for row in rows if row.scorer == scorer]
        metric = next((row.metric for row in found.board if row.scorer == scorer and row.metric), None)
        here = [group for group in groups if any(row.group == group for row in mine)]
        _lines(axes, found, mine, here, names, joined=by != "kind")
        look.label(axes, x=_BY[by], y=_RATE.get(by, metric_name(metric)), title=scorer)
        if i == 0:
            first_legend(made, axes)
    for axes in panels[len(scorers) :]:
        axes.set_visible(False)
    return made


def first_legend(made: Figure, axes: Axes) -> None:
    """The legend of one panel, for all: at the top of the figure, right of its title."""
    with look.style():
        handles, labels = axes.get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper right", ncols=min(4, len(labels)))


def _line_name(found: Comparison, row: BreakdownRow) -> str:
    return row.explainer if row.run is None else name_of(found, row.run, row.explainer)


def _lines(
    axes: Axes,
    found: Comparison,
    rows: Sequence[BreakdownRow],
    groups: Sequence[str],
    names: Sequence[str],
    *,
    joined: bool,
) -> None:
    with look.style():
        for k, name in enumerate(names):
            mine = [row for row in rows if _line_name(found, row) == name]
            if not mine:
                continue
            shift = 0.12 * (k - (len(names) - 1) / 2) if len(names) <= 6 else 0.0
            x = [groups.index(row.group) + shift for row in mine]
            colour = look.COLOURS[k % len(look.COLOURS)]
            dash = look.DASHES[k % len(look.DASHES)] if joined else "none"
            axes.plot(
                x,
                [row.mean for row in mine],
                "o",
                linestyle=dash,
                color=colour,
                markersize=4,
                label=look.plain(name, 40),
            )
            for at, row in zip(x, mine, strict=True):
                if row.low is not None and row.high is not None:
                    axes.plot([at, at], [row.low, row.high], color=colour, linewidth=1, alpha=0.7)
        axes.set_xlim(-0.5, len(groups) - 0.5)
        turned = max((len(group) for group in groups), default=0) > 3
        axes.set_xticks(
            range(len(groups)),
            [
                look.plain(group.replace(" to ", "\nto ")) if not turned else group.replace(" to ", "–")
                for group in groups
            ],
            rotation=25 if turned else 0,
            ha="right" if turned else "center",
        )

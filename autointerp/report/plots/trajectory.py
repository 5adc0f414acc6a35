"""How a label was found: probability of the top tokens over the steps of the search, its losses below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.report.plots import look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED = 6
"""Tokens of a panel that have a colour and a name; the others are thin grey lines."""
MAX_PANELS = 4
"""Restarts shown beside one another."""


def plot_trajectories(
    trajectories: Sequence[Mapping[str, Any]], *, label: str | None, title: str | None = None
) -> Figure:
    """One column of panels per restart: probabilities of the tokens above, losses below.

    A trajectory is a mapping with `restart`, `steps` [n_steps], `tokens` [n_tokens], `probabilities`
    [n_steps][n_tokens] and `losses` {name: [n_steps]}, as in `details` of the explainer `gradient`.
    The chosen `label` is drawn thick wherever a token reads like it. Raises ValueError without any.
    """
    shown = list(trajectories)[:MAX_PANELS]
    if not shown:
        raise ValueError("no trajectory to draw")
    n = len(shown)
    figure, panels = look.figure(
        2,
        n,
        width=6.6 if n == 1 else 3.6 * n,
        height=5.0,
        height_ratios=(3, 2),
        share_x=True,
        share_y=True,
        title=title,
    )
    colours = _colours(shown, label)
    for i, trajectory in enumerate(shown):
        _probabilities(panels[i], trajectory, label, colours)
        _losses(panels[n + i], trajectory, legend=i == n - 1)
        name = f"restart {trajectory.get('restart', i)}" if n > 1 else None
        look.label(panels[i], y="probability" if i == 0 else None, title=name)
        look.label(panels[n + i], x="step", y="loss (nats)" if i == 0 else None)
    return figure


def write_trajectories(
    trajectories: Sequence[Mapping[str, Any]],
    stem: str | Path,
    *,
    label: str | None,
    title: str | None = None,
) -> list[Path]:
    """`plot_trajectories`, as STEM.png and STEM.svg; returns the paths."""
    return look.save(plot_trajectories(trajectories, label=label, title=title), stem)


def same_word(token: str, label: str | None) -> bool:
    """Whether a token reads as the label: spaces and case aside."""
    return label is not None and token.strip().casefold() == label.strip().casefold()


def by_peak(trajectory: Mapping[str, Any]) -> list[int]:
    """Indices of the tokens, those that were ever most probable first."""
    columns = list(zip(*trajectory["probabilities"], strict=True))
    return sorted(range(len(columns)), key=lambda i: -max(columns[i]))


def _colours(trajectories: Sequence[Mapping[str, Any]], label: str | None) -> dict[str, str]:
    """A colour for every token that some panel names, the same in all."""
    tokens = [t["tokens"][i] for t in trajectories for i in _named(t, label)]
    others = [colour for colour in look.COLOURS if colour != look.REAL]
    found: dict[str, str] = {}
    for token in dict.fromkeys(tokens):
        found[token] = look.REAL if same_word(token, label) else others[len(found) % len(others)]
    return found


def _named(trajectory: Mapping[str, Any], label: str | None) -> list[int]:
    order = by_peak(trajectory)
    chosen = [i for i in order if same_word(trajectory["tokens"][i], label)]
    return (chosen + [i for i in order if i not in chosen])[:MAX_NAMED]


def _probabilities(
    axes: Axes, trajectory: Mapping[str, Any], label: str | None, colours: Mapping[str, str]
) -> None:
    steps, tokens = trajectory["steps"], trajectory["tokens"]
    columns = list(zip(*trajectory["probabilities"], strict=True))
    named = _named(trajectory, label)
    ends = []
    for i, column in enumerate(columns):
        if i not in named:
            axes.plot(steps, column, color="#c3c8cc", linewidth=0.8)
    places = list(colours)
    for i in reversed(named):
        thick = same_word(tokens[i], label)
        colour = colours[tokens[i]]
        dash = "-" if thick else look.DASHES[places.index(tokens[i]) % len(look.DASHES)]
        axes.plot(steps, columns[i], color=colour, linestyle=dash, linewidth=2.6 if thick else 1.4)
        ends.append((columns[i][-1], look.plain(tokens[i].strip() or repr(tokens[i]), 18), colour, thick))
    axes.set_ylim(-0.02, 1.02)
    with look.style():
        for value, y, text, colour, thick in _apart(ends, 0.075):
            axes.annotate(
                text,
                (1.0, value),
                (1.02, y),
                xycoords=("axes fraction", "data"),
                textcoords=("axes fraction", "data"),
                color=colour,
                va="center",
                fontsize=8.5,
                fontweight="bold" if thick else "normal",
                annotation_clip=False,
            )


def _losses(axes: Axes, trajectory: Mapping[str, Any], *, legend: bool) -> None:
    for i, (name, values) in enumerate(trajectory["losses"].items()):
        total = name == "total"
        axes.plot(
            trajectory["steps"],
            values,
            color="#1d2125" if total else look.COLOURS[i % len(look.COLOURS)],
            linestyle="-" if total else look.DASHES[i % len(look.DASHES)],
            linewidth=1.8 if total else 1.2,
            label=look.plain(name, 24),
        )
    if legend and trajectory["losses"]:
        with look.style():
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)


def _apart(
    ends: Sequence[tuple[float, str, str, bool]], gap: float
) -> list[tuple[float, float, str, str, bool]]:
    """Names at the ends of lines, moved so that none lies on another: (value, height, ...)."""
    placed: list[tuple[float, float, str, str, bool]] = []
    lowest = 0.0
    for value, text, colour, thick in sorted(ends, key=lambda end: end[0]):
        y = max(value, lowest)
        lowest = y + gap
        placed.append((value, y, text, colour, thick))
    excess = max(lowest - gap - 1.0, 0.0)
    if excess:
        top = 1.0
        for i in range(len(placed) - 1, -1, -1):
            value, y, text, colour, thick = placed[i]
            y = min(y, top)
            top = y - gap
            placed[i] = (value, y, text, colour, thick)
    return placed

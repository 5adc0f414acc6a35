"""A label for a file of tokens, in the terminal and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from autointerp.explainers.gradient import Link, TokenLabel
from autointerp.report import numbers
from autointerp.report.plots import look
from autointerp.report.plots.trajectory import write_trajectories
from autointerp.report.terminal import print_view, widened
from autointerp.report.views import View
from autointerp.run import printable

_COLUMNS = ("precision", "recall", "balanced accuracy")
"""Of one threshold, on held-out words. What decides stands behind them."""

_PAPER = "mode paper always gives a label, the likeliest token at the end; what is printed of it here decided nothing"


def print_label(label: TokenLabel, console: Console | None = None, *, n_empty: int = 0) -> None:
    """Print label, status, reason, precision and recall, the chain, and the runners-up.

    `n_empty` is the number of rows left out because their token is blank.
    """
    console = widened(console or Console(highlight=False))
    named = "–" if label.label is None else printable(label.label)
    lines = [
        ("label", Text(named, style="bold cyan" if label.status == "ok" else "")),
        ("status", Text(label.status, style="green" if label.status == "ok" else "yellow")),
        ("reason", Text(printable(label.reason or numbers.DASH))),
        ("precision", Text(numbers.rate(label.precision))),
        ("recall", Text(numbers.rate(label.recall))),
        ("p-value", Text(numbers.score(label.p_value))),
        ("confidence", Text(numbers.rate(label.confidence))),
        ("tokens", Text(f"{label.n_positive} with the feature, {label.n_negative} without (distinct)")),
    ]
    for name, value in lines:
        console.print(Text(f"{name:<11}", style="dim").append_text(value), soft_wrap=True)
    console.print()
    for title, links in (("chain, from broad to narrow", label.chain), ("candidates", label.candidates)):
        view = _view(title, links, label.mode)
        if view.rows:
            print_view(console, view)
    if label.mode == "paper":
        console.print(Text(_PAPER, style="dim"))
    if n_empty:
        console.print(Text(f"{n_empty} rows with a blank token were left out", style="dim"))


def check_plots() -> None:
    """Raise `UserError` if plots cannot be drawn here."""
    with look.style():
        pass


def plot_label(label: TokenLabel, stem: str | Path, *, title: str | None = None) -> list[str]:
    """Draw how a label was found, as STEM.png and STEM.svg; returns lines that say what was written, or why not.

    Raises `UserError` if the files cannot be written.
    """
    if not label.trajectories:
        return [
            "no plot: no mixture was optimised (too few tokens, or the settings proposals or keep_trajectories)"
        ]
    trajectories = [trajectory.as_json() for trajectory in label.trajectories]
    paths = write_trajectories(trajectories, stem, label=label.label, title=title)
    return [f"written: {path}" for path in paths]


def _view(title: str, links: Sequence[Link], mode: str) -> View:
    deciding = "probability" if mode == "paper" else "score"
    rows = [
        (
            printable(link.label),
            *(numbers.rate(value) for value in (link.precision, link.recall, link.balanced_accuracy)),
            _deciding(link.score, mode),
        )
        for link in links
    ]
    return View(title=title, columns=("label", *_COLUMNS, deciding), rows=rows)


def _deciding(value: float | None, mode: str) -> str:
    """Of mode `robust` a score of a few tens, of mode `paper` a probability in the mixture."""
    return numbers.measure(value) if value is None or mode == "paper" else f"{value:z.1f}"

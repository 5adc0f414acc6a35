"""The end of a run in the terminal: the table, a few latents, and where everything lies.

Text of the corpus and of models never reaches the terminal as markup or control characters. Colours
appear on a terminal only; elsewhere the output is plain text with `<<` `>>` around active tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.analyze.statistics import Statistics, statistics
from autointerp.report import numbers
from autointerp.report.selection import pick_latents
from autointerp.report.views import View, all_views, correlation_view, score_view
from autointerp.report.windows_view import pieces_of
from autointerp.run import Run, printable
from autointerp.sampling.windows import Window, defuse

TOKENS_BEFORE, TOKENS_AFTER = 12, 8
"""Tokens shown around the strongest one of a window."""
PLAIN_WIDTH = 140
"""Columns where there is no terminal to ask."""


def print_summary(
    run: Run,
    console: Console | None = None,
    *,
    found: Statistics | None = None,
    report: Path | None = None,
    n_latents: int = 5,
    n_windows: int = 3,
) -> None:
    """Print a run's table of scores, how its scorers correlate, a few latents, and where its files are.

    `found` are its statistics if they are known already. Latents with the most scores come first, as
    in the report.
    """
    console = widened(console or Console(highlight=False))
    if found is None:
        found = statistics(run)
    views = [score_view(found.real), correlation_view(found.correlations)]
    for view in views:
        if view is not None:
            print_view(console, view)
    if not found.scores:
        console.print(Text("Nothing is scored yet."), style="dim")
    for latent in pick_latents(run, n_latents):
        _print_latent(console, run, latent, n_windows)
    console.print(Text.assemble(("files   ", "dim"), str(run.root)), soft_wrap=True)
    if report is not None:
        console.print(Text.assemble(("report  ", "dim"), str(report)), soft_wrap=True)


def print_statistics(found: Statistics, console: Console | None = None) -> None:
    """Print every table of a run's statistics."""
    print_views(all_views(found), console)


def print_views(views: Iterable[View], console: Console | None = None) -> None:
    """Print some tables, one after another."""
    console = widened(console or Console(highlight=False))
    for view in views:
        print_view(console, view)


def widened(console: Console) -> Console:
    """The console, wide enough where there is no terminal to ask."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    return console


def print_view(console: Console, view: View) -> None:
    """Print a table of text under its title: words to the left, numbers to the right of their columns.

    A line that is a name and nothing more, as a scorer's above its explainers, widens no column.
    """
    rows = [[printable(cell) for cell in row] for row in view.rows]
    wide = [list(view.columns), *(row for row in rows if any(row[1:]))]
    widths = [max(len(row[i]) for row in wide) for i in range(len(view.columns))]
    if view.title:
        console.print(Text(view.title, style="bold"))
    for row in ([*view.columns], *rows):
        line = Text(row[0].ljust(widths[0]))
        for cell, width in zip(row[1:], widths[1:], strict=True):
            line.append("  " + " " * (width - len(cell))).append_text(_dim_interval(cell))
        line.rstrip()
        console.print(line, style="bold" if row == list(view.columns) else "", soft_wrap=True)
    if view.note:
        console.print(Text(view.note, style="dim"), soft_wrap=True)
    for warning in view.warnings:
        console.print(Text(printable(warning)), soft_wrap=True)
    console.print()


def _dim_interval(cell: str) -> Text:
    value, bracket, interval = cell.partition(" [")
    return Text.assemble(value, (bracket + interval, "dim"))


def _print_latent(console: Console, run: Run, latent: int, n_windows: int) -> None:
    view = run.latent(latent)
    s = view.statistics
    scores = {
        (row["explanation"], row["scorer"]): row["value"]
        for row in run.table(
            "scores", columns=["explanation", "scorer", "value"], latents=[latent]
        ).to_pylist()
    }
    about = [s["status"], f"density {numbers.measure(s['density'])}"]
    about += [
        f"{scorer} {numbers.score(value)}"
        for (explanation, scorer), value in scores.items()
        if explanation == NO_EXPLAINER and value is not None
    ]
    console.print(Text.assemble((f"latent {latent}", "bold"), (f"  {', '.join(about)}", "dim")))
    for row in run.table("explanations", latents=[latent]).to_pylist():
        if row["control"] is not None:
            continue
        numbers_shown = [
            f"{scorer} {numbers.score(value)}"
            for (explanation, scorer), value in scores.items()
            if explanation == row["explanation"] and value is not None
        ]
        if row["status"] == "ok":
            said = Text(printable(row["text"]), style="cyan")
        else:
            said = Text(f"{row['status']}: {printable(row['reason'] or '')}", style="dim italic")
        tail = f"  {', '.join(numbers_shown)}" if numbers_shown else ""
        console.print(
            Text.assemble(
                (f"  {printable(row['explanation'].removesuffix('/0'))}: ", "dim"), said, (tail, "dim")
            )
        )
    for window in view.windows(kind="activating")[:n_windows]:
        console.print(
            _window(run, window, s["max_activation"] or 0.0, console), overflow="ellipsis", no_wrap=True
        )
    console.print()


def _window(run: Run, window: Window, peak: float, console: Console) -> Text:
    line = Text.assemble((f"  {numbers.measure(window.max_activation):>7}  ", "dim"))
    strongest = int(window.activations.argmax())
    shown = slice(max(strongest - TOKENS_BEFORE, 0), strongest + TOKENS_AFTER + 1)
    window = replace(window, tokens=window.tokens[shown], activations=window.activations[shown])
    if not console.is_terminal:
        return line.append(printable(run.tokens.marked(window.tokens, window.activations > 0)))
    for piece in pieces_of(window, run.tokens, peak):
        style = "bold yellow" if piece.level > 5 else "yellow" if piece.level else ""
        line.append(defuse(piece.text), style=style)
    return line

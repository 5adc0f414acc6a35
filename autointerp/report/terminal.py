"""The end of a run in the terminal: the table, a few latents, and where everything lies.

Text of the corpus and of models never reaches the terminal as markup or control characters. Colours
appear on a terminal only; elsewhere the output is plain text with `<<` `>>` around active tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autointerp.analyze.summary import SummaryRow, summarise
from autointerp.report import numbers
from autointerp.report.latent_page import pieces_of
from autointerp.report.selection import pick_latents
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
    report: Path | None = None,
    n_latents: int = 5,
    n_windows: int = 3,
) -> None:
    """Print a run's table of scores, a few of its latents, and where its files and report are.

    Latents with the most scores come first, as in the report.
    """
    console = console or Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    rows = [row for row in summarise(run) if row.control is None]
    if rows:
        console.print(score_table(rows))
    else:
        console.print(Text("Nothing is scored yet."), style="dim")
    for latent in pick_latents(run, n_latents):
        _print_latent(console, run, latent, n_windows)
    console.print(Text.assemble(("files   ", "dim"), str(run.root)), soft_wrap=True)
    if report is not None:
        console.print(Text.assemble(("report  ", "dim"), str(report)), soft_wrap=True)


def score_table(rows: Sequence[SummaryRow]) -> Table:
    """Explainers under each scorer: mean, control and difference with 95% intervals, and coverage."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    table.add_column("scorer")
    table.add_column("explainer")
    for name in ("mean", "shuffled control", "difference", "chance", "latents", "items read"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        table.add_row(
            Text(printable(row.scorer) if row.scorer != previous else ""),
            Text(printable(row.explainer)),
            _with_interval(numbers.score(row.mean), row.low, row.high, "bold"),
            _with_interval(numbers.score(row.control_mean), row.control_low, row.control_high),
            _with_interval(numbers.signed(row.difference), row.difference_low, row.difference_high, "bold"),
            Text(numbers.DASH if row.chance is None else f"{row.chance:.2f}"),
            Text(f"{numbers.count(row.n_scored)} of {numbers.count(row.n_latents)}"),
            Text(numbers.share(row.item_coverage)),
        )
        previous = row.scorer
    return table


def _with_interval(value: str, low: float | None, high: float | None, style: str = "") -> Text:
    shown = "" if low is None or high is None else f" {numbers.interval(low, high)}"
    return Text.assemble((value, style), (shown, "dim"))


def _print_latent(console: Console, run: Run, latent: int, n_windows: int) -> None:
    view = run.latent(latent)
    s = view.statistics
    about = f"  {s['status']}, density {numbers.measure(s['density'])}"
    console.print(Text.assemble((f"latent {latent}", "bold"), (about, "dim")))
    scores = {
        (row["explanation"], row["scorer"]): row["value"]
        for row in run.table(
            "scores", columns=["explanation", "scorer", "value"], latents=[latent]
        ).to_pylist()
    }
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

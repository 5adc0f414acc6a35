"""Commands that read a finished run, and the pages of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app
from autointerp.cli.options import RunDirArgument


@app.command()
def summary(
    run_dir: RunDirArgument,
    control: Annotated[
        Path | None,
        typer.Option(
            "--control", metavar="RUN_DIR", help="A run to compare with, as of a random-direction dictionary."
        ),
    ] = None,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="`text`, `markdown`, `json` or `csv`.")
    ] = "text",
    table: Annotated[
        str, typer.Option("--table", help="For csv: `scores`, `rates`, `correlations` or `control`.")
    ] = "scores",
) -> None:
    """Print a run's statistics: scores, rates by decile and kind, correlations between scorers."""
    from autointerp.analyze.statistics import statistics_of
    from autointerp.errors import unknown_name
    from autointerp.report import export
    from autointerp.report.terminal import print_statistics

    formats = {"json": export.as_json, "markdown": export.as_markdown}
    if format_ not in ("text", "csv", *formats):
        raise unknown_name("--format", format_, ("text", "csv", *formats))
    found = statistics_of(run_dir, control)
    if format_ == "text":
        print_statistics(found)
    elif format_ == "csv":
        typer.echo(export.as_csv(found, table), nl=False)
    else:
        typer.echo(formats[format_](found))


@app.command()
def reference(
    what: Annotated[str, typer.Argument(help="`artifacts`, `configuration` or `options`.")],
) -> None:
    """Print a reference page of the documentation, in Markdown, generated from the code."""
    from autointerp.errors import unknown_name
    from autointerp.report.reference import PAGES

    if what not in PAGES:
        raise unknown_name("WHAT", what, PAGES)
    typer.echo(PAGES[what](), nl=False)

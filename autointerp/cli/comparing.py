"""Commands that set explainers and runs side by side, and the plots of a run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app
from autointerp.cli.options import RunDirArgument


@app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="One or more finished runs, as in runs/demo.")
    ],
    scorer: Annotated[
        list[str] | None, typer.Option("--scorer", metavar="NAME", help="Only this scorer (repeatable).")
    ] = None,
    explainer: Annotated[
        list[str] | None,
        typer.Option("--explainer", metavar="NAME", help="Only this explainer (repeatable)."),
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            "--baseline", metavar="NAME", help="Compare with one explainer, run or RUN/EXPLAINER only."
        ),
    ] = None,
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Across runs, also compare different explainers.")
    ] = False,
    tie: Annotated[
        float, typer.Option("--tie", min=0.0, help="Latents whose numbers differ by at most this are ties.")
    ] = 0.01,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of resampling and randomisation.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Where files go; by default comparison/ in the run, or beside the runs.",
        ),
    ] = None,
    plots: Annotated[bool, typer.Option(help="Also draw the plots.")] = True,
    format_: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="`text`, `markdown`, `json` or `csv`, printed.")
    ] = "text",
    table: Annotated[
        str,
        typer.Option(
            "--table",
            help="For csv: `runs`, `explainers`, `board`, `pairs`, `breakdown`, `breakdown_pairs` or `latents`.",
        ),
    ] = "pairs",
) -> None:
    """Compare explainers, within a run and across runs: paired differences, coverage, cost."""
    from autointerp.analyze.compare import compare as compare_runs
    from autointerp.errors import unknown_name
    from autointerp.report import compare_files as files
    from autointerp.report.compare_view import as_markdown, print_comparison

    formats = ("text", "markdown", "json", "csv")
    if format_ not in formats:
        raise unknown_name("--format", format_, formats)
    found = compare_runs(
        runs,
        scorers=scorer,
        explainers=explainer,
        baseline=baseline,
        all_pairs=all_pairs,
        tie=tie,
        seed=seed,
    )
    text = None
    if format_ == "csv":
        text = files.as_csv(found, table)
    elif format_ != "text":
        text = as_markdown(found) if format_ == "markdown" else files.as_json(found)
    folder = out or files.default_folder(runs)
    files.write_comparison(found, folder)
    if plots and find_spec("matplotlib") is None:
        typer.echo("no plots: they need matplotlib (pip install 'autointerp[plots]')", err=True)
    elif plots:
        from autointerp.report.plots.compare import comparison_plots

        comparison_plots(found, folder / "plots")
    if text is None:
        print_comparison(found, folder)
    else:
        typer.echo(text, nl=not text.endswith("\n"))


@app.command()
def plots(
    run_dir: RunDirArgument,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where they go; by default plots/ in the run.")
    ] = None,
) -> None:
    """Draw every plot of a run, each as PNG and SVG."""
    from autointerp.errors import UserError
    from autointerp.report.plots.run import run_plots
    from autointerp.storage import is_remote, place

    if out is None and is_remote(place(run_dir)):
        raise UserError("--out: needed for a run on object storage; accepted: a folder on this machine")
    for path in run_plots(run_dir, out or run_dir / "plots"):
        typer.echo(str(path))

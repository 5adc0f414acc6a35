"""Command `similarity`: how alike the dictionaries of some runs are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app


@app.command()
def similarity(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR...", help="Two or more run directories, as runs/demo.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where tables and plots go.")] = Path(
        "similarity"
    ),
    measure: Annotated[
        list[str] | None,
        typer.Option(
            "--measure",
            help="`decoder`, `encoder`, `directions`, `correlation`, `jaccard` or `meaning`; by default all.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="From where on a matched pair counts as shared."),
    ] = None,
    explainer: Annotated[
        str | None, typer.Option("--explainer", metavar="NAME", help="Whose labels are compared.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option("--embedder", metavar="MODEL", help="The model that embeds labels.")
    ] = None,
    null: Annotated[int, typer.Option("--null", metavar="N", min=0, help="Null pictures per measure.")] = 20,
    contexts: Annotated[
        int, typer.Option("--contexts", metavar="N", min=2, help="Contexts on which firing is compared.")
    ] = 2_000,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the figures.")] = True,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of nulls, intervals and contexts.")] = 0,
) -> None:
    """Match the latents of two or more dictionaries: how many they share, beside what chance would match."""
    from autointerp.analyze.similarity import MEASURES, SimilarityOptions, compare
    from autointerp.report.similarity import similarity_views, write_similarity
    from autointerp.report.terminal import print_views

    options = SimilarityOptions(
        measures=tuple(dict.fromkeys(measure)) if measure else MEASURES,
        threshold=threshold,
        explainer=explainer,
        embedder=embedder,
        n_null=null,
        n_contexts=contexts,
        seed=seed,
    )
    found = compare(runs, options)
    print_views(similarity_views(found))
    for path in write_similarity(found, out):
        typer.echo(str(path))
    if plots:
        from autointerp.report.plots.similarity import plot_similarity

        for path in plot_similarity(found, out):
            typer.echo(str(path))

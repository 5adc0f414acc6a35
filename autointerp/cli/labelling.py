"""Commands that label without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app


@app.command(name="label-tokens")
def label_tokens(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A CSV with the columns token, activation and optionally text."),
    ],
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="`robust` (the default) or `paper`, the published method."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of all randomness.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="NAME", help="The discriminator; by default the SmolLM2-135M of a package."
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the explainer, as in restarts=4."),
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    trajectory: Annotated[
        Path | None,
        typer.Option(
            "--trajectory", metavar="STEM", help="Plot how the label was found: STEM.png and STEM.svg."
        ),
    ] = None,
) -> None:
    """Label the words of a CSV file by the explainer `gradient`: no run, no language model to ask."""
    from autointerp.engine.labelling import as_json, gradient_config, label_items, read_tokens
    from autointerp.report.token_label import check_plots, plot_label, print_label

    config = gradient_config(set_ or [], mode=mode, model=model)
    tokens = read_tokens(file)
    if trajectory is not None:
        check_plots()
    label = label_items(tokens.items, config, seed)
    if json_:
        typer.echo(as_json(label))
    else:
        print_label(label, n_empty=tokens.n_empty)
    if astray := label.notes.get("not_in_text"):
        shown = ", ".join(repr(token) for token in astray[:3]) + (", ..." if len(astray) > 3 else "")
        typer.echo(f"note: tokens that their own text does not hold: {len(astray)} ({shown})", err=True)
    if trajectory is not None:
        for line in plot_label(label, trajectory, title=file.stem):
            typer.echo(line, err=True)

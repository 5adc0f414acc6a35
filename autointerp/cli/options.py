"""Arguments and options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RunFile = Annotated[
    Path, typer.Argument(metavar="RUN", help="The run's TOML file, as in pipelines/demo.toml.")
]
RunDir = Annotated[
    Path | None,
    typer.Option("--run-dir", help="Where results go; by default runs/NAME with NAME from the file."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, as in cache.n_tokens=1_000_000."),
]
Rebuild = Annotated[
    list[str] | None,
    typer.Option(
        "--rebuild", metavar="STAGE", help="Discard a stage's results if they were made otherwise (or `all`)."
    ),
]
MaxCost = Annotated[
    float | None,
    typer.Option(
        "--max-cost",
        metavar="USD",
        min=0.0,
        help="Stop, with exit code 3, before new replies cost more; the same command goes on from there.",
    ),
]
RunDirArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run directory, as in runs/demo.")]

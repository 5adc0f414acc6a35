"""The application that every module of commands adds its commands to."""

from __future__ import annotations

import typer

app = typer.Typer(
    name="autointerp",
    help="Label every latent of a sparse dictionary and say how far each label can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

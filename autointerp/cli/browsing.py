"""Commands that show a run in a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from autointerp.cli.app import app
from autointerp.cli.options import RunDirArgument


@app.command()
def report(
    run_dir: RunDirArgument,
    latents: Annotated[
        int | None,
        typer.Option(
            "--latents",
            metavar="N",
            min=1,
            help="Latents with a page of their own; by default `report.n_latents`.",
        ),
    ] = None,
) -> None:
    """Print a run's table; write its pages (`report/index.html`) and the files of `summary/` again."""
    from autointerp.report.finish import finish

    finish(run_dir, n_latents=latents)


@app.command()
def serve(
    run_dir: RunDirArgument,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="0 takes any free one.")
    ] = 8765,
) -> None:
    """Show every latent of a run in the browser, at an address that only this machine can reach."""
    from autointerp.report.serve import Browser
    from autointerp.report.serve import serve as serve_pages
    from autointerp.run import open_run

    browser = Browser(open_run(run_dir))
    try:
        serve_pages(
            browser,
            port,
            lambda address: typer.echo(
                f"{browser.store.n_latents:,} latents at {address} (this machine only; Ctrl-C ends it)"
            ),
        )
    finally:
        browser.close()

"""Commands about what a run costs: `plan` before it, `replies` after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app
from autointerp.cli.options import Overrides, RunDir, RunDirArgument, RunFile


@app.command()
def plan(
    run: RunFile,
    run_dir: RunDir = None,
    set_: Overrides = None,
    sample_latents: Annotated[
        int,
        typer.Option(
            "--sample-latents", min=1, help="Latents per step on which prompts are built and counted."
        ),
    ] = 8,
    latents: Annotated[
        list[int] | None,
        typer.Option("--latents", metavar="N", min=1, help="Also plan for so many latents, as in 1000000."),
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second", min=0.001, help="Throughput; by default measured on stored replies."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="NAME", help="Count a server's tokens with it: a hub name or folder."
        ),
    ] = None,
    with_subject: Annotated[
        bool, typer.Option("--with-subject", help="Load the subject, to count scorers that run it.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Requests, tokens, cost and hours of a run's explainers and scorers, before anything is paid."""
    import json

    from autointerp.artifacts import RunDirectory
    from autointerp.config import load_config
    from autointerp.engine.plan import plan_run
    from autointerp.report.plan_view import plan_views
    from autointerp.report.terminal import print_views

    config = load_config(run, set_ or [])
    found = plan_run(
        config,
        RunDirectory(run_dir or Path("runs") / config.name),
        sample_latents=sample_latents,
        latents=latents or [],
        tokens_per_second=tokens_per_second,
        tokenizer=tokenizer,
        with_subject=with_subject,
    )
    if json_:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_views(plan_views(found))


@app.command()
def replies(
    run_dir: RunDirArgument,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Write every reply to a JSONL file.")
    ] = None,
) -> None:
    """Show what the reply store of a run holds: replies, tokens, cost and hits per model; or export it."""
    from autointerp.engine.plan import store_of
    from autointerp.llm.replies import StoredReplies, write_export
    from autointerp.report.plan_view import replies_views
    from autointerp.report.terminal import print_views

    with StoredReplies(store_of(run_dir)) as stored:
        if export is not None:
            typer.echo(f"{write_export(stored, export):,} replies with their requests in {export}")
            return
        print_views(replies_views(stored.models(), stored.uses()))
        typer.echo(f"{stored.path}: {stored.n_bytes / 1e6:,.1f} MB")

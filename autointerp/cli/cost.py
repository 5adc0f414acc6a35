"""Commands about what a run costs: `plan` before it, `replies` after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app
from autointerp.cli.options import Overrides, RunDir, RunDirArgument, RunFile

_SIZES = "Sizes, where the model and the dictionary are not on this machine"
_RATES = "Rates, where no finished run shows them"


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
        typer.Option(
            "--latents",
            metavar="N",
            min=1,
            help="Also plan for so many latents, as in 1000000: of a dictionary of that many if it has fewer.",
        ),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="RUN_DIR",
            help="A finished run whose windows, rates and bytes stand in for those this one does not have yet.",
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
    n_latents: Annotated[
        int | None,
        typer.Option("--n-latents", min=1, help="Latents of the dictionary.", rich_help_panel=_SIZES),
    ] = None,
    d_model: Annotated[
        int | None, typer.Option("--d-model", min=1, help="Width of the subject.", rich_help_panel=_SIZES)
    ] = None,
    n_layers: Annotated[
        int | None,
        typer.Option(
            "--n-layers",
            min=0,
            help="Layers up to the hook point; by default as dictionary.hook_point says.",
            rich_help_panel=_SIZES,
        ),
    ] = None,
    layer_parameters: Annotated[
        int | None,
        typer.Option(
            "--layer-parameters",
            min=1,
            help="Weights of one layer; by default 12 x width^2.",
            rich_help_panel=_SIZES,
        ),
    ] = None,
    l0: Annotated[
        float | None,
        typer.Option("--l0", min=0.001, help="Mean active latents per token.", rich_help_panel=_SIZES),
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            "--tokens-per-second",
            min=0.001,
            help="Throughput of one server of a model; by default measured on stored replies.",
            rich_help_panel=_RATES,
        ),
    ] = None,
    cache_tokens_per_second: Annotated[
        float | None,
        typer.Option(
            "--cache-tokens-per-second", min=0.001, help="Tokens one worker caches.", rich_help_panel=_RATES
        ),
    ] = None,
    device_tflops: Annotated[
        float | None,
        typer.Option(
            "--device-tflops",
            min=0.001,
            help="Or: peak TFLOP/s of the device that caches, with --utilisation.",
            rich_help_panel=_RATES,
        ),
    ] = None,
    utilisation: Annotated[
        float | None,
        typer.Option(
            "--utilisation", min=0.001, max=1.0, help="Share of that peak reached.", rich_help_panel=_RATES
        ),
    ] = None,
    sampled_per_second: Annotated[
        float | None,
        typer.Option(
            "--sampled-per-second", min=0.001, help="Latents one worker samples.", rich_help_panel=_RATES
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            min=1,
            help="At work at the same time: each caches, samples, and asks a server of its own.",
            rich_help_panel=_RATES,
        ),
    ] = 1,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What a run takes, before anything is paid: requests, tokens, cost, hours, memory and disk."""
    import json

    from autointerp.analyze.plan_shape import Given
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
        tokenizer=tokenizer,
        with_subject=with_subject,
        given=Given(
            n_latents=n_latents,
            d_model=d_model,
            n_layers=n_layers,
            layer_parameters=layer_parameters,
            l0=l0,
            device_tflops=device_tflops,
            utilisation=utilisation,
            cache_tokens_per_second=cache_tokens_per_second,
            sampled_per_second=sampled_per_second,
            tokens_per_second=tokens_per_second,
            workers=workers,
        ),
        like=like,
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

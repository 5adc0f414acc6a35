"""The command line: one thin command per stage."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from autointerp.errors import UserError

app = typer.Typer(
    name="autointerp",
    help="Label every latent of a sparse dictionary and say how far each label can be trusted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

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


@app.command()
def cache(run: RunFile, run_dir: RunDir = None, set_: Overrides = None, rebuild: Rebuild = None) -> None:
    """Read text through the subject and the dictionary; keep every non-zero activation."""
    _carry_out(run, run_dir, set_, rebuild, ["cache"])


@app.command()
def sample(run: RunFile, run_dir: RunDir = None, set_: Overrides = None, rebuild: Rebuild = None) -> None:
    """Choose windows of text for explaining and, from other documents, for scoring."""
    _carry_out(run, run_dir, set_, rebuild, ["sample"])


@app.command()
def explain(
    run: RunFile,
    run_dir: RunDir = None,
    set_: Overrides = None,
    rebuild: Rebuild = None,
    max_cost: MaxCost = None,
) -> None:
    """Propose an explanation per latent with each explainer, and the shuffled controls."""
    _carry_out(run, run_dir, set_, rebuild, ["explain"], max_cost)


@app.command()
def score(
    run: RunFile,
    run_dir: RunDir = None,
    set_: Overrides = None,
    rebuild: Rebuild = None,
    max_cost: MaxCost = None,
) -> None:
    """Judge every explanation and its control with each scorer; print the table, write the report."""
    root = _carry_out(run, run_dir, set_, rebuild, ["score"], max_cost)
    _finish(root)


@app.command(name="run")
def run_all(
    run: RunFile,
    run_dir: RunDir = None,
    set_: Overrides = None,
    rebuild: Rebuild = None,
    max_cost: MaxCost = None,
) -> None:
    """All stages: cache, sample, explain, score."""
    root = _carry_out(run, run_dir, set_, rebuild, ["cache", "sample", "explain", "score"], max_cost)
    _finish(root)


@app.command()
def check(run: RunFile, set_: Overrides = None) -> None:
    """Check a run's TOML file, its plug-ins' options and what they need of the models; run nothing."""
    from autointerp.config import load_config
    from autointerp.engine.pipeline import all_steps
    from autointerp.stages.plugins import Models

    config = load_config(run, set_ or [])
    steps = all_steps(config, Models(config))
    for step in steps:
        typer.echo(step.name)
    typer.echo(f"ok: {len(steps)} steps; nothing was run, and files and hub names were not looked up")


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


@app.command()
def report(run_dir: RunDirArgument) -> None:
    """Print a run's table; write its HTML page and the files of `summary/` again."""
    _finish(run_dir)


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
    what: Annotated[str, typer.Argument(help="`artifacts` or `configuration`.")],
) -> None:
    """Print a reference page of the documentation, in Markdown, generated from the code."""
    from autointerp.errors import unknown_name
    from autointerp.report.reference import PAGES

    if what not in PAGES:
        raise unknown_name("WHAT", what, PAGES)
    typer.echo(PAGES[what](), nl=False)


def _carry_out(
    run_file: Path,
    run_dir: Path | None,
    overrides: list[str] | None,
    rebuild: list[str] | None,
    stages: list[str],
    max_cost: float | None = None,
) -> Path:
    from autointerp.artifacts import RunDirectory
    from autointerp.config import load_config
    from autointerp.engine.pipeline import STAGES, run_stages
    from autointerp.errors import unknown_name

    config = load_config(run_file, overrides or [])
    for name in rebuild or []:
        if name.split("/")[0] not in (*STAGES, "all"):
            raise unknown_name("--rebuild", name, (*STAGES, "all"))
    root = run_dir or Path("runs") / config.name
    run_stages(config, RunDirectory(root), stages, rebuild=rebuild or [], max_cost_usd=max_cost)
    return root


def _finish(root: Path) -> None:
    from autointerp.report.finish import finish

    finish(root)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 2 (a spent budget: 3), without a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "openai", "httpcore", "transformers", "datasets", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on where it stopped", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

"""Commands that carry out the stages of a run, one thin command each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autointerp.cli.app import app
from autointerp.cli.options import MaxCost, Overrides, Rebuild, RunDir, RunFile


@app.command()
def cache(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="TOML files of runs; several on the same text and subject are cached in one pass.",
        ),
    ],
    run_dir: RunDir = None,
    set_: Overrides = None,
    rebuild: Rebuild = None,
) -> None:
    """Read text through the subject and the dictionary; keep every non-zero activation."""
    if len(runs) == 1:
        _carry_out(runs[0], run_dir, set_, rebuild, ["cache"])
        return
    from autointerp.artifacts import RunDirectory
    from autointerp.config import load_config
    from autointerp.engine.together import cache_together
    from autointerp.errors import UserError

    if run_dir is not None:
        raise UserError("--run-dir: seen with several runs; accepted: with one run only")
    configs = [load_config(run, set_ or []) for run in runs]
    directories = [RunDirectory(Path("runs") / config.name) for config in configs]
    cache_together(configs, directories, rebuild=bool({"cache", "all"} & set(rebuild or [])))


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

"""The plan of a run: which of its steps are finished, and what the others would take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autointerp.analyze.plan import Plan, plan
from autointerp.analyze.plan_shape import Given
from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig, load_config
from autointerp.engine.local import expected_fingerprint
from autointerp.engine.pipeline import all_steps
from autointerp.errors import UserError
from autointerp.stages.plugins import Models, reply_store
from autointerp.storage import place, reached


def plan_run(
    config: RunConfig,
    run: RunDirectory,
    *,
    sample_latents: int = 8,
    latents: Sequence[int] = (),
    tokenizer: str | None = None,
    with_subject: bool = False,
    given: Given | None = None,
    like: Path | None = None,
) -> Plan:
    """`autointerp.analyze.plan.plan` of a run, whichever of its stages are finished.

    Raises `UserError` if `cache` or `sample` were made with other settings, and if `like` is no run
    directory whose `cache` and `sample` are finished.
    """
    like = None if like is None else place(like)
    like_run = None if like is None else _finished_run(like)
    steps = {step.name: step for step in all_steps(config, Models(config))}
    finished = [
        name
        for name, step in steps.items()
        if run.is_complete(name)
        and (manifest := run.manifest(name)) is not None
        and manifest.fingerprint == expected_fingerprint(step, steps)
    ]
    for stage in ("cache", "sample"):
        if run.is_complete(stage) and stage not in finished:
            raise UserError(
                f"plan: the prompts are counted on sampled windows, and stage {stage!r} was made with other settings in "
                f"{run.root}; run `autointerp {stage}` with the same RUN and RUN_DIR first (it asks no model), or name "
                "another RUN_DIR"
            )
    return plan(
        config,
        run,
        finished=finished,
        sample_latents=sample_latents,
        latents=latents,
        tokenizer=tokenizer,
        with_subject=with_subject,
        given=given,
        like=like_run,
        like_config=None if like is None else load_config(like / "run.toml"),
        alone=[name for name in ("cache", "sample") if steps[name].share is None],
    )


def _finished_run(root: Path) -> RunDirectory:
    run = RunDirectory(root)
    with reached("--like", root):
        if not root.exists():
            raise UserError(
                f"--like: no folder {str(root)!r}; accepted: a finished run directory, as runs/demo"
            )
        if not (root / "run.toml").is_file():
            raise UserError(f"--like: {str(root)!r} is no run directory: it has no run.toml")
    for stage in ("cache", "sample"):
        if not run.is_complete(stage):
            raise UserError(
                f"--like: stage {stage!r} is not finished in {str(root)!r}; accepted: a run directory whose `cache` and "
                "`sample` are, as runs/demo"
            )
    return run


def store_of(root: Path) -> Path:
    """The reply store of a run directory. Raises `UserError` if it is none."""
    root = RunDirectory(root).root
    settings = root / "run.toml"
    if not settings.is_file():
        raise UserError(f"RUN_DIR: {root} is no run directory: it has no run.toml")
    return reply_store(load_config(settings), RunDirectory(root))

"""The plan of a run: which of its steps are finished, and what the others would ask."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autointerp.analyze.plan import Plan, plan
from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig, load_config
from autointerp.engine.local import expected_fingerprint
from autointerp.engine.pipeline import all_steps
from autointerp.errors import UserError
from autointerp.stages.plugins import Models, reply_store


def plan_run(
    config: RunConfig,
    run: RunDirectory,
    *,
    sample_latents: int = 8,
    latents: Sequence[int] = (),
    tokens_per_second: float | None = None,
    tokenizer: str | None = None,
    with_subject: bool = False,
) -> Plan:
    """`autointerp.analyze.plan.plan`, of a run whose stages `cache` and `sample` are finished.

    Raises `UserError` if they are not, or were made with other settings.
    """
    steps = {step.name: step for step in all_steps(config, Models(config))}
    finished = [
        name
        for name, step in steps.items()
        if run.is_complete(name)
        and (manifest := run.manifest(name)) is not None
        and manifest.fingerprint == expected_fingerprint(step, steps)
    ]
    for stage in ("cache", "sample"):
        if stage not in finished:
            state = "was made with other settings" if run.is_complete(stage) else "is not finished"
            first = (
                "`autointerp cache` and `autointerp sample`" if stage == "cache" else "`autointerp sample`"
            )
            raise UserError(
                f"plan: the prompts are counted on sampled windows, and stage {stage!r} {state} in {run.root}; "
                f"run {first} with the same RUN and RUN_DIR first (they ask no model)"
            )
    return plan(
        config,
        run,
        finished=finished,
        sample_latents=sample_latents,
        latents=latents,
        tokens_per_second=tokens_per_second,
        tokenizer=tokenizer,
        with_subject=with_subject,
    )


def store_of(root: Path) -> Path:
    """The reply store of a run directory. Raises `UserError` if it is none."""
    settings = root / "run.toml"
    if not settings.is_file():
        raise UserError(f"RUN_DIR: {root} is no run directory: it has no run.toml")
    return reply_store(load_config(settings), RunDirectory(root))

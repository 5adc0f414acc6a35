"""The steps of a whole run, in order, and carrying out some of its stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from autointerp.artifacts import Manifest, RunDirectory
from autointerp.config import RunConfig
from autointerp.engine.local import Workers, run_steps
from autointerp.errors import UserError
from autointerp.llm.budget import Budget
from autointerp.stages import cache, explain, sample, score
from autointerp.stages.plugins import Models, warn_of_small_judge
from autointerp.stages.step import Step

log = logging.getLogger(__name__)

STAGES = ("cache", "sample", "explain", "score")


def all_steps(config: RunConfig, models: Models, until: str = STAGES[-1]) -> list[Step]:
    """Every step the configuration asks for, as far as stage `until`.

    Options of plug-ins and what they need of the models are checked here: a mistake raises
    `UserError`, or is told as a warning if it concerns a stage after `until` only.
    """
    builders: dict[str, Callable[[], list[Step]]] = {
        "cache": lambda: cache.steps(config),
        "sample": lambda: sample.steps(config),
        "explain": lambda: explain.steps(config, models),
        "score": lambda: score.steps(config, models),
    }
    steps: list[Step] = []
    for stage in STAGES:
        if STAGES.index(stage) <= STAGES.index(until):
            steps += builders[stage]()
            continue
        try:
            builders[stage]()
        except UserError as error:
            log.warning("before stage %s, mend this: %s", stage, error)
            return steps
    warn_of_small_judge(config)
    return steps


def run_stages(
    config: RunConfig,
    run: RunDirectory,
    stages: Sequence[str],
    *,
    rebuild: Iterable[str] = (),
    max_cost_usd: float | None = None,
) -> list[Manifest]:
    """Carry out some stages of a run; those before them must be finished, with this same configuration.

    Raises `BudgetReachedError` where new replies would cost more than `max_cost_usd` in all, and
    `UserError` before any work if a model that is to be asked has no known price.
    """
    if max_cost_usd is not None and config.engine.kind != "local":
        raise UserError(
            f"--max-cost: seen with engine.kind {config.engine.kind!r}, whose workers do not know what the others "
            "spend; accepted: with engine.kind 'local'"
        )
    models = Models(config, None if max_cost_usd is None else Budget(max_cost_usd))
    workers: Workers | None = None
    try:
        steps = all_steps(config, models, until=max(stages, key=STAGES.index))
        for role in sorted({role for step in steps if step.stage in stages for role in asked_roles(step)}):
            models.check_price(role)
        workers = open_workers(config, run.root)
        return run_steps(steps, run, config, stages=stages, rebuild=tuple(rebuild), workers=workers)
    finally:
        if workers is not None:
            workers.close()
        models.close()


def open_workers(config: RunConfig, root: Path) -> Workers | None:
    """The workers that `[engine]` asks for; None where this process does everything."""
    if config.engine.kind == "processes":
        from autointerp.engine.processes import ProcessWorkers

        return ProcessWorkers(config, root)
    if config.engine.kind == "ray":
        from autointerp.engine.ray_workers import RayWorkers

        return RayWorkers(config, root)
    return None


def asked_roles(step: Step) -> list[str]:
    """The roles whose models a step asks, `explainer` and `judge`."""
    roles = {"model": "explainer" if step.stage == "explain" else "judge", "judge": "judge"}
    return [role for name, role in roles.items() if step.config.get(name) is not None]

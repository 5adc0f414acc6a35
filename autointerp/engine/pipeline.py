"""The steps of a whole run, in order, and carrying out some of its stages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence

from autointerp.artifacts import Manifest, RunDirectory
from autointerp.config import RunConfig
from autointerp.engine.local import run_steps
from autointerp.errors import UserError
from autointerp.stages import cache, explain, sample, score
from autointerp.stages.plugins import Models
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
            break
    return steps


def run_stages(
    config: RunConfig, run: RunDirectory, stages: Sequence[str], *, rebuild: Iterable[str] = ()
) -> list[Manifest]:
    """Carry out some stages of a run; those before them must be finished, with this same configuration."""
    models = Models(config)
    try:
        steps = all_steps(config, models, until=max(stages, key=STAGES.index))
        return run_steps(steps, run, config, stages=stages, rebuild=tuple(rebuild))
    finally:
        models.close()

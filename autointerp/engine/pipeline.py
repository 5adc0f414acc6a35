"""The steps of a whole run, in order, and carrying out some of its stages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autointerp.artifacts import Manifest, RunDirectory
from autointerp.config import RunConfig
from autointerp.engine.local import run_steps
from autointerp.stages import cache, explain, sample, score
from autointerp.stages.plugins import Models
from autointerp.stages.step import Step

STAGES = ("cache", "sample", "explain", "score")


def all_steps(config: RunConfig, models: Models) -> list[Step]:
    """Every step the configuration asks for. Options of plug-ins are checked here: raises `UserError`."""
    return [
        *cache.steps(config),
        *sample.steps(config),
        *explain.steps(config, models),
        *score.steps(config, models),
    ]


def run_stages(
    config: RunConfig, run: RunDirectory, stages: Sequence[str], *, rebuild: Iterable[str] = ()
) -> list[Manifest]:
    """Carry out some stages of a run; the others must be finished, with this same configuration."""
    models = Models(config)
    try:
        return run_steps(all_steps(config, models), run, config, stages=stages, rebuild=tuple(rebuild))
    finally:
        models.close()

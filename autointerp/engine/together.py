"""Caching several dictionaries of one subject in one pass over the text."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from autointerp.artifacts import Manifest, RunDirectory
from autointerp.config import RunConfig
from autointerp.engine.local import begin_step, run_step, settings_written
from autointerp.errors import UserError
from autointerp.stages import cache


def cache_together(
    configs: Sequence[RunConfig], runs: Sequence[RunDirectory], *, rebuild: bool = False
) -> list[Manifest]:
    """Carry out stage `cache` of several runs; their dictionaries may read at different hook points.

    The subject runs once over each batch for all runs that still miss it. Each run's files and manifest are
    those it would have alone. Raises `UserError` if the runs do not read the same text through the same
    subject, or two of them share a directory.
    """
    roots = [run.root.resolve() for run in runs]
    if len(set(roots)) < len(roots):
        twice = next(root for root in roots if roots.count(root) > 1)
        raise UserError(f"RUN: two of the runs write to {twice}; accepted: runs with names of their own")
    steps = [cache.steps(config)[0] for config in configs]
    with ExitStack() as stack:
        for config, run in zip(configs, runs, strict=True):
            stack.callback(run.lock().release)
            stack.enter_context(settings_written(run, config))
        begun = [
            begin_step(step, run, {step.name: step}, rebuild=rebuild)
            for step, run in zip(steps, runs, strict=True)
        ]
        left = [index for index, manifest in enumerate(begun) if manifest.status != "complete"]
        if len(left) > 1:
            cache.read_ahead([configs[index] for index in left], [runs[index] for index in left])
        return [run_step(step, run, {step.name: step}) for step, run in zip(steps, runs, strict=True)]

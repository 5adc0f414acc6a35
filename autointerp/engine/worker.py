"""One of several workers of a run, in a process of its own: it computes its part of a step's shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig


class Worker:
    """Holds the models of a run from one part to the next.

    `config` is the run's configuration as `RunConfig.model_dump` gives it.
    """

    def __init__(self, config: Mapping[str, Any], root: str, threads: int | None) -> None:
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        from autointerp.engine.pipeline import all_steps
        from autointerp.progress import be_silent
        from autointerp.stages.plugins import Models

        be_silent()
        self.config, self.root = RunConfig.model_validate(config), Path(root)
        self.models = Models(self.config)
        self.steps = {step.name: step for step in all_steps(self.config, self.models)}

    def compute(self, step: str, part: tuple[int, int]) -> None:
        """Compute the shards of a step that fall to part i of n; those that exist are kept."""
        share = self.steps[step].share
        assert share is not None, f"{step} is not shared"
        share(RunDirectory(self.root, part))

    def close(self) -> None:
        """Free the models."""
        self.models.close()

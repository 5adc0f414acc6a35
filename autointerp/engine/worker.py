"""One of several workers of a run, in a process of its own: it computes its part of a step's shards."""

from __future__ import annotations

import gc
import os
import socket
import sys
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig
from autointerp.stages.step import Step, StepResult
from autointerp.storage import place

if TYPE_CHECKING:
    from autointerp.stages.plugins import Models

PARTS_PER_WORKER = 4
"""A step is cut into more parts than there are workers, so that a slow part holds up little."""
MARK_SECONDS = 10.0
"""How long a machine may take to see a file that another wrote."""


class Worker:
    """Holds the models of a run from one part to the next; each is loaded when first asked for.

    `config` is the run's configuration as `RunConfig.model_dump` gives it. `replies` is the folder through
    which workers on several machines share stored replies (see `autointerp.llm.store_shared`); None: they
    share the run's store.
    """

    def __init__(
        self, config: Mapping[str, Any], root: str, threads: int | None, replies: str | None = None
    ) -> None:
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)
        self.root, self._told = place(root), config
        self._replies = None if replies is None else place(replies)

    @cached_property
    def models(self) -> Models:
        """The run's language models."""
        from functools import partial

        from autointerp.llm.store import ReplyStore
        from autointerp.llm.store_shared import WorkerStore
        from autointerp.stages.plugins import Models

        published = self._replies
        return Models(
            RunConfig.model_validate(self._told),
            open_store=ReplyStore if published is None else partial(WorkerStore, published=published),
        )

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Every step of the run."""
        from autointerp.engine.pipeline import all_steps

        return {step.name: step for step in all_steps(self.models.config, self.models)}

    def where(self, mark: str) -> tuple[str, bool]:
        """This machine's name, and whether it sees the file `mark` (relative to the run directory).

        A shared folder may show a new file only after some seconds.
        """
        until = time.monotonic() + MARK_SECONDS
        while not (sees := (self.root / mark).is_file()) and time.monotonic() < until:
            time.sleep(0.5)
        return socket.gethostname(), sees

    def prepare(self, step: str) -> None:
        """Write what the shards of a step depend on, whoever computes them."""
        prepare = self.steps[step].prepare
        assert prepare is not None, f"{step} needs no preparation"
        try:
            prepare(RunDirectory(self.root))
        finally:
            self._rest()

    def compute(self, step: str, part: tuple[int, int]) -> None:
        """Compute the shards of a step that fall to part i of n; those that exist are kept."""
        from autointerp.progress import be_silent

        be_silent()
        share = self.steps[step].share
        assert share is not None, f"{step} is not shared"
        try:
            share(RunDirectory(self.root, part))
        finally:
            self._rest()

    def finish(self, step: str, *, silent: bool = True) -> StepResult:
        """Do what is left of a step when its parts are there: all of it, if parts were lost."""
        from autointerp.progress import be_silent

        be_silent(silent)
        try:
            return self.steps[step].work(RunDirectory(self.root))
        finally:
            self._rest()

    def close(self) -> None:
        """Free the models."""
        self.models.close()

    def _rest(self) -> None:
        """Close the reply stores and give back the memory of what was used for this part only."""
        self.models.settle()
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def n_parts_of(step: Step, n_workers: int) -> int:
    """Parts a step is cut into: reading text has a cost for each part, the other stages hardly any."""
    return n_workers if step.stage == "cache" else PARTS_PER_WORKER * n_workers

"""Workers as processes on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from autointerp.config import RunConfig
from autointerp.engine.worker import Worker
from autointerp.progress import Tracker
from autointerp.stages.step import Step

log = logging.getLogger(__name__)

PARTS_PER_WORKER = 4
"""A step is cut into more parts than there are workers, so that a slow part holds up little."""
MOST_LOSSES = 3
"""Times a pool is started anew for one step after a worker died."""

_worker: Worker | None = None


class ProcessWorkers:
    """A pool of processes; one that dies is replaced and its parts are computed again."""

    def __init__(self, config: RunConfig, root: Path) -> None:
        self.config, self.root = config, root
        self.n = config.engine.workers
        self._pool: ProcessPoolExecutor | None = None

    def share(self, step: Step) -> None:
        """See `autointerp.engine.local.Workers.share`."""
        n_parts = n_parts_of(step, self.n)
        left = set(range(n_parts))
        with Tracker(f"{step.name} ({self.n} processes)", n_parts, "parts") as tracker:
            for _ in range(MOST_LOSSES):
                futures: dict[Future[None], int] = {}
                try:
                    for part in sorted(left):
                        futures[self._opened().submit(_compute, step.name, (part, n_parts))] = part
                    for future in as_completed(futures):
                        future.result()
                        left.discard(futures[future])
                        tracker.advance()
                except BrokenProcessPool:
                    log.warning("%s: a worker process died; its shards are computed again", step.name)
                    self.close()
                    continue
                return

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            threads = self.config.engine.threads_per_worker or max(1, (os.cpu_count() or 1) // self.n)
            self._pool = ProcessPoolExecutor(
                self.n,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_open,
                initargs=(self.config.model_dump(mode="json"), str(self.root), threads),
            )
        return self._pool


def n_parts_of(step: Step, n_workers: int) -> int:
    """Parts a step is cut into: reading text has a cost for each part, the other stages hardly any."""
    return n_workers if step.stage == "cache" else PARTS_PER_WORKER * n_workers


def _open(config: Mapping[str, Any], root: str, threads: int) -> None:
    global _worker
    _worker = Worker(config, root, threads)


def _compute(step: str, part: tuple[int, int]) -> None:
    assert _worker is not None, "opened by the pool"
    _worker.compute(step, part)

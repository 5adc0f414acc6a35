"""Workers as processes on this machine, each with a GPU of its own where there are several."""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from autointerp.config import RunConfig
from autointerp.engine.worker import Worker, n_parts_of
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.stages.step import Step, StepResult

log = logging.getLogger(__name__)

MOST_LOSSES = 3
"""Times a pool is started anew for one step after a worker died."""

T = TypeVar("T")

_worker: Worker | None = None


class ProcessWorkers:
    """A pool of processes; one that dies is replaced and its parts are computed again."""

    def __init__(self, config: RunConfig, root: Path) -> None:
        self.config, self.root = config, root
        self.n = config.engine.workers
        self._devices = devices_of(config)
        self._pool: ProcessPoolExecutor | None = None

    def carry_out(self, step: Step) -> StepResult:
        """See `autointerp.engine.local.Workers.carry_out`."""
        if step.share is not None:
            if step.prepare is not None:
                self._alone(_prepare, step)
            self._share(step)
        return self._alone(_finish, step)

    def _alone(self, do: Callable[[str], T], step: Step) -> T:
        """Have one worker do something for a step, again if it dies."""
        for _ in range(MOST_LOSSES):
            try:
                return self._opened().submit(do, step.name).result()
            except BrokenProcessPool:
                log.warning("%s: a worker process died; another does its work again", step.name)
                self._end()
        raise UserError(
            f"engine: {step.name}: worker processes died {MOST_LOSSES} times (out of memory?); what was computed is "
            "kept: run the same command again, with fewer engine.workers or engine.kind 'local'"
        )

    def close(self) -> None:
        """End the processes."""
        self._end()

    def _share(self, step: Step) -> None:
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
                    self._end()
                    continue
                return

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _opened(self) -> ProcessPoolExecutor:
        if self._pool is None:
            threads = self.config.engine.threads_per_worker or max(1, (os.cpu_count() or 1) // self.n)
            context = multiprocessing.get_context("spawn")
            devices = context.SimpleQueue()
            for index in range(self.n):
                devices.put(self._devices[index % len(self._devices)] if self._devices else None)
            self._pool = ProcessPoolExecutor(
                self.n,
                mp_context=context,
                initializer=_open,
                initargs=(self.config.model_dump(mode="json"), str(self.root), threads, devices),
            )
        return self._pool


def devices_of(config: RunConfig) -> list[str]:
    """What each worker in turn is to see as `CUDA_VISIBLE_DEVICES`; empty: what this process sees.

    As `engine.devices` says; by default each GPU in turn if there are several and the subject may run on
    any. Raises `UserError` for a GPU that is not among those this process sees.
    """
    devices = config.engine.devices
    if devices is None:
        if config.subject.device not in ("auto", "cuda"):
            return []
        import torch

        n = torch.cuda.device_count()
        devices = [f"cuda:{index}" for index in range(n)] if n > 1 else []
    return [visible(device, os.environ.get("CUDA_VISIBLE_DEVICES")) for device in devices]


def visible(devices: str, seen: str | None) -> str:
    """`CUDA_VISIBLE_DEVICES` for `cuda:1` or `cuda:0,cuda:1`, where this process sees `seen` (None: all)."""
    indices = [int(device.removeprefix("cuda:")) for device in devices.replace(" ", "").split(",")]
    if seen is None:
        return ",".join(map(str, indices))
    names: Sequence[str] = [name for name in seen.split(",") if name]
    for index in indices:
        if index >= len(names):
            raise UserError(
                f"engine.devices: seen 'cuda:{index}', and CUDA_VISIBLE_DEVICES={seen!r} shows {len(names)}; "
                f"accepted: {', '.join(f'cuda:{i}' for i in range(len(names))) or 'none'}"
            )
    return ",".join(names[index] for index in indices)


def _open(config: Mapping[str, Any], root: str, threads: int, devices: Any) -> None:
    global _worker
    device = devices.get()
    if device is not None:  # before CUDA is used for the first time
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    _worker = Worker(config, root, threads)


def _compute(step: str, part: tuple[int, int]) -> None:
    assert _worker is not None, "opened by the pool"
    _worker.compute(step, part)


def _prepare(step: str) -> None:
    assert _worker is not None, "opened by the pool"
    _worker.prepare(step)


def _finish(step: str) -> StepResult:
    assert _worker is not None, "opened by the pool"
    return _worker.finish(step, silent=False)

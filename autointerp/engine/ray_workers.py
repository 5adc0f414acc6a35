"""Workers as actors on a Ray cluster; data moves through the run directory, not through Ray."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from autointerp.config import RunConfig
from autointerp.engine.processes import n_parts_of
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.stages.step import Step

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""Times one part is given to an actor: its node may be lost with it."""


class RayWorkers:
    """A pool of actors, each with models of its own; Ray restarts a lost one on another node.

    Shards are written whole or not at all, so a part that is computed twice does no harm. Every node must
    see the run directory, the corpus and the models under the same paths. Raises `UserError` if Ray is
    not installed or the cluster cannot be reached.
    """

    def __init__(self, config: RunConfig, root: Path) -> None:
        ray = _ray()
        engine = config.engine
        self.n = engine.workers
        self._started_here = not ray.is_initialized()
        if self._started_here:
            try:
                ray.init(address=engine.address, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                text = " ".join(str(error).split())
                raise UserError(f"engine.address: {engine.address!r} cannot be reached ({text})") from None
        from autointerp.engine.worker import Worker

        actor = ray.remote(
            num_cpus=engine.cpus_per_worker,
            num_gpus=engine.gpus_per_worker,
            max_restarts=-1,
            max_task_retries=MOST_TRIES - 1,
        )(Worker)
        told = config.model_dump(mode="json")
        self._actors = [
            actor.remote(told, str(root.resolve()), engine.threads_per_worker) for _ in range(self.n)
        ]

    def share(self, step: Step) -> None:
        """See `autointerp.engine.local.Workers.share`."""
        ray = _ray()
        n_parts = n_parts_of(step, self.n)
        waiting = list(range(n_parts))
        busy: dict[Any, tuple[int, Any]] = {}
        free = list(self._actors)
        with Tracker(f"{step.name} ({self.n} actors)", n_parts, "parts") as tracker:
            while waiting or busy:
                while waiting and free:
                    part, actor = waiting.pop(0), free.pop()
                    busy[actor.compute.remote(step.name, (part, n_parts))] = (part, actor)
                done, _ = ray.wait(list(busy), num_returns=1)
                part, actor = busy.pop(done[0])
                free.append(actor)
                try:
                    ray.get(done[0])
                except ray.exceptions.RayTaskError as error:
                    cause = error.as_instanceof_cause()
                    if isinstance(cause, UserError):
                        raise UserError(str(cause)) from None
                    raise
                except ray.exceptions.RayActorError as error:
                    # This process computes what is missing in the end.
                    log.warning("%s: part %d was lost for good (%s)", step.name, part, type(error).__name__)
                tracker.advance()

    def close(self) -> None:
        """End the actors, and Ray if it was started here."""
        ray = _ray()
        for actor in self._actors:
            ray.kill(actor)
        if self._started_here:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine.kind: 'ray' needs the package ray; accepted: pip install \"autointerp[ray]\", or 'local' or "
            "'processes'"
        ) from None
    return ray

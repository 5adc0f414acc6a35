"""Workers as actors on a Ray cluster; data moves through the run directory, not through Ray.

What goes over Ray are the configuration once per actor, a step's name with two numbers per part, and a step's
counts at its end.
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from autointerp.artifacts import RunDirectory
from autointerp.artifacts.manifest import write_text_whole
from autointerp.config import RunConfig
from autointerp.engine.worker import Worker, n_parts_of
from autointerp.errors import UserError
from autointerp.llm.store_shared import merge_published, publish_store
from autointerp.progress import Tracker
from autointerp.stages.plugins import reply_store
from autointerp.stages.step import Step, StepResult
from autointerp.storage import is_remote

log = logging.getLogger(__name__)

MOST_TRIES = 4
"""Times one part is given to an actor: its node may be lost with it."""
MOST_LOSSES_PER_WORKER = 4
"""Actors lost one after the other without one that finished anything, for each that is wanted."""
POLL_SECONDS = 1.0
HEAD_SECONDS = 15.0
"""How long the cluster's head may not be reached, at most; `engine.wait_seconds` may be less."""
RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Environment variable: seconds after which Ray, without its head, ends this process (60 by default)."""
CLOSE_SECONDS, GONE_SECONDS = 10.0, 3.0
"""Longest wait for an actor to end and for Ray to let go of the cluster; the second of a cluster that is gone."""
PUBLISHED = "replies"
"""Folder below `scratch` through which workers share stored replies."""
MARK = "scratch/shared-folder"
"""A file by which an actor knows that it sees this run directory and no other of the same name."""

Result = TypeVar("Result")
Call = tuple[str, tuple[Any, ...]]
"""A method of `Worker`, and what it is given."""


@dataclass
class _Actor:
    """An actor and what it is at."""

    handle: Any
    at: Any
    """Reference to the result of what it does now; None: it is free."""
    call: int | None = None
    """Number of the call it carries out; None: it is starting, or free."""
    host: str = "a node that is still starting"

    @property
    def is_starting(self) -> bool:
        return self.at is not None and self.call is None


class RayWorkers:
    """Actors, each with models of its own; one that is lost is replaced, on whichever node has room.

    Shards are written whole or not at all, so a part that is computed twice does no harm. Every node must
    see the run directory, the corpus and the models under the same paths. Raises `UserError` if Ray is
    not installed or the cluster cannot be reached.
    """

    def __init__(self, config: RunConfig, root: Path) -> None:
        self._ray = _ray()
        self.config, self.root = config, root if is_remote(root) else root.resolve()
        self.n = config.engine.workers
        self._actors: list[_Actor] = []
        self._losses = 0
        """Actors lost since one last finished anything."""
        self._store = reply_store(config, RunDirectory(self.root))
        self._published = self.root / "scratch" / PUBLISHED
        self._check_backends()
        self._head = _Head(*_connect(self._ray, config), config.engine.wait_seconds)

    def carry_out(self, step: Step) -> StepResult:
        """See `autointerp.engine.local.Workers.carry_out`."""
        self._merge_replies()  # of a session that was killed
        write_text_whole(self.root / MARK, "")
        if is_remote(self.root) or self.config.models.reply_store is not None:
            publish_store(self._store, self._published)
        try:
            if step.share is not None:
                if step.prepare is not None:
                    self._carry_out(step.name, [("prepare", (step.name,))])
                n_parts = n_parts_of(step, self.n)
                parts: list[Call] = [("compute", (step.name, (part, n_parts))) for part in range(n_parts)]
                self._carry_out(step.name, parts)
            (result,) = self._carry_out(step.name, [("finish", (step.name,))])
        except BaseException:
            self._end_actors()
            raise
        finally:
            self._merge_replies()
        assert isinstance(result, StepResult)
        return result

    def close(self) -> None:
        """End the actors, and let go of the cluster; a cluster that is gone is not waited for."""
        self._end_actors()
        if self._head.is_lost:
            atexit.unregister(self._ray.shutdown)  # it would hang when the process ends
        _within(GONE_SECONDS if self._head.is_lost else CLOSE_SECONDS, self._ray.shutdown)

    def _end_actors(self) -> None:
        actors, self._actors = self._actors, []
        if self._head.is_lost:
            return
        for actor in actors:
            if actor.at is None:
                _within(CLOSE_SECONDS, partial(self._end, actor.handle))
            _within(CLOSE_SECONDS, partial(self._ray.kill, actor.handle))

    def _end(self, handle: Any) -> None:
        self._ray.get(handle.close.remote(), timeout=CLOSE_SECONDS)

    def _carry_out(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """The results of calls in their order, each made by any actor, again if its actor is lost."""
        return self._head.while_it_answers(lambda stop: self._results(name, calls, stop))

    def _results(self, name: str, calls: Sequence[Call], stop: threading.Event) -> list[Any]:
        results: list[Any] = [None] * len(calls)
        waiting, tries = deque(range(len(calls))), Counter[int]()
        n_left = len(calls)
        last_seen = time.monotonic()
        with Tracker(f"{name} ({self.n} actors)", len(calls), "parts") as tracker:
            while n_left and not stop.is_set():
                self._hire()
                for actor in self._actors:
                    if actor.at is None and waiting:
                        actor.call = waiting.popleft()
                        method, told = calls[actor.call]
                        tries[actor.call] += 1
                        actor.at = getattr(actor.handle, method).remote(*told)
                for actor in self._done():
                    call, actor.call = actor.call, None
                    try:
                        value = self._ray.get(actor.at, timeout=HEAD_SECONDS)
                    except self._ray.exceptions.RayTaskError as error:
                        raise _of_worker(error) from None
                    except self._ray.exceptions.RayError as error:
                        self._lose(actor, name, error)
                        if call is not None:
                            waiting.appendleft(call)
                            self._check_tries(name, tries[call], len(calls), error)
                        continue
                    actor.at = None
                    if call is None:
                        self._welcome(actor, value)
                        continue
                    results[call] = value
                    self._losses = 0
                    n_left -= 1
                    tracker.advance()
                if any(not actor.is_starting for actor in self._actors):
                    last_seen = time.monotonic()
                elif time.monotonic() - last_seen > self.config.engine.wait_seconds:
                    raise self._nobody_came()
        return results

    def _hire(self) -> None:
        """Ask for as many actors as are missing; they start where and when the cluster has room."""
        engine = self.config.engine
        while len(self._actors) < self.n:
            handle = (
                self._ray.remote(
                    num_cpus=engine.cpus_per_worker, num_gpus=engine.gpus_per_worker, max_restarts=0
                )(Worker)
                .options(max_task_retries=0)
                .remote(
                    self.config.model_dump(mode="json"),
                    str(self.root),
                    engine.threads_per_worker,
                    str(self._published),
                )
            )
            self._actors.append(_Actor(handle=handle, at=handle.where.remote(MARK)))

    def _done(self) -> list[_Actor]:
        """The actors that finished something, after a moment at most."""
        at = {actor.at: actor for actor in self._actors if actor.at is not None}
        ready, _ = self._ray.wait(list(at), num_returns=len(at), timeout=0)
        if not ready:
            ready, _ = self._ray.wait(list(at), num_returns=1, timeout=POLL_SECONDS)
        return [at[reference] for reference in ready]

    def _welcome(self, actor: _Actor, where: tuple[str, bool]) -> None:
        actor.host, sees_mark = where
        if not sees_mark:
            raise UserError(
                f"RUN_DIR: {self.root} is not the same folder on the node {actor.host!r}; accepted with engine.kind 'ray': "
                "one that every node of the cluster sees under that path, or a URL of object storage"
            )

    def _lose(self, actor: _Actor, name: str, error: Exception) -> None:
        """Let an actor go that does not answer; another is asked for."""
        log.warning(
            "%s: a worker on %s was lost (%s); what it had not finished is computed again",
            name,
            actor.host,
            type(error).__name__,
        )
        self._actors.remove(actor)
        self._losses += 1
        _within(CLOSE_SECONDS, lambda: self._ray.kill(actor.handle))
        if self._losses > MOST_LOSSES_PER_WORKER * self.n:
            raise UserError(
                f"engine: {self._losses} workers were lost one after the other and none finished anything; the last one: "
                f"{_one_line(error)}; what was computed is kept: run the same command again"
            )

    def _check_tries(self, name: str, n: int, n_parts: int, error: Exception) -> None:
        if n >= MOST_TRIES:
            raise UserError(
                f"engine: {name}: the worker of one part of {n_parts} was lost {n} times (out of memory?); the last time: "
                f"{_one_line(error)}; what was computed is kept: run the same command again"
            )

    def _nobody_came(self) -> UserError:
        engine = self.config.engine
        has = {}
        _within(CLOSE_SECONDS, lambda: has.update(self._ray.cluster_resources()))
        return UserError(
            f"engine: the cluster gave no worker in {engine.wait_seconds:g} s (engine.wait_seconds): each of the "
            f"{self.n} asks for {engine.cpus_per_worker:g} CPUs and {engine.gpus_per_worker:g} GPUs, and the cluster has "
            f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g} in all; what was computed is kept: run the same command again"
        )

    def _check_backends(self) -> None:
        for role in ("explainer", "judge"):
            if getattr(self.config.models, role).get("backend") == "openai_batch":
                raise UserError(
                    f"models.{role}.backend: 'openai_batch' is not for engine.kind 'ray', whose workers would each wait for "
                    "batches of their own; accepted: engine.kind 'local'"
                )

    def _merge_replies(self) -> None:
        n = merge_published(self._store, self._published)
        if n:
            log.info("%d replies of workers are in %s", n, self._store)


class _Head:
    """The address of the cluster's head, and since when it has not answered."""

    def __init__(self, host: str, port: int, wait_seconds: float) -> None:
        self.host, self.port, self.wait_seconds = host, port, wait_seconds
        self.is_lost = False
        self._answered = self._asked = time.monotonic()

    def while_it_answers(self, do: Callable[[threading.Event], Result]) -> Result:
        """What `do` gives, or raises; it should end soon when the event it is given is set.

        It runs in a thread of its own: with the head gone, a call of Ray may not come back. Raises `UserError` if the
        head has not answered for `HEAD_SECONDS`.
        """
        stop, future = threading.Event(), futures.Future[Result]()
        self._answered = time.monotonic()  # it was not asked for a while

        def attempt() -> None:
            try:
                future.set_result(do(stop))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=attempt, daemon=True).start()
        try:
            while not futures.wait([future], timeout=POLL_SECONDS).done:
                self.check()
            return future.result()
        finally:
            stop.set()
            futures.wait([future], timeout=0 if self.is_lost else CLOSE_SECONDS)

    def check(self) -> None:
        """Ask every few seconds. Raises `UserError` if the head has not answered for too long."""
        now, most = time.monotonic(), min(HEAD_SECONDS, self.wait_seconds)
        if now - self._asked < 2 * POLL_SECONDS:
            return
        self._asked = now
        if _answers(self.host, self.port):
            self._answered = now
        elif now - self._answered > most:
            self.is_lost = True
            raise UserError(
                f"engine.address: the Ray cluster at {self.host}:{self.port} has not answered for {most:.0f} s; "
                "what was computed is kept: run the same command again when it is back"
            )


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True


def _connect(ray: Any, config: RunConfig) -> tuple[str, int]:
    """Connect to the cluster, or start one; host and port of its head."""
    engine = config.engine
    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise UserError(
            f"engine.address: seen {address!r}; accepted: run this command on a machine of the cluster, with 'auto' or "
            "HOST:PORT of its head"
        )
    if port.isdigit() and not _answers(host, int(port)):
        raise UserError(
            f"engine.address: {address!r} cannot be reached; accepted: 'auto', or HOST:PORT of a head"
        )
    options: dict[str, Any] = {"log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
        options["num_cpus"] = max(
            os.cpu_count() or 1, -(-int(engine.workers * engine.cpus_per_worker * 100) // 100)
        )
    try:
        with _longer_than_ray_waits(address):
            ray.init(address=address, **options)
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and kinds of its own
        raise UserError(f"engine.address: {address!r} cannot be reached ({_one_line(error)})") from None
    return host, int(port)


@contextmanager
def _longer_than_ray_waits(address: str) -> Iterator[None]:
    """Have Ray leave it to `_Head` to tell that the head is gone, unless the cluster is this process's own."""
    if address == "local" or RECONNECT in os.environ:
        yield
        return
    os.environ[RECONNECT] = "86400"
    try:
        yield
    finally:
        del os.environ[RECONNECT]


def _of_worker(error: Any) -> Exception:
    """What a worker raised: a `UserError` as it is, anything else as a defect with its remote traceback."""
    cause = error.cause
    return cause if isinstance(cause, UserError) else RuntimeError(f"a worker failed:\n{error}")


def _within(seconds: float, do: Callable[[], object]) -> None:
    """Try something that may never come back, and wait for it only so long; how it ends does not matter."""

    def attempt() -> None:
        try:
            do()
        except Exception as error:
            log.debug("while closing: %s", error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine.kind: 'ray' needs the package ray; accepted: pip install \"autointerp[ray]\", or 'local' or "
            "'processes'"
        ) from None
    return ray

"""As much of Ray as `RayWorkers` uses, in this process: actors run when they are waited for, and die as told."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """As Ray's: an actor or its node is gone."""


class RayTaskError(RayError):
    """As Ray's: the actor's own code raised `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(f"traceback of {cause!r}")
        self.cause = cause


class LostError(Exception):
    """Raised by `FakeRay.fate`: the actor dies."""


@dataclass(eq=False)
class Reference:
    actor: Handle
    method: str
    told: tuple[Any, ...]
    number: int
    result: Any = None


@dataclass(eq=False)
class Handle:
    ray: FakeRay
    worker: Any
    is_dead: bool = False

    def __getattr__(self, method: str) -> Any:
        def remote(*told: Any) -> Reference:
            self.ray.sent.append(pickle.dumps(told))
            return Reference(self, method, told, len(self.ray.sent))

        return SimpleNamespace(remote=remote)


@dataclass
class FakeRay:
    """`room` actors fit at a time; `fate(method, told)` is called before each call and may raise `LostError`."""

    room: int = 2
    fate: Callable[[str, tuple[Any, ...]], None] = lambda method, told: None
    sent: list[bytes] = field(default_factory=list)
    """What went over the wire, both ways."""
    placed: list[Handle] = field(default_factory=list)
    n_started: int = 0
    resources: list[dict[str, Any]] = field(default_factory=list)
    exceptions: Any = field(
        default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    )

    def init(self, **options: Any) -> None:
        self.options = options

    def shutdown(self) -> None:
        self.is_shut_down = True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="127.0.0.1:6379")

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.room)}

    def remote(self, **resources: Any) -> Callable[[type], Any]:
        self.resources.append(resources)

        def decorate(cls: type) -> Any:
            def start(*told: Any) -> Handle:
                self.sent.append(pickle.dumps(told))
                return Handle(self, cls(*told))

            made = SimpleNamespace(remote=start)
            made.options = lambda **options: made
            return made

        return decorate

    def kill(self, handle: Handle) -> None:
        handle.is_dead = True
        if handle in self.placed:
            self.placed.remove(handle)

    def wait(
        self, references: list[Reference], *, num_returns: int, timeout: float
    ) -> tuple[list[Reference], list[Reference]]:
        for actor in (reference.actor for reference in references):
            if actor not in self.placed and not actor.is_dead and len(self.placed) < self.room:
                self.placed.append(actor)
                self.n_started += 1
        # The one that was asked for first.
        for reference in sorted(references, key=lambda reference: reference.number):
            if reference.actor in self.placed or reference.actor.is_dead:
                self._carry_out(reference)
                return [reference], [other for other in references if other is not reference]
        time.sleep(min(timeout, 0.01))
        return [], references

    def get(self, reference: Reference, timeout: float | None = None) -> Any:
        if reference.result is None:
            self._carry_out(reference)
        kind, value = reference.result
        if kind == "raised":
            raise value
        self.sent.append(pickle.dumps(value))
        return value

    def _carry_out(self, reference: Reference) -> None:
        try:
            if reference.actor.is_dead:
                raise LostError
            self.fate(reference.method, reference.told)
            reference.result = "value", getattr(reference.actor.worker, reference.method)(*reference.told)
        except LostError:
            self.kill(reference.actor)
            reference.result = "raised", RayError("The actor died because its node was lost.")
        except Exception as error:
            reference.result = "raised", RayTaskError(error)

"""Several threads that ask the same models: one computes while the others wait for replies.

A stage works on its shards one after the other, and a server has nothing to do between the last replies of one
shard and the first requests of the next. With `Turns` the next shard is made ready in a thread of its own while
replies come in, and its requests go out as soon as fewer are under way than the server is asked to take. Code of
explainers and scorers still runs in one thread at a time: a thread gives its turn away only while it waits.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

MOST_AT_ONCE = 16
"""Pieces of work begun and not finished; more than a few only where each asks little."""
_LEAD = 0.25
"""Requests handed over beyond those in flight, as a share of these: a server never waits for the handing over."""
_PATIENCE_SECONDS = 5.0


class StoppedError(Exception):
    """Another piece of work failed: this one's requests are not sent."""


class Turns:
    """Carries out pieces of work that ask models with so many requests `in_flight`."""

    def __init__(self, in_flight: int) -> None:
        self._most_unanswered = in_flight + max(1, int(_LEAD * in_flight))
        self._changed = threading.Condition()
        self._computing = False
        self._unanswered = 0
        self._queue: deque[object] = deque()
        self._running: set[threading.Thread] = set()
        self._failure: BaseException | None = None
        self.interrupted = False
        """Whether calls under way should end with their next reply."""

    def carry_out(self, pieces: Iterable[Callable[[], None]]) -> None:
        """Carry out every piece; they are begun in order, and one may end after the next.

        Raises what a piece raised: no further one is begun then, what asks already is waited for, and
        requests not sent yet are never sent.
        """
        try:
            for piece in pieces:
                with self._changed:
                    self._changed.wait_for(self._may_begin)
                    if self._failure is not None:
                        break
                    self._computing = True
                    thread = threading.Thread(target=self._work, args=(piece,), name="shard", daemon=True)
                    self._running.add(thread)
                thread.start()
            with self._changed:
                self._changed.wait_for(lambda: not self._running)
        except BaseException as error:  # the user's Ctrl-C: it reaches this thread alone
            with self._changed:
                self._failure, self.interrupted = self._failure or error, True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._running, timeout=_PATIENCE_SECONDS)
            raise
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def waiting(self, n_requests: int) -> Iterator[Callable[[], None]]:
        """Around a call that sends requests and waits: others compute meanwhile. It begins when there is room
        for its requests; what it gives is to be called with each reply. Raises `StoppedError`."""
        ticket, left = object(), n_requests

        def answered() -> None:
            nonlocal left
            with self._changed:
                left -= 1
                self._unanswered -= 1
                if self._queue:
                    self._changed.notify_all()

        with self._changed:
            self._computing = False
            self._queue.append(ticket)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._failure is not None or self._may_send(ticket))
            self._queue.remove(ticket)
            stopped = self._failure is not None
            self._unanswered += 0 if stopped else n_requests
            self._changed.notify_all()
        try:
            if stopped:
                raise StoppedError
            yield answered
        finally:
            with self._changed:
                self._unanswered -= 0 if stopped else left
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._computing)
                self._computing = True

    def wait_until(self, there: Callable[[], bool]) -> None:
        """Let others compute until a condition holds that the end of their calls brings about."""
        with self._changed:
            self._computing = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: there() and not self._computing)
            self._computing = True

    def _may_begin(self) -> bool:
        ready = not self._computing and not self._queue and len(self._running) < MOST_AT_ONCE
        return ready or self._failure is not None

    def _may_send(self, ticket: object) -> bool:
        return self._queue[0] is ticket and self._unanswered < self._most_unanswered

    def _work(self, piece: Callable[[], None]) -> None:
        failure: BaseException | None = None
        try:
            piece()
        except StoppedError:
            pass
        except BaseException as error:
            failure = error
        with self._changed:
            self._failure = self._failure or failure
            self._computing = False
            self._running.discard(threading.current_thread())
            self._changed.notify_all()

"""How many requests may be in flight, by what the server says."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType

COOL_DOWN_SECONDS = 1.0
"""Cuts closer together than this count as one: they come from the same burst."""


class AdaptiveLimit:
    """An asynchronous semaphore that is cut by half on a rate limit and grows again slowly.

    Use as `async with limit:` around one attempt. Growth is by one slot for each round of
    successes (as many as there are slots).
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.slots = most
        self._used = 0
        self._successes = 0
        self._cut_at = float("-inf")
        self._pause_until = 0.0
        self._waiting: list[asyncio.Future[None]] = []

    def cut(self, pause_seconds: float | None) -> None:
        """The server said 429: halve the slots, and start nothing for as long as it asks."""
        now = time.monotonic()
        if pause_seconds:
            self._pause_until = max(self._pause_until, now + pause_seconds)
        if now - self._cut_at >= COOL_DOWN_SECONDS:
            self.slots, self._successes, self._cut_at = max(1, self.slots // 2), 0, now

    def grow(self) -> None:
        """A request succeeded."""
        self._successes += 1
        if self.slots < self.most and self._successes >= self.slots:
            self.slots, self._successes = self.slots + 1, 0
            self._wake()

    async def __aenter__(self) -> None:
        while True:
            pause = self._pause_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self._used >= self.slots:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                await future
            else:
                self._used += 1
                return

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._used -= 1
        self._wake()

    def _wake(self) -> None:
        """Let one that waits look again."""
        while self._waiting:
            future = self._waiting.pop(0)
            if not future.done():
                future.set_result(None)
                return

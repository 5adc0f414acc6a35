"""How many requests may be in flight, and how many may start in a minute, by what the server says."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

FIRST_SLOTS = 16
"""Slots to begin with; they double with each round of successes until the server first pushes back."""
COOL_DOWN_SECONDS = 1.0
"""Cuts closer together than this count as one: they come from the same burst."""
BURST_SECONDS = 1.0
"""How far ahead of its rate a minute's limit may be used up: servers apply theirs to short spans too."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class AdaptiveLimit:
    """An asynchronous semaphore that grows with success and is cut when the server pushes back.

    Use as `async with limit:` around one attempt. It begins with `first` slots. A round is as many
    successes as there are slots: each doubles the slots until the first cut, and adds a sixteenth
    (at least one) after that. A cut halves them.
    """

    def __init__(self, most: int, first: int = FIRST_SLOTS) -> None:
        self.most = most
        self.slots = min(first, most)
        self.n_cuts = 0
        self._used = 0
        self._successes = 0
        self._cut_at = float("-inf")
        self._pause_until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def cut(self, pause_seconds: float | None = None) -> None:
        """The server pushed back: halve the slots, and start nothing for as long as it asks."""
        now = time.monotonic()
        self.pause(pause_seconds or 0.0)
        if now - self._cut_at >= COOL_DOWN_SECONDS:
            self.slots, self._successes, self._cut_at = max(1, self.slots // 2), 0, now
            self.n_cuts += 1

    def pause(self, seconds: float) -> None:
        """Start nothing for a while."""
        self._pause_until = max(self._pause_until, time.monotonic() + seconds)

    def grow(self) -> None:
        """A request succeeded."""
        self._successes += 1
        if self.slots < self.most and self._successes >= self.slots:
            more = max(1, self.slots // 16) if self.n_cuts else self.slots
            self.slots, self._successes = min(self.most, self.slots + more), 0
            for _ in range(more):
                self._wake()

    async def __aenter__(self) -> None:
        while True:
            pause = self._pause_until - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self._used >= self.slots:
                future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                try:
                    await future
                except asyncio.CancelledError:
                    if future.done() and not future.cancelled():
                        self._wake()
                    raise
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
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
                return


class Pace:
    """A limit on units (requests or tokens) per minute, kept by booking each its time in advance."""

    def __init__(self, per_minute: float) -> None:
        self.per_second = per_minute / 60.0
        self._next = 0.0

    def book(self, units: float) -> float:
        """Take `units`; returns the seconds to wait before they may be used."""
        now = time.monotonic()
        start = max(self._next, now - BURST_SECONDS)
        self._next = start + units / self.per_second
        return max(0.0, start - now)

    def give_back(self, units: float) -> None:
        """Return what was taken and not used (negative: what was used on top)."""
        self._next -= units / self.per_second


def told_pause(headers: Mapping[str, str], n_tokens: int) -> float:
    """Seconds to wait by the `x-ratelimit-*` headers of an answer, 0 if another request fits.

    `n_tokens` is what a request takes. Where the limit's size is told, the wait is as long as the
    missing part needs at that many per minute; else until the limit is whole again.
    """
    if "x-ratelimit-remaining-requests" not in headers and "x-ratelimit-remaining-tokens" not in headers:
        return 0.0
    return max(_missing(headers, "requests", 1), _missing(headers, "tokens", n_tokens))


def _missing(headers: Mapping[str, str], what: str, needed: float) -> float:
    left = _number(headers.get(f"x-ratelimit-remaining-{what}"))
    if left is None or left >= needed:
        return 0.0
    until_whole = duration(headers.get(f"x-ratelimit-reset-{what}") or "")
    size = _number(headers.get(f"x-ratelimit-limit-{what}"))
    needs = 60.0 * (needed - left) / size if size else None
    return min([seconds for seconds in (needs, until_whole) if seconds is not None] or [1.0])


def duration(text: str) -> float | None:
    """Seconds in a text such as `1s`, `6m0s`, `120ms` or plain seconds; None if it is none."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None

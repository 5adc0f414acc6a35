"""Progress of long work: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0
"""How often a plain line is printed when standard error is not a terminal."""


_silent = False


def be_silent(silent: bool = True) -> None:
    """Show no more progress in this process: another one speaks for it."""
    global _silent
    _silent = silent


class Tracker:
    """Counts units of work and shows them; use as a context manager.

    `total` None: unknown, no time left is shown. Work found done already is reported by
    `skip`, so that the rate counts only what this session did.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._skipped = 0
        self._started = self._last_line = time.monotonic()
        self._first: tuple[float, int] | None = None
        self._console = Console(stderr=True)
        self._bar: Progress | None = None

    def __enter__(self) -> Tracker:
        self._started = self._last_line = time.monotonic()
        if self._console.is_terminal and not _silent:
            self._bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                _Rate(self),
                TimeRemainingColumn(compact=True),
                console=self._console,
            )
            self._bar.start()
            self._task = self._bar.add_task(self.what, total=self.total)
        return self

    def advance(self, n: int = 1) -> None:
        """`n` more units were done."""
        self.done += n
        if self._first is None and self.done > self._skipped:
            self._first = time.monotonic(), self.done - self._skipped
        if self._bar is not None:
            self._bar.advance(self._task, n)
        elif not _silent and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def update(self, done: int, total: int, skipped: int = 0) -> None:
        """Set the counts: for work whose total becomes known as it goes."""
        self.total = total
        self._skipped = skipped
        if self._bar is not None:
            self._bar.update(self._task, total=total)
        self.advance(done - self.done)

    def skip(self, n: int) -> None:
        """`n` units were found done by an earlier session."""
        self._skipped += n
        self.done += n
        if self._bar is not None:
            self._bar.advance(self._task, n)

    @property
    def rate(self) -> float | None:
        """Units per second of this session, from its first one on, before which models are loaded.

        None where nothing was done after the first one.
        """
        if self._first is None:
            return None
        at, before = self._first
        done = self.done - self._skipped - before
        return done / max(time.monotonic() - at, 1e-9) if done > 0 else None

    def pace(self) -> str:
        """The rate, or of slow work the seconds for one unit; empty while nothing is known."""
        rate = self.rate
        if rate is None:
            return ""
        return f"{1 / rate:,.0f} s each" if rate < 0.1 else f"{rate:,.1f} {self.unit}/s"

    def line(self) -> str:
        """The state as one plain line."""
        text = f"{self.what}: {self.done:,}"
        if self.total:
            text += f" of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
        else:
            text += f" {self.unit}"
        if (rate := self.rate) is None:
            return text
        text += f", {self.pace()}"
        if self.total:
            left = max(self.total - self.done, 0) / rate
            text += f", {int(left // 60)}:{int(left % 60):02d} left"
        return text

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None:
            seconds = time.monotonic() - self._started
            print(f"{self.what}: {self.done:,} {self.unit} in {seconds:.1f} s", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self.tracker = tracker

    def render(self, task: Task) -> Text:
        return Text(self.tracker.pace(), style="cyan")

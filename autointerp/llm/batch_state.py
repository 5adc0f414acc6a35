"""What was handed to a Batch API, kept beside the reply store so that a restart goes on with it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from uuid import uuid4

from filelock import FileLock

from autointerp.errors import UserError

Outcome = Literal["pending", "ok", "failed"]

_KEYS_PER_QUERY = 500
_TABLES = """
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    url TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    created REAL NOT NULL,
    remote TEXT
);
CREATE TABLE IF NOT EXISTS items (
    key TEXT NOT NULL,
    batch TEXT NOT NULL REFERENCES batches (name),
    outcome TEXT NOT NULL,
    PRIMARY KEY (key, batch)
);
"""


@dataclass(frozen=True, kw_only=True)
class KnownBatch:
    """One batch as far as it is written down."""

    name: str
    """Our name for it, in its metadata at the server."""
    endpoint: str
    created: float
    """Seconds since 1970."""
    remote: str | None
    """The server's id; None: whether it was ever created there is not known."""


class BatchState:
    """Batches and the requests in them, in one SQLite file.

    A batch is written down before it is submitted and gets its id after: one without an id was
    being submitted when its process ended, and is looked for by its name. Hold `submitting` while
    looking and submitting, so that no other process takes a batch for abandoned, or submits a
    request a second time. Raises `UserError` if the file cannot be used.
    """

    def __init__(self, path: str | Path, model: str, url: str) -> None:
        self.path, self.model, self.url = path, model, url
        with self._explained():
            if path != ":memory:":
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=60.0, check_same_thread=False)
            self._db.executescript(_TABLES)

    @contextmanager
    def submitting(self) -> Iterator[None]:
        """Only one process at a time is in here."""
        if self.path == ":memory:":
            yield
            return
        with FileLock(f"{self.path}.lock"):
            yield

    def abandoned(self) -> list[KnownBatch]:
        """Batches without an id, of this model and server."""
        return self._batches("model = ? AND url = ? AND remote IS NULL", (self.model, self.url))

    def begin(self, endpoint: str, keys: Iterable[str]) -> KnownBatch:
        """Write down a batch that is about to be submitted."""
        batch = KnownBatch(name=uuid4().hex, endpoint=endpoint, created=time.time(), remote=None)
        with self._explained(), self._db:
            row = (batch.name, self.model, self.url, endpoint, batch.created, None)
            self._db.execute("INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?)", row)
            items = [(key, batch.name, "pending") for key in keys]
            self._db.executemany("INSERT INTO items VALUES (?, ?, ?)", items)
        return batch

    def submitted(self, name: str, remote: str) -> None:
        """Write down the server's id of a batch."""
        with self._explained(), self._db:
            self._db.execute("UPDATE batches SET remote = ? WHERE name = ?", (remote, name))

    def forget(self, name: str) -> None:
        """Take back a batch that was never created, or whose results are gone."""
        with self._explained(), self._db:
            self._db.execute("DELETE FROM items WHERE batch = ?", (name,))
            self._db.execute("DELETE FROM batches WHERE name = ?", (name,))

    def set_outcomes(self, name: str, outcomes: Iterable[tuple[str, Outcome]]) -> None:
        """Write down what became of a batch's requests."""
        with self._explained(), self._db:
            self._db.executemany(
                "UPDATE items SET outcome = ? WHERE key = ? AND batch = ?",
                [(outcome, key, name) for key, outcome in outcomes],
            )

    def latest(self, keys: Iterable[str]) -> dict[str, tuple[str, Outcome]]:
        """The latest batch of each of these requests that is in one, with what became of it there."""
        wanted, found = list(keys), dict[str, tuple[str, Outcome]]()
        with self._explained():
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                some = wanted[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                rows = self._db.execute(
                    "SELECT items.key, batches.name, items.outcome FROM items JOIN batches "
                    f"ON items.batch = batches.name WHERE items.key IN ({marks}) AND batches.url = ? "
                    "ORDER BY batches.created, batches.rowid",
                    (*some, self.url),
                )
                found |= {key: (name, outcome) for key, name, outcome in rows}
        return found

    def batch(self, name: str) -> KnownBatch:
        """A batch by its name."""
        return self._batches("name = ?", (name,))[0]

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _batches(self, condition: str, values: tuple[str, ...]) -> list[KnownBatch]:
        with self._explained():
            rows = self._db.execute(
                f"SELECT name, endpoint, created, remote FROM batches WHERE {condition} ORDER BY created",
                values,
            )
            names = ("name", "endpoint", "created", "remote")
            return [KnownBatch(**dict(zip(names, row, strict=True))) for row in rows]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.DatabaseError) as error:
            raise UserError(f"record of batches {self.path}: cannot be used ({error})") from error

"""Stored replies: an SQLite file from the hash of a request to its reply, so that none is paid twice."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm.types import Reply, Request

BUSY_SECONDS = 60.0
"""How long to wait for another process that is writing."""

GATHER_SECONDS = 0.05
"""How long the writing thread lets replies gather before it commits them together."""

_KEYS_PER_QUERY = 500
_ENOUGH_PENDING = 500
_MOST_PENDING = 20_000
_TABLE = """
CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY,
    reply TEXT NOT NULL,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    created REAL NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost_usd REAL
)
"""
_USES_TABLE = """
CREATE TABLE IF NOT EXISTS uses (
    ended REAL NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    stored INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    sent INTEGER NOT NULL,
    errors INTEGER NOT NULL,
    cost_usd REAL
)
"""
_INSERT = "INSERT OR IGNORE INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

_Row = tuple[str, str, str, str, float, int | None, int | None, float | None]


class StoreCounts(NamedTuple):
    """What a reply store holds."""

    n_replies: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    """Sum over the replies whose cost is known."""


class ReplyStore:
    """Replies by request key, in one SQLite file that several processes and threads may share.

    `put` hands the row to a writing thread, which commits what gathers within `GATHER_SECONDS`: a
    killed process loses at most that. `flush` waits for the commit. The first reply under a key stays. Error replies are never stored.

    Raises `UserError` if the file cannot be opened or written (the disk is full, say) and
    `CorruptArtifactError` if it is damaged or not a reply store. A failure of the writing thread
    is raised by the next `put`, `flush` or `close`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Condition()
        self._pending: list[_Row] = []
        self._n_writing = 0
        self._hurry = False
        self._failure: UserError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            with self._reader:
                self._reader.execute(_TABLE)
            self._reader.execute("SELECT key, reply, model, request FROM replies LIMIT 1").fetchone()
        self._reading = threading.Lock()

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The stored replies among these keys."""
        self.flush()
        wanted, found = list(dict.fromkeys(keys)), dict[str, Reply]()
        with self._explained(), self._reading:
            for start in range(0, len(wanted), _KEYS_PER_QUERY):
                some = wanted[start : start + _KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                rows = self._reader.execute(f"SELECT key, reply FROM replies WHERE key IN ({marks})", some)
                for key, text in rows:
                    found[key] = self._parse(key, text)
        return found

    def put(self, key: str, request: Request, reply: Reply, model: str = "") -> None:
        """Store the reply to a request; `model` is the identity the key was made with."""
        if not reply.ok:
            return
        usage = reply.usage
        row: _Row = (
            key,
            reply.to_json(),
            model or reply.model or "",
            json.dumps(vars(request), default=_plain, ensure_ascii=False, separators=(",", ":")),
            time.time(),
            usage.prompt_tokens,
            usage.completion_tokens,
            usage.cost_usd,
        )
        with self._lock:
            self._raise_failure()
            assert not self._closed, "the reply store is closed"
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="reply-store", daemon=True)
                self._thread.start()
            self._lock.wait_for(lambda: len(self._pending) < _MOST_PENDING or self._failure is not None)
            self._pending.append(row)
            if len(self._pending) in (1, _ENOUGH_PENDING):
                self._lock.notify_all()

    def flush(self) -> None:
        """Wait until every reply that was put is in the file."""
        with self._lock:
            self._hurry = bool(self._pending)
            self._lock.notify_all()
            self._lock.wait_for(
                lambda: (not self._pending and not self._n_writing) or self._failure is not None
            )
            self._raise_failure()

    def record_use(
        self,
        model: str,
        *,
        requests: int,
        stored: int,
        duplicates: int,
        sent: int,
        errors: int,
        cost_usd: float | None,
    ) -> None:
        """Write down what a process that ends asked of a model, for `autointerp replies`."""
        row = (time.time(), model, requests, stored, duplicates, sent, errors, cost_usd)
        with self._explained(), self._reading, self._reader:
            self._reader.execute(_USES_TABLE)
            self._reader.execute("INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def counts(self) -> StoreCounts:
        """How many replies the file holds, with their tokens and cost."""
        self.flush()
        with self._explained(), self._reading:
            row = self._reader.execute(
                "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
                "coalesce(sum(cost_usd), 0.0) FROM replies"
            ).fetchone()
        return StoreCounts(*row)

    def __len__(self) -> int:
        return self.counts().n_replies

    def close(self) -> None:
        """Write what is pending and close the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join()
        with self._reading:
            self._reader.close()
        with self._lock:
            self._raise_failure()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    def _write(self) -> None:
        try:
            with self._explained(), closing(self._connect()) as connection:
                while rows := self._take():
                    with connection:
                        connection.executemany(_INSERT, rows)
        except UserError as error:
            self._failure = error
        finally:
            with self._lock:
                self._n_writing = 0
                self._lock.notify_all()

    def _take(self) -> list[_Row]:
        """Everything pending; waits for some, and returns none when the store is closed."""
        with self._lock:
            self._n_writing = 0
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._pending or self._closed)
            self._lock.wait_for(
                lambda: self._hurry or self._closed or len(self._pending) >= _ENOUGH_PENDING,
                timeout=GATHER_SECONDS,
            )
            self._hurry = False
            rows, self._pending = self._pending, []
            self._n_writing = len(rows)
            return rows

    def _parse(self, key: str, text: str) -> Reply:
        try:
            return Reply.from_json(text)
        except (ValueError, TypeError, KeyError):
            raise CorruptArtifactError(
                f"reply store {self.path}: the reply under {key} cannot be read; delete that row or the file"
            ) from None

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite and the file system say into one line for the user."""
        try:
            yield
        except OSError as error:
            raise UserError(f"reply store {self.path}: {error.strerror or error}") from error
        except sqlite3.DatabaseError as error:
            message = str(error)
            if "locked" in message or "busy" in message:
                advice = f"another process kept it locked for {BUSY_SECONDS:.0f} s; end that process"
            elif "full" in message:
                advice = "the disk is full; make room, then run again (stored replies are kept)"
            elif isinstance(error, sqlite3.OperationalError) and "no such column" not in message:
                advice = f"cannot be opened or written ({message}); check models.reply_store"
            else:
                raise CorruptArtifactError(
                    f"reply store {self.path}: damaged or not a reply store ({message}); "
                    "move it away to start a new one"
                ) from error
            raise UserError(f"reply store {self.path}: {advice}") from error


def _plain(value: object) -> dict[str, Any]:
    """A chat message or a schema as a table."""
    return dict(value) if isinstance(value, Mapping) else vars(value)

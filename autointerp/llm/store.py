"""Stored replies: an SQLite file from the hash of a request to its reply, so that none is paid twice."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm import store_rows
from autointerp.llm.types import Reply, Request

BUSY_SECONDS = 60.0
"""How long to wait for another process that is writing."""

GATHER_SECONDS = 0.002
"""Least time between two commits: replies that come faster are committed together, one that comes alone at once."""

_KEYS_PER_QUERY = 500
_ENOUGH_PENDING = 500
_MOST_PENDING = 20_000
USES_TABLE = """
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
_INSERT_MODEL = "INSERT OR IGNORE INTO models (model, reply_model) VALUES (?, ?)"
_INSERT_PROMPT = "INSERT OR IGNORE INTO prompts VALUES (?, ?)"
_INSERT = "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "reply, reply_model, prompt_tokens, completion_tokens, cost_usd"


class _Row(NamedTuple):
    """What is written for one reply."""

    key: str
    model: tuple[str, str | None]
    """Identity, and the name the reply came with."""
    request: Request
    reply: Reply
    created: float


def find_replies(
    connection: sqlite3.Connection, keys: Iterable[str], *, new: bool = True, old: bool
) -> Iterator[tuple[str, Callable[[], Reply]]]:
    """(key, how to read its reply) of the stored ones among these; `old`, `new`: layouts that are there."""
    wanted = list(dict.fromkeys(keys))
    for start in range(0, len(wanted), _KEYS_PER_QUERY):
        some = wanted[start : start + _KEYS_PER_QUERY]
        marks = ",".join("?" * len(some))
        found = set[str]()
        if new:
            joined = "answers JOIN models ON answers.model = models.id"
            query = f"SELECT key, {_COLUMNS} FROM {joined} WHERE key IN ({marks})"
            for key, *columns in connection.execute(query, [store_rows.key_bytes(key) for key in some]):
                found.add(store_rows.key_text(key))
                yield store_rows.key_text(key), partial(store_rows.unpack_reply, *columns)
        if old:
            query = f"SELECT key, reply FROM {store_rows.FIRST_LAYOUT} WHERE key IN ({marks})"
            for key, text in connection.execute(query, some):
                if key not in found:
                    yield key, partial(Reply.from_json, text)


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a store has this table."""
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (name,)).fetchone() is not None


class StoreCounts(NamedTuple):
    """What a reply store holds."""

    n_replies: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    """Sum over the replies whose cost is known."""


class ReplyStore:
    """Replies by request key, in one SQLite file that several processes and threads may share.

    `put` hands the row to a writing thread, which commits at once, or with what else comes within
    `GATHER_SECONDS` of its last commit: a killed process loses at most that. `flush` waits for the
    commit. The first reply under a key stays. Error replies are never stored. The layout is that of
    `autointerp.llm.store_rows`.

    Raises `UserError` if the file cannot be opened or written (the disk is full, say) and
    `CorruptArtifactError` if it is damaged or not a reply store. A failure of the writing thread
    is raised by the next `put`, `flush` or `close`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = threading.Condition()
        self._pending: list[_Row] = []
        self._n_given = self._n_committed = 0
        self._hurry = False
        self._failure: UserError | None = None
        self._closed = False
        self._thread: threading.Thread | None = None
        self._last_commit = float("-inf")
        self._models: dict[tuple[str, str | None], int] = {}
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._reader = self._connect()
            self._old = has_table(self._reader, store_rows.FIRST_LAYOUT)
            if self._old:
                self._reader.execute("SELECT key, reply, model, request FROM replies LIMIT 1").fetchone()
            self._reader.executescript(store_rows.TABLES)
            self._reader.execute("SELECT key, reply, model, prompt, request FROM answers LIMIT 1").fetchone()
        self._reading = threading.Lock()

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The stored replies among these keys."""
        self.flush()
        found = dict[str, Reply]()
        with self._explained(), self._reading:
            for key, read in find_replies(self._reader, keys, old=self._old):
                found[key] = self._parse(key, read)
        return found

    def put(self, key: str, request: Request, reply: Reply, model: str = "") -> None:
        """Store the reply to a request; `model` is the identity the key was made with."""
        if not reply.ok:
            return
        row = _Row(key, (model or reply.model or "", reply.model), request, reply, time.time())
        with self._lock:
            self._raise_failure()
            assert not self._closed, "the reply store is closed"
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="reply-store", daemon=True)
                self._thread.start()
            self._lock.wait_for(lambda: len(self._pending) < _MOST_PENDING or self._failure is not None)
            self._pending.append(row)
            self._n_given += 1
            if len(self._pending) in (1, _ENOUGH_PENDING):
                self._lock.notify_all()

    def flush(self) -> None:
        """Wait until every reply that was put is in the file."""
        with self._lock:
            self._hurry = bool(self._pending)
            self._lock.notify_all()
            wanted = self._n_given
            self._lock.wait_for(lambda: self._n_committed >= wanted or self._failure is not None)
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
            self._reader.execute(USES_TABLE)
            self._reader.execute("INSERT INTO uses VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def counts(self) -> StoreCounts:
        """How many replies the file holds, with their tokens and cost."""
        self.flush()
        with self._explained(), self._reading:
            tables = ["answers", *([store_rows.FIRST_LAYOUT] if self._old else [])]
            rows = [
                self._reader.execute(
                    "SELECT count(*), coalesce(sum(prompt_tokens), 0), coalesce(sum(completion_tokens), 0), "
                    f"coalesce(sum(cost_usd), 0.0) FROM {table}"
                ).fetchone()
                for table in tables
            ]
        return StoreCounts(*(sum(column) for column in zip(*rows, strict=True)))

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
                        self._insert(connection, rows)
                    self._committed(len(rows))
        except UserError as error:
            self._failure = error
        finally:
            with self._lock:
                self._lock.notify_all()

    def _insert(self, connection: sqlite3.Connection, rows: list[_Row]) -> None:
        if self._old:  # the first reply under a key stays, in whichever layout it lies
            marks = ",".join("?" * len(rows))
            query = f"SELECT key FROM {store_rows.FIRST_LAYOUT} WHERE key IN ({marks})"
            there = {key for (key,) in connection.execute(query, [row.key for row in rows])}
            rows = [row for row in rows if row.key not in there]
        for model in {row.model for row in rows} - self._models.keys():
            known = "SELECT id FROM models WHERE model = ? AND reply_model IS ?"
            found = connection.execute(known, model).fetchone()
            if found is None:
                connection.execute(_INSERT_MODEL, model)
                found = connection.execute(known, model).fetchone()
            self._models[model] = found[0]
        packed = [store_rows.pack_request(row.request) for row in rows]
        connection.executemany(_INSERT_PROMPT, {prompt[0]: prompt[:2] for prompt in packed}.values())
        connection.executemany(
            _INSERT,
            [
                (
                    store_rows.key_bytes(row.key),
                    store_rows.pack_reply(row.reply),
                    self._models[row.model],
                    prompt,
                    rest,
                    row.created,
                    row.reply.usage.prompt_tokens,
                    row.reply.usage.completion_tokens,
                    row.reply.usage.cost_usd,
                )
                for row, (prompt, _, rest) in zip(rows, packed, strict=True)
            ],
        )

    def _committed(self, n: int) -> None:
        with self._lock:
            self._n_committed += n
            self._lock.notify_all()

    def _take(self) -> list[_Row]:
        """Everything pending; waits for some, and returns none when the store is closed."""
        with self._lock:
            self._lock.wait_for(lambda: self._pending or self._closed)
            self._lock.wait_for(
                lambda: self._hurry or self._closed or len(self._pending) >= _ENOUGH_PENDING,
                timeout=max(0.0, self._last_commit + GATHER_SECONDS - time.monotonic()),
            )
            self._hurry = False
            self._last_commit = time.monotonic()
            rows, self._pending = self._pending, []
            return rows

    def _parse(self, key: str, read: Callable[[], Reply]) -> Reply:
        try:
            return read()
        except (ValueError, TypeError, KeyError, IndexError):
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

"""Reply stores of workers on several machines: each writes one of its own, and all are merged in the end.

SQLite needs file locks that shared file systems do not give reliably, so no two machines ever open one file
for writing. A worker writes a file on its own machine and publishes it, whole, in the run's folder of
published replies: when a part is finished, and every `PUBLISH_SECONDS` while it asks. It reads the run's
store and what others published, neither of which changes while it is read. The process that leads the run
merges what was published into the run's store when no worker is at work.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm import store_rows
from autointerp.llm.store import BUSY_SECONDS, USES_TABLE, ReplyStore, find_replies, has_table
from autointerp.llm.types import Reply, Request
from autointerp.storage import files_below, is_remote, whole_file

PUBLISH_SECONDS = 30.0
"""Replies that a lost machine takes with it are younger than this, or those of its last copy."""
_PATTERN = "*.sqlite"


class WorkerStore(ReplyStore):
    """A reply store on this machine that also finds what the run's store and those of other workers hold.

    `path` is the run's store, which is only read; `published` the folder all workers see.
    """

    def __init__(self, path: Path, *, published: Path) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="autointerp-replies-")
        here = Path(self._folder.name)
        super().__init__(here / "replies.sqlite")
        self.target = published / f"{uuid.uuid4().hex}.sqlite"
        others = [fetched(file, here) for file in files_below(published, _PATTERN)]
        self._beside = [path, *others]
        self._is_published = True
        self._last = time.monotonic()
        self._publishing = threading.Lock()

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        """The stored replies among these keys, its own first."""
        wanted = list(dict.fromkeys(keys))
        found = super().get_many(wanted)
        for path in self._beside:
            if missing := [key for key in wanted if key not in found]:
                found |= read_replies(path, missing)
        return found

    def put(self, key: str, request: Request, reply: Reply, model: str = "") -> None:
        """As `ReplyStore.put`; every so often what was put is published."""
        super().put(key, request, reply, model)
        self._is_published = False
        if time.monotonic() - self._last > PUBLISH_SECONDS:
            self.publish()

    def record_use(self, model: str, **counts: Any) -> None:
        """As `ReplyStore.record_use`."""
        super().record_use(model, **counts)
        self._is_published = False

    def publish(self) -> None:
        """Put a copy of this store, as it is now, where the others see it, unless another thread is at it."""
        if not self._publishing.acquire(blocking=False):
            return
        try:
            self._last, self._is_published = time.monotonic(), True
            self.flush()
            copy = Path(self._folder.name) / "copy.sqlite"
            with self._explained(), self._reading:
                back_up(self._reader, copy)
                with whole_file(self.target) as whole:
                    shutil.copyfile(copy, whole)
        finally:
            self._publishing.release()

    def close(self) -> None:
        """Publish what was put and close the file."""
        try:
            if not self._closed and not self._is_published:
                self.publish()
            super().close()
        finally:
            self._folder.cleanup()


def read_replies(path: Path, keys: Iterable[str]) -> dict[str, Reply]:
    """The replies among `keys` in a store that nobody writes now; none if it is not there.

    Raises `CorruptArtifactError` if it cannot be read.
    """
    found: dict[str, Reply] = {}
    if not path.is_file():
        return found
    try:
        with closing(_still(path)) as connection:
            new, old = has_table(connection, "answers"), has_table(connection, store_rows.FIRST_LAYOUT)
            for key, read in find_replies(connection, keys, new=new, old=old):
                found[key] = read()
    except (sqlite3.DatabaseError, ValueError, TypeError, KeyError, IndexError) as error:
        raise CorruptArtifactError(
            f"reply store {path}: cannot be read ({error}); move it away to go on without it"
        ) from None
    return found


def merge_published(store: Path, published: Path) -> int:
    """Take what workers published into the run's store, and remove it there; the number of replies taken.

    Nobody else may have the run's store open. The first reply under a key stays.
    """
    files = files_below(published, _PATTERN)
    if files or store.is_file():
        # Makes the tables, says what is wrong with the file, and takes in the journal a killed process left.
        ReplyStore(store).close()
    n = 0
    with tempfile.TemporaryDirectory(prefix="autointerp-replies-") as folder:
        for file in files:
            here = fetched(file, Path(folder))
            try:
                with closing(sqlite3.connect(store, timeout=BUSY_SECONDS)) as connection:
                    n += _merge(connection, here)
            except sqlite3.DatabaseError as error:
                raise UserError(
                    f"reply store {store}: what workers stored in {file} cannot be taken over ({error}); nothing is lost: "
                    "mend that and run the same command again"
                ) from None
            with suppress(FileNotFoundError):
                file.unlink()
    return n


def publish_store(store: Path, published: Path) -> None:
    """Publish a store that workers cannot read where it lies, as another run may write it, or on another machine."""
    if not store.is_file():
        return
    with tempfile.TemporaryDirectory(prefix="autointerp-replies-") as folder:
        copy = Path(folder) / "copy.sqlite"
        with closing(sqlite3.connect(store, timeout=BUSY_SECONDS)) as connection:
            back_up(connection, copy)
        with whole_file(published / "run.sqlite") as whole:
            shutil.copyfile(copy, whole)


def back_up(connection: sqlite3.Connection, copy: Path) -> None:
    """Copy a store, as it is now, into one file without a journal."""
    copy.unlink(missing_ok=True)
    with closing(sqlite3.connect(copy)) as other:
        connection.backup(other)
        other.execute("PRAGMA journal_mode=DELETE")


def fetched(file: Path, folder: Path) -> Path:
    """A published file where SQLite can open it: copied into `folder` if it is remote."""
    if not is_remote(file):
        return file
    here = folder / file.name
    here.write_bytes(file.read_bytes())
    return here


def _still(path: Path) -> sqlite3.Connection:
    """A store opened without locks: nobody may be writing it."""
    return sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, check_same_thread=False
    )


def _merge(connection: sqlite3.Connection, part: Path) -> int:
    connection.execute("ATTACH ? AS part", (str(part),))
    with connection:
        connection.execute("INSERT OR IGNORE INTO main.prompts SELECT * FROM part.prompts")
        connection.execute(
            "INSERT INTO main.models (model, reply_model) SELECT model, reply_model FROM part.models AS new WHERE NOT "
            "EXISTS (SELECT 1 FROM main.models AS old WHERE old.model = new.model AND old.reply_model IS new.reply_model)"
        )
        before = connection.total_changes
        connection.execute(
            "INSERT OR IGNORE INTO main.answers SELECT key, reply, old.id, prompt, request, created, prompt_tokens, "
            "completion_tokens, cost_usd FROM part.answers JOIN part.models AS new ON part.answers.model = new.id "
            "JOIN main.models AS old ON old.model = new.model AND old.reply_model IS new.reply_model"
        )
        n = connection.total_changes - before
        if connection.execute("SELECT 1 FROM part.sqlite_master WHERE name = 'uses'").fetchone():
            connection.execute(USES_TABLE)
            connection.execute("INSERT INTO main.uses SELECT * FROM part.uses")
    connection.execute("DETACH part")
    return n

"""The right to write into a run directory: one process at a time, on this machine or on any.

On this machine it is a lock of the operating system on `.lock`, which ends with its process, so nothing
stale is ever left; `.holder.json` says whose it is. On object storage there are no such locks: `.lock` is
an object that is created only if it is not there, renewed while its holder works, and taken over when it
was not renewed for `LEASE_SECONDS` (by the storage's own clock) or its holder is a dead process of this host.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from autointerp import storage
from autointerp.errors import UserError

log = logging.getLogger(__name__)

LEASE_SECONDS = 300.0
"""A remote lock that was not renewed for so long is nobody's."""
RENEW_SECONDS = 60.0
SETTLE_SECONDS = 1.0
"""After taking over a lock, wait before looking whether another process did the same."""


class Lock(Protocol):
    """A lock that is held."""

    def release(self, force: bool = False) -> None:
        """Give it back; a second time does nothing."""
        ...


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock."""

    host: str
    pid: int
    command: str
    since: str
    """UTC, for people to read; nothing is computed from it."""
    token: str
    """Of its own for every lock taken."""

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:3]]).strip() if sys.argv else "python"
        return cls(
            host=socket.gethostname(),
            pid=os.getpid(),
            command=command,
            since=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            token=uuid.uuid4().hex,
        )

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """The holder that a file names; None if it names none."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        return None

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self)) + "\n"

    def is_dead(self) -> bool:
        """Whether it was a process of this host that is no more."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command!r}, since {self.since})"


def take(root: Path) -> Lock:
    """Take the right to write into a run directory, until it is released or the process ends.

    Raises `UserError` if the directory cannot be written or another process holds it.
    """
    return _take_remote(root) if storage.is_remote(root) else _take_local(root)


def _refused(root: Path, holder: Holder | None, more: str = "") -> UserError:
    who = "another process" if holder is None else f"another process: {holder}"
    return UserError(
        f"RUN_DIR: {root} is in use by {who}; wait for it to end{more}, or choose another RUN_DIR"
    )


def _take_local(root: Path) -> Lock:
    named = root / ".holder.json"
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise _refused(root, Holder.read(named)) from None
    except OSError as error:
        raise UserError(f"RUN_DIR: {root} cannot be written: {error.strerror}") from None
    with suppress(OSError):  # it only serves the other's message; a full disk is told where it matters
        named.write_text(Holder.me().text(), encoding="utf-8")
    return lock


def _take_remote(root: Path) -> Lock:
    path = root / ".lock"
    with storage.reached("RUN_DIR", root):
        me = Holder.me()
        if _create(path, me.text()):
            return _Lease(path, me)
        holder = Holder.read(path)
        why = _stale(path, holder)
        if why is None:
            more = f" (if it is no more: the lock lapses {LEASE_SECONDS:.0f} s after it was last renewed)"
            raise _refused(root, holder, more)
        log.warning("%s: lock of %s taken over: %s", root, holder or "an unknown process", why)
        path.unlink(missing_ok=True)
        if _create(path, me.text()):
            time.sleep(SETTLE_SECONDS)
            found = Holder.read(path)
            if found is not None and found.token == me.token:
                return _Lease(path, me)
        raise _refused(root, Holder.read(path))


def _create(path: Path, text: str) -> bool:
    """Put an object only if there is none of its name; whether there was none."""
    remote: Any = path
    if path.exists():  # some servers take no notice of the condition
        return False
    try:
        remote.fs.pipe_file(remote.path, text.encode(), mode="create")
    except FileExistsError:
        return False
    except Exception as error:
        # The condition is told in many ways: 412 of S3 and of Google, 409 where two come at once.
        if path.exists() and any(sign in str(error) for sign in ("recondition", "412", "409", "onflict")):
            return False
        raise
    return True


def _stale(path: Path, holder: Holder | None) -> str | None:
    """Why a remote lock is nobody's; None if it may be somebody's."""
    if holder is not None and holder.is_dead():
        return "that process is dead"
    idle = _idle_seconds(path)
    if idle is not None and idle > LEASE_SECONDS:
        return f"not renewed for {idle:.0f} s"
    return None


def _idle_seconds(path: Path) -> float | None:
    """Seconds since an object was written, by the clock of the storage: it stamps a second object now."""
    remote: Any = path
    probe = path.with_name(f".clock-{uuid.uuid4().hex}")
    try:
        asked: Any = probe
        remote.fs.pipe_file(asked.path, b"now")
        written, now = remote.fs.modified(remote.path), remote.fs.modified(asked.path)
        return float((now - written).total_seconds())
    except FileNotFoundError:
        return None  # released meanwhile
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)


class _Lease:
    """A remote lock that is held: renewed by a thread until it is released."""

    def __init__(self, path: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="run-lock", daemon=True)
        self._thread.start()

    def release(self, force: bool = False) -> None:
        """Give it back; a second time does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        with suppress(OSError), storage.as_os_error():
            if self._is_mine():
                self.path.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        found = Holder.read(self.path)
        return found is not None and found.token == self.holder.token

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                with storage.as_os_error():
                    if not self._is_mine():
                        log.error(
                            "%s: this process lost its right to write here, to %s; shards stay whole, but stop one "
                            "of the two",
                            self.path.parent,
                            Holder.read(self.path) or "nobody",
                        )
                        return
                    remote: Any = self.path
                    remote.fs.pipe_file(remote.path, self.holder.text().encode())
            except OSError as error:
                log.warning("%s: the lock could not be renewed (%s); tried again", self.path, error)

"""The reply store keeps what was put, through kills, crowds and damage."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm import store as store_module
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import ErrorKind, Reply, Request, Usage

WRITER = """
import sys, time
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import Reply, Request
store = ReplyStore(sys.argv[1])
for i in range(int(sys.argv[3])):
    store.put(f"{sys.argv[2]}-{i}", Request(prompt=str(i)), Reply(text=str(i)))
    if len(sys.argv) > 4:
        time.sleep(float(sys.argv[4]))
        print(i, flush=True)
store.close()
"""


def writer(path: Path, name: str, n: int, *pause: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), name, str(n), *pause]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_replies_come_back_as_they_were(tmp_path: Path) -> None:
    reply = Reply(text="é\n", usage=Usage(prompt_tokens=5, completion_tokens=2, cost_usd=0.5))
    with ReplyStore(tmp_path / "sub" / "replies.sqlite") as store:
        store.put("a", Request(prompt="x"), reply, "model-1")
        store.put("b", Request(prompt="y"), Reply(text="two"))
        store.put("a", Request(prompt="x"), Reply(text="a later one does not replace the first"))
        assert store.get_many(["b", "a", "missing", "a"]) == {"a": reply, "b": Reply(text="two")}
        assert store.counts() == (2, 5, 2, 0.5)
        assert len(store) == 2
    with ReplyStore(store.path) as again:
        assert again.get_many(f"k{i}" for i in range(2_000)) == {}
        assert again.get_many(["a"]) == {"a": reply}
    with sqlite3.connect(store.path) as connection:
        rows = connection.execute("SELECT model, request FROM replies WHERE key = 'a'").fetchall()
    assert rows[0][0] == "model-1"
    assert '"prompt":"x"' in rows[0][1]


def test_errors_are_not_stored(tmp_path: Path) -> None:
    with ReplyStore(tmp_path / "r") as store:
        store.put("a", Request(prompt="x"), Reply(error=ErrorKind.TIMEOUT))
        assert len(store) == 0


def test_a_killed_writer_loses_nothing_it_had_time_to_write(tmp_path: Path) -> None:
    path = tmp_path / "r"
    process = writer(path, "k", 100_000, "0.01")
    assert process.stdout is not None
    last = 0
    for line in process.stdout:
        last = int(line)
        if last >= 30:
            break
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with ReplyStore(path) as store:
        found = store.get_many(f"k-{i}" for i in range(100_000))
        assert len(found) >= last
        assert all(reply.text == key.removeprefix("k-") for key, reply in found.items())
        store.put("after", Request(prompt="x"), Reply(text="works"))
        assert len(store) == len(found) + 1


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r"
    processes = [writer(path, name, 400) for name in ("a", "b", "a")]
    assert [process.wait() for process in processes] == [0, 0, 0]
    with ReplyStore(path) as store:
        assert len(store) == 800


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "r"
    path.write_bytes(b"this is no database" * 1000)
    with pytest.raises(CorruptArtifactError, match="damaged or not a reply store"):
        ReplyStore(path)
    other = tmp_path / "other"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE replies (something TEXT)")
    with pytest.raises(CorruptArtifactError, match="not a reply store"):
        ReplyStore(other)
    with ReplyStore(tmp_path / "s") as store:
        store.put("a", Request(prompt="x"), Reply(text="ok"))
        store.flush()
        with sqlite3.connect(store.path) as connection:
            connection.execute("UPDATE replies SET reply = '{\"text\": 1'")
        with pytest.raises(CorruptArtifactError, match="under a cannot be read"):
            store.get_many(["a"])


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reply store"):
        ReplyStore(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="reply store"):
        ReplyStore(tmp_path / "file" / "r")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = ReplyStore._connect

    def small(self: ReplyStore) -> sqlite3.Connection:
        connection = connect(self)
        connection.execute("PRAGMA max_page_count=8")
        return connection

    monkeypatch.setattr(ReplyStore, "_connect", small)
    store = ReplyStore(tmp_path / "r")
    for i in range(100):
        with suppress(UserError):
            store.put(str(i), Request(prompt="x"), Reply(text="long " * 100))
    with pytest.raises(UserError, match="disk is full"):
        store.flush()
    with pytest.raises(UserError, match="disk is full"):
        store.close()


def test_a_lock_held_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.1)
    store = ReplyStore(tmp_path / "r")
    other = sqlite3.connect(store.path)
    other.execute("BEGIN EXCLUSIVE")
    store.put("a", Request(prompt="x"), Reply(text="ok"))
    with pytest.raises(UserError, match="locked"):
        store.flush()
    other.close()

"""The reply store keeps what was put, through kills, crowds and damage."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm import store as store_module
from autointerp.llm.replies import StoredReplies
from autointerp.llm.store import ReplyStore
from autointerp.llm.store_rows import pack_reply, pack_request, unpack_reply, unpack_request
from autointerp.llm.types import ErrorKind, Message, Reply, Request, TokenLogprob, Usage

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


def n_written(path: Path) -> int:
    with sqlite3.connect(path, timeout=30) as connection:
        (n,) = connection.execute("SELECT COUNT(*) FROM answers").fetchone()
    return int(n)


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
        query = (
            "SELECT models.model, prompts.prompt FROM answers, models, prompts WHERE key = CAST('a' AS BLOB)"
        )
        joined = f"{query} AND answers.model = models.id AND answers.prompt = prompts.id"
        assert connection.execute(joined).fetchall() == [("model-1", '"x"')]


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
    # Writing takes its time on a busy machine; that it is done while the writer runs is the point.
    end = time.monotonic() + 60
    while n_written(path) < last and time.monotonic() < end:
        time.sleep(0.05)
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
            connection.execute("UPDATE answers SET reply = '{\"x\": 1'")
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
            store.put(str(i), Request(prompt="x"), Reply(text=os.urandom(250).hex()))
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


FIRST_LAYOUT = """
CREATE TABLE replies (
    key TEXT PRIMARY KEY, reply TEXT NOT NULL, model TEXT NOT NULL, request TEXT NOT NULL, created REAL NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, cost_usd REAL
)
"""


def test_a_store_of_the_first_layout_is_read_and_added_to(tmp_path: Path) -> None:
    path = tmp_path / "r"
    old = Reply(text="old", usage=Usage(prompt_tokens=5, completion_tokens=2, cost_usd=0.5), model="m")
    request = user("how?", max_tokens=9)
    told = (
        '{"messages":[{"role":"user","content":"how?"}],"prompt":null,"continuation":null,"prompt_top_logprobs":0,'
        '"max_tokens":9,"temperature":0.0,"top_p":1.0,"stop":[],"seed":null,"top_logprobs":0,"json_schema":null}'
    )
    with sqlite3.connect(path) as connection:
        connection.execute(FIRST_LAYOUT)
        row = (request.key("id"), old.to_json(), "id", told, 7.0, 5, 2, 0.5)
        connection.execute("INSERT INTO replies VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    with StoredReplies(path) as stored:  # before anything is added
        assert stored.get_many([request.key("id"), "x"]) == {request.key("id"): old}
        (before,) = stored.export()
    with ReplyStore(path) as store:
        store.put(request.key("id"), request, Reply(text="a later one"), "id")
        store.put(user("new").key("id"), user("new"), Reply(text="new"), "id")
        both = store.get_many([request.key("id"), user("new").key("id")])
        assert [reply.text for reply in both.values()] == ["new", "old"]
        assert store.counts() == (2, 5, 2, 0.5)
    with StoredReplies(path) as stored:
        (model,) = stored.models()
        assert (model.n_replies, model.prompt_tokens, model.n_unpriced) == (2, 5, 1)
        first, second = stored.export()
        assert first == before == {"key": request.key("id"), "model": "id", "created": 7.0} | {
            "request": {
                "messages": [{"role": "user", "content": "how?"}], "prompt": None, "continuation": None,
                "prompt_top_logprobs": 0, "max_tokens": 9, "temperature": 0.0, "top_p": 1.0, "stop": [],
                "seed": None, "top_logprobs": 0, "json_schema": None,
            },
            "reply": before["reply"],
        }  # fmt: skip
        assert second["request"]["messages"] == [{"role": "user", "content": "new"}]
        assert first["request"].keys() == second["request"].keys()
        assert first["reply"].keys() == second["reply"].keys()


def user(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **more)


texts = st.text(max_size=300)
logprobs = st.floats(allow_nan=False, max_value=0.0)
tokens = st.builds(
    TokenLogprob,
    text=texts,
    logprob=st.none() | logprobs,
    top=st.dictionaries(texts, logprobs, max_size=3),
)
counts = st.none() | st.integers(0, 10**9)
usages = st.builds(
    Usage,
    prompt_tokens=counts,
    completion_tokens=counts,
    cached_tokens=counts,
    cost_usd=st.none() | st.floats(0, 1e6),
    seconds=st.none() | st.floats(0, 1e6),
    reasoning_tokens=counts,
)
replies = st.builds(
    Reply,
    text=st.none() | texts,
    finish_reason=st.none() | texts,
    tokens=st.lists(tokens, max_size=5).map(tuple),
    usage=usages,
    model=st.none() | texts,
)
requests = st.builds(
    Request,
    prompt=texts,
    continuation=st.none() | texts,
    max_tokens=st.integers(0, 999),
    temperature=st.floats(0, 2),
    stop=st.lists(texts, max_size=2).map(tuple),
    seed=st.none() | st.integers(0, 99),
    json_schema=st.none() | st.dictionaries(texts, st.integers(), max_size=2),
) | st.builds(user, texts, top_logprobs=st.integers(0, 20))


@given(reply=replies, request=requests)
def test_what_is_packed_comes_back_exactly(reply: Reply, request: Request) -> None:
    usage = reply.usage
    back = unpack_reply(
        pack_reply(reply), reply.model, usage.prompt_tokens, usage.completion_tokens, usage.cost_usd
    )
    assert back == reply
    _, prompt, rest = pack_request(request)
    assert unpack_request(prompt, rest) == json.loads(json.dumps(asdict(request)))


@given(texts=st.lists(st.text(st.characters(), max_size=20), max_size=5))
@settings(max_examples=25)
def test_any_text_survives_the_file(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    """NUL characters and lone surrogates too."""
    path = tmp_path_factory.mktemp("odd") / "r"
    wanted = {Request(prompt=text).key("m"): Reply(text=text[::-1]) for text in [*texts, "a\0b", "\ud800"]}
    with ReplyStore(path) as store:
        for text in [*texts, "a\0b", "\ud800"]:
            store.put(Request(prompt=text).key("m"), Request(prompt=text), Reply(text=text[::-1]), "m")
        assert store.get_many(wanted) == wanted
    with StoredReplies(path) as stored:
        assert {row["key"]: row["request"]["prompt"][::-1] for row in stored.export()} == {
            key: reply.text for key, reply in wanted.items()
        }


def test_likelihoods_of_many_words_take_little_room(tmp_path: Path) -> None:
    """One row per continuation of few prompts, as the likelihood readout asks."""
    n = 4_000
    with ReplyStore(tmp_path / "r") as store:
        for i in range(n):
            request = Request(
                prompt=f"In this text there are words, such as {i % 20}", continuation=f" word{i}"
            )
            token = TokenLogprob(text=f" word{i}", logprob=-7.95451545715332 - i)
            usage = Usage(prompt_tokens=10, completion_tokens=0, cached_tokens=9, cost_usd=0.0, seconds=0.0)
            reply = Reply(tokens=(token,), usage=usage, model="package:llm/model.gguf")
            store.put(request.key("local:0"), request, reply, "local:0")
    assert store.path.stat().st_size / n < 250

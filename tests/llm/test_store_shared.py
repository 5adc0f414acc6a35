"""Stores of workers on several machines: what each finds, and what is merged in the end."""

from __future__ import annotations

import sqlite3

import pytest

from autointerp.errors import CorruptArtifactError
from autointerp.llm import store_shared
from autointerp.llm.store import ReplyStore
from autointerp.llm.store_shared import WorkerStore, merge_published, publish_store
from autointerp.llm.types import Message, Reply, Request, Usage


def asked(text: str) -> tuple[str, Request, Reply]:
    request = Request(messages=(Message(role="user", content=text),))
    reply = Reply(
        text=f"to {text}", model="m", usage=Usage(prompt_tokens=3, completion_tokens=1, cost_usd=0.5)
    )
    return request.key("model"), request, reply


def put(store: ReplyStore, *texts: str) -> None:
    for text in texts:
        store.put(*asked(text), "model")


def keys(*texts: str) -> list[str]:
    return [asked(text)[0] for text in texts]


@pytest.fixture
def places(tmp_path):
    return tmp_path / "replies.sqlite", tmp_path / "scratch" / "replies"


def test_a_worker_finds_the_runs_replies_and_those_others_published(places):
    path, published = places
    with ReplyStore(path) as main:
        put(main, "a")
    with WorkerStore(path, published=published) as first:
        put(first, "b")
        with WorkerStore(path, published=published) as too_early:
            assert too_early.get_many(keys("a", "b")).keys() == set(keys("a"))
    with WorkerStore(path, published=published) as second:
        found = second.get_many(keys("a", "b", "c"))
        assert [found[key].text for key in keys("a", "b")] == ["to a", "to b"]
        assert len(found) == 2
    assert len(list(published.iterdir())) == 1, "who put nothing publishes nothing"


def test_merged_replies_are_those_of_one_store(places):
    path, published = places
    with ReplyStore(path) as main:
        put(main, "a")
    for texts in (("a", "b"), ("b", "c")):
        with WorkerStore(path, published=published) as worker:
            put(worker, *texts)
            worker.record_use("model", requests=2, stored=0, duplicates=0, sent=2, errors=0, cost_usd=1.0)
    assert merge_published(path, published) == 2
    assert list(published.iterdir()) == []
    assert merge_published(path, published) == 0
    with ReplyStore(path) as main:
        found = main.get_many(keys("a", "b", "c"))
        assert sorted(reply.text or "" for reply in found.values()) == ["to a", "to b", "to c"]
        assert main.counts() == (3, 9, 3, 1.5)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*), sum(requests) FROM uses").fetchone() == (2, 4)
        assert connection.execute("SELECT count(*) FROM models").fetchone() == (1,)
        assert connection.execute("SELECT count(*) FROM prompts").fetchone() == (3,)


def test_replies_are_published_while_it_asks(places, monkeypatch):
    """A machine that is lost takes only its last replies with it."""
    path, published = places
    monkeypatch.setattr(store_shared, "PUBLISH_SECONDS", 0.0)
    worker = WorkerStore(path, published=published)
    put(worker, "a", "b")
    # No close: the machine is gone.
    assert merge_published(path, published) == 2
    worker.close()


def test_a_store_elsewhere_is_published_for_the_workers(places, tmp_path):
    path, published = places
    elsewhere = tmp_path / "elsewhere" / "shared.sqlite"
    with ReplyStore(elsewhere) as shared:
        put(shared, "a")
        shared.flush()
        publish_store(elsewhere, published)
        put(shared, "b")
    with WorkerStore(path, published=published) as worker:
        assert worker.get_many(keys("a", "b")).keys() == set(keys("a"))


def test_a_runs_store_that_is_damaged_is_told(places):
    path, published = places
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with (
        WorkerStore(path, published=published) as worker,
        pytest.raises(CorruptArtifactError, match=r"replies\.sqlite"),
    ):
        worker.get_many(keys("a"))


def test_nothing_is_written_to_the_runs_store_by_a_worker(places):
    path, published = places
    with ReplyStore(path) as main:
        put(main, "a")
    before = path.read_bytes()
    with WorkerStore(path, published=published) as worker:
        put(worker, "b")
        worker.get_many(keys("a", "b"))
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["replies.sqlite", "scratch"]

"""Threads that ask one model: one computes at a time, and the server never runs dry between their calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import pytest

from autointerp.errors import ModelUnavailableError
from autointerp.llm.budget import Budget
from autointerp.llm.client import StoredModel
from autointerp.llm.prices import Price
from autointerp.llm.store import ReplyStore
from autointerp.llm.turns import MOST_AT_ONCE, Turns
from autointerp.llm.types import Capability, OnReply, Reply, Request, ServesThreads
from autointerp.stages.shards import carry_out


class SlowServer:
    """Answers each request after a while (one in ten after three times as long), `in_flight` at a time."""

    identity = "slow"
    capabilities = frozenset(Capability)

    def __init__(self, in_flight: int, seconds: float = 0.1) -> None:
        self.in_flight, self.seconds = in_flight, seconds
        self._pool = ThreadPoolExecutor(in_flight)
        self._lock = threading.Lock()
        self.under_way = 0
        self.seen: list[tuple[float, int]] = []
        """(when, requests under way since then)."""
        self.prompts: list[str] = []
        self.fail_on: str | None = None

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        asked = {self._pool.submit(self._answer, request): i for i, request in enumerate(requests)}
        for future in as_completed(asked):
            on_reply(asked[future], future.result())

    def _answer(self, request: Request) -> Reply:
        prompt = request.prompt or ""
        if prompt == self.fail_on:
            raise ModelUnavailableError("gone")
        self._count(+1)
        with self._lock:
            self.prompts.append(prompt)
        time.sleep(self.seconds * (3 if prompt.endswith("7") else 1))
        self._count(-1)
        return Reply(text=prompt.upper())

    def _count(self, change: int) -> None:
        with self._lock:
            self.under_way += change
            self.seen.append((time.monotonic(), self.under_way))

    def count_tokens(self, text: str) -> None:
        return None

    def close(self) -> None:
        self._pool.shutdown()

    def mean_share(self, begin: float, end: float) -> float:
        """Mean of the requests under way over a span of time, as a share of `in_flight`."""
        total = 0.0
        for (at, n), (until, _) in zip(self.seen, [*self.seen[1:], (end, 0)], strict=True):
            total += n * max(0.0, min(until, end) - max(at, begin))
        return total / (end - begin) / self.in_flight


@pytest.fixture
def server():
    made = SlowServer(in_flight=16)
    yield made
    made.close()


@pytest.fixture
def model(server, tmp_path: Path):
    with ReplyStore(tmp_path / "r") as store:
        yield StoredModel(server, store)


def shards(model: StoredModel, n: int, size: int, build: Callable[[], None]) -> list[Callable[[], None]]:
    """Work as the stages do it: requests are built, asked, and read."""
    done: list[int] = []

    def one(shard: int) -> None:
        build()
        replies = model.complete([Request(prompt=f"{shard} {i}") for i in range(size)])
        assert [reply.text for reply in replies] == [f"{shard} {i}" for i in range(size)]
        done.append(shard)

    return [partial(one, shard) for shard in range(n)]


def middle(server: SlowServer) -> tuple[float, float]:
    """When the tenth part of the requests had begun, and when nine tenths had."""
    times = [at for at, _ in server.seen]
    return times[len(times) // 10], times[-len(times) // 10]


def test_a_server_stays_busy_from_shard_to_shard(server, model) -> None:
    building = partial(time.sleep, 0.1)
    carry_out(shards(model, 10, 32, building), (model,), alone=False)
    busy = server.mean_share(*middle(server))
    server.seen.clear()
    # The same shards one after the other: what is gained can be seen, and the test could fail.
    with ReplyStore(model.store.path.with_name("other")) as store:
        other = StoredModel(server, store)
        carry_out(shards(other, 10, 32, building), (other,), alone=True)
    assert busy > 0.8
    assert server.mean_share(*middle(server)) < busy - 0.15


def test_shards_of_few_requests_share_the_server(server, model) -> None:
    carry_out(shards(model, 60, 3, lambda: None), (model,), alone=False)
    assert server.mean_share(*middle(server)) > 0.7
    assert max(n for _, n in server.seen) <= server.in_flight


def test_requests_go_out_in_the_order_of_their_shards(server, model) -> None:
    """What begins alike lies together, so that a server's prefix cache is of use."""
    carry_out(shards(model, 8, 40, lambda: None), (model,), alone=False)
    order = [int(prompt.split()[0]) for prompt in server.prompts]
    late = [max(order[: i + 1]) - shard for i, shard in enumerate(order)]
    assert max(late) <= 1
    assert sum(late) < len(order) / 4


def test_one_thread_computes_at_a_time(server, model) -> None:
    computing = threading.Lock()

    def build() -> None:
        assert computing.acquire(blocking=False)
        time.sleep(0.002)
        computing.release()

    carry_out(shards(model, 40, 2, build), (model,), alone=False)


def test_what_one_shard_asked_is_not_asked_by_another(server, model) -> None:
    def same(n: int) -> None:
        replies = model.complete([Request(prompt=f"x {i}") for i in range(n)])
        assert [reply.text for reply in replies] == [f"X {i}" for i in range(n)]

    carry_out([partial(same, n) for n in (30, 10, 40, 5)], (model,), alone=False)
    assert sorted(server.prompts) == sorted(f"x {i}" for i in range(40))
    stats = model.stats
    assert (stats.requests, stats.sent) == (85, 40)
    assert stats.stored + stats.duplicates == 45


def test_a_failure_ends_the_others_and_is_raised(server, model) -> None:
    server.fail_on = "3 20"
    begun: list[int] = []
    work = [partial(lambda shard, one: (begun.append(shard), one()), i, one) for i, one in enumerate(
        shards(model, 40, 40, lambda: None)
    )]  # fmt: skip
    with pytest.raises(ModelUnavailableError, match="gone"):
        carry_out(work, (model,), alone=False)
    assert max(begun) < 8
    assert model.turns is None
    # What the others asked was waited for and stored.
    stored = model.store.get_many(Request(prompt=prompt).key("slow") for prompt in server.prompts)
    assert len(stored) >= len(server.prompts) - 40


def test_an_error_in_the_work_itself_is_raised(model) -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        carry_out([*shards(model, 2, 3, lambda: None), broken], (model,), alone=False)


def test_many_small_shards_are_not_all_begun_at_once() -> None:
    turns, begun, release = Turns(1_000), [], threading.Event()

    def one() -> None:
        begun.append(1)
        with turns.waiting(1) as answered:
            release.wait(10)
            answered()

    timer = threading.Timer(0.3, release.set)
    timer.start()
    most: list[int] = []
    watcher = threading.Timer(0.2, lambda: most.append(len(begun)))
    watcher.start()
    turns.carry_out([one] * 100)
    assert most == [MOST_AT_ONCE]
    assert len(begun) == 100


def test_who_may_be_asked_by_several_threads(server, model, tmp_path: Path) -> None:
    assert isinstance(server, ServesThreads)
    assert model.in_flight == 16
    priced = StoredModel(
        server, model.store, price=Price(prompt=1, completion=1, source="here"), budget=Budget(1)
    )
    assert priced.in_flight is None

"""How many requests are in flight and how fast they start, by what a real server says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from autointerp.llm import openai_limit
from autointerp.llm.openai_backend import OpenAIBackend
from autointerp.llm.openai_limit import AdaptiveLimit, Pace, duration, told_pause
from autointerp.llm.options import OpenAIOptions
from autointerp.llm.types import ErrorKind, Message, Reply, Request
from tests.llm.server import Answer, Handle, Served, chat, failure, serve


def user(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **more)


def ask(served: Served, requests: Sequence[Request], **more: Any) -> tuple[list[Reply], AdaptiveLimit]:
    told = {"max_retry_wait_seconds": 0.02, "max_retries": 9, "timeout_seconds": 5.0, **more}
    backend = OpenAIBackend(OpenAIOptions.model_validate({"model": "m", "base_url": served.url, **told}))
    replies: dict[int, Reply] = {}
    try:
        backend.complete(requests, replies.__setitem__)
    finally:
        backend.close()
    return [replies[i] for i in range(len(requests))], backend._limit


def after(seconds: float) -> Handle:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        answer = chat("ok")
        answer.delay_seconds = seconds
        return answer

    return handle


def test_it_begins_low_and_doubles_while_the_server_keeps_up() -> None:
    with serve(after(0.3)) as served:
        _, limit = ask(served, [user(str(i)) for i in range(130)], max_concurrency=64)
    assert limit.slots == 64
    assert 32 < served.most_at_once <= 64
    with serve(after(0.05)) as served:
        _, limit = ask(served, [user(str(i)) for i in range(16)], max_concurrency=64)
    assert served.most_at_once <= 16


def test_growth_before_and_after_a_cut() -> None:
    limit = AdaptiveLimit(100, first=4)
    grown = []
    for _ in range(5):
        for _ in range(limit.slots):
            limit.grow()
        grown.append(limit.slots)
    assert grown == [8, 16, 32, 64, 100]
    limit.cut()
    assert limit.slots == 50
    limit.cut()
    assert limit.slots == 50, "one burst is one cut"
    for _ in range(50):
        limit.grow()
    assert limit.slots == 53


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_bears_few_is_found(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 8 at once are refused: the limit comes down to what is borne, and all is answered."""
    monkeypatch.setattr(openai_limit, "COOL_DOWN_SECONDS", 0.05)
    now, lock = [0], threading.Lock()
    refused = []

    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        with lock:
            now[0] += 1
            over = now[0] > 8
        try:
            if over:
                refused.append(number)
                return failure(status, "slow down", Retry_After="0.02")
            time.sleep(0.02)
            return chat("ok")
        finally:
            with lock:
                now[0] -= 1

    with serve(handle) as served:
        replies, limit = ask(served, [user(str(i)) for i in range(300)], max_concurrency=64, max_retries=40)
    assert {r.text for r in replies} == {"ok"}
    assert limit.n_cuts >= 1
    assert limit.slots < 32
    assert len(refused) < 200


def test_time_outs_cut_too() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        answer = chat("ok")
        answer.delay_seconds = 1.0 if number < 16 else 0.0
        return answer

    with serve(handle) as served:
        replies, limit = ask(
            served, [user(str(i)) for i in range(20)], max_concurrency=16, timeout_seconds=0.4
        )
    assert {r.text for r in replies} == {"ok"}
    assert limit.n_cuts == 1
    assert limit.slots < 16


def test_retry_after_stops_all_and_not_only_the_one_that_was_told() -> None:
    at: list[float] = []

    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        at.append(time.monotonic())
        return failure(429, "wait", Retry_After="0.6") if number == 0 else after(0.1)(path, body, number)

    with serve(handle) as served:
        ask(served, [user(str(i)) for i in range(40)], max_concurrency=4)
    assert sum(t - at[0] < 0.55 for t in at) <= 8, "four were in flight, and what they made room for"


def test_requests_per_minute() -> None:
    at: list[float] = []

    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        at.append(time.monotonic())
        return chat("ok")

    with serve(handle) as served:
        ask(served, [user(str(i)) for i in range(30)], requests_per_minute=600)
    # Ten a second, with a second's worth at once: the last of thirty starts after 1.9 s.
    assert 1.7 < max(at) - min(at) < 4.0


def test_tokens_per_minute_count_a_reply_at_its_real_length() -> None:
    """Ten thousand tokens a second; each request books 4,000 for its reply and uses 4."""
    with serve(lambda *_: chat("ok")) as served:
        begun = time.monotonic()
        ask(
            served,
            [user(str(i), max_tokens=4_000) for i in range(12)],
            tokens_per_minute=600_000,
            max_concurrency=1,
        )
        assert time.monotonic() - begun < 2.5, "what was booked and not used is given back"
        begun = time.monotonic()
        ask(
            served,
            [user("x" * 8_000 + str(i), max_tokens=1) for i in range(12)],
            tokens_per_minute=600_000,
            max_concurrency=12,
        )
        assert time.monotonic() - begun > 0.8, "24,000 tokens at 10,000 a second, one second's worth at once"


def test_a_pace_keeps_its_rate_over_time() -> None:
    pace = Pace(600.0)
    waits = [pace.book(1.0) for _ in range(31)]
    assert waits[0] == waits[9] == 0.0
    assert waits[30] == pytest.approx(2.0, abs=0.1)
    pace.give_back(10.0)
    assert pace.book(1.0) == pytest.approx(2.1 - 1.0, abs=0.1)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("120ms", 0.12),
        ("1h2m3.5s", 3723.5),
        ("7", 7.0),
        ("soon", None),
        ("", None),
    ],
)
def test_durations(text: str, seconds: float | None) -> None:
    assert duration(text) == seconds


def test_rate_limit_headers() -> None:
    def told(**headers: str) -> float:
        named = {f"x-ratelimit-{name.replace('_', '-')}": value for name, value in headers.items()}
        return told_pause(named, 500)

    assert told() == 0.0
    assert told(remaining_requests="3", remaining_tokens="500") == 0.0
    assert told(remaining_requests="0", limit_requests="600", reset_requests="12s") == pytest.approx(0.1)
    assert told(remaining_tokens="200", limit_tokens="60000", reset_tokens="20s") == pytest.approx(0.3)
    assert told(remaining_tokens="200", reset_tokens="250ms") == 0.25
    assert told(remaining_requests="0") == 1.0
    assert told(remaining_requests="many") == 0.0


def test_a_limit_that_is_used_up_is_waited_for() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        answer = chat("ok")
        left = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "400ms"}
        answer.headers |= left if number == 0 else {}
        return answer

    with serve(handle) as served:
        begun = time.monotonic()
        replies, limit = ask(served, [user(str(i)) for i in range(3)], max_concurrency=1)
    assert time.monotonic() - begun >= 0.4
    assert not limit.n_cuts
    assert all(r.ok for r in replies)


def test_a_waiter_that_is_cancelled_passes_its_turn_on() -> None:
    async def main() -> list[int]:
        limit, done = AdaptiveLimit(1, first=1), list[int]()

        async def work(name: int, seconds: float) -> None:
            async with limit:
                await asyncio.sleep(seconds)
                done.append(name)

        first = asyncio.create_task(work(0, 0.05))
        await asyncio.sleep(0)
        second, third = asyncio.create_task(work(1, 0)), asyncio.create_task(work(2, 0))
        await asyncio.sleep(0.01)
        await first
        second.cancel()
        await asyncio.wait_for(third, timeout=2)
        return done

    assert asyncio.run(main())[-1] == 2


def test_a_server_without_end_of_troubles_is_an_error_row() -> None:
    with serve(lambda *_: failure(429, "no")) as served:
        replies, limit = ask(served, [user(str(i)) for i in range(4)], max_retries=2)
    assert {r.error for r in replies} == {ErrorKind.RATE_LIMIT}
    assert limit.slots >= 1

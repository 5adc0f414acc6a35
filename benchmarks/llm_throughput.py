"""How near the `openai` backend comes to what a server of 50 ms allows, on one core.

    python benchmarks/llm_throughput.py [--requests 20000] [--in-flight 256] [--transport http]

The server, a process of its own, answers every request 50 ms after it came; with n requests in flight nobody can
do better than n / 0.05 s per second. The client is the backend as a run uses it, JSON, parsing and adaptive limit
included, confined to one core (the server takes another if there is one). Each reply is dropped as soon as it is
there, and the peak of resident memory is printed at a quarter of the requests and at the end: flat, or something
is kept. `--store` puts the reply store behind it, 5,000 requests a call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from autointerp.llm.client import StoredModel
from autointerp.llm.openai_backend import OpenAIBackend
from autointerp.llm.options import OpenAIOptions
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import Message, Reply, Request

DELAY_SECONDS = 0.05
REQUESTS_PER_CALL = 5_000
BODY = json.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": '{"1": 0, "2": 1, "3": 0, "4": 1, "5": 0}'},
            }
        ],
        "usage": {"prompt_tokens": 400, "completion_tokens": 20, "total_tokens": 420},
    }
).encode()
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(BODY),
    BODY,
)


class Connected(asyncio.Protocol):
    """One connection: each whole request is answered after the delay."""

    def __init__(self) -> None:
        self.held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.held += data
        while True:
            head, found, rest = self.held.partition(b"\r\n\r\n")
            if not found:
                return
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(rest) < length:
                return
            self.held = rest[length:]
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self.answer)

    def answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(ANSWER)


def server(pipe: Connection, core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})

    async def main() -> None:
        listening = await asyncio.get_running_loop().create_server(Connected, "127.0.0.1", 0, backlog=4096)
        pipe.send(listening.sockets[0].getsockname()[1])
        await asyncio.get_running_loop().run_in_executor(None, pipe.recv)

    asyncio.run(main())


def requests(start: int, n: int) -> list[Request]:
    text = "Which of these texts fit the description? " * 30
    return [
        Request(messages=(Message(role="user", content=f"{i} {text}"),), max_tokens=50)
        for i in range(start, start + n)
    ]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(options: OpenAIOptions, n: int, store: Path | None) -> None:
    backend = OpenAIBackend(options)
    kept = ReplyStore(store) if store is not None else None
    done, quarter = 0, 0.0

    def count(reply: Reply) -> None:
        nonlocal done, quarter
        assert reply.ok, reply.error_message
        done += 1
        if done == n // 4:
            quarter = peak_mb()

    def ask(asked: Sequence[Request]) -> None:
        if kept is None:
            backend.complete(asked, lambda index, reply: count(reply))
        else:
            model = StoredModel(backend, kept)
            for start in range(0, len(asked), REQUESTS_PER_CALL):
                for reply in model.complete(asked[start : start + REQUESTS_PER_CALL]):
                    count(reply)

    asked = requests(0, n)
    ask(requests(n, 4 * options.max_concurrency))  # connections are made, modules imported
    done = 0
    begun, worked = time.perf_counter(), time.process_time()
    ask(asked)
    seconds, worked = time.perf_counter() - begun, time.process_time() - worked
    backend.close()
    if kept is not None:
        kept.close()
    ideal = options.max_concurrency / DELAY_SECONDS
    print(
        f"requests      {n:,} in {seconds:.2f} s, {options.max_concurrency} in flight, transport {options.transport}"
    )
    print(f"requests/s    {n / seconds:,.0f} of {ideal:,.0f} possible: {n / seconds / ideal:.1%}")
    print(f"processor     {1e6 * worked / n:.0f} us per request, {worked / seconds:.0%} of a core")
    print(f"peak memory   {quarter:.1f} MB after a quarter, {peak_mb():.1f} MB at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--transport", default="http")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    server_core = next((c for c in range(os.cpu_count() or 1) if c != cores[-1]), None)
    os.sched_setaffinity(0, {cores[-1]})
    context = multiprocessing.get_context("spawn")
    pipe, other = context.Pipe()
    process = context.Process(target=server, args=(other, server_core), daemon=True)
    process.start()
    options = OpenAIOptions(
        model="m",
        base_url=f"http://127.0.0.1:{pipe.recv()}/v1",
        max_concurrency=arguments.in_flight,
        transport=arguments.transport,
    )
    with tempfile.TemporaryDirectory() as folder:
        measure(options, arguments.requests, Path(folder) / "replies.sqlite" if arguments.store else None)
    pipe.send(None)
    process.join(timeout=5)


if __name__ == "__main__":
    main()

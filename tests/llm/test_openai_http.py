"""The transport takes what servers and proxies really send, and gives the key to nobody else."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import pytest

from autointerp.llm import openai_direct, openai_http
from autointerp.llm.openai_backend import _sender
from autointerp.llm.openai_direct import DirectTransport
from autointerp.llm.openai_http import ConnectError, DroppedError, HttpAnswer, Sender, Transport, proxy_for
from autointerp.llm.options import OpenAIOptions

Serve = Callable[[bytes], tuple[bytes, bool]]
"""From the bytes of a request to (those of the answer, whether the connection is then closed)."""


CARRIERS: list[Any] = [Transport, DirectTransport]
"""Those that every test runs over."""
carrier: ContextVar[Any] = ContextVar("carrier")


@pytest.fixture(autouse=True, params=CARRIERS, ids=["aiohttp", "direct"])
def _carrier(request: pytest.FixtureRequest) -> Iterator[None]:
    token = carrier.set(request.param)
    yield
    carrier.reset(token)


def talk(
    serve: Serve, use: Callable[[Sender], Awaitable[object]], piece: int = 10**6, limit: int = 8
) -> list[int]:
    """Run a server that writes its answers in pieces; returns requests per connection."""
    counts: list[int] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at = len(counts)
        counts.append(0)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
                await reader.readexactly(length)
                counts[at] += 1
                answer, close = serve(head)
                for start in range(0, len(answer), piece):
                    writer.write(answer[start : start + piece])
                    await writer.drain()
                    await asyncio.sleep(0)
                if close:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        transport = carrier.get()(
            f"http://127.0.0.1:{port}/v1?version=2", {"Authorization": "Bearer k"}, limit
        )
        try:
            await use(transport)
        finally:
            await transport.close()
            server.close()

    asyncio.run(main())
    return counts


def fixed(answer: bytes, close: bool = False) -> Serve:
    return lambda head: (answer, close)


BODY = b'{"a": "' + b"x" * 50 + b'"}'
CHUNKED = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (BODY[:7], BODY[7:])) + b"0\r\n\r\n"
ZIPPED = gzip.compress(BODY, mtime=0)


@pytest.mark.parametrize("piece", [1, 7, 10**6])
@pytest.mark.parametrize(
    ("answer", "close"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY, False),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length:%d\r\n\r\n" % len(BODY) + BODY,
            False,
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED, False),
        (
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(ZIPPED) + ZIPPED,
            False,
        ),
        (b"HTTP/1.1 200 OK\r\n\r\n" + BODY, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY, True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY, True),
    ],
)
def test_bodies_of_every_kind(answer: bytes, close: bool, piece: int) -> None:
    async def use(transport: Sender) -> None:
        for _ in range(2):
            got = await transport.send("POST", "/chat", b"{}", 5.0)
            assert (got.status, got.body) == (200, BODY)

    assert talk(fixed(answer, close), use, piece) == ([1, 1] if close else [2])


def test_what_is_sent() -> None:
    seen: list[bytes] = []

    def serve(head: bytes) -> tuple[bytes, bool]:
        seen.append(head)
        return b"HTTP/1.1 204 No Content\r\n\r\n", False

    async def use(transport: Sender) -> None:
        assert await transport.send("POST", "/chat", b"{}", 5.0) == HttpAnswer(204, {}, b"")

    talk(serve, use)
    assert seen[0].startswith(b"POST /v1/chat?version=2 HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer k\r\n" in seen[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"",
    ],
)
def test_broken_answers(answer: bytes) -> None:
    async def use(transport: Sender) -> None:
        with pytest.raises(DroppedError):
            await transport.send("POST", "/chat", b"{}", 5.0)

    talk(fixed(answer, True), use)


def test_a_connection_the_server_closed_while_idle_is_replaced() -> None:
    def serve(head: bytes) -> tuple[bytes, bool]:
        return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", True

    async def use(transport: Sender) -> None:
        for pause in (0.0, 0.0, 0.05):
            assert (await transport.send("POST", "/chat", b"{}", 5.0)).body == b"ok"
            await asyncio.sleep(pause)

    assert talk(serve, use) == [1, 1, 1]


def test_a_timeout_gives_the_connection_up() -> None:
    calls = 0

    def serve(head: bytes) -> tuple[bytes, bool]:
        nonlocal calls
        calls += 1
        return (b"" if calls == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), False

    async def use(transport: Sender) -> None:
        with pytest.raises(TimeoutError):
            await transport.send("POST", "/chat", b"{}", 0.5)
        assert (await transport.send("POST", "/chat", b"{}", 5.0)).body == b"ok"

    assert talk(serve, use) == [1, 1]


def test_connections_are_bounded() -> None:
    async def use(transport: Sender) -> None:
        await asyncio.gather(*(transport.send("POST", "/chat", b"{}", 5.0) for _ in range(20)))

    counts = talk(fixed(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), use, limit=3)
    assert len(counts) <= 3
    assert sum(counts) == 20


@pytest.mark.parametrize("body", [b"x" * 2000, gzip.compress(b"x" * 2000, mtime=0)])
def test_a_body_without_end_is_not_read(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (openai_http, openai_direct):
        monkeypatch.setattr(module, "MOST_BODY_BYTES", 1000)
    encoding = b"Content-Encoding: gzip\r\n" if body[0] == 0x1F else b""
    answer = b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (encoding, len(body)) + body

    async def use(transport: Sender) -> None:
        for _ in range(2):
            with pytest.raises(DroppedError, match="too long"):
                await transport.send("POST", "/chat", b"{}", 5.0)

    talk(fixed(answer), use)


def test_redirects_and_cookies_are_not_followed() -> None:
    seen: list[bytes] = []

    def serve(head: bytes) -> tuple[bytes, bool]:
        seen.append(head)
        return (
            b"HTTP/1.1 307 Moved\r\nLocation: /elsewhere\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
            False,
        )

    async def use(transport: Sender) -> None:
        for _ in range(2):
            answer = await transport.send("POST", "/chat", b"{}", 5.0)
            assert (answer.status, answer.headers["location"]) == (307, "/elsewhere")

    talk(serve, use)
    assert [head.split()[1] for head in seen] == [b"/v1/chat?version=2"] * 2
    assert b"\r\ncookie:" not in seen[1].lower()


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.usefixtures("no_proxies")
def test_which_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://api.example.com/v1"
    assert proxy_for(url) is None
    monkeypatch.setenv("all_proxy", "127.0.0.1:8")
    assert proxy_for(url) == "http://127.0.0.1:8"
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert proxy_for(url) == "http://127.0.0.1:9"
    assert proxy_for("https://localhost/v1") is None
    monkeypatch.setenv("no_proxy", "example.com")
    assert proxy_for(url) is None


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_is_asked_for_a_tunnel_and_not_shown_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    heads: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        transport = Transport("https://api.example.com/v1", {"Authorization": "Bearer k"}, 1)
        with pytest.raises(ConnectError, match="407"):
            await transport.send("POST", "/chat", b"{}", 5.0)
        await transport.close()
        server.close()

    asyncio.run(main())
    assert heads[0].startswith(b"CONNECT api.example.com:443 HTTP/1.1\r\n")
    assert b"bearer" not in heads[0].lower()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "https://nobody.invalid/v1", "http://a..b/v1"])
@pytest.mark.usefixtures("no_proxies")
def test_no_connection(url: str) -> None:
    async def main() -> None:
        transport = carrier.get()(url, {}, 1)
        with pytest.raises(ConnectError):
            await transport.send("POST", "/chat", b"{}", 5.0)
        await transport.close()

    asyncio.run(main())


def test_a_key_with_a_line_break_reaches_no_header() -> None:
    with pytest.raises(ValueError, match="line break"):
        DirectTransport("https://api.example.com/v1", {"Authorization": "Bearer a\r\nX: b"}, 1)


@pytest.mark.usefixtures("no_proxies")
def test_the_slower_carrier_is_taken_where_there_is_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    options = OpenAIOptions(model="m", base_url="https://api.example.com/v1")
    assert isinstance(_sender(options, "k"), DirectTransport)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert isinstance(_sender(options, "k"), Transport)


def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    """What an idle connection receives is never taken for the answer to the next request."""

    def serve(head: bytes) -> tuple[bytes, bool]:
        one = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        return (one + b"ok" + one + b"no", False)

    async def use(transport: Sender) -> None:
        for _ in range(3):
            with suppress(DroppedError):
                assert (await transport.send("POST", "/chat", b"{}", 5.0)).body == b"ok"
            await asyncio.sleep(0.05)

    if carrier.get() is DirectTransport:
        assert talk(serve, use) == [1, 1, 1]

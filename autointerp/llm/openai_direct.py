"""Kept HTTP/1.1 connections to one server with little between socket and caller.

`httptools` (the parser of Node.js) reads the responses. At 256 requests in flight this takes a third of the
processor time of aiohttp and a tenth of the official client's: `benchmarks/llm_throughput.py`. It knows no
proxies; where the environment names one, `autointerp.llm.openai_http.Transport` is used.
"""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Mapping
from functools import partial
from urllib.parse import urlsplit

import httptools

from autointerp.llm.openai_http import (
    MOST_BODY_BYTES,
    MOST_HEADER_BYTES,
    ConnectError,
    DroppedError,
    HttpAnswer,
    tls_context,
)

_PORTS = {"http": 80, "https": 443}
_GZIP_OR_ZLIB = 47


class DirectTransport:
    """`autointerp.llm.openai_http.Sender` over connections of its own."""

    def __init__(self, base_url: str, headers: Mapping[str, str], max_concurrency: int) -> None:
        parts = urlsplit(base_url)
        host = parts.netloc.rpartition("@")[2]
        self._host, self._port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        self._tls: ssl.SSLContext | None = tls_context() if parts.scheme == "https" else None
        self._path, self._query = parts.path.rstrip("/"), f"?{parts.query}" if parts.query else ""
        told = {"Host": host, "User-Agent": "autointerp", "Accept": "application/json", **headers}
        fields = {**told, "Accept-Encoding": "identity", "Content-Type": "application/json"}
        if any("\r" in text or "\n" in text for item in fields.items() for text in item):
            raise ValueError("a header with a line break")
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(max_concurrency)

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """One request and its response; see `autointerp.llm.openai_http.Transport.send`."""
        line = f"{method} {self._path}{path}{self._query} HTTP/1.1\r\n".encode("ascii", "replace")
        data = b"%s%sContent-Length: %d\r\n\r\n%s" % (line, self._fields, len(body), body)
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        async with self._slots:
            if (connection := self._kept()) is not None:
                try:
                    return await self._over(connection, data, deadline)
                except _ClosedWhileIdleError:
                    pass
            try:
                return await self._over(await self._connect(deadline), data, deadline)
            except _ClosedWhileIdleError as error:
                raise DroppedError(str(error)) from error

    async def close(self) -> None:
        """Close all connections."""
        while self._idle:
            self._idle.pop().transport.close()
        await asyncio.sleep(0)

    def _kept(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    async def _over(self, connection: _Connection, data: bytes, deadline: float) -> HttpAnswer:
        try:
            answer = await connection.ask(data, deadline)
        except BaseException:
            connection.transport.abort()
            raise
        if connection.closed:
            connection.transport.close()
        else:
            self._idle.append(connection)
        return answer

    async def _connect(self, deadline: float) -> _Connection:
        loop = asyncio.get_running_loop()
        make = partial(_Connection, loop)
        try:
            async with asyncio.timeout_at(deadline):
                _, connection = await loop.create_connection(
                    make, self._host, self._port, ssl=self._tls, happy_eyeballs_delay=0.25
                )
        except TimeoutError:
            raise
        except (OSError, UnicodeError) as error:
            raise ConnectError(str(error) or type(error).__name__) from error
        return connection


class _ClosedWhileIdleError(Exception):
    """The server closed the connection before it sent anything of this answer."""


class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time."""

    transport: asyncio.Transport

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[HttpAnswer] | None = None
        self.closed = False
        self._begin()

    async def ask(self, data: bytes, deadline: float) -> HttpAnswer:
        """Send a request. Raises `TimeoutError`, `DroppedError` or `_ClosedWhileIdleError`."""
        self._waiter = waiter = self._loop.create_future()
        timer = self._loop.call_at(deadline, self._fail, TimeoutError())
        try:
            self.transport.write(data)
            answer: HttpAnswer = await waiter
            return answer
        finally:
            timer.cancel()
            self._waiter = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._waiter is None:  # nothing was asked
            self.closed = True
            self.transport.abort()
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, DroppedError) as error:
            self._fail(error if isinstance(error, DroppedError) else DroppedError(f"not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self._headers_done and self._until_close:
            self._finish()
        elif self._begun:
            self._fail(DroppedError("the connection broke in the middle of an answer"))
        else:
            self._fail(_ClosedWhileIdleError(str(error or "the server closed the connection")))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._n_header_bytes += len(name) + len(value)
        if self._n_header_bytes > MOST_HEADER_BYTES:
            raise DroppedError("headers too long")
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        self._headers_done = self._parser.get_status_code() >= 200
        headers = self._headers
        self._until_close = "content-length" not in headers and "transfer-encoding" not in headers
        if int(headers.get("content-length") or 0) > MOST_BODY_BYTES:
            self._fail(DroppedError("body too long"))

    def on_body(self, part: bytes) -> None:
        self._n_body_bytes += len(part)
        if self._n_body_bytes > MOST_BODY_BYTES:
            self._fail(DroppedError("body too long"))
        else:
            self._parts.append(part)

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() < 200:  # 100 Continue, 103 Early Hints
            self._begin()
            return
        self.closed = self.closed or not self._parser.should_keep_alive()
        self._finish()

    def _begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []
        self._n_header_bytes = self._n_body_bytes = 0
        self._begun = self._headers_done = self._until_close = False

    def _finish(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        waiter, status, headers = self._waiter, self._parser.get_status_code(), self._headers
        self._begin()
        if waiter is None or waiter.done():
            self.closed = True  # more than was asked for: what else may come is not trusted
            return
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity" and body:
            try:
                body = _decoded(body, encoding)
            except DroppedError as error:
                waiter.set_exception(error)
                return
        waiter.set_result(HttpAnswer(status, headers, body))

    def _fail(self, error: Exception) -> None:
        self.closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


def _decoded(body: bytes, encoding: str) -> bytes:
    if encoding.lower() not in ("gzip", "x-gzip", "deflate"):
        raise DroppedError(f"a body in {encoding}, which was not asked for")
    decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        text = decoder.decompress(body, MOST_BODY_BYTES + 1)
    except zlib.error as error:
        raise DroppedError(f"body: {error}") from None
    if len(text) > MOST_BODY_BYTES:
        raise DroppedError("body too long")
    if not decoder.eof:
        raise DroppedError("the body ends early")
    return text

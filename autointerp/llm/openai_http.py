"""A small HTTP/1.1 client for many equal POST requests to one server.

General clients spend one to two milliseconds of processor time on a request; here it is a tenth of
that, so that one core keeps hundreds of requests in flight. Where the environment names a proxy
for the server, httpx is used instead (`open_transport` decides).
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

_MOST_HEADER_BYTES = 1 << 16
_MOST_BODY_BYTES = 1 << 28


class ConnectError(Exception):
    """No connection to the server: refused, unknown host, TLS failure."""


class DroppedError(Exception):
    """The connection broke, or what came over it is not HTTP."""

    def __init__(self, message: str, n_received: int = 0) -> None:
        super().__init__(message)
        self.n_received = n_received


@dataclass(frozen=True)
class HttpAnswer:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    """Header fields, names in lower case."""
    body: bytes


class Transport(Protocol):
    """Sends requests to one server."""

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """One request and its response.

        Raises `TimeoutError`, `ConnectError` or `DroppedError`; any status is an answer.
        """
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


def open_transport(base_url: str, headers: Mapping[str, str]) -> Transport:
    """The transport for a server; `headers` go with every request."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    proxied = parts.scheme in proxies or "all" in proxies
    if proxied and not is_loopback(base_url) and not urllib.request.proxy_bypass(host):
        return _HttpxTransport(base_url, headers)
    return DirectTransport(base_url, headers)


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine by name or address."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class DirectTransport:
    """Keeps connections open and reuses the one last used; opens as many as are needed at once."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        parts = urlsplit(base_url)
        self._tls = _tls_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._root = parts.path.rstrip("/")
        self._query = f"?{parts.query}" if parts.query else ""
        sent = {
            "Host": parts.netloc.rpartition("@")[2],
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
            "User-Agent": "autointerp",
            **headers,
        }
        self._head = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """See `Transport.send`."""
        head = (
            f"{method} {self._root}{path}{self._query} HTTP/1.1\r\n{self._head}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        message = head.encode("latin-1") + body
        async with asyncio.timeout(timeout_seconds):
            connection = self._reused()
            if connection is not None:
                try:
                    return await self._over(connection, message)
                except DroppedError as error:
                    if error.n_received:  # else an idle connection that the server had closed
                        raise
            return await self._over(await self._opened(), message)

    async def close(self) -> None:
        """See `Transport.close`."""
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()

    async def _over(self, connection: _Connection, message: bytes) -> HttpAnswer:
        done = False
        try:
            answer = await connection.ask(message)
            done = True
        finally:
            if not done or not connection.reusable:
                connection.abort()
            else:
                self._idle.append(connection)
        return answer

    def _reused(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable:
                return connection
        return None

    async def _opened(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(self._all), self._host, self._port, ssl=self._tls
            )
        except TimeoutError as error:
            raise ConnectError("timed out while connecting") from error
        except (OSError, ssl.SSLError) as error:
            raise ConnectError(str(error) or type(error).__name__) from error
        return connection


@dataclass(eq=False)
class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time."""

    owners: set[_Connection]
    reusable: bool = True
    _transport: asyncio.Transport | None = None
    _waiting: asyncio.Future[HttpAnswer] | None = None
    _buffer: bytearray = field(default_factory=bytearray)
    _status: int = 0
    _headers: dict[str, str] | None = None
    _length: int | None = None
    _chunked: bool = False
    _body: bytearray = field(default_factory=bytearray)
    _n_received: int = 0

    async def ask(self, message: bytes) -> HttpAnswer:
        assert self._waiting is None
        assert self._transport is not None
        self._waiting = asyncio.get_running_loop().create_future()
        self._headers, self._n_received = None, 0
        self._transport.write(message)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def abort(self) -> None:
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.owners.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        self.owners.discard(self)
        if self._headers is not None and self._length is None and not self._chunked and error is None:
            self._finish(bytes(self._buffer))  # a body that lasts until the connection ends
        else:
            self._fail(f"the connection was closed ({error})" if error else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._n_received += len(data)
        if self._waiting is None:  # nothing was asked: no server of this protocol does that
            self.abort()
            return
        try:
            if self._headers is None:
                self._read_headers()
            if self._headers is not None:
                self._read_body()
        except (ValueError, IndexError) as error:
            self._fail(f"not HTTP: {error}")
            self.abort()

    def _read_headers(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MOST_HEADER_BYTES:
                raise ValueError("headers too long")
            return
        lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, status = lines[0].split(" ", 2)[:2]
        if not version.startswith("HTTP/1."):
            raise ValueError(lines[0][:40])
        self._status = int(status)
        if 100 <= self._status < 200:
            self._read_headers()
            return
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        connection = headers.get("connection", "").lower()
        self.reusable = "close" not in connection and (version != "HTTP/1.0" or "keep-alive" in connection)
        self._chunked = "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self._length = 0 if self._status in (204, 304) else None if length is None else int(length)
        if (self._length or 0) > _MOST_BODY_BYTES:
            raise ValueError("body too long")
        self._headers = headers
        self._body.clear()

    def _read_body(self) -> None:
        if self._chunked:
            self._read_chunks()
        elif self._length is not None and len(self._buffer) >= self._length:
            body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
            self._finish(body)
        elif len(self._buffer) > _MOST_BODY_BYTES:
            raise ValueError("body too long")

    def _read_chunks(self) -> None:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            size = int(bytes(self._buffer[:end]).split(b";")[0], 16)
            if size == 0:
                trailer = self._buffer.find(b"\r\n\r\n", end)
                if trailer >= 0:
                    del self._buffer[: trailer + 4]
                    self._finish(bytes(self._body))
                return
            if len(self._buffer) < end + 4 + size:
                return
            self._body += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + 4 + size]
            if len(self._body) > _MOST_BODY_BYTES:
                raise ValueError("body too long")

    def _finish(self, body: bytes) -> None:
        headers, self._headers = self._headers or {}, None
        if self._waiting is None or self._waiting.done():
            return
        encoding = headers.get("content-encoding", "").lower()
        try:
            if encoding in ("gzip", "deflate"):
                body = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body)
        except zlib.error as error:
            self._fail(f"the body is not {encoding}: {error}")
            return
        self._waiting.set_result(HttpAnswer(self._status, headers, body))

    def _fail(self, message: str) -> None:
        self.reusable = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(DroppedError(message, self._n_received))


class _HttpxTransport:
    """httpx, for servers behind a proxy."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        import httpx

        self._base_url = base_url
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._client = httpx.AsyncClient(headers=dict(headers), limits=limits)

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """See `Transport.send`."""
        import httpx

        parts = urlsplit(self._base_url)
        url = parts._replace(path=parts.path.rstrip("/") + path).geturl()
        try:
            response = await self._client.request(
                method,
                url,
                content=body,
                headers={"Content-Type": "application/json"},
                timeout=timeout_seconds,
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            raise ConnectError(str(error)) from error
        except httpx.TimeoutException as error:
            raise TimeoutError(str(error)) from error
        except httpx.TransportError as error:
            raise DroppedError(f"{type(error).__name__}: {error}") from error
        return HttpAnswer(response.status_code, dict(response.headers), response.content)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._client.aclose()


def _tls_context() -> ssl.SSLContext:
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        try:
            import certifi
        except ModuleNotFoundError:
            pass
        else:
            return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()

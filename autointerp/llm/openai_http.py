"""What carries requests to one OpenAI-compatible server, and what its failures mean here.

`Transport` is that over aiohttp, which knows proxies; where there is none, `openai_direct` is faster.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from types import SimpleNamespace
from typing import Protocol
from urllib.parse import urlsplit

import aiohttp

MOST_HEADER_BYTES = 1 << 16
MOST_BODY_BYTES = 1 << 28


class ConnectError(Exception):
    """No connection to the server: refused, unknown host, TLS or proxy failure."""


class DroppedError(Exception):
    """The connection broke, or what came over it is not HTTP."""


@dataclass(frozen=True)
class HttpAnswer:
    """A whole response."""

    status: int
    headers: Mapping[str, str]
    """Header fields, to be asked for in lower case."""
    body: bytes


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine by name or address."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; none for this machine.

    In place of aiohttp's `trust_env`, which reads ~/.netrc too, before every request, and
    fails where that and our own headers both have credentials.
    """
    parts = urlsplit(url)
    if is_loopback(url) or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


class Sender(Protocol):
    """What sends requests to one server: `Transport`, or the official client behind the same face."""

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """One request and its response; see `Transport.send`."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...


class Transport:
    """Sends requests to one server; `headers` go with each, and connections are kept for the next."""

    def __init__(self, base_url: str, headers: Mapping[str, str], max_concurrency: int) -> None:
        parts = urlsplit(base_url)
        self._base = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        self._proxy = proxy_for(base_url)
        # Not the session's headers: aiohttp shows those to proxies.
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "autointerp",
            **headers,
        }
        self._max_concurrency = max_concurrency
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """One request and its response.

        Raises `TimeoutError`, `ConnectError` or `DroppedError`; any status is an answer.
        """
        url = self._base._replace(path=self._base.path.rstrip("/") + path).geturl()
        async with asyncio.timeout(timeout_seconds):
            try:
                async with await self._response(method, url, body) as response:
                    return HttpAnswer(response.status, response.headers, await _body(response))
            except aiohttp.ClientConnectorError as error:
                raise ConnectError(str(error.os_error) or type(error).__name__) from error
            except (aiohttp.ClientHttpProxyError, aiohttp.InvalidURL, UnicodeError) as error:
                raise ConnectError(str(error)) from error
            except (aiohttp.ClientError, OSError) as error:
                raise DroppedError(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def _response(self, method: str, url: str, body: bytes) -> aiohttp.ClientResponse:
        """The response up to its headers; asked for again if an idle connection proves closed."""
        if self._session is None:  # made here because it belongs to the event loop that runs now
            self._session = self._opened()
        connection = SimpleNamespace(reused=False)
        ask = partial(
            self._session.request,
            method,
            url,
            data=body,
            headers=self._headers,
            proxy=self._proxy,
            allow_redirects=False,
            trace_request_ctx=connection,
        )
        try:
            return await ask()
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if not connection.reused:
                raise
            return await ask()

    def _opened(self) -> aiohttp.ClientSession:
        trace = aiohttp.TraceConfig()
        trace.on_connection_reuseconn.append(_note_reuse)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._max_concurrency, ssl=tls_context()),
            cookie_jar=aiohttp.DummyCookieJar(),
            max_field_size=MOST_HEADER_BYTES,
            timeout=aiohttp.ClientTimeout(),  # none: `send` has its own
            trace_configs=[trace],
        )


async def _note_reuse(session: aiohttp.ClientSession, context: SimpleNamespace, parameters: object) -> None:
    context.trace_request_ctx.reused = True


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_any():
        body += part
        if len(body) > MOST_BODY_BYTES:
            raise DroppedError("body too long")
    return bytes(body)


def tls_context() -> ssl.SSLContext:
    """TLS by the environment's certificates, else certifi's, else the system's."""
    if not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        try:
            import certifi
        except ModuleNotFoundError:
            pass
        else:
            return ssl.create_default_context(cafile=certifi.where())
    return ssl.create_default_context()

"""The official `openai` client: as a carrier of single requests, and opened for the Batch API.

Its own retries are off for single requests: what is tried again, and when, is decided in one place for
both carriers.
"""

from __future__ import annotations

import asyncio

import aiohttp
import httpx2
import openai

from autointerp.llm.openai_http import ConnectError, DroppedError, HttpAnswer, is_loopback
from autointerp.llm.options import OpenAIOptions

_NO_KEY = "none"
"""The client insists on a key; servers on this machine need none."""
_JSON = {"Content-Type": "application/json"}
_NO_CONTACT = (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError, aiohttp.InvalidURL, UnicodeError)


class ClientTransport:
    """`autointerp.llm.openai_http.Sender` through `openai.AsyncOpenAI`, over aiohttp."""

    def __init__(self, options: OpenAIOptions, key: str | None) -> None:
        self._url, self._key = options.url, key
        self._most = options.max_concurrency
        self._client: openai.AsyncOpenAI | None = None

    async def send(self, method: str, path: str, body: bytes, timeout_seconds: float) -> HttpAnswer:
        """One request and its response; see `autointerp.llm.openai_http.Transport.send`."""
        if self._client is None:  # made here because it belongs to the event loop that runs now
            self._client = self._opened()
        try:
            async with asyncio.timeout(timeout_seconds):
                if method == "GET":
                    answer = await self._client.get(path, cast_to=httpx2.Response)
                else:
                    answer = await self._client.post(
                        path, cast_to=httpx2.Response, content=body, options={"headers": _JSON}
                    )
        except openai.APIStatusError as error:
            answer = error.response
        except openai.APIConnectionError as error:  # its time-outs are among them, and none was set
            raise _unconnected(error) from error
        except TimeoutError:
            raise
        except (httpx2.HTTPError, OSError) as error:
            raise DroppedError(f"{type(error).__name__}: {error}") from error
        return HttpAnswer(answer.status_code, answer.headers, answer.content)

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()

    def _opened(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(
            api_key=self._key or _NO_KEY,
            base_url=self._url,
            max_retries=0,
            timeout=None,  # `send` has its own
            http_client=openai.DefaultAioHttpClient(
                trust_env=not is_loopback(self._url),
                follow_redirects=False,
                timeout=None,
                limits=httpx2.Limits(max_connections=self._most, max_keepalive_connections=self._most),
            ),
        )


def open_client(options: OpenAIOptions, key: str | None) -> openai.OpenAI:
    """The synchronous client, for files and batches: few requests, which it tries again itself."""
    return openai.OpenAI(
        api_key=key or _NO_KEY,
        base_url=options.url,
        max_retries=options.max_retries,
        timeout=options.timeout_seconds,
        http_client=openai.DefaultHttpx2Client(trust_env=not is_loopback(options.url)),
    )


def _unconnected(error: openai.APIConnectionError) -> TimeoutError | ConnectError | DroppedError:
    """What a failure means by the first exception of its chain: those above it confuse the two."""
    first: BaseException = error
    while (cause := first.__cause__) is not None and not isinstance(first, aiohttp.ClientError):
        first = cause
    if isinstance(first, TimeoutError):
        return TimeoutError()
    message = str(first) or type(first).__name__
    if isinstance(first, _NO_CONTACT):
        return ConnectError(message)
    return DroppedError(f"{type(first).__name__}: {message}")

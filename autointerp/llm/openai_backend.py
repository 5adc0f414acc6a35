"""The `openai` backend: any OpenAI-compatible server, asked by many workers at once."""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from autointerp.errors import ModelUnavailableError, UserError, nearest
from autointerp.llm.openai_direct import DirectTransport
from autointerp.llm.openai_errors import AttemptError, Failure, exception_failure, status_failure
from autointerp.llm.openai_http import ConnectError, DroppedError, Sender, Transport, is_loopback, proxy_for
from autointerp.llm.openai_limit import AdaptiveLimit, Pace, told_pause
from autointerp.llm.openai_wire import (
    MalformedReplyError,
    UnsupportedRequestError,
    endpoint_of,
    openai_identity,
    parse_reply,
    request_body,
)
from autointerp.llm.options import OpenAIOptions
from autointerp.llm.types import Capability, ErrorKind, OnReply, Reply, Request, Usage

FIRST_CONTACT_TRIES = 3
"""Attempts to connect to a server that has never answered, before giving up altogether."""
MOST_LOST = 16
"""Requests in a row that could not even connect, all retries spent, before giving up altogether."""

GRACE_SECONDS = 10.0
"""How long requests in flight are waited for once it is known that no other can succeed."""

FIRST_WAIT_SECONDS = 0.5
"""Longest wait before the second attempt; it doubles with each attempt after that."""

_PUSHED_BACK = frozenset({429, 503, 529})
"""Statuses of a server that has too much to do."""
_CHARACTERS_PER_TOKEN = 4

_PATHS = {"chat": "/chat/completions", "completions": "/completions"}


class OpenAIBackend:
    """Answers requests through HTTP with `max_concurrency` workers over one shared iterator.

    The event loop runs in a thread of this backend's own, so that connections live from call to
    call and callers need no event loop; `on_reply` is called in the caller's thread. Timeouts,
    dropped connections, unreadable bodies and HTTP 408, 409, 425, 429 and 5xx are tried again
    with exponential back-off, jitter and Retry-After; other failures become error replies.
    How many are in flight follows what the server bears (`autointerp.llm.openai_limit`).

    `identity` is the model's name, `revision`, `api`, `system_role`, and the fields of `extra_body` and
    `omit`; not the URL, so replies stay valid when a server moves.

    Raises `UserError` if a key is needed and its environment variable is not set, and
    `ModelUnavailableError` where no request can succeed: key refused, model unknown, credit
    spent, connection refused.
    """

    def __init__(self, options: OpenAIOptions) -> None:
        self.options = options
        self.capabilities: frozenset[Capability] = options.capabilities()
        self.identity = openai_identity(options)
        self.in_flight = options.max_concurrency
        self._key = api_key(options)
        self._transport = _sender(options, self._key)
        self._limit = AdaptiveLimit(options.max_concurrency)
        per_minute = options.requests_per_minute, options.tokens_per_minute
        self._request_pace, self._token_pace = (Pace(n) if n is not None else None for n in per_minute)
        self._answered = self._succeeded = False
        self._n_lost = 0
        self._sent: set[asyncio.Task[Any] | None] = set()
        self._echo_max_tokens = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"OpenAIBackend({self.options.model!r} at {self.options.url})"

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        """Answer every request; see `autointerp.llm.types.Backend.complete`."""
        if not requests:
            return
        queue: SimpleQueue[tuple[int, Reply] | None] = SimpleQueue()
        task = asyncio.run_coroutine_threadsafe(self._work(requests, queue), self._loop)
        task.add_done_callback(lambda _: queue.put(None))
        try:
            while (item := queue.get()) is not None:
                on_reply(*item)
            task.result()
        finally:
            task.cancel()

    def count_tokens(self, text: str) -> None:
        """Not known: the tokenizer is the server's."""
        return None

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._transport.close(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _work(self, requests: Sequence[Request], queue: SimpleQueue[tuple[int, Reply] | None]) -> None:
        todo = iter(enumerate(requests))
        n_workers = min(self.options.max_concurrency, len(requests))
        failures: list[ModelUnavailableError] = []
        async with asyncio.TaskGroup() as group:
            workers: list[asyncio.Task[None]] = []

            def stop_all(_: asyncio.Task[None]) -> None:
                # What is in flight was asked for and may be paid for: it has a while to come in.
                for worker in workers if failures else ():
                    if worker in self._sent:
                        self._loop.call_later(GRACE_SECONDS, worker.cancel)
                    else:
                        worker.cancel()

            for _ in range(n_workers):
                workers.append(group.create_task(self._worker(todo, queue, failures)))
                workers[-1].add_done_callback(stop_all)
        if failures:
            raise failures[0]

    async def _worker(
        self,
        todo: Iterator[tuple[int, Request]],
        queue: SimpleQueue[tuple[int, Reply] | None],
        failures: list[ModelUnavailableError],
    ) -> None:
        try:
            for index, request in todo:
                if failures:
                    return
                queue.put((index, await self._answer(request)))
        except ModelUnavailableError as error:
            failures.append(error)

    async def _answer(self, request: Request) -> Reply:
        """The reply to one request after as many attempts as are allowed."""
        try:
            endpoint_of(request, self.options)
        except UnsupportedRequestError as error:
            return self._error(ErrorKind.BAD_REQUEST, str(error))
        begun = time.perf_counter()
        n_attempts = 0
        while True:
            n_attempts += 1
            try:
                return await self._attempt(request)
            except AttemptError as error:
                failure = error.failure
            # A 403 or 404 after successes is about that one request, as some routers answer.
            fatal = failure.fatal is not None and not (failure.status in (403, 404) and self._succeeded)
            first_contact = failure.no_contact and not self._answered
            if fatal or (first_contact and n_attempts >= FIRST_CONTACT_TRIES):
                raise await self._unavailable(failure)
            if not failure.retry or (n_attempts > self.options.max_retries and not first_contact):
                break
            await asyncio.sleep(self._wait_seconds(failure, n_attempts))
        if failure.no_contact:
            self._n_lost += 1
            if self._n_lost >= MOST_LOST:
                raise await self._unavailable(failure)
        return self._error(failure.kind, self._clean(failure.message), time.perf_counter() - begun)

    def _wait_seconds(self, failure: Failure, n_attempts: int) -> float:
        """Exponential back-off with full jitter; on top of what the server asks, a tenth of it."""
        most = min(self.options.max_retry_wait_seconds, FIRST_WAIT_SECONDS * 2 ** (n_attempts - 1))
        jitter = random.uniform(0.0, most)
        return jitter if failure.wait_seconds is None else failure.wait_seconds + 0.1 * jitter

    async def _attempt(self, request: Request) -> Reply:
        """One attempt. Raises `AttemptError`."""
        async with self._limit:
            echo_max_tokens = self._echo_max_tokens
            fields = request_body(request, self.options, echo_max_tokens)
            body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
            booked = await self._wait_turn(request, body)
            begun = time.perf_counter()
            path = _PATHS[endpoint_of(request, self.options)]
            try:
                self._sent.add(asyncio.current_task())
                try:
                    answer = await self._transport.send("POST", path, body, self.options.timeout_seconds)
                finally:
                    self._sent.discard(asyncio.current_task())
                if answer.status != 200:
                    failure = status_failure(answer)
                    if failure.status in _PUSHED_BACK and failure.retry:
                        self._limit.cut(failure.wait_seconds)
                    if fields.get("echo") and echo_max_tokens == 0 and failure.status in (400, 422):
                        self._echo_max_tokens = 1  # a server that must generate something
                        failure = replace(failure, retry=True, wait_seconds=0.0)
                    self._answered, self._n_lost = True, 0
                    raise AttemptError(failure)
                seconds = time.perf_counter() - begun
                reply = parse_reply(request, _json(answer.body), self.options, seconds, echo_max_tokens)
            except UnsupportedRequestError as error:
                failure = Failure(kind=ErrorKind.BAD_REQUEST, message=str(error), retry=False)
                raise AttemptError(failure) from error
            except (TimeoutError, ConnectError, DroppedError, MalformedReplyError) as error:
                failure = exception_failure(error)
                if isinstance(error, TimeoutError):
                    self._limit.cut()
                if not failure.no_contact:
                    self._answered, self._n_lost = True, 0
                raise AttemptError(failure) from error
            self._answered = self._succeeded = True
            self._n_lost = 0
            n_tokens = (reply.usage.prompt_tokens or 0) + (reply.usage.completion_tokens or 0)
            if self._token_pace is not None and n_tokens:
                self._token_pace.give_back(booked - n_tokens)
            if pause := told_pause(answer.headers, n_tokens):
                self._limit.pause(pause)
            self._limit.grow()
            return reply

    async def _wait_turn(self, request: Request, body: bytes) -> float:
        """Wait as the limits per minute demand; returns the tokens that were booked."""
        if self._request_pace is None and self._token_pace is None:
            return 0.0
        reads = request.continuation is not None or request.prompt_top_logprobs > 0
        n_tokens = len(body) / _CHARACTERS_PER_TOKEN + (0 if reads else request.max_tokens)
        waits = [
            pace.book(units)
            for pace, units in ((self._request_pace, 1.0), (self._token_pace, n_tokens))
            if pace is not None
        ]
        await asyncio.sleep(max(waits))
        return n_tokens

    async def _unavailable(self, failure: Failure) -> ModelUnavailableError:
        options = self.options
        reason = failure.fatal or f"cannot connect ({failure.message})"
        if failure.status in (401, 403):
            what = "is not accepted" if self._key else "is not set"
            reason += f"; environment variable {options.api_key_env} {what}"
        elif failure.status == 404:
            reason += await self._models_there()
        return ModelUnavailableError(self._clean(f"model {options.model!r} at {options.url}: {reason}"))

    async def _models_there(self) -> str:
        try:
            answer = await self._transport.send("GET", "/models", b"", 5.0)
            names = [str(item["id"]) for item in json.loads(answer.body)["data"]]
        except (TimeoutError, ConnectError, DroppedError, TypeError, KeyError, ValueError):
            return ""
        close = nearest(self.options.model, names)
        if self.options.model in names:
            return ""
        return f"; models there: {', '.join(close or names[:5])}" if names else ""

    def _error(self, kind: ErrorKind, message: str, seconds: float | None = None) -> Reply:
        usage = Usage(seconds=seconds)
        return Reply(error=kind, error_message=message, usage=usage, model=self.options.model)

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "***") if self._key else message


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError as error:
        raise MalformedReplyError(f"the body is not JSON: {error}") from None


def _sender(options: OpenAIOptions, key: str | None) -> Sender:
    if options.transport == "openai":
        from autointerp.llm.openai_client import ClientTransport

        return ClientTransport(options, key)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if proxy_for(options.url) is None:
        return DirectTransport(options.url, headers, options.max_concurrency)
    return Transport(options.url, headers, options.max_concurrency)


def api_key(options: OpenAIOptions) -> str | None:
    """The API key. Raises `UserError` if it is not set and the server is not on this machine."""
    key = os.environ.get(options.api_key_env)
    if not key and not is_loopback(options.url):
        raise UserError(
            f"no API key: environment variable {options.api_key_env} is not set (needed for {options.url})"
        )
    key = (key or "").strip()
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"environment variable {options.api_key_env} holds no API key: odd characters in it")
    return key or None

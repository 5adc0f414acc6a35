"""The `openai_batch` backend: requests handed over in files, polled, and collected across restarts."""

from __future__ import annotations

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import httpx2
import openai

from autointerp.errors import ModelUnavailableError
from autointerp.llm.batch_state import BatchState, KnownBatch
from autointerp.llm.batch_wire import ENDPOINTS, Item, chunks, failed_item, lines, parse_item, parse_line
from autointerp.llm.openai_backend import api_key
from autointerp.llm.openai_client import open_client
from autointerp.llm.openai_errors import Failure, one_line, status_failure
from autointerp.llm.openai_http import HttpAnswer
from autointerp.llm.openai_wire import Endpoint, UnsupportedRequestError, endpoint_of, openai_identity
from autointerp.llm.options import OpenAIBatchOptions
from autointerp.llm.types import Capability, ErrorKind, OnReply, Reply, Request

log = logging.getLogger(__name__)

ENDED = frozenset({"completed", "expired", "cancelled", "failed"})
"""States of a batch that do not change any more."""
MOST_FAILED_POLLS = 20
"""Polls in a row that failed, each with the client's own retries, before giving up."""
LOOKS = 3
"""How often a batch that may or may not have been created is looked for."""

_PASSING = (
    openai.APIConnectionError,
    openai.InternalServerError,
    openai.RateLimitError,
    openai.ConflictError,
)
_Result = TypeVar("_Result")


class OpenAIBatchBackend:
    """Answers requests through the Batch API, at its price and within its 24 hours.

    Each request goes into a batch at most once at a time: batches are written down before they are
    submitted (`keep_state`, called by the reply store's owner), and what was being submitted when a process
    ended is found again by the name in its metadata. A call answers its requests from batches that
    are under way or ended, submits the others, and polls. Requests that failed are sent again in
    a batch of their own: `resubmit` times in a call, and when they are asked for in a later one.

    `identity` is that of the `openai` backend, so both share their stored replies.
    """

    def __init__(self, options: OpenAIBatchOptions) -> None:
        self.options = options
        self.capabilities: frozenset[Capability] = options.capabilities()
        self.identity = openai_identity(options)
        self._key = api_key(options)
        self._client = open_client(options, self._key)
        self._state: BatchState | None = None
        self._state_path: Path | None = None
        self._most = options.max_batch_requests
        self._queue_full = False
        self._told: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"OpenAIBatchBackend({self.options.model!r} at {self.options.url})"

    def keep_state(self, path: Path) -> None:
        """Keep the record of batches in this file; without it, it ends with the process."""
        if path != self._state_path:
            if self._state is not None:
                self._state.close()
            self._state, self._state_path = BatchState(path, self.identity, self.options.url), path

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        """Answer every request, hours later perhaps; see `autointerp.llm.types.Backend.complete`."""
        if self._state is None:
            self._state = BatchState(":memory:", self.identity, self.options.url)
        waiting = _Waiting(on_reply)
        for index, request in enumerate(requests):
            try:
                endpoint_of(request, self.options)
            except UnsupportedRequestError as error:
                message = str(error)
                on_reply(
                    index, Reply(error=ErrorKind.BAD_REQUEST, error_message=message, model=self.options.model)
                )
            else:
                waiting.add(request.key(self.identity), index, request)
        tries: Counter[str] = Counter()
        while waiting.requests:
            running = self._submit(self._state, waiting)
            ended = [self._collect(self._state, waiting, tries, batch) for batch in running]
            if waiting.requests and not any(ended):
                time.sleep(self.options.poll_seconds)

    def count_tokens(self, text: str) -> None:
        """Not known: the tokenizer is the server's."""
        return None

    def close(self) -> None:
        """Close the connections; batches go on."""
        self._client.close()
        if self._state is not None:
            self._state.close()

    def _submit(self, state: BatchState, waiting: _Waiting) -> list[KnownBatch]:
        """Hand over what is in no batch; returns the batches that hold what is waited for."""
        with state.submitting():
            for batch in state.abandoned():
                self._recover(state, batch)
            latest = state.latest(waiting.requests)
            free = [key for key in waiting.requests if key not in latest or latest[key][1] == "failed"]
            if self._queue_full and len(free) < len(waiting.requests):
                free = []  # what is under way makes room first
            by_endpoint: dict[Endpoint, list[tuple[str, Request]]] = {}
            for key in free:
                request = waiting.requests[key]
                by_endpoint.setdefault(endpoint_of(request, self.options), []).append((key, request))
            groups = (
                (endpoint, group)
                for endpoint, some in by_endpoint.items()
                for group in chunks(
                    lines(some, endpoint, self.options), self._most, self.options.max_batch_bytes
                )
            )
            for endpoint, group in groups:
                self._create(state, endpoint, group)
                if self._queue_full:
                    break
            latest = state.latest(waiting.requests)
        names = dict.fromkeys(name for name, outcome in latest.values() if outcome != "failed")
        return [state.batch(name) for name in names]

    def _create(self, state: BatchState, endpoint: Endpoint, group: list[tuple[str, bytes]]) -> None:
        with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
            file.writelines(line for _, line in group)
            file.flush()
            uploaded = self._asked(lambda: self._upload(file))
        keys = [key for key, _ in group]
        for _ in range(self.options.max_retries + 1):
            batch = state.begin(ENDPOINTS[endpoint], keys)
            try:
                # The client's own retries are off: a request whose answer was lost may have made a batch.
                remote = self._client.with_options(max_retries=0).batches.create(
                    input_file_id=uploaded,
                    endpoint=batch.endpoint,  # type: ignore[arg-type]
                    completion_window="24h",
                    metadata={"autointerp": batch.name},
                )
            except openai.APIError as error:
                problem = error
            else:
                state.submitted(batch.name, remote.id)
                log.info(
                    "batch %s: %d requests submitted; the same command goes on with it", remote.id, len(group)
                )
                return
            if isinstance(problem, _PASSING) and not self._is_fatal(problem):
                log.warning("a batch was perhaps not created: %s", self._clean(one_line(str(problem))))
                if self._recover(state, batch) is not None:
                    return
                time.sleep(min(self.options.poll_seconds, self.options.max_retry_wait_seconds))
                continue
            state.forget(batch.name)
            raise self._refused(problem) from problem
        raise self._unavailable("no batch could be created")

    def _upload(self, file: IO[bytes]) -> str:
        file.seek(0)
        return self._client.files.create(file=("requests.jsonl", file), purpose="batch").id

    def _recover(self, state: BatchState, batch: KnownBatch) -> str | None:
        """The id of a batch that was being submitted; forgets it if there is none."""
        for look in range(LOOKS):
            if look:
                time.sleep(min(self.options.poll_seconds, 5.0))
            remote = self._asked(lambda: self._find(batch))
            if remote is not None:
                state.submitted(batch.name, remote)
                log.info("batch %s: found again", remote)
                return remote
        state.forget(batch.name)
        return None

    def _find(self, batch: KnownBatch) -> str | None:
        for there in self._client.batches.list(limit=100):
            if (there.metadata or {}).get("autointerp") == batch.name:
                return there.id
            if there.created_at < batch.created - 86_400:
                return None
        return None

    def _collect(self, state: BatchState, waiting: _Waiting, tries: Counter[str], batch: KnownBatch) -> bool:
        """Look at a batch, and read its results if it ended; returns whether it did."""
        assert batch.remote is not None
        remote = batch.remote
        try:
            there = self._asked(lambda: self._client.batches.retrieve(remote), may_be_gone=True)
        except openai.NotFoundError:
            log.warning("batch %s: no longer at the server; its requests are sent again", remote)
            state.forget(batch.name)
            return True
        if there.status in ENDED:
            return self._read(state, waiting, tries, batch, there)
        counts = there.request_counts
        told = f"{there.status}, {counts.completed} of {counts.total} done" if counts else str(there.status)
        if self._told.get(remote) != told:
            log.info("batch %s: %s", remote, told)
            self._told[remote] = told
        return False

    def _read(
        self, state: BatchState, waiting: _Waiting, tries: Counter[str], batch: KnownBatch, there: Any
    ) -> bool:
        """Read the results of a batch that ended; returns whether to go on at once."""
        mine = {
            key
            for key, (name, outcome) in state.latest(waiting.requests).items()
            if name == batch.name and outcome != "failed"
        }
        results: list[tuple[str, Item]] = []
        if there.status == "failed" and not there.output_file_id:
            state.forget(batch.name)  # nothing of it was carried out
            self._refuse_batch(there, len(mine))
            return False
        for file in (there.output_file_id, there.error_file_id):
            if file:
                results += self._results(file, waiting, mine)
        code = None if there.status == "completed" else {"code": f"batch_{there.status}"}
        missing = failed_item(code, self.options.model)
        results += [(key, missing) for key in mine - {key for key, _ in results}]
        state.set_outcomes(batch.name, [(key, "ok" if item.reply.ok else "failed") for key, item in results])
        n_failed = 0
        for key, item in results:
            n_failed += not item.reply.ok
            tries[key] += not item.reply.ok
            if item.reply.ok or not item.retry or tries[key] > self.options.resubmit:
                waiting.answer(key, item.reply)
        log.info(
            "batch %s: %s, %d answers, %d failed",
            batch.remote,
            there.status,
            len(results) - n_failed,
            n_failed,
        )
        return True

    def _results(self, file: str, waiting: _Waiting, mine: set[str]) -> list[tuple[str, Item]]:
        """Results of this call's requests in a file of the server, each key once."""
        found: dict[str, Item] = {}

        def read() -> None:
            with self._client.files.with_streaming_response.content(file) as response:
                for line in response.iter_lines():
                    parsed = parse_line(line)
                    if parsed is not None and parsed[0] in mine:
                        key, value = parsed
                        found[key] = parse_item(waiting.requests[key], value, self.options)

        try:
            self._asked(read, may_be_gone=True)
        except openai.NotFoundError:
            log.warning("file %s: no longer at the server", file)
        return list(found.items())

    def _refuse_batch(self, there: Any, n: int) -> None:
        """A batch was refused as a whole. Raises `ModelUnavailableError` unless the queue was only full."""
        errors = there.errors.data if there.errors is not None and there.errors.data else []
        code = str(errors[0].code) if errors else "failed"
        message = one_line(str(errors[0].message)) if errors else "the server gives no reason"
        if ("token_limit" not in code and "enqueued token" not in message.lower()) or n <= 1:
            raise self._unavailable(f"the batch was refused: {code}: {message}")
        self._queue_full, self._most = True, max(1, n // 2)
        log.warning("%s; from now on one batch at a time, of at most %d requests", message, self._most)

    def _asked(self, ask: Callable[[], _Result], *, may_be_gone: bool = False) -> _Result:
        """What a call of the client returns; troubles that pass are sat out."""
        for attempt in range(MOST_FAILED_POLLS):
            try:
                return ask()
            except (*_PASSING, httpx2.HTTPError) as error:
                if isinstance(error, openai.APIError) and self._is_fatal(error):
                    raise self._refused(error) from error
                if attempt == MOST_FAILED_POLLS - 1:
                    raise self._unavailable(one_line(str(error))) from error
                log.warning(
                    "batches at %s: %s; trying again", self.options.url, self._clean(one_line(str(error)))
                )
                time.sleep(self.options.poll_seconds)
            except openai.APIError as error:
                if may_be_gone and isinstance(error, openai.NotFoundError):
                    raise
                raise self._refused(error) from error
        raise AssertionError

    def _is_fatal(self, error: openai.APIError) -> bool:
        failure = _failure(error)
        return failure is not None and failure.fatal is not None

    def _refused(self, error: openai.APIError) -> ModelUnavailableError:
        failure = _failure(error)
        if failure is None:
            return self._unavailable(one_line(str(error)))
        reason = failure.fatal or failure.message
        if failure.status in (401, 403):
            reason += f"; environment variable {self.options.api_key_env} "
            reason += "is not accepted" if self._key else "is not set"
        if failure.status == 404:
            reason += " (has this server a Batch API?)"
        return self._unavailable(reason)

    def _unavailable(self, reason: str) -> ModelUnavailableError:
        where = f"model {self.options.model!r} at {self.options.url}"
        return ModelUnavailableError(self._clean(f"{where}: {reason}"))

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "***") if self._key else message


class _Waiting:
    """Requests not answered yet, by key; equal ones are answered together."""

    def __init__(self, on_reply: OnReply) -> None:
        self.requests: dict[str, Request] = {}
        self._indices: dict[str, list[int]] = {}
        self._on_reply = on_reply

    def add(self, key: str, index: int, request: Request) -> None:
        self.requests[key] = request
        self._indices.setdefault(key, []).append(index)

    def answer(self, key: str, reply: Reply) -> None:
        if self.requests.pop(key, None) is not None:
            for index in self._indices.pop(key):
                self._on_reply(index, reply)


def _failure(error: openai.APIError) -> Failure | None:
    if not isinstance(error, openai.APIStatusError):
        return None
    return status_failure(HttpAnswer(error.status_code, error.response.headers, error.response.content))

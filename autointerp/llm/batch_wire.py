"""Between requests and the files of OpenAI's Batch API: one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from autointerp.llm.openai_errors import one_line, status_failure
from autointerp.llm.openai_http import HttpAnswer
from autointerp.llm.openai_wire import (
    Endpoint,
    MalformedReplyError,
    UnsupportedRequestError,
    parse_reply,
    request_body,
)
from autointerp.llm.options import OpenAIBatchOptions
from autointerp.llm.types import ErrorKind, Reply, Request

ENDPOINTS: Mapping[Endpoint, str] = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
"""What batches call the endpoints, wherever the server lies."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """What became of one request of a batch."""

    reply: Reply
    retry: bool = False
    """Whether another try may succeed."""


def lines(
    requests: Iterable[tuple[str, Request]], endpoint: Endpoint, options: OpenAIBatchOptions
) -> Iterator[tuple[str, bytes]]:
    """(key, line of the input file) of each request."""
    for key, request in requests:
        body = request_body(request, options)
        value = {"custom_id": key, "method": "POST", "url": ENDPOINTS[endpoint], "body": body}
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        yield key, text.encode("utf-8", "replace") + b"\n"


def chunks(
    items: Iterable[tuple[str, bytes]], most: int, most_bytes: int
) -> Iterator[list[tuple[str, bytes]]]:
    """Lines in groups that the limits of one input file allow; a longer line is a group of its own."""
    group: list[tuple[str, bytes]] = []
    size = 0
    for item in items:
        if group and (len(group) >= most or size + len(item[1]) > most_bytes):
            yield group
            group, size = [], 0
        group.append(item)
        size += len(item[1])
    if group:
        yield group


def parse_line(line: str) -> tuple[str, dict[str, Any]] | None:
    """(key, result) of a line of an output or error file; None if it is not one."""
    try:
        value = json.loads(line)
        return str(value["custom_id"]), value
    except (ValueError, TypeError, KeyError):
        return None


def parse_item(request: Request, value: Mapping[str, Any], options: OpenAIBatchOptions) -> Item:
    """What a result line says of its request."""
    response, error = value.get("response"), value.get("error")
    if not isinstance(response, Mapping):
        return failed_item(error, options.model)
    status, body = response.get("status_code"), response.get("body")
    if status != 200:
        answer = HttpAnswer(status if isinstance(status, int) else 500, {}, json.dumps(body).encode())
        failure = status_failure(answer)
        return Item(
            reply=Reply(error=failure.kind, error_message=failure.message, model=options.model),
            retry=failure.retry,
        )
    try:
        reply = parse_reply(request, body, options, None)
    except UnsupportedRequestError as problem:
        return _failed(ErrorKind.BAD_REQUEST, str(problem), options.model, retry=False)
    except MalformedReplyError as problem:
        return _failed(ErrorKind.MALFORMED, one_line(str(problem)), options.model, retry=True)
    return Item(reply=reply)


def failed_item(error: Any, model: str) -> Item:
    """A request that the batch gave no answer to: expired, cancelled, or not there at all."""
    code = str(error.get("code")) if isinstance(error, Mapping) else "no answer"
    told = error.get("message") if isinstance(error, Mapping) else None
    message = one_line(f"batch: {code}" + (f": {told}" if told else ""))
    kind = ErrorKind.TIMEOUT if "expired" in code else ErrorKind.SERVER
    return _failed(kind, message, model, retry=True)


def _failed(kind: ErrorKind, message: str, model: str, *, retry: bool) -> Item:
    return Item(reply=Reply(error=kind, error_message=message, model=model), retry=retry)

"""What each failure of an OpenAI-compatible server means: try again, an error row, or give up."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time

from autointerp.llm.openai_http import ConnectError, DroppedError, HttpAnswer
from autointerp.llm.openai_wire import MalformedReplyError
from autointerp.llm.types import ErrorKind

_TOO_LONG = re.compile(
    r"context[ _]?(length|window|size)|maximum (context|input|prompt|sequence)|too long|too many tokens"
    r"|exceeds? .{0,40}(context|tokens)|prompt is too large",
    re.IGNORECASE,
)
_FILTERED = re.compile(r"content[ _]?(filter|policy|management)|moderation|flagged", re.IGNORECASE)
_NO_CREDIT = re.compile(r"insufficient[ _]?(quota|funds|credit|balance)|billing", re.IGNORECASE)
_RETRIED_STATUS = frozenset({408, 409, 425, 429})


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One failed attempt, understood."""

    kind: ErrorKind
    message: str
    retry: bool
    """Whether another attempt may succeed."""
    fatal: str | None = None
    """Why no request at all can succeed, for `ModelUnavailableError`."""
    no_contact: bool = False
    """The server could not even be connected to."""
    status: int | None = None
    wait_seconds: float | None = None
    """What the server asked to wait."""


class AttemptError(Exception):
    """One attempt failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def exception_failure(error: TimeoutError | ConnectError | DroppedError | MalformedReplyError) -> Failure:
    """What an exception of one attempt means; all of them may pass."""
    if isinstance(error, ConnectError):
        return Failure(kind=ErrorKind.CONNECTION, message=one_line(str(error)), retry=True, no_contact=True)
    if isinstance(error, DroppedError):
        return Failure(kind=ErrorKind.CONNECTION, message=one_line(str(error)), retry=True)
    if isinstance(error, MalformedReplyError):
        return Failure(kind=ErrorKind.MALFORMED, message=one_line(str(error)), retry=True)
    return Failure(kind=ErrorKind.TIMEOUT, message="no reply in time", retry=True)


def status_failure(answer: HttpAnswer) -> Failure:
    """What a response with a status other than 200 means."""
    status = answer.status
    detail, codes = _detail(answer.body)
    message = f"HTTP {status}: {one_line(detail)}"
    told = f"{codes} {detail}"
    if status == 403 and _FILTERED.search(told):
        return Failure(kind=ErrorKind.CONTENT_FILTER, message=message, retry=False, status=status)
    if reason := _fatal(status, told, message, answer.headers):
        kind = ErrorKind.RATE_LIMIT if status in (402, 429) else ErrorKind.BAD_REQUEST
        shown = f"HTTP {status}" if status == 401 else message  # a 401 may repeat part of the key
        return Failure(kind=kind, message=shown, retry=False, fatal=reason, status=status)
    if status in _RETRIED_STATUS or status >= 500:
        kind = {408: ErrorKind.TIMEOUT, 429: ErrorKind.RATE_LIMIT}.get(status, ErrorKind.SERVER)
        wait = retry_after(answer.headers)
        return Failure(kind=kind, message=message, retry=True, status=status, wait_seconds=wait)
    kind = ErrorKind.BAD_REQUEST
    if status == 413 or _TOO_LONG.search(told):
        kind = ErrorKind.TOO_LONG
    elif _FILTERED.search(told):
        kind = ErrorKind.CONTENT_FILTER
    return Failure(kind=kind, message=message, retry=False, status=status)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.

    A date is read against the server's own, where it sent one: this machine's clock may be wrong.
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        until = parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError):
        return None
    try:
        now = parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        now = time()
    return max(0.0, until - now)


def one_line(text: str) -> str:
    """A server's text on one line of at most 300 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + "..."


def _fatal(status: int, told: str, message: str, headers: Mapping[str, str]) -> str | None:
    if status in (401, 403):
        return f"the server refuses the API key (HTTP {status})"
    if status == 402 or (status == 429 and _NO_CREDIT.search(told)):
        return f"the account is out of credit ({message})"
    if status == 404:
        return f"no such model or endpoint ({message})"
    if 300 <= status < 400:
        return f"the server redirects (HTTP {status}) to {headers.get('location')}; set base_url to that"
    return None


def _detail(body: bytes) -> tuple[str, str]:
    """The message of an error body, and its code and type."""
    text = body[:10_000].decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except ValueError:
        return text, ""
    while isinstance(value, dict):
        inner = next((value[name] for name in ("error", "message", "detail") if value.get(name)), None)
        if not isinstance(inner, dict):
            return str(inner or value), f"{value.get('code')} {value.get('type')}"
        value = inner
    return str(value), ""

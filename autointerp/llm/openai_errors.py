"""What each failure of an OpenAI-compatible server means: try again, an error row, or give up."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import openai

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


def understand(error: Exception) -> Failure | None:
    """What an exception of the client means; None for one that is a defect of the program."""
    if isinstance(error, openai.APITimeoutError):
        return Failure(kind=ErrorKind.TIMEOUT, message="no reply in time", retry=True)
    if isinstance(error, openai.APIStatusError):
        return _status(error)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        refused = type(cause).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")
        message = f"{type(cause).__name__}: {cause}".rstrip(": ")
        return Failure(kind=ErrorKind.CONNECTION, message=message, retry=True, no_contact=refused)
    if isinstance(error, MalformedReplyError | openai.APIResponseValidationError | json.JSONDecodeError):
        return Failure(kind=ErrorKind.MALFORMED, message=_one_line(str(error)), retry=True)
    if isinstance(error, openai.APIError):
        return Failure(kind=ErrorKind.SERVER, message=_one_line(error.message), retry=True)
    return None


def _status(error: openai.APIStatusError) -> Failure:
    status = error.status_code
    message = f"HTTP {status}: {_one_line(_detail(error))}"
    told = f"{error.code} {error.type} {message}"
    if status == 403 and _FILTERED.search(told):
        return Failure(kind=ErrorKind.CONTENT_FILTER, message=message, retry=False, status=status)
    if status in (401, 403):
        return Failure(
            kind=ErrorKind.BAD_REQUEST,
            message=f"HTTP {status}",
            retry=False,
            fatal=f"the server refuses the API key (HTTP {status})",
            status=status,
        )
    if status == 402 or (status == 429 and _NO_CREDIT.search(told)):
        return Failure(
            kind=ErrorKind.RATE_LIMIT,
            message=message,
            retry=False,
            fatal=f"the account is out of credit ({message})",
            status=status,
        )
    if status == 404:
        return Failure(
            kind=ErrorKind.BAD_REQUEST,
            message=message,
            retry=False,
            fatal=f"no such model or endpoint ({message})",
            status=status,
        )
    if status in _RETRIED_STATUS or status >= 500:
        kind = {408: ErrorKind.TIMEOUT, 429: ErrorKind.RATE_LIMIT}.get(status, ErrorKind.SERVER)
        return Failure(
            kind=kind,
            message=message,
            retry=True,
            status=status,
            wait_seconds=retry_after(error.response.headers),
        )
    kind = ErrorKind.BAD_REQUEST
    if status == 413 or _TOO_LONG.search(told):
        kind = ErrorKind.TOO_LONG
    elif _FILTERED.search(told):
        kind = ErrorKind.CONTENT_FILTER
    return Failure(kind=kind, message=message, retry=False, status=status)


def retry_after(headers: Any) -> float | None:
    """Seconds a server asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    try:
        if (milliseconds := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(milliseconds) / 1000)
    except ValueError:
        pass
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def _detail(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        if isinstance(inner, dict):
            inner = inner.get("message", inner.get("detail", inner))
        return str(inner)
    return str(body or error.message)


def _one_line(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 300 else text[:300] + "..."

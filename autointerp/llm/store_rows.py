"""How requests and replies lie in a reply store: short, exact, and the same in every version that can read it.

What is at its default is left out; prompts, which many requests share, lie in a table of their own; what is
long is compressed. Stores of the first layout (one table `replies`, everything spelled out in JSON) are still
read, and what is added to them is written in the new one.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from hashlib import blake2b
from typing import Any

from autointerp.llm.types import ErrorKind, Reply, Request, TokenLogprob, Usage

TABLES = """
CREATE TABLE IF NOT EXISTS models (
    id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    reply_model TEXT,
    UNIQUE (model, reply_model)
);
CREATE TABLE IF NOT EXISTS prompts (
    id INTEGER PRIMARY KEY,
    prompt NOT NULL
);
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY,
    reply NOT NULL,
    model INTEGER NOT NULL,
    prompt INTEGER NOT NULL,
    request NOT NULL,
    created REAL NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    cost_usd REAL
) WITHOUT ROWID;
"""
"""Of the second layout. `reply`, `request` and `prompt` are JSON text, or compressed JSON as a blob."""
FIRST_LAYOUT = "replies"
"""The table of the first layout."""

_LONG = 200
"""Characters from which JSON is compressed."""
_REPLY = {"text": "x", "finish_reason": "f", "error": "e", "error_message": "m"}
_USAGE = {"cached_tokens": "c", "seconds": "s", "reasoning_tokens": "r"}
_REQUEST = {
    f.name: f.default
    for f in fields(Request)
    if f.name not in ("messages", "prompt") and f.default is not MISSING
}

Packed = str | bytes


def key_bytes(key: str) -> bytes:
    """A request's key as it is stored: 32 hex digits as 16 bytes."""
    try:
        return bytes.fromhex(key) if len(key) == 32 else key.encode()
    except ValueError:
        return key.encode()


def key_text(key: bytes) -> str:
    """The key of `key_bytes`."""
    return key.hex() if len(key) == 16 else key.decode()


def pack_reply(reply: Reply) -> Packed:
    """A reply without its model, prompt and completion tokens and cost, which have columns of their own."""
    value: dict[str, Any] = {
        short: v for name, short in _REPLY.items() if (v := getattr(reply, name)) is not None
    }
    value |= {short: v for name, short in _USAGE.items() if (v := getattr(reply.usage, name)) is not None}
    if reply.tokens:
        value["t"] = [[t.text, t.logprob, t.top] if t.top else [t.text, t.logprob] for t in reply.tokens]
    return _pack(value)


def unpack_reply(
    packed: Packed,
    model: str | None,
    prompt_tokens: int | None,
    completion_tokens: int | None,
    cost_usd: float | None,
) -> Reply:
    """The reply of `pack_reply`. Raises `ValueError`, `TypeError` or `KeyError` if it is damaged."""
    value = _unpack(packed)
    if not isinstance(value, dict):
        raise ValueError("not a reply")
    usage = {name: value.pop(short, None) for name, short in _USAGE.items()}
    told = {name: value.pop(short, None) for name, short in _REPLY.items()}
    if told["error"] is not None:
        told["error"] = ErrorKind(told["error"])
    tokens = tuple(
        TokenLogprob(text=item[0], logprob=item[1], top=item[2] if len(item) > 2 else {})
        for item in value.pop("t", ())
    )
    if value:
        raise ValueError(f"fields of a later version: {', '.join(value)}")
    return Reply(
        **told,
        tokens=tokens,
        model=model,
        usage=Usage(
            prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, cost_usd=cost_usd, **usage
        ),
    )


def pack_request(request: Request) -> tuple[int, Packed, Packed]:
    """(id of the prompt, the prompt, the rest of the request)."""
    prompt: Any = request.prompt
    if request.messages is not None:
        prompt = [[m.role, m.content] for m in request.messages]
    text = _json(prompt)
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    rest = {name: _plain(v) for name, default in _REQUEST.items() if (v := getattr(request, name)) != default}
    return int.from_bytes(digest, signed=True), _pack_text(text), _pack(rest)


def unpack_request(prompt: Packed, rest: Packed) -> dict[str, Any]:
    """A request as a table of JSON values, every field in it."""
    said = _unpack(prompt)
    messages = [{"role": role, "content": text} for role, text in said] if isinstance(said, list) else None
    value: dict[str, Any] = {"messages": messages, "prompt": None if messages is not None else said}
    told: dict[str, Any] = _unpack(rest)
    return value | {name: _plain(default) for name, default in _REQUEST.items()} | told


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, tuple) else value


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _json(value: Any) -> str:
    return _JSON.encode(value)


def _pack(value: Any) -> Packed:
    return _pack_text(_json(value))


def _pack_text(text: str) -> Packed:
    if len(text) < _LONG and _storable(text):
        return text
    return zlib.compress(text.encode("utf-8", "surrogatepass"), 1)


def _storable(text: str) -> bool:
    """Whether SQLite takes the text: lone surrogates, and text cut at a NUL by some readers, go as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _unpack(packed: Packed) -> Any:
    try:
        text = packed if isinstance(packed, str) else zlib.decompress(packed).decode("utf-8", "surrogatepass")
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return json.loads(text)

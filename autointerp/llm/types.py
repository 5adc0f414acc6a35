"""The protocol between explainers or scorers and the language models they ask.

A list of requests goes in, a list of replies of the same length and order comes out. Each request
carries its own parameters. A request that fails becomes a reply with an error, never an exception;
only a model that cannot be reached at all raises (`autointerp.errors.ModelUnavailableError`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable


class Capability(StrEnum):
    """What a backend can do; explainers and scorers say which they need, checked at start."""

    GENERATE = "generate"
    """Continue a prompt or answer chat messages."""
    TOP_LOGPROBS = "top_logprobs"
    """Log-probabilities of the likeliest alternatives of generated tokens."""
    LIKELIHOOD = "likelihood"
    """Log-probability of a given continuation (`Request.continuation`)."""
    PROMPT_LOGPROBS = "prompt_logprobs"
    """Likeliest alternatives at each position of the prompt (`Request.prompt_top_logprobs`)."""
    JSON_SCHEMA = "json_schema"
    """Output held to a JSON schema while it is generated."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question to a language model. Exactly one of `messages` and `prompt` is given.

    Three forms: generation (neither `continuation` nor `prompt_top_logprobs`); likelihood of
    `continuation` after the prompt; and alternatives at every prompt position
    (`prompt_top_logprobs`). In the last two nothing is generated.
    """

    messages: tuple[Message, ...] | None = None
    """Chat messages, put through the model's own chat template. A last message of role assistant
    is a beginning the model continues."""
    prompt: str | None = None
    """Raw text, tokenised as it is (with the tokenizer's BOS if it uses one)."""
    continuation: str | None = None
    """Text whose log-probability after the prompt is asked, token by token."""
    prompt_top_logprobs: int = 0
    """How many alternatives to report at each prompt position."""
    max_tokens: int = 256
    """Most tokens to generate."""
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int = 0
    """How many alternatives to report at each generated token."""
    json_schema: Mapping[str, Any] | None = None
    """JSON schema the reply must satisfy; backends without `JSON_SCHEMA` leave it to the prompt. Requests may
    share one; it is not changed afterwards."""

    def __post_init__(self) -> None:
        assert (self.messages is None) != (self.prompt is None), "one of messages and prompt"

    def key(self, model_identity: str) -> str:
        """Hash (32 hex digits) of everything that changes the answer, the model included."""
        made: tuple[str, str] | None = self.__dict__.get("_made_key")
        if made is not None and made[0] == model_identity:
            return made[1]
        content = {name: getattr(self, name) for name in _KEY_FIELDS}
        content["model"] = model_identity
        if self.messages is not None:
            content["messages"] = [{"role": m.role, "content": m.content} for m in self.messages]
        # In the order of sorted keys; schemas, which many requests share, are not spelled out each time.
        head = f'{{"continuation":{_KEY_JSON.encode(self.continuation)},"json_schema":{_schema_text(self.json_schema)},'
        text = head + _KEY_JSON.encode(content)[1:]
        key = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        self.__dict__["_made_key"] = (model_identity, key)
        return key


_KEY_JSON = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=dict)
_KEY_FIELDS = [f.name for f in fields(Request) if f.name not in ("continuation", "json_schema")]
_MOST_SCHEMAS = 256
_schemas: dict[int, tuple[Mapping[str, Any] | None, str]] = {}


def _schema_text(schema: Mapping[str, Any] | None) -> str:
    """The schema in JSON; made once for each object, which is kept so that its place is not taken."""
    known = _schemas.get(id(schema))
    if known is None:
        if len(_schemas) >= _MOST_SCHEMAS:
            _schemas.clear()
        known = _schemas[id(schema)] = (schema, _KEY_JSON.encode(schema))
    return known[1]


class ErrorKind(StrEnum):
    """Why a request got no answer."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMIT = "rate_limit"
    SERVER = "server"
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"
    """The prompt does not fit the model's context."""
    CONTENT_FILTER = "content_filter"
    MALFORMED = "malformed"
    """The server's answer is not what the protocol says."""


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """One token of a reply or prompt, with alternatives where asked."""

    text: str
    logprob: float | None
    """Natural logarithm; null at the first prompt token."""
    top: dict[str, float] = field(default_factory=dict)
    """Alternatives at this position: text -> log-probability."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What one reply consumed; None where the backend does not say."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    """Of the prompt tokens, those whose computation was reused."""
    cost_usd: float | None = None
    seconds: float | None = None
    """Wall-clock seconds of this request (its share of a batch)."""
    reasoning_tokens: int | None = None
    """Of the completion tokens, those of thinking that is not part of `Reply.text`: as the server counts
    them, else estimated by the thinking's share of characters; None where there was none to be seen."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer to one request: text, or log-probabilities, or an error."""

    text: str | None = None
    """Generated text; None if nothing was to be generated or on error."""
    finish_reason: str | None = None
    """`stop`, `length`, ... as the backend says."""
    tokens: tuple[TokenLogprob, ...] = ()
    """Generated tokens (with `top_logprobs`), the continuation's tokens (with `continuation`), or
    the prompt's tokens (with `prompt_top_logprobs`)."""
    usage: Usage = Usage()
    model: str | None = None
    error: ErrorKind | None = None
    error_message: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.error is None

    @property
    def logprob(self) -> float:
        """Sum of the tokens' log-probabilities, in nats."""
        return sum(t.logprob for t in self.tokens if t.logprob is not None)

    def to_json(self) -> str:
        """The reply as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Reply:
        """The reply that `to_json` wrote."""
        value = json.loads(text)
        value["tokens"] = tuple(TokenLogprob(**t) for t in value["tokens"])
        value["usage"] = Usage(**value["usage"])
        value["error"] = None if value["error"] is None else ErrorKind(value["error"])
        return cls(**value)


OnReply = Callable[[int, Reply], None]
"""Called with (index of the request, its reply) as soon as each reply is there."""


@runtime_checkable
class Backend(Protocol):
    """A way to reach one language model."""

    identity: str
    """What the model's answers depend on (name, revision, arithmetic), for the reply store's key."""
    capabilities: frozenset[Capability]

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        """Answer every request, calling `on_reply` once for each, in any order.

        Raises `ModelUnavailableError` if the model cannot be reached at all; replies given before
        that stay given.
        """
        ...

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text in this model's tokenizer; None if it is not known."""
        ...

    def close(self) -> None:
        """Free the model or the connections."""
        ...


@runtime_checkable
class KeepsState(Protocol):
    """A backend with something to remember between processes, such as batches under way."""

    def keep_state(self, path: Path) -> None:
        """Remember it in this file."""
        ...


@runtime_checkable
class ServesThreads(Protocol):
    """A backend whose `complete` several threads may call at once, such as a connection to a server."""

    in_flight: int
    """Most requests it has under way, over all calls."""


class LanguageModel(Protocol):
    """What explainers and scorers are given: a backend behind the reply store."""

    identity: str
    capabilities: frozenset[Capability]

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests; stored ones are not asked again."""
        ...

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text in this model's tokenizer; None if it is not known."""
        ...

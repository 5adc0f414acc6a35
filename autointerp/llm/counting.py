"""A stand-in for a language model that pays nothing: it counts what it is asked and lets work go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from autointerp.llm.replies import StoredReplies
from autointerp.llm.types import Capability, Reply, Request, TokenLogprob, Usage
from autointerp.llm.unopened import UnopenedModel, pieces

TYPICAL_REPLY_TOKENS = 60
"""Length of a reply in free text, where no stored reply tells."""
PLACEHOLDER = "words and phrases that name people, places or events in reports about the subject"
"""An explanation of usual length, where there is none yet."""

_FIRST = {"Yes": -1.0, "No": -1.2, **{str(n): -2.0 - 0.1 * n for n in range(11)}}


@dataclass(kw_only=True)
class Counts:
    """Requests and tokens. Equal requests count once."""

    requests: float = 0
    stored: float = 0
    """Of them, those whose reply is stored already."""
    prompt_tokens: float = 0
    completion_tokens: float = 0
    most_completion_tokens: float = 0
    """If every reply were as long as its request allows."""
    new_prompt_tokens: float = 0
    """Of requests whose reply is not stored yet; so the next two."""
    new_completion_tokens: float = 0
    new_most_completion_tokens: float = 0

    def times(self, factor: float) -> Counts:
        """The counts of so many times as much work."""
        return Counts(**{f.name: getattr(self, f.name) * factor for f in fields(self)})

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


class CountingModel:
    """`LanguageModel` that counts requests, and answers from the store or with something readable.

    Models that share `seen`, the keys asked so far, count a request that both ask once, as a shared
    reply store does.
    """

    def __init__(self, model: UnopenedModel, stored: StoredReplies | None, seen: set[str]) -> None:
        self.model = model
        self.stored = stored
        self.seen = seen
        self.identity: str = model.identity
        self.capabilities: frozenset[Capability] = model.capabilities
        self.counts = Counts()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests: stored ones, else made up."""
        keys = [request.key(self.identity) for request in requests]
        found = {} if self.stored is None else self.stored.get_many(keys)
        replies = []
        for key, request in zip(keys, requests, strict=True):
            reply = found.get(key) or self._made_up(request)
            replies.append(reply)
            if key not in self.seen:
                self.seen.add(key)
                self._count(request, reply, key in found)
        return replies

    def count_tokens(self, text: str) -> int | None:
        """As the model itself would say."""
        return self.model.count_tokens(text)

    def _count(self, request: Request, reply: Reply, stored: bool) -> None:
        counts, usage = self.counts, reply.usage
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        reads = request.continuation is not None or request.prompt_top_logprobs > 0
        most = 0 if reads else request.max_tokens
        counts.requests += 1
        counts.prompt_tokens += prompt
        counts.completion_tokens += completion
        counts.most_completion_tokens += most
        if stored:
            counts.stored += 1
            return
        counts.new_prompt_tokens += prompt
        counts.new_completion_tokens += completion
        counts.new_most_completion_tokens += most

    def _made_up(self, request: Request) -> Reply:
        n_prompt = self.model.prompt_tokens(request)
        if request.continuation is not None:
            usage = Usage(prompt_tokens=n_prompt, completion_tokens=0)
            return Reply(tokens=_likely(pieces(request.continuation)), usage=usage, model=self.identity)
        if request.prompt_top_logprobs:
            text = request.prompt or "\n".join(m.content for m in request.messages or ())
            usage = Usage(prompt_tokens=n_prompt, completion_tokens=0)
            return Reply(tokens=_likely(pieces(text), _FIRST), usage=usage, model=self.identity)
        text, n_typical = _answer(request, self.model.count_tokens)
        habit = self.model.habits.completion_tokens.get(request.max_tokens)
        n_reply = min(request.max_tokens, n_typical if habit is None else round(habit))
        return Reply(
            text=text,
            finish_reason="stop",
            tokens=_likely([text], _FIRST) if request.top_logprobs else (),
            usage=Usage(prompt_tokens=n_prompt, completion_tokens=n_reply),
            model=self.identity,
        )


def _likely(texts: Sequence[str], top: Mapping[str, float] | None = None) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(text=text, logprob=-1.0, top=dict(top or {})) for text in texts)


def _answer(request: Request, count_tokens: Callable[[str], int | None]) -> tuple[str, int]:
    """Something a reader of replies may be able to read, and the length of a usual reply in tokens."""
    if request.json_schema is not None:
        text = json.dumps(_instance(request.json_schema))
        return text, count_tokens(text) or len(pieces(text))
    if request.top_logprobs:
        return "Yes", 1
    return f"EXPLANATION: {PLACEHOLDER}", TYPICAL_REPLY_TOKENS


def _instance(schema: Mapping[str, Any]) -> Any:
    """A value that a JSON schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {name: _instance(part) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_instance(schema.get("items") or {})] * int(schema.get("minItems", 1))
    return {"integer": 0, "number": 0.5, "boolean": True, "string": PLACEHOLDER}.get(str(kind))

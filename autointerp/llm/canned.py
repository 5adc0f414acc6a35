"""A backend that asks no model: fixed replies for tests and dry runs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from autointerp.config import digest
from autointerp.errors import UserError
from autointerp.llm.options import CannedOptions
from autointerp.llm.types import Capability, OnReply, Reply, Request, TokenLogprob, Usage

Answer = Callable[[Request], Reply | str]


class CannedBackend:
    """Answers each request with a Python function, and counts them.

    Where the function returns text for a request that asks for log-probabilities, they are made
    up from a hash of the request: the same each time, negative, without meaning.
    """

    capabilities: frozenset[Capability] = frozenset(Capability)

    def __init__(
        self, function: Answer | None = None, identity: str = "canned", *, keep_requests: bool = True
    ) -> None:
        self.function: Answer = function or (lambda request: "canned reply")
        self.identity = identity
        self.keep_requests = keep_requests
        self.n_requests = 0
        self.requests: list[Request] = []
        """Every request so far, in order, if they are kept."""

    def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
        """Answer in order."""
        for index, request in enumerate(requests):
            self.n_requests += 1
            if self.keep_requests:
                self.requests.append(request)
            answer = self.function(request)
            on_reply(index, answer if isinstance(answer, Reply) else self._reply(request, answer))

    def count_tokens(self, text: str) -> int:
        """Words of the text."""
        return len(text.split())

    def close(self) -> None:
        """Nothing is held."""

    def _reply(self, request: Request, text: str) -> Reply:
        prompt = prompt_text(request)
        usage = Usage(prompt_tokens=self.count_tokens(prompt), completion_tokens=0, cost_usd=0.0, seconds=0.0)
        if request.continuation is not None:
            return Reply(tokens=_tokens(request.continuation, prompt, 0), usage=usage, model=self.identity)
        if request.prompt_top_logprobs:
            tokens = _tokens(prompt, "", request.prompt_top_logprobs)
            first = tuple(TokenLogprob(text=t.text, logprob=None) for t in tokens[:1])
            return Reply(tokens=first + tokens[1:], usage=usage, model=self.identity)
        tokens = _tokens(text, prompt, request.top_logprobs) if request.top_logprobs else ()
        usage = Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=self.count_tokens(text),
            cost_usd=0.0,
            seconds=0.0,
        )
        return Reply(text=text, finish_reason="stop", tokens=tokens, usage=usage, model=self.identity)


def open_canned(options: CannedOptions) -> CannedBackend:
    """The backend of `[models.*] backend = "canned"`. Raises `UserError` for an unreadable rules file."""
    rules = read_rules(Path(options.rules)) if options.rules is not None else []

    def answer(request: Request) -> str:
        prompt = prompt_text(request)
        return next((text for part, text in rules if part in prompt), options.default_text)

    identity = f"canned:{options.model}#{digest([rules, options.default_text])}"
    return CannedBackend(answer, identity, keep_requests=False)


def read_rules(path: Path) -> list[tuple[str, str]]:
    """Pairs (contained text, reply) of a JSONL file of rules."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"rules: cannot read {str(path)!r}: {error}") from None
    rules = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            rule = json.loads(line)
            rules.append((str(rule["contains"]), str(rule["text"])))
        except (ValueError, TypeError, KeyError):
            raise UserError(
                f'rules: {path} line {number}: accepted: {{"contains": "...", "text": "..."}}'
            ) from None
    return rules


def prompt_text(request: Request) -> str:
    """All the text of a request, whichever its form."""
    if request.messages is not None:
        return "\n".join(message.content for message in request.messages)
    return request.prompt or ""


def _tokens(text: str, context: str, n_top: int) -> tuple[TokenLogprob, ...]:
    """The words of a text as tokens, with made-up log-probabilities."""
    tokens = []
    for index, word in enumerate(text.split()):
        seed = blake2b(f"{context}\0{word}\0{index}".encode("utf-8", "replace"), digest_size=4).digest()
        logprob = math.log((int.from_bytes(seed) + 1) / 2**32)
        tokens.append(
            TokenLogprob(text=f" {word}", logprob=logprob, top={f" {word}": logprob} if n_top else {})
        )
    return tuple(tokens)

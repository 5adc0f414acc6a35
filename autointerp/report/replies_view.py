"""What models were asked about a latent and what they answered, word for word, as a page shows it.

`judgements` keeps the hash of a request; request and reply lie in the run's reply store under it. A store that
is gone, or that no longer holds a reply, is said on the page. All text is of corpora and models: it is cut,
control characters become visible, and the template escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from autointerp import storage
from autointerp.errors import UserError
from autointerp.llm.replies import StoredReplies
from autointerp.llm.types import Reply
from autointerp.report import numbers
from autointerp.run import Run, printable

REPLY_CHARACTERS = 400
"""Of a reply beside its window; the whole stands with its request."""
TEXT_CHARACTERS = 4_000
"""Of one message or reply with its request; the middle of longer ones is left out."""
_REPEATED_CHARACTERS = 120
"""Messages from this length are written out once on a page."""
N_ALTERNATIVES = 3
"""Alternatives shown of a token that was asked with its likeliest ones."""
MAX_TOKENS = 60
"""Tokens listed of a reply that is log-probabilities."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much of the reply store one page may hold."""

    requests: int
    characters: int


DISK = Limits(requests=400, characters=200_000)
"""A page of a site on disk: about a third of a megabyte at most."""
SERVED = Limits(requests=5_000, characters=4_000_000)
"""A page that is made when it is asked for."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """One message of a request."""

    role: str
    text: str | None
    """None where `same_as` says it all."""
    same_as: str | None = None
    """The earlier request of the page that has this very message at this place."""


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """A request and its reply."""

    key: str
    """The request's hash."""
    model: str
    messages: list[Said]
    settings: str
    reply: str
    brief: str
    """The beginning of the reply."""
    measured: bool
    """Whether the reply is log-probabilities of given text, not text."""


@dataclass(frozen=True, kw_only=True)
class Exchanges:
    """The requests behind a page's judgements, by their whole hash, in the order they are to be read."""

    found: Mapping[str, Exchange]
    missing: frozenset[str]
    """Requests that the store does not hold: they failed, or the store is not the one they went to."""
    n_left_out: int = 0
    """Requests not read, since the page would grow past its limits."""
    problem: str | None = None
    """Why nothing could be looked up."""

    @property
    def measured(self) -> bool:
        """Whether any reply is log-probabilities."""
        return any(exchange.measured for exchange in self.found.values())


NOTHING = Exchanges(found={}, missing=frozenset())


class Asked:
    """A run's reply store, looked into for a page at a time. Close it."""

    def __init__(self, run: Run, limits: Limits) -> None:
        self.limits = limits
        self.path = Path(run.config.models.reply_store or storage.local_beside(run.root) / "replies.sqlite")
        self._store: StoredReplies | None = None
        self.problem: str | None = None
        try:
            self._store = StoredReplies.at(self.path)
        except UserError as error:
            self.problem = printable(str(error))
        if self._store is None and self.problem is None:
            self.problem = f"the reply store {printable(self.path.name)!r} is not there any more"

    def close(self) -> None:
        """Close the file."""
        if self._store is not None:
            self._store.close()

    def __enter__(self) -> Asked:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def exchanges(self, keys: Iterable[str]) -> Exchanges:
        """The requests of a page and their replies, the first ones if they are too many."""
        wanted = list(dict.fromkeys(keys))
        if not wanted:
            return NOTHING
        if self._store is None:
            return Exchanges(found={}, missing=frozenset(wanted), problem=self.problem)
        some = wanted[: self.limits.requests]
        try:
            stored = self._store.exchanges(some)
        except UserError as error:
            return Exchanges(found={}, missing=frozenset(wanted), problem=printable(str(error)))
        found: dict[str, Exchange] = {}
        known: dict[tuple[int, str, str], str] = {}
        n_characters, n_read = 0, 0
        for key in some:
            if n_characters > self.limits.characters:
                break
            n_read += 1
            if key in stored:
                found[key] = _exchange(key, *stored[key], known)
                n_characters += _size(found[key])
        return Exchanges(
            found=found,
            missing=frozenset(key for key in some[:n_read] if key not in stored),
            n_left_out=len(wanted) - n_read,
        )


def _size(exchange: Exchange) -> int:
    return len(exchange.reply) + sum(len(said.text or "") for said in exchange.messages)


def _exchange(
    key: str, model: str, request: Mapping[str, Any], reply: Reply, known: dict[tuple[int, str, str], str]
) -> Exchange:
    messages = []
    for i, (role, text) in enumerate(_messages(request)):
        first = known.setdefault((i, role, text), key) if len(text) >= _REPEATED_CHARACTERS else key
        shown = None if first != key else _cut(text, TEXT_CHARACTERS)
        messages.append(Said(role=role, text=shown, same_as=first if shown is None else None))
    measured = reply.text is None and bool(reply.tokens)
    answer = _log_probabilities(reply) if measured else _text(reply)
    return Exchange(
        key=printable(key),
        model=printable(_model_name(reply.model or model)),
        messages=messages,
        settings=_settings(request),
        reply=answer,
        brief=_beginning(answer),
        measured=measured,
    )


def _model_name(name: str) -> str:
    """Without the folder of a model that lies on the machine that ran it."""
    return PurePath(name).name if name.startswith("/") else name


def _messages(request: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [(str(m["role"]), str(m["content"])) for m in request.get("messages") or ()]
    if request.get("prompt") is not None:
        found.append(("prompt", str(request["prompt"])))
    if request.get("continuation") is not None:
        found.append(("how likely is", str(request["continuation"])))
    return found


def _settings(request: Mapping[str, Any]) -> str:
    if request.get("continuation") is not None or request.get("prompt_top_logprobs"):
        return "nothing is generated"
    parts = [f"at most {numbers.count(request.get('max_tokens'))} tokens"]
    parts.append(f"temperature {numbers.measure(request.get('temperature'))}")
    if request.get("json_schema"):
        parts.append("held to a JSON schema")
    return ", ".join(parts)


def _text(reply: Reply) -> str:
    shown = _cut(reply.text or "", TEXT_CHARACTERS)
    first = reply.tokens[0] if reply.tokens else None
    if first is None or not first.top:
        return shown
    best = sorted(first.top.items(), key=lambda item: -item[1])[:N_ALTERNATIVES]
    listed = ", ".join(f"{_quoted(text)} {numbers.measure(logprob)}" for text, logprob in best)
    return f"{shown}\n(first token, in nats: {listed})"


def _log_probabilities(reply: Reply) -> str:
    listed = [f"{_quoted(t.text)} {numbers.measure(t.logprob)}" for t in reply.tokens[:MAX_TOKENS]]
    if len(reply.tokens) > MAX_TOKENS:
        listed.append(f"… {len(reply.tokens) - MAX_TOKENS:,} more")
    return f"{numbers.measure(reply.logprob)} nats: " + ", ".join(listed)


def _quoted(text: str) -> str:
    return f"“{_visible(text)}”"


def _visible(text: str) -> str:
    """A token on one line."""
    return printable(text.replace("\n", "⏎").replace("\t", "⇥"))


def _beginning(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= REPLY_CHARACTERS else f"{line[:REPLY_CHARACTERS]} …"


def _cut(text: str, most: int) -> str:
    """A text with its line ends, the middle left out if it is longer."""
    if len(text) > most:
        half = most // 2
        text = f"{text[:half]}\n… {len(text) - 2 * half:,} characters left out …\n{text[-half:]}"
    return "\n".join(printable(line) for line in text.splitlines())


def requests_in_order(decisions: Sequence[tuple[bool, str | None]]) -> list[str]:
    """Hashes of requests, those behind mistakes first; `decisions` are (mistaken, hash) in reading order."""
    ordered = sorted(decisions, key=lambda decision: not decision[0])
    return list(dict.fromkeys(key for _, key in ordered if key is not None))

"""A backend behind the reply store: what explainers and scorers ask."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from autointerp.llm.budget import Budget, most_usd
from autointerp.llm.prices import Price
from autointerp.llm.store import ReplyStore
from autointerp.llm.turns import StoppedError, Turns
from autointerp.llm.types import (
    Backend,
    Capability,
    ErrorKind,
    KeepsState,
    Reply,
    Request,
    ServesThreads,
)


@dataclass(kw_only=True)
class ModelStats:
    """What was asked of one model so far. Tokens, cost and seconds are of sent requests only."""

    requests: int = 0
    """Requests asked by callers."""
    stored: int = 0
    """Of them, those answered from the reply store."""
    duplicates: int = 0
    """Of them, those equal to another of the same call."""
    sent: int = 0
    """Of them, those the backend answered, errors included."""
    errors: Counter[ErrorKind] = field(default_factory=Counter)
    """Of those sent, the ones that failed, by kind."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    """Of the completion tokens, those of thinking; counted by the server or estimated."""
    cost_usd: float | None = None
    """Sum of the known costs; None as long as no cost is known."""
    saved_usd: float | None = None
    """What the stored replies cost when they were made; None as long as no cost is known."""

    def add_sent(self, reply: Reply) -> None:
        """Count a reply the backend gave."""
        self.sent += 1
        if reply.error is not None:
            self.errors[reply.error] += 1
        usage = reply.usage
        self.prompt_tokens += usage.prompt_tokens or 0
        self.completion_tokens += usage.completion_tokens or 0
        self.cached_tokens += usage.cached_tokens or 0
        self.reasoning_tokens += usage.reasoning_tokens or 0
        if usage.cost_usd is not None:
            self.cost_usd = (self.cost_usd or 0.0) + usage.cost_usd

    def add_stored(self, reply: Reply) -> None:
        """Count a reply the store gave."""
        self.stored += 1
        if reply.usage.cost_usd is not None:
            self.saved_usd = (self.saved_usd or 0.0) + reply.usage.cost_usd


OnProgress = Callable[[ModelStats], None]
"""Called after each reply with the running counts."""


class StoredModel:
    """`LanguageModel` that asks a backend only what the store does not hold.

    Equal requests of one call are sent once and get the same reply. That holds for temperature
    above 0 too: requests that should differ must carry different seeds. Each reply is stored as
    it comes, so an interrupted call loses none; errors are returned but never stored, so the
    next call asks again. A stored reply keeps the usage it was made with; `stats` tells how many
    were stored and how many sent.

    Several threads may ask at once where `in_flight` is a number and `turns` is set; what one of them
    has asked is not asked again by another.

    A reply whose backend does not know its cost gets it from `price`. With a `budget`, requests are
    sent in groups that cannot overrun it together, and every reply of a group is waited for.
    """

    def __init__(
        self,
        backend: Backend,
        store: ReplyStore,
        progress: OnProgress | None = None,
        *,
        price: Price | None = None,
        budget: Budget | None = None,
    ) -> None:
        assert budget is None or price is not None, "a budget needs a price"
        self.backend = backend
        self.store = store
        self.progress = progress
        self.price = price
        self.budget = budget
        self.identity: str = backend.identity
        self.capabilities: frozenset[Capability] = backend.capabilities
        self.stats = ModelStats()
        self.turns: Turns | None = None
        """Set while several threads ask at once; each then computes in its turn."""
        self._lock = threading.Lock()
        self._asked: dict[str, dict[str, Reply]] = {}
        if isinstance(backend, KeepsState):
            backend.keep_state(store.path.with_name(f"{store.path.stem}.batches.sqlite"))

    @property
    def in_flight(self) -> int | None:
        """Most requests under way where several threads may ask at once; None where they may not."""
        if self.budget is not None or not isinstance(self.backend, ServesThreads):
            return None
        return self.backend.in_flight

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies in the order of the requests.

        Raises `ModelUnavailableError` if the model cannot be reached and `BudgetReachedError` if the
        budget does not allow a request (replies already given are stored), and `UserError` if the
        store cannot be read or written.
        """
        keys = [request.key(self.identity) for request in requests]
        replies = self.store.get_many(keys)
        missing: dict[str, Request] = {}
        others: dict[str, dict[str, Reply]] = {}
        with self._lock:
            stats = self.stats
            stats.requests += len(keys)
            for key, request in zip(keys, requests, strict=True):
                if key in replies:
                    stats.add_stored(replies[key])
                elif key in missing or key in self._asked:
                    stats.duplicates += 1
                    if key not in missing:
                        others[key] = self._asked[key]
                else:
                    missing[key] = request
            if replies and self.progress is not None:
                self.progress(stats)
        for affordable in self._affordable(missing):
            self._ask(affordable, replies)
        self._wait_for(others, replies)
        return [replies[key] for key in keys]

    def count_tokens(self, text: str) -> int | None:
        """Tokens of a text in this model's tokenizer; None if it is not known."""
        return self.backend.count_tokens(text)

    def record_use(self) -> None:
        """Write the counts so far into the store, for `autointerp replies`; called once, at the end."""
        stats = self.stats
        if stats.requests:
            self.store.record_use(
                self.identity,
                requests=stats.requests,
                stored=stats.stored,
                duplicates=stats.duplicates,
                sent=stats.sent,
                errors=stats.errors.total(),
                cost_usd=stats.cost_usd,
            )

    def _affordable(self, missing: dict[str, Request]) -> Iterator[dict[str, Request]]:
        """The requests in groups whose dearest outcome fits into what is left; all at once without a budget."""
        if self.budget is None or self.price is None:
            if missing:
                yield missing
            return
        left = [(key, request, most_usd(request, self.price)) for key, request in missing.items()]
        while left:
            n, total = 0, 0.0
            while n < len(left) and total + left[n][2] <= self.budget.left_usd:
                total += left[n][2]
                n += 1
            if n == 0:
                raise self.budget.reached(left[0][2], len(left))
            yield {key: request for key, request, _ in left[:n]}
            del left[:n]

    def _priced(self, request: Request, reply: Reply) -> Reply:
        if self.price is not None and reply.usage.cost_usd is None:
            reply = replace(reply, usage=replace(reply.usage, cost_usd=self.price.of(reply.usage)))
        if self.budget is not None and self.price is not None:
            self.budget.add(request, reply, self.price)
        return reply

    def _ask(self, missing: dict[str, Request], replies: dict[str, Reply]) -> None:
        keys = list(missing)
        turns = self.turns

        def on_reply(index: int, reply: Reply) -> None:
            key = keys[index]
            with self._lock:
                assert key not in replies, "a backend answered the same request twice"
                replies[key] = reply = self._priced(missing[key], reply)
                self.store.put(key, missing[key], reply, self.identity)
                self.stats.add_sent(reply)
                if self.progress is not None:
                    self.progress(self.stats)

        try:
            if turns is None:
                self.backend.complete(list(missing.values()), on_reply)
            else:
                self._asked |= dict.fromkeys(keys, replies)
                with turns.waiting(len(keys)) as answered:

                    def on_reply_in_turns(index: int, reply: Reply) -> None:
                        on_reply(index, reply)
                        answered()
                        if turns.interrupted:
                            raise StoppedError

                    self.backend.complete(list(missing.values()), on_reply_in_turns)
        finally:
            for key in keys:
                self._asked.pop(key, None)
            self.store.flush()
        unanswered = [key for key in keys if key not in replies]
        assert not unanswered, f"the backend left {len(unanswered)} of {len(keys)} requests unanswered"

    def _wait_for(self, others: dict[str, dict[str, Reply]], replies: dict[str, Reply]) -> None:
        """Take the replies that other threads had asked for already, once their calls end."""
        if not others:
            return
        assert self.turns is not None
        self.turns.wait_until(lambda: not any(self._asked.get(key) is told for key, told in others.items()))
        for key, told in others.items():
            if key not in told:  # that call failed, and ends the whole
                raise StoppedError
            replies[key] = told[key]

"""A budget: what a run may cost, asked before each request and never overrun by what is known."""

from __future__ import annotations

from autointerp.errors import UserError
from autointerp.llm.prices import Price
from autointerp.llm.types import ErrorKind, Reply, Request

_BYTES_PER_TOKEN = 2
"""Fewer bytes per token than any text of natural language has: prompts are estimated too long."""
_TOKENS_PER_MESSAGE = 16
_MAY_BE_BILLED = frozenset({ErrorKind.TIMEOUT, ErrorKind.MALFORMED})


class BudgetReachedError(UserError):
    """The next request might cost more than is left. All replies so far are stored."""

    exit_code = 3


class Budget:
    """US dollars a run may spend on new replies, over all its models."""

    def __init__(self, limit_usd: float) -> None:
        self.limit_usd = limit_usd
        self.spent_usd = 0.0

    @property
    def left_usd(self) -> float:
        """What is left."""
        return self.limit_usd - self.spent_usd

    def add(self, request: Request, reply: Reply, price: Price) -> None:
        """Count a reply: its cost, or the most it can have cost if that is not known but may be billed."""
        cost = reply.usage.cost_usd
        if cost is None:
            cost = most_usd(request, price) if reply.ok or reply.error in _MAY_BE_BILLED else 0.0
        self.spent_usd += cost

    def reached(self, next_usd: float, n_left: int) -> BudgetReachedError:
        """The error that stops a run."""
        return BudgetReachedError(
            f"--max-cost {self.limit_usd:g}: stopped with ${self.spent_usd:.4g} spent, since the next request may "
            f"cost ${next_usd:.2g} ({n_left} of this shard left); every reply is stored: run the same command "
            "again, with another --max-cost, to go on"
        )


def most_usd(request: Request, price: Price) -> float:
    """The most that a request can cost: a prompt of short tokens, and the longest reply."""
    texts = [m.content for m in request.messages or ()]
    texts += [text for text in (request.prompt, request.continuation) if text]
    n_bytes = sum(len(text.encode("utf-8", "replace")) for text in texts)
    reads = request.continuation is not None or request.prompt_top_logprobs > 0
    prompt_tokens = n_bytes / _BYTES_PER_TOKEN + _TOKENS_PER_MESSAGE * max(1, len(texts))
    return price.usd(prompt_tokens, 1 if reads else request.max_tokens)

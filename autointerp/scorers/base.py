"""What a scorer is, what it is given and what it returns; and the registry of scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import numpy as np

from autointerp.config import Latents, Section
from autointerp.errors import unknown_name
from autointerp.llm.types import Capability, LanguageModel, Usage
from autointerp.sampling.windows import LatentRecord, TokenTable

if TYPE_CHECKING:
    from autointerp.subject.steering import SteeredSubject


class ScorerConfig(Section):
    """Options every scorer has; a scorer's own class adds to them."""

    latents: Latents | None = None
    """Which latents this scorer judges; by default `score.latents`."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One explanation to be judged, with the latent's test windows."""

    explanation: str
    """Id of the explanation."""
    text: str
    record: LatentRecord


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One judged window; fields as the columns of `judgements`."""

    example: int
    kind: str
    status: str = "ok"
    reason: str | None = None
    decile: int | None = None
    request: str | None = None
    position_in_request: int | None = None
    label: bool | None = None
    prediction: bool | None = None
    probability: float | None = None
    log_odds: float | None = None
    predicted_activations: Sequence[float | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a scorer says of one item: its judgements and the scores computed from them."""

    item: Item
    judgements: Sequence[Judgement]
    score: Mapping[str, Any]
    """Columns of `scores` this scorer fills (`metric`, `value`, `tp`, `auroc`, ...)."""
    usage: Usage = Usage()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeContext:
    """Surroundings of a scorer's work: the judge, the vocabulary, randomness."""

    model: LanguageModel | None
    tokens: TokenTable
    seed: int
    subject: Callable[[], SteeredSubject] | None = None
    """Opens the subject and its dictionary, for scorers that intervene (`needs_subject`); None if
    they are not at hand. Opened once, when first called."""

    def rng(self, *keys: int) -> np.random.Generator:
        """A random stream of its own for each (seed, keys): never depends on batching or order."""
        return np.random.default_rng([self.seed, *keys])


class Scorer(Protocol):
    """Judges explanations. Built from its own `Config`; knows nothing of files."""

    name: ClassVar[str]
    """Name in the registry."""
    Config: ClassVar[type[ScorerConfig]]
    version: ClassVar[int]
    """Raised when the same configuration would give other numbers."""
    # Two more class attributes are read where a scorer has them, and false where it has not:
    # `explanation_free`, that judges the latent itself: it is run once per latent, with an empty
    # text, and its rows stand under the explainer `none`; and `needs_subject`, which is given
    # `JudgeContext.subject`. And a method `check()`, where there is one, is called before any work: it
    # raises `UserError` if a library or a model of the scorer's own is missing.

    def __init__(self, config: Any) -> None: ...

    def requires(self) -> frozenset[Capability]:
        """What the judge must be able to do; empty if no judge is asked."""
        ...

    def prompts(self) -> Mapping[str, str]:
        """Prompt texts by name: their hash is part of the results' fingerprint."""
        ...

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Judge a batch of explanations; one `Judged` per item, in order.

        A request that fails or a reply that cannot be read becomes judgements with a status.
        """
        ...


S = TypeVar("S", bound=type[Scorer])
SCORERS: dict[str, type[Scorer]] = {}
"""Registered scorers by name."""


def scorer(name: str) -> Callable[[S], S]:
    """Class decorator: register a scorer under a name."""

    def register(cls: S) -> S:
        assert name not in SCORERS, f"two scorers named {name!r}"
        cls.name = name
        SCORERS[name] = cls
        return cls

    return register


def get_scorer(name: str, where: str = "score.scorers") -> type[Scorer]:
    """The scorer of a name; raises `UserError` listing the names that exist."""
    if name not in SCORERS:
        raise unknown_name(where, name, SCORERS)
    return SCORERS[name]

"""What an explainer is, what it is given and what it returns; and the registry of explainers."""

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


class ExplainerConfig(Section):
    """Options every explainer has; an explainer's own class adds to them."""

    latents: Latents | None = None
    """Which latents this explainer labels; by default `explain.latents`."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """One proposed explanation; fields as the columns of `explanations`."""

    latent: int
    text: str | None
    status: str = "ok"
    """`ok`, `failed` or `undetermined`; `text` is None unless `ok`."""
    reason: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ExplainContext:
    """Surroundings of an explainer's work: the explaining model, the vocabulary, randomness."""

    model: LanguageModel | None
    tokens: TokenTable
    token_counts: np.ndarray
    """Occurrences of each token in the train documents of the cached corpus, [n_vocabulary] int64."""
    seed: int
    judge: LanguageModel | None = None
    """The judging model, for explainers that choose by a scorer (`requires_judge`); else None."""
    subject: Callable[[], SteeredSubject] | None = None
    """Opens the subject and its dictionary, for explainers that run it (`needs_subject`); else None.
    Opened once, when first called."""

    def rng(self, *keys: int) -> np.random.Generator:
        """A random stream of its own for each (seed, keys): never depends on batching or order."""
        return np.random.default_rng([self.seed, *keys])


class Explainer(Protocol):
    """Proposes explanations. Built from its own `Config`; knows nothing of files."""

    name: ClassVar[str]
    """Name in the registry."""
    Config: ClassVar[type[ExplainerConfig]]
    version: ClassVar[int]
    """Raised when the same configuration would give other explanations."""
    # An attribute is read and two more methods are called where an explainer has them: `needs_subject`
    # (false where there is none), for an explainer that is then given `ExplainContext.subject`;
    # `requires_judge()`, what the judging model must be able to do, for one that is then given
    # `ExplainContext.judge`; and `check()`, before any work: it raises `UserError` if a library or a model
    # of its own is missing.

    @property
    def uses_windows(self) -> bool:
        """Whether it looks at windows; False: at the statistics of `latents` only."""
        ...

    def __init__(self, config: Any) -> None: ...

    def requires(self) -> frozenset[Capability]:
        """What the explaining model must be able to do; empty if none is asked."""
        ...

    def prompts(self) -> Mapping[str, str]:
        """Prompt texts by name: their hash is part of the results' fingerprint."""
        ...

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """Explain a batch of latents from their train windows.

        Returns at least one row per latent, in the order given; a failure is a row with a status
        and a reason.
        """
        ...


E = TypeVar("E", bound=type[Explainer])
EXPLAINERS: dict[str, type[Explainer]] = {}
"""Registered explainers by name."""


def explainer(name: str) -> Callable[[E], E]:
    """Class decorator: register an explainer under a name."""

    def register(cls: E) -> E:
        assert name not in EXPLAINERS, f"two explainers named {name!r}"
        cls.name = name
        EXPLAINERS[name] = cls
        return cls

    return register


def get_explainer(name: str, where: str = "explain.explainers") -> type[Explainer]:
    """The explainer of a name; raises `UserError` listing the names that exist."""
    if name not in EXPLAINERS:
        raise unknown_name(where, name, EXPLAINERS)
    return EXPLAINERS[name]


def judge_needs(explainer: Explainer) -> frozenset[Capability]:
    """What an explainer needs of a judging model; empty if it asks none."""
    needs = getattr(explainer, "requires_judge", None)
    return frozenset() if needs is None else frozenset(needs())


def subject_needed(explainer: Explainer) -> bool:
    """Whether an explainer runs the subject."""
    return bool(getattr(explainer, "needs_subject", False))

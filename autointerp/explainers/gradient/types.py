"""What the gradient explainer is given and what it returns, for toy tokens and latents alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TokenItem:
    """One token, and how strongly the feature fires on it."""

    token: str
    """The token's text; white space around it does not count."""
    activation: float
    """0 where the feature is silent; positive activations may be graded."""
    text: str | None = None
    """The text it stands in."""
    start: int | None = None
    """Characters of `text` before the token, if known."""
    group: str | None = None
    """Items of one group never fall on both sides of a cross-validation fold; by default the token."""


@dataclass(frozen=True, kw_only=True)
class Link:
    """A label and how it does on held-out tokens: a candidate, or a link of the chain."""

    label: str
    precision: float | None
    """Of balanced data (positives and negatives weigh the same); None if it accepts nothing."""
    recall: float | None
    balanced_accuracy: float | None
    score: float | None = None
    """What candidates are ranked by."""
    auc: float | None = None
    """How often it ranks a positive above a negative, near and far negatives weighing the same."""
    sources: tuple[str, ...] = ()
    """Who proposed it: `gradient`, `contrastive`, `lists`, ..."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, rounded."""
        values: dict[str, Any] = {
            "label": self.label,
            "precision": rounded(self.precision),
            "recall": rounded(self.recall),
            "balanced_accuracy": rounded(self.balanced_accuracy),
        }
        if self.score is not None:
            values |= {"score": rounded(self.score), "auc": rounded(self.auc), "sources": list(self.sources)}
        return values


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One restart of an optimisation: probabilities of its top tokens, and its losses, over steps."""

    restart: int
    steps: list[int]
    tokens: list[str]
    """Those that ever were likeliest, at most 12, the likeliest at the end first."""
    probabilities: list[list[float]]
    """[n_steps][n_tokens]."""
    losses: dict[str, list[float]] = field(default_factory=dict)
    """Name of a loss to its value at each of `steps`."""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, rounded."""
        return {
            "restart": self.restart,
            "steps": self.steps,
            "tokens": self.tokens,
            "probabilities": [[round(p, 4) for p in row] for row in self.probabilities],
            "losses": {name: [round(x, 4) for x in values] for name, values in self.losses.items()},
        }


@dataclass(frozen=True, kw_only=True)
class TokenLabel:
    """A label for a set of tokens, and how far to trust it."""

    label: str | None
    """None unless `status` is `ok`."""
    status: str
    """`ok`, `undetermined` or `failed`."""
    reason: str | None = None
    """For `undetermined`, begins with `discriminator_incapable`, `not_found` or `few_examples`."""
    precision: float | None = None
    recall: float | None = None
    balanced_accuracy: float | None = None
    """These three cross-validated by token type, the choice of the label included."""
    p_value: float | None = None
    """Permutation test of the best candidate's score, the search over all candidates included."""
    confidence: float | None = None
    """Estimated probability that the best candidate is right."""
    chain: tuple[Link, ...] = ()
    """Broad to narrow; the last link is the label."""
    candidates: tuple[Link, ...] = ()
    """The best candidates, the best first, also where none is good enough to be the label."""
    trajectories: tuple[Trajectory, ...] = ()
    mode: str = "robust"
    readout: str | None = None
    aspect: str | None = None
    """Which question the label answers: `category`, `form`, ..."""
    n_positive: int = 0
    """Distinct tokens the feature fires on."""
    n_negative: int = 0
    seconds: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types; the first keys are those of `autointerp label-tokens --json`."""
        return {
            "label": self.label,
            "status": self.status,
            "reason": self.reason,
            "precision": rounded(self.precision),
            "recall": rounded(self.recall),
            "chain": [link.as_json() for link in self.chain],
            "candidates": [link.as_json() for link in self.candidates],
            "balanced_accuracy": rounded(self.balanced_accuracy),
            "p_value": rounded(self.p_value),
            "confidence": rounded(self.confidence),
            "mode": self.mode,
            "readout": self.readout,
            "aspect": self.aspect,
            "n_positive": self.n_positive,
            "n_negative": self.n_negative,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "trajectories": [trajectory.as_json() for trajectory in self.trajectories],
            **self.notes,
        }


def rounded(value: float | None) -> float | None:
    """To four decimals; None stays None."""
    return None if value is None else round(float(value), 4)

"""One feature on its way through the steps of mode `robust`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from autointerp.explainers.gradient.candidates import Pool
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.items import Words, choose
from autointerp.explainers.gradient.types import TokenLabel, Trajectory


@dataclass(kw_only=True)
class Problem:
    """One feature on its way through the steps."""

    words: Words
    rng: np.random.Generator
    near: np.ndarray | None = None
    forward: dict[str, np.ndarray] = field(default_factory=dict)
    glance: dict[str, np.ndarray] = field(default_factory=dict)
    pool: Pool | None = None
    trajectories: list[Trajectory] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def positives(self) -> list[str]:
        """The words it fires on, the strongest first."""
        order = np.argsort(-self.words.weights, kind="stable")
        return [self.words.words[i] for i in order if self.words.positive[i]]


def too_few(words: Words, config: GradientConfig) -> TokenLabel | None:
    """The answer for a feature with too few words to tell anything."""
    if words.n_positive >= config.min_positive and words.n_negative >= config.min_positive:
        return None
    return TokenLabel(
        label=None,
        status="undetermined",
        reason=f"few_examples: {words.n_positive} with and {words.n_negative} without activation (distinct "
        f"tokens); at least {config.min_positive} of each are needed",
        mode=config.mode,
        n_positive=words.n_positive,
        n_negative=words.n_negative,
    )


def pick_words(
    words: Words, discriminator: Discriminator, rng: np.random.Generator, config: GradientConfig
) -> Words:
    """At most as many words as the configuration wants."""
    vectors = discriminator.word_vectors(words.words)
    return choose(words, vectors, rng, most_positive=config.max_positive, most_negative=config.max_negative)

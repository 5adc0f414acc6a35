"""Whether the evidence supports a label: a permutation test over the whole search, and the status."""

from __future__ import annotations

from math import comb

import numpy as np

from autointerp.explainers.gradient.candidates import AUC_WEIGHT, CONTRAST_WEIGHT, LIKELIHOOD_WEIGHT
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.problem import Problem
from autointerp.explainers.gradient.scoring import permutation_maxima

CONFIDENCE_MIDDLE, CONFIDENCE_SCALE = 12.7, 1.0
"""Score at which a candidate is as likely right as not, and the width of the doubt."""
FEW_SHUFFLES = 1_000
"""With fewer ways to share out the words (6 against 6 have 924), some label fits a shuffle as well as what is
meant: that shuffles are separated then says nothing of the model."""


def permutation_p(problem: Problem, config: GradientConfig) -> float | None:
    """Share of shuffles whose best label, over all of them, looks as promising at first glance as the real best."""
    if not config.n_permutations:
        return None
    positive = problem.words.positive
    columns = np.concatenate([f.astype(np.float32) for f in problem.forward.values()], 1)
    mix = (AUC_WEIGHT, CONTRAST_WEIGHT, LIKELIHOOD_WEIGHT)
    real, maxima = permutation_maxima(columns, positive, config.n_permutations, problem.rng, mix)
    return float((1 + (maxima >= real - 1e-9).sum()) / (1 + config.n_permutations))


def confidence_of(score: float) -> float:
    """Estimated probability that a candidate of this score is right."""
    return float(1 / (1 + np.exp(-(score - CONFIDENCE_MIDDLE) / CONFIDENCE_SCALE)))


def verdict(
    confidence: float,
    p_value: float | None,
    balanced: float | None,
    sizes: tuple[int, int],
    config: GradientConfig,
) -> tuple[str, str | None]:
    """Status and reason. `sizes`: distinct words with and without activation."""
    if p_value is not None and p_value > config.max_p_value:
        shuffled = f"shuffled tokens are separated as well (p = {p_value:.2g})"
        if comb(sum(sizes), sizes[0]) < FEW_SHUFFLES:
            return "undetermined", f"few_examples: of {sizes[0]} with and {sizes[1]} without, {shuffled}"
        return "undetermined", f"discriminator_incapable: {shuffled}"
    if confidence < config.min_confidence:
        if balanced is not None and balanced >= 0.85:
            return "undetermined", (
                f"not_found: candidates separate held-out tokens (balanced accuracy {balanced:.2f}), "
                f"but none fits well (confidence {confidence:.2f})"
            )
        return "undetermined", (
            f"discriminator_incapable: no candidate fits the tokens well (confidence {confidence:.2f})"
        )
    return "ok", None

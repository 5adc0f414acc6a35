"""Mode `robust`: gradients and contrasts propose labels, exact scoring decides, statistics doubt.

Steps, for a batch of features at once: distinct words; forward evidence for all one-token labels;
candidates by contrast, by lists of positives and by gradient (`proposing`); backward evidence for the
candidates and a score with weights fixed once on the development bank (`ranking`); `hierarchy`;
cross-validation by word; a permutation test and a status (`doubt`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autointerp.explainers.gradient.candidates import by_stem
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.doubt import confidence_of, permutation_p, verdict
from autointerp.explainers.gradient.hierarchy import chain, counter_examples
from autointerp.explainers.gradient.items import folds, gather
from autointerp.explainers.gradient.problem import Problem, pick_words, too_few
from autointerp.explainers.gradient.proposing import extend, propose
from autointerp.explainers.gradient.ranking import (
    N_FOLDS,
    held_out_decisions,
    link,
    merged_links,
    narrower,
    scores,
    weigh,
)
from autointerp.explainers.gradient.scoring import class_weights, rates
from autointerp.explainers.gradient.types import TokenItem, TokenLabel

__all__ = ["Problem", "label_features", "too_few"]


def label_features(
    features: Sequence[Sequence[TokenItem]],
    config: GradientConfig,
    discriminator: Discriminator,
    seeds: Sequence[Sequence[int]],
) -> list[TokenLabel]:
    """One label per feature, in order; `seeds` key each feature's own random stream."""
    out: list[TokenLabel | None] = [None] * len(features)
    at_once = config.latents_at_once
    forms = by_stem(discriminator.labels)
    for begin in range(0, len(features), at_once):
        start = time.monotonic()
        problems: dict[int, Problem] = {}
        for i in range(begin, min(begin + at_once, len(features))):
            rng = np.random.default_rng([*seeds[i]])
            words = gather(features[i])
            short = too_few(words, config)
            if short is not None:
                out[i] = short
                continue
            problems[i] = Problem(words=pick_words(words, discriminator, rng, config), rng=rng)
        propose(list(problems.values()), config, discriminator, forms)
        answers = {i: decide(problem, config, discriminator) for i, problem in problems.items()}
        each = (time.monotonic() - start) / max(len(problems), 1)
        for i, answer in answers.items():
            out[i] = replace(answer, seconds=each)
    return [label for label in out if label is not None]


def decide(problem: Problem, config: GradientConfig, discriminator: Discriminator) -> TokenLabel:
    """Exact scoring, hierarchy, held-out figures, permutation test and status of one feature."""
    assert problem.pool is not None
    words = problem.words
    weigh(problem, list(problem.pool.candidates.values()), discriminator)
    extend(problem, discriminator)
    candidates = list(problem.pool.candidates.values())
    total, areas = scores(candidates, words, problem.near)
    order = np.argsort(-total, kind="stable")
    first = total
    chosen = narrower(candidates, total, areas, problem)
    chosen, total = counter_examples(chosen, candidates, problem, discriminator)
    order = np.argsort(-total, kind="stable")
    order = np.concatenate([[chosen], order[order != chosen]])
    fold = folds(words, N_FOLDS, problem.rng)
    weights = class_weights(words.positive, words.weights, problem.near)
    precision, recall, balanced = rates(
        held_out_decisions(candidates, problem, fold, weights), words.positive, weights
    )
    links = [
        link(candidates[i], float(total[i]), float(areas[i]), words, fold, weights)
        for i in order[: 2 * max(config.max_candidates, 12)]
    ]
    p_value = permutation_p(problem, config)
    confidence = confidence_of(float(first[chosen]))
    status, reason = verdict(confidence, p_value, balanced, (words.n_positive, words.n_negative), config)
    return TokenLabel(
        label=candidates[chosen].label if status == "ok" else None,
        status=status,
        reason=reason,
        precision=precision,
        recall=recall,
        balanced_accuracy=balanced,
        p_value=p_value,
        confidence=confidence,
        chain=chain(chosen, candidates, problem, discriminator, links[0]) if status == "ok" else (),
        candidates=merged_links(links, config.max_candidates),
        trajectories=tuple(problem.trajectories) if config.keep_trajectories else (),
        mode="robust",
        readout=discriminator.readout,
        aspect=candidates[chosen].aspect,
        n_positive=words.n_positive,
        n_negative=words.n_negative,
    )

"""Who proposes candidate labels: contrasts of likelihood, lists of positives, gradients; and longer labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autointerp.explainers.gradient.candidates import Pool, first_glance
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.items import nearness
from autointerp.explainers.gradient.problem import Problem
from autointerp.explainers.gradient.ranking import scores, weigh

N_EXTENDED = 3
"""Best candidates that may grow longer."""


def propose(
    problems: Sequence[Problem],
    config: GradientConfig,
    discriminator: Discriminator,
    forms: dict[str, list[int]],
) -> None:
    """Fill the pools of all problems: forward evidence, then each kind of proposal."""
    every = list(dict.fromkeys(word for problem in problems for word in problem.words.words))
    for aspect in config.aspects if every else ():
        discriminator.forward(aspect, every)  # all at once; what follows finds it remembered
    for problem in problems:
        words = problem.words
        for aspect in config.aspects:
            problem.forward[aspect] = discriminator.forward(aspect, words.words)
        if config.negatives == "strata":
            like = nearness(problem.forward[config.aspects[0]], words.positive)
            problem.near = ~words.positive & (like >= np.quantile(like[~words.positive], 2 / 3))
        problem.pool = Pool(discriminator.labels)
        for name, forward in problem.forward.items():
            problem.glance[name] = first_glance(forward, words.positive, words.weights, problem.near)
            if "contrastive" in config.proposals:
                best = np.argsort(-problem.glance[name], kind="stable")[: config.n_contrastive]
                problem.pool.add(name, best, "contrastive")
            if "lists" in config.proposals:
                listed = discriminator.listed(name, _lists(problem))
                if len(listed):
                    problem.pool.add(name, np.argsort(-listed.mean(0))[:8], "lists")
    if "gradient" in config.proposals:
        from autointerp.explainers.gradient.descent import gradient_proposals

        gradient_proposals(problems, config, discriminator)
    for problem in problems:
        assert problem.pool is not None
        problem.pool.complete(forms)


def _lists(problem: Problem) -> list[list[str]]:
    """Two draws of up to four positives."""
    positives = problem.positives
    size = min(4, len(positives))
    return [list(problem.rng.choice(positives, size, replace=False)) for _ in range(2)]


def extend(problem: Problem, discriminator: Discriminator) -> None:
    """Carry the best candidates on where the model would not end them: pieces of words, first words.

    Each longer label is one more candidate, with the forward evidence of its first token and backward
    evidence of its own; a piece of a word gives way to its whole.
    """
    assert problem.pool is not None
    candidates = list(problem.pool.candidates.values())
    total, _ = scores(candidates, problem.words, problem.near)
    best = [candidates[i] for i in np.argsort(-total, kind="stable")[:N_EXTENDED]]
    new = []
    for aspect in problem.forward:
        some = [c for c in best if c.aspect == aspect]
        longer = discriminator.finish(aspect, [c.label for c in some], problem.positives[:4]) if some else []
        for candidate, label in zip(some, longer, strict=True):
            if label == candidate.label:
                continue
            if label.startswith(f"{candidate.label} "):
                added = problem.pool.add_text(aspect, label, candidate, "extended")
                new += [] if added is None else [added]
            else:
                candidate.label, candidate.backward = label, np.zeros(0)
                candidate.forward = np.zeros(0)
                new.append(candidate)
    weigh(problem, new, discriminator)

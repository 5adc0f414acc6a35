"""Exact scoring of candidate labels: both directions' evidence, one score, and figures on held-out words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from autointerp.explainers.gradient.candidates import Candidate, merged
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.items import Words
from autointerp.explainers.gradient.problem import Problem
from autointerp.explainers.gradient.scoring import balanced_auc, best_threshold, class_weights, rates
from autointerp.explainers.gradient.types import Link
from autointerp.explainers.words import stem

BACKWARD_WEIGHT = 1.0
"""Of backward evidence beside forward evidence, both in nats."""
SCORE_WEIGHTS = {
    "auc_forward": 3.3,
    "auc_backward": 6.6,
    "auc_both": 8.0,
    "contrast_forward": 0.94,
    "contrast_backward": 0.92,
    "likelihood": 1.17,
}
"""Of a candidate's score, fitted once on the development bank by conditional logit (leave one concept
out: 39 of 40 first). AUCs are between 0 and 1, the others in nats."""
WORD_COST = 1.0
"""What each further word of a label must bring: *past tense* brings it, *French verb* for French words does not."""
NARROWER_WITHIN, NARROWER_GAIN = 3.0, 0.04
"""A candidate whose score is that close to the best, and whose AUC is that much higher beyond one
standard error, takes its place: likelihood likes broad words, near negatives tell them apart."""
N_RESAMPLES = 60
"""Of the words, for standard errors of AUCs."""
N_FOLDS = 5


def weigh(problem: Problem, candidates: Sequence[Candidate], discriminator: Discriminator) -> None:
    """Fill in both directions' evidence of candidates that have none yet."""
    for aspect, forward in problem.forward.items():
        new = [c for c in candidates if c.aspect == aspect and not len(c.forward)]
        if new:
            backward = discriminator.backward(aspect, [c.label for c in new], problem.words.words)
            for candidate, row in zip(new, backward, strict=True):
                candidate.forward = merged(forward, candidate.columns)
                candidate.backward = row


def scores(
    candidates: Sequence[Candidate], words: Words, near: np.ndarray | None, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each candidate's score, and AUC of its evidence: two [n_candidates]; of the words `keep` only."""
    part = np.arange(len(words.words)) if keep is None else keep
    positive, weights = words.positive[part], words.weights[part]
    near = None if near is None else near[part]
    forward = np.stack([c.forward[part] for c in candidates], 1)
    backward = np.stack([c.backward[part] for c in candidates], 1)
    both = forward + BACKWARD_WEIGHT * backward
    areas = balanced_auc(np.hstack([forward, backward, both]), positive, weights, near)
    n = len(candidates)
    shares = class_weights(positive, weights, near) * 2
    sign = np.where(positive, shares, -shares)
    values = {
        "auc_forward": areas[:n],
        "auc_backward": areas[n : 2 * n],
        "auc_both": areas[2 * n :],
        "contrast_forward": sign @ forward,
        "contrast_backward": sign @ backward,
        "likelihood": shares[positive] @ forward[positive],
    }
    longer = np.array([c.label.count(" ") for c in candidates])
    total = sum(weight * values[name] for name, weight in SCORE_WEIGHTS.items()) - WORD_COST * longer
    return np.asarray(total), areas[2 * n :]


def narrower(
    candidates: Sequence[Candidate],
    total: np.ndarray,
    areas: np.ndarray,
    problem: Problem,
    keep: np.ndarray | None = None,
) -> int:
    """The candidate chosen: the best score, unless one close behind separates surely better."""
    best = int(np.argmax(total))
    close = [i for i in np.argsort(-total, kind="stable") if total[best] - total[i] <= NARROWER_WITHIN]
    close = [int(i) for i in close if areas[i] >= areas[best] + NARROWER_GAIN]
    if not close:
        return best
    words, near = problem.words, problem.near
    part = np.arange(len(words.words)) if keep is None else keep
    high, low = part[words.positive[part]], part[~words.positive[part]]
    rng = np.random.default_rng(len(part))
    evidence = np.stack([candidates[i].evidence(BACKWARD_WEIGHT) for i in [best, *close]], 1)
    gains = []
    for _ in range(N_RESAMPLES):
        draw = np.concatenate([rng.choice(high, len(high)), rng.choice(low, len(low))])
        strata = None if near is None else near[draw]
        area = balanced_auc(evidence[draw], words.positive[draw], words.weights[draw], strata)
        gains.append(area[1:] - area[0])
    spread = np.std(gains, axis=0)
    sure = [i for i, s in zip(close, spread, strict=True) if areas[i] - areas[best] >= s]
    return sure[0] if sure else best


def held_out_decisions(
    candidates: Sequence[Candidate], problem: Problem, fold: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Whether each word is accepted by the candidate chosen without its fold: [n_words] bool."""
    words = problem.words
    accepted = np.zeros(len(words.words), dtype=bool)
    for held in range(N_FOLDS):
        train, test = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        if not len(test) or words.positive[train].all() or not words.positive[train].any():
            continue
        total, areas = scores(candidates, words, problem.near, train)
        evidence = candidates[narrower(candidates, total, areas, problem, train)].evidence(BACKWARD_WEIGHT)[
            :, None
        ]
        threshold = best_threshold(evidence[train], words.positive[train], weights[train])
        accepted[test] = evidence[test, 0] > threshold[0]
    return accepted


def link(
    candidate: Candidate, score: float, area: float, words: Words, fold: np.ndarray, weights: np.ndarray
) -> Link:
    """A candidate with rates on held-out words, its threshold set on the others."""
    evidence = candidate.evidence(BACKWARD_WEIGHT)[:, None]
    accepted = np.zeros(len(words.words), dtype=bool)
    for held in range(N_FOLDS):
        train, test = fold != held, fold == held
        if words.positive[train].any() and not words.positive[train].all():
            threshold = best_threshold(evidence[train], words.positive[train], weights[train])
            accepted[test] = evidence[test, 0] > threshold[0]
    precision, recall, balanced = rates(accepted, words.positive, weights)
    return Link(
        label=candidate.label,
        precision=precision,
        recall=recall,
        balanced_accuracy=balanced,
        score=score,
        auc=area,
        sources=tuple(sorted(candidate.sources)),
    )


def merged_links(links: Sequence[Link], n: int) -> tuple[Link, ...]:
    """The first `n` of some links, one for each word: forms of a word, and a word under two aspects, are one.

    The first of them is kept and named with the sources of all.
    """
    kept: dict[str, Link] = {}
    for one in links:
        key = stem(one.label)
        before = kept.get(key, one)
        kept[key] = replace(before, sources=tuple(sorted({*before.sources, *one.sources})))
    return tuple(kept.values())[:n]

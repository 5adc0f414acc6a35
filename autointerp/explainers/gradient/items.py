"""From tokens and activations to what a label is tested on: distinct words, weights, folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autointerp.explainers.gradient.types import TokenItem


@dataclass(frozen=True, kw_only=True)
class Words:
    """Distinct words of a feature; those it fires on more often than not are positives."""

    words: tuple[str, ...]
    positive: np.ndarray
    """[n_words] bool."""
    weights: np.ndarray
    """[n_words]: positives by activation between 0.5 and 1, negatives 1."""
    groups: np.ndarray
    """[n_words]: words of one group fall into the same fold."""
    n_positive: int
    """Distinct positive words before any were left out; so for `n_negative`."""
    n_negative: int

    def taken(self, keep: np.ndarray) -> Words:
        """The words at some places."""
        return Words(
            words=tuple(self.words[i] for i in keep),
            positive=self.positive[keep],
            weights=self.weights[keep],
            groups=self.groups[keep],
            n_positive=self.n_positive,
            n_negative=self.n_negative,
        )


def gather(items: Sequence[TokenItem]) -> Words:
    """The distinct words of items. A word is positive if it is active in at least half its items."""
    seen: dict[str, list[TokenItem]] = {}
    for item in items:
        word = " ".join(item.token.split())
        if word:
            seen.setdefault(word, []).append(item)
    largest = max((item.activation for item in items), default=0.0) or 1.0
    positive = np.array([2 * sum(i.activation > 0 for i in g) >= len(g) for g in seen.values()], dtype=bool)
    strength = np.array([max(i.activation for i in g) / largest for g in seen.values()])
    names: dict[str, int] = {}
    groups = [names.setdefault(g[0].group or w.casefold(), len(names)) for w, g in seen.items()]
    return Words(
        words=tuple(seen),
        positive=positive,
        weights=np.where(positive, 0.5 + 0.5 * strength, 1.0),
        groups=np.array(groups, dtype=np.int64),
        n_positive=int(positive.sum()),
        n_negative=int((~positive).sum()),
    )


def choose(
    words: Words,
    embeddings: np.ndarray,
    rng: np.random.Generator,
    *,
    most_positive: int,
    most_negative: int,
) -> Words:
    """At most so many words: positives drawn by weight, negatives half the nearest, half at random.

    `embeddings` [n_words, d]: any vectors whose direction says what is like what.
    """
    positives, negatives = np.flatnonzero(words.positive), np.flatnonzero(~words.positive)
    if len(positives) > most_positive:
        weights = words.weights[positives] / words.weights[positives].sum()
        positives = rng.choice(positives, most_positive, replace=False, p=weights)
    if len(negatives) > most_negative:
        near = nearness(embeddings, words.positive)[negatives]
        order = negatives[np.argsort(-near, kind="stable")]
        half = most_negative // 2
        rest = rng.choice(order[half:], most_negative - half, replace=False)
        negatives = np.concatenate([order[:half], rest])
    return words.taken(np.sort(np.concatenate([positives, negatives])))


def nearness(vectors: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Cosine of each row to the mean direction of the positives, all centred: [n_rows]."""
    centred = vectors - vectors.mean(0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-9)
    middle = unit[positive].mean(0)
    return np.asarray(unit @ middle)


def folds(words: Words, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each word, [n_words]: whole groups, positives and negatives spread evenly."""
    out = np.zeros(len(words.words), dtype=np.int64)
    placed: dict[int, int] = {}
    for kind in (True, False):
        members = rng.permutation(np.flatnonzero(words.positive == kind))
        turn = 0
        for i in members:
            group = int(words.groups[i])
            if group not in placed:
                placed[group] = turn % n_folds
                turn += 1
            out[i] = placed[group]
    return out

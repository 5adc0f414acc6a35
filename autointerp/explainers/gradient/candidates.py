"""Candidate labels of one feature, and the evidence for each on each word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autointerp.explainers.gradient.scoring import balanced_auc
from autointerp.explainers.words import stem

AUC_WEIGHT, CONTRAST_WEIGHT, LIKELIHOOD_WEIGHT = 20.0, 1.0, 0.5
"""What a first glance at a label weighs: that it ranks positives first, that it is likelier after
them (nats), that it is likely after them (nats). Fixed on the development bank."""


@dataclass(kw_only=True)
class Candidate:
    """A label and its evidence."""

    label: str
    aspect: str
    columns: list[int]
    """Its forms among the one-token labels: singular and plural, capitals or not."""
    sources: set[str] = field(default_factory=set)
    forward: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """log p(any form | word), [n_words]."""
    backward: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """How much likelier it makes each word, in nats: [n_words]."""

    def evidence(self, weight: float) -> np.ndarray:
        """Both directions together: [n_words]."""
        return np.asarray(self.forward + weight * self.backward)


def first_glance(
    forward: np.ndarray, positive: np.ndarray, weights: np.ndarray, near: np.ndarray | None
) -> np.ndarray:
    """How promising each one-token label is, from log p(label | word) alone: [n_labels].

    The contrast is the published naturalness term used to tell positives from negatives: what the
    model would say anyway cancels.
    """
    high = np.average(forward[positive], axis=0, weights=weights[positive])
    low = forward[~positive].mean(0)
    if near is not None and (near & ~positive).any() and (~near & ~positive).any():
        low = (forward[near & ~positive].mean(0) + forward[~near & ~positive].mean(0)) / 2
    area = balanced_auc(forward, positive, weights, near)
    return np.asarray(AUC_WEIGHT * area + CONTRAST_WEIGHT * (high - low) + LIKELIHOOD_WEIGHT * high)


class Pool:
    """Candidates by (aspect, stem): forms of one word are one candidate."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = labels
        self.candidates: dict[tuple[str, str], Candidate] = {}

    def add(self, aspect: str, columns: Iterable[int], source: str) -> None:
        """Add labels by column; the first form seen is the one shown."""
        for column in columns:
            label = self.labels[column]
            key = (aspect, stem(label))
            candidate = self.candidates.get(key)
            if candidate is None:
                candidate = Candidate(label=label, aspect=aspect, columns=[])
                self.candidates[key] = candidate
            if column not in candidate.columns:
                candidate.columns.append(int(column))
            candidate.sources.add(source)

    def add_text(self, aspect: str, label: str, like: Candidate, source: str) -> Candidate | None:
        """Add a label of several tokens, whose forward evidence is that of `like`; None if there already."""
        key = (aspect, stem(label))
        if key in self.candidates:
            self.candidates[key].sources.add(source)
            return None
        candidate = Candidate(label=label, aspect=aspect, columns=list(like.columns), sources={source})
        self.candidates[key] = candidate
        return candidate

    def complete(self, by_stem: Mapping[str, Sequence[int]]) -> None:
        """Give every one-token candidate all its forms."""
        for (_, root), candidate in self.candidates.items():
            for column in by_stem.get(root, ()):
                if column not in candidate.columns:
                    candidate.columns.append(column)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self.candidates.values())

    def __len__(self) -> int:
        return len(self.candidates)


def merged(forward: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """log of the summed probability of several labels: [n_words]."""
    part = forward[:, list(columns)]
    top = part.max(1)
    return np.asarray(top + np.log(np.exp(part - top[:, None]).sum(1)))


def by_stem(labels: Sequence[str]) -> dict[str, list[int]]:
    """Columns of labels that are forms of one word."""
    out: dict[str, list[int]] = {}
    for column, label in enumerate(labels):
        out.setdefault(stem(label), []).append(column)
    return out

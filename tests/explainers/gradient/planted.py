"""A discriminator with planted semantics: every word and label is a vector; no weights are loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np

from autointerp.explainers.gradient.types import TokenItem

ANIMALS = ["cat", "dog", "horse", "whale", "mouse", "bear", "wolf", "otter", "goat", "bat"]
BIRDS = ["eagle", "crow", "swan", "owl", "robin", "duck", "stork", "finch"]
TOOLS = ["hammer", "saw", "drill", "file", "pliers", "wrench", "chisel", "spade", "rake", "axe"]
COLOURS = ["red", "green", "blue", "pink", "teal", "grey", "gold", "tan", "lime", "navy"]
KINDS = {"mammal": ANIMALS, "bird": BIRDS, "tool": TOOLS, "colour": COLOURS}
BROAD = {"animal": ("mammal", "bird")}


@cache
def _standard_normal(key: str) -> float:
    """A number of the key's own: twelve bytes of its hash, their sum standardised."""
    digest = hashlib.sha256(key.encode()).digest()[:12]
    return sum(digest) / 255 - 6.0


class Planted:
    """Labels of four kinds, one broader label, and many labels that mean nothing.

    log p(label | word) is high if the word is of the label's kind, else noise that depends on the
    pair alone.
    """

    identity = "planted"
    readout = "likelihood"

    def __init__(self, n_empty: int = 150, noise: float = 0.5) -> None:
        self.labels = [
            *KINDS,
            *BROAD,
            *(f"empty{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(n_empty)),
        ]
        self.noise = noise

    def _fits(self, label: str, word: str) -> bool:
        return any(word in KINDS[kind] for kind in BROAD.get(label, (label,)) if kind in KINDS)

    def _noise(self, *key: str) -> float:
        return self.noise * _standard_normal("|".join(key))

    def forward(self, aspect: str, words: Sequence[str]) -> np.ndarray:
        return np.array(
            [
                [(-1.5 if self._fits(x, w) else -9.0) + self._noise("f", aspect, x, w) for x in self.labels]
                for w in words
            ],
            dtype=np.float32,
        )

    def backward(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> np.ndarray:
        return np.array(
            [[(4.0 if self._fits(x, w) else 0.0) + self._noise("b", x, w) for w in words] for x in labels],
            dtype=np.float32,
        )

    def soft_backward(self, aspect, mixtures, words):  # type: ignore[no-untyped-def]
        import torch

        table = torch.as_tensor(self.backward(aspect, self.labels, words))
        return mixtures @ table.to(mixtures.dtype)

    def listed(self, aspect: str, lists: Sequence[Sequence[str]]) -> np.ndarray:
        return np.stack([self.forward(aspect, words).mean(0) for words in lists])

    def finish(self, aspect: str, labels: Sequence[str], words: Sequence[str]) -> list[str]:
        return list(labels)

    def holds(
        self, aspect: str, label: str, evidence: np.ndarray, columns: Sequence[int]
    ) -> np.ndarray | None:
        return evidence > -4.0

    def word_vectors(self, words: Sequence[str]) -> np.ndarray:
        rows = []
        for word in words:
            vector = np.array([float(word in members) for members in KINDS.values()])
            vector[0] += 0.5 * (word in BIRDS)
            rows.append(vector + 0.01 * self._noise("v", word))
        return np.stack(rows)


def items(positive: Sequence[str], negative: Sequence[str]) -> list[TokenItem]:
    """Tokens of a feature."""
    return [TokenItem(token=w, activation=1.0) for w in positive] + [
        TokenItem(token=w, activation=0.0) for w in negative
    ]

"""The chain runs from broad to narrow: a broader word is said of the narrower one, not the other way round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.explainers.gradient import GradientConfig, TokenLabel, label_tokens
from tests.explainers.gradient.planted import ANIMALS, BIRDS, COLOURS, TOOLS, Planted, items

CONFIG = GradientConfig(aspects=["category"], n_permutations=60, proposals=["contrastive"])
WIDE = {"creature": ("mammal", "bird"), "thing": ("mammal", "bird", "tool")}
Said = dict[str, dict[str, float]]


class Told(Planted):
    """Knows two more broad labels, and says of labels as words what it is told to."""

    def __init__(self, said: Said) -> None:
        super().__init__()
        self.labels = [*self.labels, *WIDE]
        self.said = said

    def _fits(self, label: str, word: str) -> bool:
        if label in WIDE:
            return any(super(Told, self)._fits(kind, word) for kind in WIDE[label])
        return super()._fits(label, word)

    def forward(self, aspect: str, words: Sequence[str]) -> np.ndarray:
        rows = super().forward(aspect, words)
        for row, word in zip(rows, words, strict=True):
            if word in self.labels:
                row[:] = -9.0
                for label, value in self.said.get(word, {}).items():
                    row[self.labels.index(label)] = value
        return rows


def found(said: Said) -> TokenLabel:
    return label_tokens(items(ANIMALS, BIRDS + TOOLS + COLOURS), CONFIG, Told(said))


@pytest.mark.parametrize(
    ("said", "chain"),
    [
        ({}, ["mammal"]),
        ({"mammal": {"animal": -1.0}}, ["animal", "mammal"]),
        # Said of each other alike: neither is broader.
        ({"mammal": {"animal": -1.0}, "animal": {"mammal": -1.5}}, ["mammal"]),
        ({"mammal": {"animal": -1.0}, "animal": {"mammal": -0.5}}, ["mammal"]),
        # Hardly ever said of the label.
        ({"mammal": {"animal": -8.0}}, ["mammal"]),
        # Does not hold for the words.
        ({"mammal": {"tool": -1.0}}, ["mammal"]),
        # Three levels, told in either order of likelihood.
        ({"mammal": {"animal": -1.0, "thing": -2.0}, "animal": {"thing": -1.0}}, ["thing", "animal", "mammal"]),
        ({"mammal": {"animal": -2.0, "thing": -1.0}, "animal": {"thing": -1.0}}, ["thing", "animal", "mammal"]),
        # Two words for one level, and a level that the words put the other way round: the likelier stays.
        ({"mammal": {"animal": -1.0, "creature": -2.0}}, ["animal", "mammal"]),
        ({"mammal": {"animal": -2.0, "creature": -1.0}}, ["creature", "mammal"]),
        ({"mammal": {"animal": -1.0, "thing": -2.0}, "thing": {"animal": -1.0}}, ["animal", "mammal"]),
    ],
)  # fmt: skip
def test_the_chain(said: Said, chain: list[str]) -> None:
    label = found(said)
    assert label.label == "mammal"
    assert [link.label for link in label.chain] == chain
    precisions = [link.precision or 0.0 for link in label.chain]
    assert precisions == sorted(precisions)

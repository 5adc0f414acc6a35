"""The public functions: a label for one set of tokens, or for many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.types import TokenItem, TokenLabel

NOT_IN_TEXT = "not_in_text"
"""Note of a label: tokens that their own text does not hold."""


def label_tokens(
    items: Sequence[TokenItem], config: GradientConfig, discriminator: Discriminator, seed: int = 0
) -> TokenLabel:
    """A label for the tokens a feature fires on against those it is silent on."""
    return label_many([items], config, discriminator, seed)[0]


def label_many(
    features: Sequence[Sequence[TokenItem]],
    config: GradientConfig,
    discriminator: Discriminator,
    seed: int = 0,
    keys: Sequence[int] | None = None,
) -> list[TokenLabel]:
    """A label for each feature, in order.

    Features share forward passes; each has a random stream of its own, keyed by (seed, key), where
    `keys` are by default the numbers 0, 0, ...: a feature's label does not depend on its neighbours.
    """
    seeds = [(seed, 0 if keys is None else keys[i]) for i in range(len(features))]
    if config.mode == "paper":
        from autointerp.explainers.gradient.paper import label_features_paper

        labels = label_features_paper(features, config, discriminator, seeds)
    else:
        from autointerp.explainers.gradient.robust import label_features

        labels = label_features(features, config, discriminator, seeds)
    return [_warned(label, items) for label, items in zip(labels, features, strict=True)]


def _warned(label: TokenLabel, items: Sequence[TokenItem]) -> TokenLabel:
    """The label, with a note of the tokens that do not stand in the text they are said to stand in.

    Mode `robust` takes no evidence from the text, so its label is not in doubt; the file may be.
    """
    astray = [i.token.strip() for i in items if i.text is not None and i.token.strip() not in i.text]
    return replace(label, notes={**label.notes, NOT_IN_TEXT: astray}) if astray else label

"""The gradient explainer: labels in token space, proposed by gradients and decided by exact scoring.

See docs/explainers/gradient.md. Importing this room imports no torch.
"""

from __future__ import annotations

from autointerp.explainers.gradient.api import label_many, label_tokens
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator, open_discriminator
from autointerp.explainers.gradient.explainer import GradientExplainer
from autointerp.explainers.gradient.types import Link, TokenItem, TokenLabel, Trajectory

__all__ = [
    "Discriminator",
    "GradientConfig",
    "GradientExplainer",
    "Link",
    "TokenItem",
    "TokenLabel",
    "Trajectory",
    "label_many",
    "label_tokens",
    "open_discriminator",
]

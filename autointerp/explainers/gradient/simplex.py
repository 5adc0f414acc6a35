"""Distributions over labels: entropy held by a temperature, the schedule of entropies, an identity."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BISECTIONS = 30
_SHARPEST = 1e7


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """In nats, over the last dimension."""
    import torch

    return -(torch.xlogy(probabilities, probabilities)).sum(-1)


def with_entropy(logits: torch.Tensor, nats: float) -> torch.Tensor:
    """softmax(k * logits) with k > 0 such that each row's entropy is `nats`: by bisection of log k.

    Logits [..., n]. Where the entropy cannot be reached (all logits equal, or ties at the top), the
    nearest that can is taken.
    """
    import torch

    centred = logits - logits.max(-1, keepdim=True).values
    low = torch.full(logits.shape[:-1], -math.log(_SHARPEST), dtype=logits.dtype, device=logits.device)
    high = -low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        scaled = middle.exp()[..., None] * centred
        weights = scaled.exp()
        total = weights.sum(-1)
        too_flat = total.log() - (weights * scaled).sum(-1) / total > nats
        low = torch.where(too_flat, middle, low)
        high = torch.where(too_flat, high, middle)
    return torch.softmax(((low + high) / 2).exp()[..., None] * centred, -1)


def entropy_at(step: int, n_steps: int, n_labels: int) -> float:
    """The schedule: from that of 300 labels (or as many as there are) to that of 1.5, along a cosine."""
    start, end = math.log(min(300, n_labels)), math.log(1.5)
    share = step / max(n_steps - 1, 1)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def mean_divergence(probabilities: torch.Tensor, logq: torch.Tensor) -> torch.Tensor:
    """mean_i KL(p || q_i) in nats = -H(p) - p . mean_i log q_i; `logq` [n, n_labels], p [..., n_labels].

    The published naturalness term: with equal weights its entropy cancels the published entropy
    term, and what is left is linear in p.
    """
    return -entropy(probabilities) - probabilities @ logq.mean(0)

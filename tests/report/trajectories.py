"""A search for a label, as the explainer `gradient` keeps it in `details`."""

from __future__ import annotations

from typing import Any

import numpy as np

TOKENS = (" animal", " mammal", " noun", "<script>alert(1)</script>", " $x$", "\n", "‮evil", " 中文", " pet")


def trajectory(seed: int = 0, tokens: tuple[str, ...] = TOKENS, winner: int = 1) -> dict[str, Any]:
    """Sixty steps in which the probability moves to `tokens[winner]`."""
    rng = np.random.default_rng(seed)
    time = np.linspace(0, 1, 60)
    scores = rng.normal(size=(60, len(tokens))) * 0.2
    scores[:, winner] += 8 * time
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return {
        "restart": seed,
        "steps": list(range(0, 300, 5)),
        "tokens": list(tokens),
        "probabilities": probabilities.round(4).tolist(),
        "losses": {"total": (2 * np.exp(-3 * time)).tolist(), "prediction": np.exp(-3 * time).tolist()},
    }

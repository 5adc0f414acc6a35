"""Made-up rows of `scores`."""

from __future__ import annotations

from typing import Any


def score(latent: int, value: float | None, control=None, status="ok", explainer="default", **more: Any):
    free = explainer == "none"
    name = explainer if control is None else f"{explainer}.{control}"
    return {
        "latent": latent,
        "explanation": "none" if free else f"{name}/0",
        "explainer": explainer,
        "control": control,
        "scorer": "detection",
        "metric": "none" if status == "unexplained" else "auroc",
        "value": value,
        "chance": None if status == "unexplained" else 0.5,
        "status": status,
        "n_examples": 0 if status == "unexplained" else 10,
        "n_unparsed": 0,
        "n_error": 0,
        "details": "{}",
        **more,
    }

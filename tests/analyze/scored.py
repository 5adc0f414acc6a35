"""Made-up results of explainers, as a comparison reads them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from autointerp.analyze.compare_read import Opened, RunRow, Scored
from autointerp.analyze.compare_windows import Shown
from autointerp.analyze.parts import ByLatent

NOTHING = ByLatent(latents=np.empty(0, dtype=np.int64), values=np.empty(0))


def shown(latents: Any, salt: int = 0) -> Shown:
    latents = np.asarray(latents, dtype=np.int64)
    return Shown(latents=latents, hashes=(latents * 7 + salt).astype(np.uint64))


def scored(
    explainer: str,
    values: dict[int, float],
    *,
    asked: Any = None,
    control: dict[int, float] | None = None,
    run: str = "run",
    scorer: str = "detection",
    **more: Any,
) -> Scored:
    """Numbers of some latents; all of `asked` were judged on the same windows."""
    asked = np.array(sorted(values if asked is None else asked), dtype=np.int64)
    nowhere = (np.empty(0, dtype=np.int64), np.empty((0, 10)))
    given: dict[str, Any] = {
        "run": run,
        "explainer": explainer,
        "scorer": scorer,
        "metric": "auroc",
        "chance": 0.5,
        "asked": asked,
        "value": by_latent(values),
        "control": by_latent(control or {}),
        "deciles": nowhere,
        "kinds": nowhere,
        "n_unexplained": len(asked) - len(values),
        "n_failed": 0,
        "n_items": 10 * len(values),
        "n_unread": 0,
        "judge_tokens": None,
        "judge_usd": None,
        "judge_seconds": None,
        "settings": {"scorer": {"kind": scorer}, "model": None},
        "shown": shown(asked),
        "shown_control": shown(asked),
        "shown_content": shown(asked),
    }
    return Scored(**given | more)


def by_latent(values: dict[int, float]) -> ByLatent:
    latents = sorted(values)
    return ByLatent(
        latents=np.array(latents, dtype=np.int64), values=np.array([values[i] for i in latents], dtype=float)
    )


def opened(name: str = "run", shares: int = 1, layer: int | None = 9, density: float = 0.01) -> Opened:
    row = RunRow(
        run=name,
        subject="none",
        dictionary="made up",
        shares=shares,
        hook_point=f"blocks.{layer}.hook_resid_post",
        layer=layer,
        site="blocks.hook_resid_post",
        width=100,
        l0=None,
        n_tokens=None,
        window_tokens=32,
        train_strategy="mixed",
        seed=0,
        explainer_model=None,
        judge_model=None,
        cache=None,
        sample=None,
    )
    run: Any = SimpleNamespace()
    return Opened(run=run, row=row, density=by_latent(dict.fromkeys(range(200), density)))


def draw(rng: np.random.Generator, n: int, mean: float, sd: float = 0.1) -> dict[int, float]:
    return dict(enumerate(rng.normal(mean, sd, n)))

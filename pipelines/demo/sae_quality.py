"""Measures a saved SAE on the collected activations.

Everything is measured after loading the saved file. With x an activation, x' its reconstruction
and m the mean of x over the same tokens, the fraction of variance explained is
1 - sum |x - x'|^2 / sum |x - m|^2 (sums over tokens); L0 is the mean number of active latents per
token; a latent is dead if it is active on no token of the whole corpus (train and held-out), and
dense if it is active on more than a tenth of its tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sae_lens import SAE

CHUNK_TOKENS = 4096


def encoded_chunks(
    sae: SAE[Any], work: Path, side: str, hook: str
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yields (first token, activations (tokens, width), latents (tokens, d_sae)) in order."""
    rows = np.load(work / f"{side}-{hook}.npy", mmap_mode="r")
    for start in range(0, len(rows), CHUNK_TOKENS):
        x = torch.from_numpy(np.array(rows[start : start + CHUNK_TOKENS])).float()
        with torch.no_grad():
            yield start, x, sae.encode(x)


def measure(folder: Path, work: Path, hook: str) -> dict[str, Any]:
    """Quality of the SAE in `folder` on both sides of the corpus."""
    sae = SAE.load_from_disk(folder, dtype="float32")
    counts = torch.zeros(sae.cfg.d_sae, dtype=torch.int64)
    result: dict[str, Any] = {}
    total_tokens = 0
    for side in ("heldout", "train"):
        tokens, nonzeros, squared_error = 0, 0, 0.0
        total = torch.zeros(sae.cfg.d_in, dtype=torch.float64)
        squared = 0.0
        for _, x, latents in encoded_chunks(sae, work, side, hook):
            active = latents > 0
            counts += active.sum(0)
            nonzeros += int(active.sum())
            tokens += len(x)
            with torch.no_grad():
                squared_error += float((x - sae.decode(latents)).double().square().sum())
            total += x.double().sum(0)
            squared += float(x.double().square().sum())
        variance = squared - float(total.square().sum()) / tokens
        result[side] = {
            "tokens": tokens,
            "fraction_of_variance_explained": round(1 - squared_error / variance, 4),
            "l0": round(nonzeros / tokens, 2),
        }
        total_tokens += tokens
    density = counts / total_tokens
    return {
        **result,
        "latents": int(sae.cfg.d_sae),
        "dead_fraction": round(float((counts == 0).float().mean()), 5),
        "active_on_fewer_than_10_tokens": int(((counts > 0) & (counts < 10)).sum()),
        "dense_latents": int((density > 0.1).sum()),
        "median_density": round(float(density.median()), 6),
    }

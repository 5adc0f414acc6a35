"""Statistics of latents from their activations: the columns of `latents` that need no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

QUANTILES = np.arange(11) / 10
"""The quantiles kept of a latent's non-zero activations."""


@dataclass(frozen=True, kw_only=True)
class StatusRule:
    """When a latent counts as rare or dense."""

    rare_below_contexts: int
    dense_above: float

    def status(self, n_tokens: int, n_train_contexts: int, n_test_contexts: int, density: float) -> str:
        """`dead`, `rare`, `dense` or `ok`."""
        if n_tokens == 0:
            return "dead"
        if min(n_train_contexts, n_test_contexts) < self.rare_below_contexts:
            return "rare"
        return "dense" if density > self.dense_above else "ok"


def latent_statistics(
    activations: pa.Table,
    *,
    first: int,
    last: int,
    n_positions: int,
    is_test: NDArray[np.bool_],
    n_top_tokens: int,
    rule: StatusRule,
) -> dict[str, pa.Array]:
    """Columns of `latents` for latents [first, last), dead ones included.

    `activations` holds latent, context, position, activation and token, sorted by (latent, context,
    position). `n_positions` is the number of unmasked positions read; `is_test` tells each context's
    split, [n_contexts]. `top_tokens` counts train contexts only.
    """
    n = last - first
    latent = activations.column("latent").to_numpy().astype(np.int64) - first
    context = activations.column("context").to_numpy().astype(np.int64)
    activation = activations.column("activation").to_numpy()
    token = activations.column("token").to_numpy().astype(np.int64)
    in_train = ~is_test[context]
    n_active = np.bincount(latent, minlength=n)
    begins = np.ones(len(latent), dtype=bool)
    begins[1:] = (latent[1:] != latent[:-1]) | (context[1:] != context[:-1])
    in_test = is_test[context[begins]]
    test_contexts = np.bincount(latent[begins][in_test], minlength=n)
    train_contexts = np.bincount(latent[begins][~in_test], minlength=n)
    density = n_active / max(n_positions, 1)
    totals = np.bincount(latent, weights=activation, minlength=n)
    alive = n_active > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (totals / n_active).astype(np.float32)
    quantiles = _quantiles(latent, activation, n_active)
    status = [
        rule.status(*row)
        for row in zip(
            n_active.tolist(), train_contexts.tolist(), test_contexts.tolist(), density.tolist(), strict=True
        )
    ]
    return {
        "latent": pa.array(np.arange(first, last, dtype=np.uint32)),
        "n_active_tokens": pa.array(n_active.astype(np.uint64)),
        "n_active_contexts": pa.array((train_contexts + test_contexts).astype(np.uint64)),
        "density": pa.array(density),
        "max_activation": pa.array(quantiles[:, -1], mask=~alive),
        "mean_activation": pa.array(mean, mask=~alive),
        "quantiles": pa.array([row if live else None for row, live in zip(quantiles, alive, strict=True)]),
        "top_tokens": top_tokens(latent[in_train], token[in_train], activation[in_train], n, n_top_tokens),
        "status": pa.array(status),
    }


def top_tokens(
    latent: NDArray[np.int64],
    token: NDArray[np.int64],
    activation: NDArray[np.float32],
    n_latents: int,
    k: int,
) -> pa.Array:
    """For each latent, at most `k` tokens by summed activation: a list of structs as in `latents`.

    `latent` counts from 0. Ties go to the smaller token id.
    """
    order = np.lexsort((token, latent))
    latent, token, activation = latent[order], token[order], activation[order]
    begins = np.flatnonzero(
        np.r_[True, (latent[1:] != latent[:-1]) | (token[1:] != token[:-1])] if len(latent) else []
    ).astype(np.int64)
    if len(begins):
        n = np.diff(np.r_[begins, len(latent)])
        total = np.add.reduceat(activation.astype(np.float64), begins)
        largest = np.maximum.reduceat(activation, begins)
    else:
        n, total, largest = (np.empty(0, t) for t in (np.int64, np.float64, np.float32))
    pair_latent, pair_token = latent[begins], token[begins]
    order = np.lexsort((pair_token, -total, pair_latent))
    per_latent = np.bincount(pair_latent, minlength=n_latents)
    within = np.arange(len(order)) - np.repeat(np.cumsum(per_latent) - per_latent, per_latent)
    kept = order[within < k]
    offsets = np.r_[0, np.cumsum(np.minimum(per_latent, k))].astype(np.int32)
    struct = pa.StructArray.from_arrays(
        [
            pa.array(pair_token[kept].astype(np.uint32)),
            pa.array(n[kept].astype(np.uint64)),
            pa.array(total[kept]),
            pa.array(largest[kept].astype(np.float32)),
        ],
        names=["token", "n_active", "total", "max"],
    )
    return pa.ListArray.from_arrays(pa.array(offsets), struct)


def _quantiles(
    latent: NDArray[np.int64], activation: NDArray[np.float32], n_active: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Linear-interpolation quantiles of each latent's activations, [n_latents, 11]; NaN where dead."""
    out = np.full((len(n_active), len(QUANTILES)), np.nan, dtype=np.float32)
    alive = n_active > 0
    values = activation[np.lexsort((activation, latent))].astype(np.float64)
    begin = (np.cumsum(n_active) - n_active)[alive, None]
    place = QUANTILES * (n_active[alive, None] - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, n_active[alive, None] - 1)
    share = place - low
    out[alive] = values[begin + low] * (1 - share) + values[begin + high] * share
    return out

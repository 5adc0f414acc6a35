"""Statistics of latents from their activations: the columns of `latents` that need no model."""

from __future__ import annotations

from collections.abc import Callable
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

    def status(
        self,
        n_tokens: NDArray[np.int64],
        n_train_contexts: NDArray[np.int64],
        n_test_contexts: NDArray[np.int64],
        density: NDArray[np.float64],
    ) -> pa.Array:
        """`dead`, `rare`, `dense` or `ok`, one each; arrays over latents."""
        rare = np.minimum(n_train_contexts, n_test_contexts) < self.rare_below_contexts
        kinds = np.select([n_tokens == 0, rare, density > self.dense_above], [0, 1, 2], 3).astype(np.int32)
        names = pa.array(["dead", "rare", "dense", "ok"])
        return pa.DictionaryArray.from_arrays(pa.array(kinds), names).dictionary_decode()


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
    return {
        "latent": pa.array(np.arange(first, last, dtype=np.uint32)),
        "n_active_tokens": pa.array(n_active.astype(np.uint64)),
        "n_active_contexts": pa.array((train_contexts + test_contexts).astype(np.uint64)),
        "density": pa.array(density),
        "max_activation": pa.array(quantiles[:, -1], mask=~alive),
        "mean_activation": pa.array(mean, mask=~alive),
        "quantiles": lists_of(quantiles, alive),
        "top_tokens": top_tokens(latent[in_train], token[in_train], activation[in_train], n, n_top_tokens),
        "status": rule.status(n_active, train_contexts, test_contexts, density),
    }


def lists_of(rows: NDArray[np.float32], defined: NDArray[np.bool_]) -> pa.ListArray:
    """Rows [n, k] as a column of lists, null where not `defined` [n]."""
    offsets = np.r_[0, np.cumsum(defined * rows.shape[1])].astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(rows[defined].ravel()), mask=pa.array(~defined)
    )


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
    order, begins = _runs(latent, token)
    pair_latent, pair_token, activation = latent[order[begins]], token[order[begins]], activation[order]
    if len(begins):
        n = np.diff(np.r_[begins, len(latent)])
        total = np.add.reduceat(activation.astype(np.float64), begins)
        largest = np.maximum.reduceat(activation, begins)
    else:
        n, total, largest = (np.empty(0, t) for t in (np.int64, np.float64, np.float32))
    per_latent = np.bincount(pair_latent, minlength=n_latents)
    likely = np.flatnonzero(_may_be_among_largest(pair_latent, total, per_latent, k))
    # The sort is stable, and pairs stand in the order of their tokens.
    order = likely[np.lexsort((-total[likely], pair_latent[likely]))]
    there = np.bincount(pair_latent[likely], minlength=n_latents)
    within = np.arange(len(order)) - np.repeat(np.cumsum(there) - there, there)
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
    # Latent and activation in one integer: sorting those is many times faster than sorting by two keys.
    keys = (latent.astype(np.uint64) << np.uint64(32)) | ordered(activation)
    keys.sort()
    return interpolated(n_active, lambda places: from_ordered(keys[places]))


def interpolated(
    n_active: NDArray[np.int64], value_at: Callable[[NDArray[np.int64]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Linear-interpolation quantiles, [n_latents, 11]; NaN where a latent has no activation.

    `value_at` gives the activations at places of all of them, sorted by latent and then by size; `n_active` counts them.
    """
    out = np.full((len(n_active), len(QUANTILES)), np.nan, dtype=np.float32)
    alive = n_active > 0
    begin = (np.cumsum(n_active) - n_active)[alive, None]
    place = QUANTILES * (n_active[alive, None] - 1)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, n_active[alive, None] - 1)
    share = place - low
    least, most = (value_at(begin + at).astype(np.float64) for at in (low, high))
    out[alive] = least * (1 - share) + most * share
    return out


def _runs(latent: NDArray[np.int64], token: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices [n] that sort by (latent, token), equal pairs in their order, and where each pair begins."""
    n = len(latent)
    if n == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    for_token, for_row = int(token.max()).bit_length(), n.bit_length()
    if int(latent.max()).bit_length() + for_token + for_row > 63:
        order = np.lexsort((token, latent))
        latent, token = latent[order], token[order]
        begins = (latent[1:] != latent[:-1]) | (token[1:] != token[:-1])
    else:
        keys = (((latent << for_token) | token) << for_row) | np.arange(n)
        keys.sort()
        order = keys & ((1 << for_row) - 1)
        keys >>= for_row
        begins = keys[1:] != keys[:-1]
    return order, np.flatnonzero(np.r_[True, begins])


def _may_be_among_largest(
    group: NDArray[np.int64], values: NDArray[np.float64], sizes: NDArray[np.int64], k: int
) -> NDArray[np.bool_]:
    """Which values may be among the `k` largest of their group: all those that are, and few others.

    `group` [n] is ascending and `sizes` counts it. Values are compared in single precision, so those
    that are equal there to the k-th largest are let in.
    """
    # Adding zero makes -0 the same as 0.
    descending = ~ordered(values.astype(np.float32) + np.float32(0)) & np.uint64(0xFFFFFFFF)
    keys = (group.astype(np.uint64) << np.uint64(32)) | descending
    keys.sort()
    last = np.full(len(sizes), 0xFFFFFFFF, dtype=np.uint64)
    many = sizes > k
    last[many] = keys[(np.cumsum(sizes) - sizes + k - 1)[many]] & np.uint64(0xFFFFFFFF)
    likely: NDArray[np.bool_] = descending <= last[group]
    return likely


def ordered(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Numbers of 32 bits in the order of the values (which are no NaN)."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return (bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))).astype(np.uint64)


def from_ordered(keys: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The values behind the low 32 bits of what `_ordered` made."""
    bits = keys.astype(np.uint32)
    return (bits ^ np.where(bits >> 31, np.uint32(0x80000000), np.uint32(0xFFFFFFFF))).view(np.float32)

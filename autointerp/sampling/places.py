"""Where every latent is active, by a bounded sample: what windows of neighbours are laid around."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def sample_places(
    tables: Iterable[pa.Table],
    *,
    n_latents: int,
    contexts_kept: NDArray[np.bool_],
    context_size: int,
    most: int,
    seed: int,
    is_known: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]] | None = None,
) -> NDArray[np.int64]:
    """At most `most` activations of each latent, drawn uniformly, as codes [n_latents, most].

    A code is context * context_size + position, -1 where a latent has fewer. `tables` are shards of
    `activations`, each latent whole in one of them; of their contexts those in `contexts_kept`
    [n_contexts] count, and if `is_known` is given the pairs of latents and contexts it says. One shard is held at a time. An activation's place in the draw is a hash of
    (seed, latent, code), so neither the cut into shards nor their order changes the result.
    """
    places = np.full((n_latents, most), -1, dtype=np.int64)
    for table in tables:
        context = table.column("context").to_numpy()
        counts = contexts_kept[context]
        if is_known is not None:
            counts &= is_known(table.column("latent").to_numpy().astype(np.int64), context.astype(np.int64))
        kept = np.flatnonzero(counts)
        latent = table.column("latent").to_numpy()[kept].astype(np.int64)
        if len(latent) == 0:
            continue
        code = context[kept].astype(np.int64) * context_size + table.column("position").to_numpy()[kept]
        ticket = tickets(seed, latent, code)
        # Sorting all is not needed: of n tickets the `most` smallest are almost surely below this bound.
        n = np.bincount(latent - latent[0])[latent - latent[0]]
        low = np.flatnonzero(ticket.astype(np.float64) * n < (2.0 * most + 16.0) * 2.0**64)
        order = low[np.lexsort((ticket[low], latent[low]))]
        latent, code = latent[order], code[order]
        starts = np.flatnonzero(np.r_[True, latent[1:] != latent[:-1]])
        rank = np.arange(len(latent)) - np.repeat(starts, np.diff(np.r_[starts, len(latent)]))
        first = rank < most
        places[latent[first], rank[first]] = code[first]
    return places


def tickets(
    seed: int, latent: NDArray[np.int64], code: NDArray[np.int64], stream: int = 0
) -> NDArray[np.uint64]:
    """Uniform 64-bit numbers that depend on all four values (the finaliser of splitmix64, repeated)."""
    # Unsigned arithmetic wraps around, which is what a hash wants.
    start = mix(np.array([seed % 2**64, stream], dtype=np.uint64))
    keyed = mix(latent.astype(np.uint64) + (start[0] ^ mix(start[1:])))
    return mix(keyed + code.astype(np.uint64))


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: a one-to-one scrambling of 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

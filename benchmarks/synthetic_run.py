"""A made-up run of any number of latents, written in latent order, one shard in memory at a time.

How often latents fire is log-normal, so that a few fire a hundred times as often as most; a third of
activations follow another one immediately, as they do where a latent is active over a phrase; token
frequencies fall as one over rank. No dense array of latents and positions exists at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.manifest import write_text_whole
from autointerp.config import RunConfig

_CONTEXTS_PER_SHARD, _N_QUANTILES = 8_192, 11
_SHARE_OF_FOLLOWERS, _SHARE_OF_TEST = 0.3, 0.4


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a made-up run is."""

    latents: int
    contexts: int
    """Contexts of text."""
    context_size: int = 128
    """Tokens of each."""
    per_latent: float = 200.0
    """Activations of a latent, on average."""
    spread: float = 1.0
    """Standard deviation of the logarithm of how often a latent fires."""
    dead: float = 0.02
    """Share of latents that never fire."""
    vocabulary: int = 49_152
    """Token ids."""
    rows_per_shard: int = 8_000_000
    """Activations in a shard, about."""
    neighbours: int = 10
    """Length of each latent's list of nearest latents (drawn at random)."""

    @property
    def latents_per_shard(self) -> int:
        """Latents of a shard, so that it holds about `rows_per_shard` activations."""
        return max(1, min(self.latents, round(self.rows_per_shard / self.per_latent)))

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """First and last latent (exclusive) of each shard."""
        step = self.latents_per_shard
        return [(first, min(first + step, self.latents)) for first in range(0, self.latents, step)]


def configuration(sample: Mapping[str, Any] | None = None) -> RunConfig:
    """The configuration of a made-up run."""
    return RunConfig.model_validate(
        {
            "name": "made-up",
            "subject": {"model": "none/made-up"},
            "dictionary": {"source": "neurons", "hook_point": "blocks.0.mlp.hook_post"},
            "corpus": {"dataset": "made-up.jsonl"},
            "sample": dict(sample or {}),
        }
    )


def write_run(root: Path, size: Size, config: RunConfig, seed: int = 0) -> int:
    """Write `contexts`, `activations` and `latents` of a made-up run; the number of activations."""
    run = RunDirectory(root)
    write_text_whole(root / "run.toml", config.to_toml())
    _write_contexts(run, size, np.random.default_rng([seed, 0]))
    total = 0
    for index, (first, last) in enumerate(size.ranges):
        rng = np.random.default_rng([seed, 1, index])
        columns = _activations(first, last, size, rng)
        write_shard(run.shard("activations", index=index), pa.table(columns), DATASETS["activations"])
        latents = _latents(columns["latent"], columns["activation"], first, last, size, rng)
        write_shard(run.shard("latents", index=index), latents, DATASETS["latents"])
        total += len(columns["latent"])
    return total


def _write_contexts(run: RunDirectory, size: Size, rng: np.random.Generator) -> None:
    for index, first in enumerate(range(0, size.contexts, _CONTEXTS_PER_SHARD)):
        n = min(_CONTEXTS_PER_SHARD, size.contexts - first)
        tokens = np.exp(rng.random(n * size.context_size) * np.log(size.vocabulary)).astype(np.uint32) - 1
        offsets = np.arange(n + 1, dtype=np.int32) * size.context_size
        table = pa.table(
            {
                "context": np.arange(first, first + n),
                "document": np.arange(first, first + n) // 4,
                "split": np.where(rng.random(n) < _SHARE_OF_TEST, "test", "train"),
                "tokens": pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
            }
        ).cast(DATASETS["contexts"].schema)
        write_shard(run.shard("contexts", index=index), table, DATASETS["contexts"])


def _activations(first: int, last: int, size: Size, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """Columns of `activations` of latents [first, last)."""
    n_places = size.contexts * size.context_size
    mean = np.log(size.per_latent) - size.spread**2 / 2
    counts = np.minimum(rng.lognormal(mean, size.spread, last - first), n_places / 20).astype(np.int64)
    counts[rng.random(last - first) < size.dead] = 0
    row = np.repeat(np.arange(last - first), counts)
    place = rng.integers(0, n_places, len(row))
    follows = np.flatnonzero(rng.random(len(row)) < _SHARE_OF_FOLLOWERS)
    follows = follows[follows > 0]
    place[follows] = np.minimum(place[follows - 1] + 1, n_places - 1)
    key = np.unique(row * n_places + place)
    place = key % n_places
    return {
        "latent": (first + key // n_places).astype(np.uint32),
        "context": (place // size.context_size).astype(np.uint32),
        "position": (place % size.context_size).astype(np.uint16),
        "activation": rng.gamma(2.0, 1.0, len(key)).astype(np.float32),
    }


def _latents(
    latent: NDArray[np.uint32],
    activation: NDArray[np.float32],
    first: int,
    last: int,
    size: Size,
    rng: np.random.Generator,
) -> pa.Table:
    """Rows of `latents` [first, last)."""
    n = last - first
    schema = DATASETS["latents"].schema
    counts = np.bincount(latent.astype(np.int64) - first, minlength=n)
    alive = counts > 0
    peak = np.zeros(n, np.float32)
    peak[alive] = np.maximum.reduceat(activation, (np.cumsum(counts) - counts)[alive])
    total = np.bincount(latent.astype(np.int64) - first, weights=activation, minlength=n)
    ends = np.arange(n + 1, dtype=np.int32)
    empty = pa.array(ends * 0)
    quantiles = (peak[:, None] * np.linspace(0, 1, _N_QUANTILES)).astype(np.float32).ravel()
    near = pa.StructArray.from_arrays(
        [
            pa.array(rng.integers(0, size.latents, n * size.neighbours).astype(np.uint32)),
            pa.array(np.tile(np.linspace(0.9, 0.3, size.neighbours, dtype=np.float32), n)),
        ],
        fields=list(schema.field("neighbours").type.value_type),
    )
    kind = {name: schema.field(name).type for name in ("top_tokens", "neighbours")}
    columns = {
        "latent": np.arange(first, last),
        "n_active_tokens": counts,
        "n_active_contexts": counts,
        "density": counts / (size.contexts * size.context_size),
        "max_activation": pa.array(peak, mask=~alive),
        "mean_activation": pa.array((total / np.maximum(counts, 1)).astype(np.float32), mask=~alive),
        "quantiles": pa.ListArray.from_arrays(pa.array(ends * _N_QUANTILES), pa.array(quantiles)),
        "top_tokens": pa.ListArray.from_arrays(
            empty, pa.array([], kind["top_tokens"].value_type), type=kind["top_tokens"]
        ),
        "top_logits": pa.nulls(n, schema.field("top_logits").type),
        "bottom_logits": pa.nulls(n, schema.field("bottom_logits").type),
        "neighbours": pa.ListArray.from_arrays(
            pa.array(ends * size.neighbours), near, type=kind["neighbours"]
        ),
        "status": np.where(alive, "ok", "dead"),
    }
    return pa.table(columns).cast(schema)


def latents_with_counts(root: Path) -> Iterator[tuple[NDArray[np.uint32], NDArray[np.uint64]]]:
    """Latents and how often each fires, shard by shard."""
    columns = ["latent", "n_active_tokens"]
    for table in RunDirectory(root).dataset("latents").iter_shards(columns=columns):
        yield table.column("latent").to_numpy(), table.column("n_active_tokens").to_numpy()

"""Activations from the order of the text to the order of the latents: rate and memory.

    python benchmarks/transpose.py [--activations 20_000_000] [--latents 65_536]

Draws synthetic activations with a heavy-tailed firing distribution, writes them as the cache stage's
intermediate shards and puts them in latent order, as Parquet. The rate counts everything between arrays
in memory and finished shards on disk, both times sorting; beside it the same through a sort of the whole in
memory (the aim: five million non-zeros a second on two cores, at most 2 GB).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, write_shard
from autointerp.artifacts.dataset import Dataset, shard_path
from autointerp.artifacts.transpose import (
    INTERMEDIATE,
    by_latent,
    count_by_latent,
    gather_each,
    plan_ranges,
)

CONTEXT_SIZE, CONTEXTS_PER_SHARD, ACTIVE_PER_POSITION = 128, 512, 32


def draw(rng: np.random.Generator, first_context: int, n_latents: int) -> dict[str, NDArray[Any]]:
    """The columns of one shard: `ACTIVE_PER_POSITION` latents a position, rank frequency about 1 / rank."""
    n_positions = CONTEXTS_PER_SHARD * CONTEXT_SIZE
    n = n_positions * ACTIVE_PER_POSITION
    rank = np.exp(rng.random(n) * np.log(n_latents)).astype(np.uint32) - 1
    position = np.repeat(np.arange(n_positions), ACTIVE_PER_POSITION)
    return {
        # Spread the ranks over the ids, as in a trained dictionary.
        "latent": (rank.astype(np.uint64) * 2_654_435_761 % n_latents).astype(np.uint32),
        "context": (first_context + position // CONTEXT_SIZE).astype(np.uint32),
        "position": (position % CONTEXT_SIZE).astype(np.uint16),
        "activation": rng.gamma(2.0, 1.0, n).astype(np.float32),
        "token": rng.integers(0, 49_152, n).astype(np.uint32),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=int, default=20_000_000)
    parser.add_argument("--latents", type=int, default=65_536)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        seconds = {"sort and write by context": 0.0, "gather and write by latent": 0.0}
        n, n_shards = 0, 0
        while n < arguments.activations:
            columns = draw(rng, n_shards * CONTEXTS_PER_SHARD, arguments.latents)
            begun = time.perf_counter()
            write_shard(shard_path(root / "scratch", n_shards), by_latent(columns), INTERMEDIATE)
            seconds["sort and write by context"] += time.perf_counter() - begun
            n, n_shards = n + len(columns["latent"]), n_shards + 1
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        begun = time.perf_counter()
        shards = Dataset(root / "scratch", INTERMEDIATE).shards
        counts = count_by_latent(shards, arguments.latents)
        ranges = plan_ranges(counts, 8_000_000)
        for index, table in enumerate(gather_each(shards, ranges, counts)):
            path = shard_path(root / "activations", index)
            write_shard(path, table.drop_columns(["token"]), DATASETS["activations"])
        seconds["gather and write by latent"] = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        written = Dataset(root / "activations", DATASETS["activations"])
        assert written.n_rows == n == counts.sum()
        in_memory = pa.concat_tables(Dataset(root / "scratch", INTERMEDIATE).iter_shards())
        begun = time.perf_counter()
        table = in_memory.sort_by([(name, "ascending") for name in ("latent", "context", "position")])
        write_shard(root / "sorted.parquet", table.drop_columns(["token"]), DATASETS["activations"])
        sorting = time.perf_counter() - begun
        assert table.column("activation").equals(written.read(columns=["activation"]).column("activation"))
    total = sum(seconds.values())
    print(f"{n:,} activations of {arguments.latents:,} latents in {n_shards} shards")
    for name, spent in seconds.items():
        print(f"  {name:<28}{spent:7.1f} s {n / spent / 1e6:6.1f} million/s")
    print(f"  {'both':<28}{total:7.1f} s {n / total / 1e6:6.1f} million/s (aim: at least 5)")
    print(f"  {'one sort of all in memory':<28}{sorting:7.1f} s {n / sorting / 1e6:6.1f} million/s")
    print(f"  peak memory {peak:,.0f} MB, {before:,.0f} MB before the second half (aim: at most 2,000)")


if __name__ == "__main__":
    main()

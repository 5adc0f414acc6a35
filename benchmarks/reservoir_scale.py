"""Memory and disk of a bounded sample for a million latents, with a synthetic encoder.

    python benchmarks/reservoir_scale.py [--latents 1_000_000] [--shards 4]

Synthetic activations (k = 32 a position, rank frequency about 1 / rank) go straight into the reservoir of the
cache stage, as if a model and an encoder had made them. Prints the peak of resident memory beside what the
arrays over latents need by their definition, the rows on disk, and the time.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from transpose import CONTEXT_SIZE, CONTEXTS_PER_SHARD, draw

from autointerp.artifacts.dataset import check_shard
from autointerp.artifacts.transpose import INTERMEDIATE
from autointerp.config import CacheConfig, ReservoirConfig
from autointerp.stages.reservoir import Reservoir

BYTES_PER_LATENT = 2 * (8 + 4) + 8 + 2 * 8 + 8 + 4
"""Bounds (a priority and a peak on each side) and tallies (tokens, contexts on each side, sum, largest)."""


def peak_megabytes() -> float:
    """Peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--n-random", type=int, default=128)
    parser.add_argument("--n-top", type=int, default=64)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    before = peak_megabytes()
    cache = CacheConfig(reservoir=ReservoirConfig(n_random=arguments.n_random, n_top=arguments.n_top))
    n_contexts, n_rows, spent = arguments.shards * CONTEXTS_PER_SHARD, 0, np.zeros(2)
    with tempfile.TemporaryDirectory() as folder:
        kept = Reservoir(Path(folder), cache, 0, arguments.latents, n_contexts)
        for index in range(arguments.shards):
            columns = draw(rng, index * CONTEXTS_PER_SHARD, arguments.latents)
            is_test = rng.random(CONTEXTS_PER_SHARD) < 0.3
            begun = time.perf_counter(), time.process_time()
            kept.add(index, columns, index * CONTEXTS_PER_SHARD, is_test)
            spent += time.perf_counter() - begun[0], time.process_time() - begun[1]
            n_rows += len(columns["latent"])
        begun = time.perf_counter(), time.process_time()
        kept.choose(arguments.shards)
        choosing = np.array([time.perf_counter() - begun[0], time.process_time() - begun[1]])
        n_kept = sum(check_shard(path, INTERMEDIATE) for path in kept.shards)
        disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
        assert kept.n_tokens.sum() == n_rows
    print(f"{n_rows:,} activations of {arguments.latents:,} latents in {n_contexts * CONTEXT_SIZE:,} tokens")
    print(
        f"  arrays over latents {arguments.latents * BYTES_PER_LATENT / 1e6:8,.0f} MB by definition "
        f"({BYTES_PER_LATENT} bytes each)"
    )
    print(f"  peak memory         {peak_megabytes():8,.0f} MB, {before:,.0f} MB before")
    print(f"  kept on disk        {n_kept:,} activations, {disk:,.0f} MB")
    for name, (wall, processor) in {"adding": spent, "choosing": choosing}.items():
        print(
            f"  {name:<19} {wall:8.1f} s wall, {processor:.1f} s processor, "
            f"{n_rows / processor / 1e6:.1f} million/s"
        )


if __name__ == "__main__":
    main()

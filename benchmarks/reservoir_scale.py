"""Memory, disk and time of a bounded sample for a million latents, with a synthetic encoder.

    python benchmarks/reservoir_scale.py [--latents 1_000_000] [--shards 4] [--times 10] [--rows-per-range 8_000_000]

Synthetic activations (k = 32 a position, rank frequency about 1 / rank) go straight into the reservoir of the
cache stage, as if a model and an encoder had made them. Prints the peak of resident memory beside what the
arrays over latents need by their definition, the rows on disk, and the time, deciles of every latent included. With
`--times` the same again with so many times the text, each in a process of its own: the ratio of the peaks (the aim:
at most 1.1 for ten times). Ranges of latents are chosen among one after the other, the next gathered meanwhile: make them
so small (`cache.rows_per_shard`) that the lesser text fills several too.
"""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transpose import CONTEXT_SIZE, CONTEXTS_PER_SHARD, draw

from autointerp.artifacts.dataset import RangeReader, check_shard
from autointerp.artifacts.transpose import INTERMEDIATE
from autointerp.config import CacheConfig, ReservoirConfig
from autointerp.stages.histogram import HISTOGRAM, quantiles
from autointerp.stages.reservoir import Reservoir

BYTES_PER_LATENT = 2 * (8 + 4) + 8 + 2 * 8 + 8 + 4
"""Bounds (a priority and a peak on each side) and tallies (tokens, contexts on each side, sum, largest)."""
LATENTS_PER_RANGE = 65_536
"""Latents whose deciles are computed at a time."""


def peak_megabytes() -> float:
    """Peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def timed(work: Callable[[], object]) -> NDArray[np.float64]:
    """Wall and processor seconds of some work, [2]."""
    begun = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - begun[0], time.process_time() - begun[1]])


def deciles(kept: Reservoir) -> None:
    """Compute those of every latent."""
    readers = [RangeReader(path, HISTOGRAM) for path in kept.histograms]
    for first in range(0, kept.n_latents, LATENTS_PER_RANGE):
        last = min(first + LATENTS_PER_RANGE, kept.n_latents)
        found = quantiles(readers, first, last)
        assert (np.isfinite(found[:, 0]) == (kept.n_tokens[first:last] > 0)).all()


def measure(n_latents: int, n_shards: int, cache: CacheConfig) -> None:
    """Fill a reservoir and print what it takes."""
    rng = np.random.default_rng(0)
    before = peak_megabytes()
    n_contexts, n_rows, adding = n_shards * CONTEXTS_PER_SHARD, 0, np.zeros(2)
    with tempfile.TemporaryDirectory() as folder:
        kept = Reservoir(Path(folder), cache, 0, n_latents, n_contexts)
        for index in range(n_shards):
            first = index * CONTEXTS_PER_SHARD
            columns = draw(rng, first, n_latents)
            is_test = rng.random(CONTEXTS_PER_SHARD) < 0.3
            adding += timed(lambda: kept.add(index, columns, first, is_test))  # noqa: B023
            n_rows += len(columns["latent"])
        choosing = timed(lambda: kept.choose(n_shards))
        n_kept = sum(check_shard(path, INTERMEDIATE) for path in kept.shards)
        n_bins = sum(check_shard(path, HISTOGRAM) for path in kept.histograms)
        disk = [sum(path.stat().st_size for path in paths) / 1e6 for paths in (kept.shards, kept.histograms)]
        assert kept.n_tokens.sum() == n_rows
        reading = timed(lambda: deciles(kept))
    peak = peak_megabytes()
    print(f"{n_rows:,} activations of {n_latents:,} latents in {n_contexts * CONTEXT_SIZE:,} tokens")
    print(
        f"  arrays over latents {n_latents * BYTES_PER_LATENT / 1e6:8,.0f} MB by definition "
        f"({BYTES_PER_LATENT} bytes each)"
    )
    print(f"  peak memory         {peak:8,.0f} MB, {before:,.0f} MB before")
    print(f"  sample on disk      {disk[0]:8,.0f} MB, {n_kept:,} activations")
    print(
        f"  counts by value     {disk[1]:8,.0f} MB, {n_bins:,} bins, {disk[1] * 1e6 / n_latents:.0f} bytes per latent"
    )
    steps = {"adding, with choices": adding, "last choice": choosing, "deciles": reading}
    for name, (wall, processor) in {**steps, "all": sum(steps.values())}.items():
        print(
            f"  {name:<20}{wall:8.1f} s wall, {processor:.1f} s processor, "
            f"{n_rows / processor / 1e6:.1f} million activations/s"
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=1_000_000)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--rows-per-range", type=int, default=8_000_000)
    parser.add_argument("--n-random", type=int, default=128)
    parser.add_argument("--n-top", type=int, default=64)
    arguments = parser.parse_args()
    if arguments.times == 1:
        reservoir = ReservoirConfig(n_random=arguments.n_random, n_top=arguments.n_top)
        cache = CacheConfig(reservoir=reservoir, rows_per_shard=arguments.rows_per_range)
        measure(arguments.latents, arguments.shards, cache)
        return
    peaks = []
    for n_shards in (arguments.shards, arguments.shards * arguments.times):
        told = [f"--latents={arguments.latents}", f"--shards={n_shards}"]
        told += [f"--rows-per-range={arguments.rows_per_range}"]
        told += [f"--n-random={arguments.n_random}", f"--n-top={arguments.n_top}"]
        done = subprocess.run(
            [sys.executable, __file__, *told], stdout=subprocess.PIPE, text=True, check=True
        )
        print(done.stdout, end="", flush=True)
        peak = re.search(r"peak memory +([\d,]+) MB", done.stdout)
        assert peak is not None
        peaks.append(float(peak[1].replace(",", "")))
    print(f"{arguments.times} times the text: {peaks[1] / peaks[0]:.2f} times the peak (aim: at most 1.10)")


if __name__ == "__main__":
    main()

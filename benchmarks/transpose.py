"""Activations from the order of the text to the order of the latents: rate and memory.

    python benchmarks/transpose.py [--activations 20_000_000] [--latents 65_536] [--contexts-per-shard 512]
        [--rows-per-shard 8_000_000]

Draws synthetic activations with a heavy-tailed firing distribution, writes them as the cache stage's
intermediate shards (two at a time) and puts them in latent order, as Parquet, on two threads. The rate
counts everything between arrays in memory and finished shards on disk, both times sorting; beside it the
same through a sort of the whole in memory (the aim: five million non-zeros a second on two cores, at most
2 GB). A further line is the second half as the stage does it, with the statistics of every latent. Every range of
latents is looked for in every shard: with small shards and ranges, the gathering shows what that costs.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from autointerp.subject.statistics import StatusRule, latent_statistics

CONTEXT_SIZE, CONTEXTS_PER_SHARD, ACTIVE_PER_POSITION = 128, 512, 32
ROWS_PER_SHARD = 8_000_000


def draw(
    rng: np.random.Generator, first_context: int, n_latents: int, n_contexts: int = CONTEXTS_PER_SHARD
) -> dict[str, NDArray[Any]]:
    """The columns of one shard: `ACTIVE_PER_POSITION` latents a position, rank frequency about 1 / rank."""
    n_positions = n_contexts * CONTEXT_SIZE
    n = n_positions * ACTIVE_PER_POSITION
    rank = np.exp(rng.random(n) * np.log(n_latents)).astype(np.uint32) - 1
    position = np.repeat(np.arange(n_positions), ACTIVE_PER_POSITION)
    return {
        # Spread the ranks over the ids, as in a trained dictionary.
        "latent": (rank.astype(np.uint64) * 2_654_435_761 % n_latents).astype(np.uint32),
        "context": (first_context + position // CONTEXT_SIZE).astype(np.uint32),
        "position": (position % CONTEXT_SIZE).astype(np.uint16),
        "activation": rng.gamma(2.0, 1.0, n).astype(np.float32),
        "token": np.minimum(rng.zipf(1.2, n), 49_151).astype(np.uint32),
    }


def timed(work: Callable[[], object]) -> NDArray[np.float64]:
    """Wall and processor seconds of some work, [2]."""
    begun = time.perf_counter(), time.process_time()
    work()
    return np.array([time.perf_counter() - begun[0], time.process_time() - begun[1]])


def into_latent_order(
    root: Path, n_latents: int, rows_per_shard: int, use: Callable[[pa.Table, int, int], object]
) -> None:
    """The second half: each range of latents written, and given to `use` meanwhile."""
    shards = Dataset(root / "scratch", INTERMEDIATE).shards
    counts = count_by_latent(shards, n_latents)
    ranges = plan_ranges(counts, rows_per_shard)
    with ThreadPoolExecutor(1) as writer:
        for index, table in enumerate(gather_each(shards, ranges, counts)):
            path = shard_path(root / "activations", index)
            written = writer.submit(write_shard, path, table.drop_columns(["token"]), DATASETS["activations"])
            use(table, *ranges[index])
            written.result()


def peak_megabytes() -> float:
    """Peak resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--activations", type=int, default=20_000_000)
    parser.add_argument("--latents", type=int, default=65_536)
    parser.add_argument("--contexts-per-shard", type=int, default=CONTEXTS_PER_SHARD)
    parser.add_argument("--rows-per-shard", type=int, default=ROWS_PER_SHARD)
    arguments = parser.parse_args()
    per_shard, rows = arguments.contexts_per_shard, arguments.rows_per_shard
    rng = np.random.default_rng(0)
    rule = StatusRule(rare_below_contexts=10, dense_above=0.2)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = np.zeros(2)
        n, n_shards = 0, 0

        def write(index: int, columns: dict[str, NDArray[Any]]) -> None:
            write_shard(shard_path(root / "scratch", index), by_latent(columns), INTERMEDIATE)

        with ThreadPoolExecutor(2) as writers:
            while n < arguments.activations:
                indices = range(n_shards, n_shards + 2)
                drawn = [draw(rng, i * per_shard, arguments.latents, per_shard) for i in indices]
                first += timed(lambda: list(writers.map(write, indices, drawn)))  # noqa: B023
                n, n_shards = n + sum(len(d["latent"]) for d in drawn), n_shards + 2
        before = peak_megabytes()
        second = timed(lambda: into_latent_order(root, arguments.latents, rows, lambda *_: None))
        n_ranges = len(Dataset(root / "activations", DATASETS["activations"]).shards)
        peak = peak_megabytes()
        n_positions, is_test = n // ACTIVE_PER_POSITION, rng.random(n_shards * per_shard) < 0.3
        with_statistics = timed(
            lambda: into_latent_order(
                root,
                arguments.latents,
                rows,
                lambda table, first, last: (
                    latent_statistics(
                        table,
                        first=first,
                        last=last,
                        n_positions=n_positions,
                        is_test=is_test,
                        n_top_tokens=20,
                        rule=rule,
                    )
                    and None
                ),
            )
        )
        peak_with = peak_megabytes()
        written = Dataset(root / "activations", DATASETS["activations"])
        assert written.n_rows == n
        in_memory = pa.concat_tables(Dataset(root / "scratch", INTERMEDIATE).iter_shards())
        keys = [(name, "ascending") for name in ("latent", "context", "position")]
        in_order: list[pa.Table] = []

        def sort() -> None:
            in_order.append(in_memory.sort_by(keys))
            table = in_order[0].drop_columns(["token"])
            write_shard(root / "sorted.parquet", table, DATASETS["activations"])

        sorting = timed(sort)
        for name in ("context", "position", "activation"):
            assert in_order[0].column(name).equals(written.read(columns=[name]).column(name)), name
    print(
        f"{n:,} activations of {arguments.latents:,} latents in {n_shards} shards, {n_ranges} ranges of latents"
    )
    print(f"  {'':<34}{'wall':>8}{'processor':>11}{'million/s':>11}")
    for name, (wall, processor) in {
        "sort and write by context": first,
        "gather and write by latent": second,
        "both (aim: at least 5)": first + second,
        "one sort of all in memory": sorting,
        "second half with statistics": with_statistics,
    }.items():
        print(f"  {name:<34}{wall:>7.1f}s{processor:>10.1f}s{n / wall / 1e6:>11.1f}")
    print(
        f"  peak memory {peak:,.0f} MB, {before:,.0f} MB before the second half, {peak_with:,.0f} MB with "
        "statistics (aim: at most 2,000)"
    )


if __name__ == "__main__":
    main()

"""Stage `sample`: activations to windows of text, train and test from disjoint documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory
from autointerp.artifacts.dataset import ShardWriter, check_shard, read_shard
from autointerp.config import RunConfig
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.sampling.examples import (
    KINDS,
    SPLITS,
    Corpus,
    LatentActivations,
    Pools,
    Reach,
    Stream,
    latents_of,
    n_asked,
    sample_latents,
)
from autointerp.sampling.places import sample_places
from autointerp.sampling.reservoir import LAST_PRIORITY, priorities
from autointerp.sampling.similar import SimilarTiles
from autointerp.stages.step import Step, StepResult

VERSION = 2
_LEAST_PLACES, _PLACES_PER_WINDOW = 16, 8
"""Activations kept of each latent for its neighbours' sake: at least so many, and so many per window asked."""
_LATENTS_PER_BLOCK, _ROWS_PER_BLOCK = 128, 1_000_000
"""Latents drawn together, and activations of theirs at most: bounds the memory beside a shard's own."""


def steps(config: RunConfig) -> list[Step]:
    """The stage's single step."""

    def work(run: RunDirectory) -> StepResult:
        return sample(config, run)

    return [
        Step(
            name="sample",
            version=VERSION,
            config={"seed": config.seed, "sample": config.sample.result_values()},
            inputs=("cache",),
            folders=("examples",),
            work=work,
            share=work,
        )
    ]


def sample(config: RunConfig, run: RunDirectory) -> StepResult:
    """Write `examples`, one shard per shard of `activations`; shards that exist are kept."""
    corpus = read_corpus(run, config.seed)
    if config.sample.window_tokens > corpus.context_size:
        raise UserError(
            f"sample.window_tokens: seen {config.sample.window_tokens}, longer than a context; accepted: at most "
            f"{corpus.context_size} (the context size the cache was made with)"
        )
    for split in ("train", "test"):
        if len(corpus.contexts_of(split)) == 0:
            raise UserError(
                f"corpus.test_fraction: no {split} document among the {len(corpus.tokens)} cached contexts; "
                "cache more tokens or choose a fraction nearer to 0.5"
            )
    shards = run.dataset("activations").shards
    n_latents = run.dataset("latents").n_rows
    pools = Pools()
    if not all(run.shard("examples", index=index).exists() for index in range(len(shards))):
        pools = build_pools(config, run, corpus)
    with Tracker("sample", n_latents, "latents") as tracker:
        for index, activations in enumerate(shards):
            # Shard k of `latents` lists the latents whose activations lie in shard k of `activations`.
            latents = run.shard("latents", index=index)
            n_in_shard = check_shard(latents, DATASETS["latents"])
            if run.shard("examples", index=index).exists() or not run.takes(index):
                tracker.skip(n_in_shard)
                continue
            with ShardWriter(run.shard("examples", index=index), DATASETS["examples"]) as writer:
                for block, nearest in _blocks(activations, latents):
                    writer.write(
                        sample_latents(
                            block,
                            nearest,
                            corpus=corpus,
                            config=config.sample,
                            seed=config.seed,
                            pools=pools,
                        )
                    )
                    tracker.advance(len(block))
                    n_in_shard -= len(block)
            tracker.advance(n_in_shard)
    dataset = run.dataset("examples")
    return StepResult(
        n_shards={"examples": len(shards)},
        n_rows={"examples": dataset.n_rows},
        counts=_counts(run, config),
    )


def build_pools(config: RunConfig, run: RunDirectory, corpus: Corpus) -> Pools:
    """What windows of the kinds `neighbour` and `similar` are chosen from, in one pass over `activations`.

    Its memory is set by the number of latents and by `sample.similar_pool`, not by the activations.
    """
    places, similar = {}, {}
    k = config.cache.n_neighbours
    for split in SPLITS:
        n = n_asked(config.sample, split, "neighbour")
        if n and k and has_neighbours(run):
            tables = run.dataset("activations").iter_shards(columns=["latent", "context", "position"])
            places[split] = sample_places(
                tables,
                n_latents=run.dataset("latents").n_rows,
                contexts_kept=corpus.is_test == (split == "test"),
                context_size=corpus.context_size,
                # Many of a neighbour's places lie beside activations of the latent itself.
                most=max(_LEAST_PLACES, -(-_PLACES_PER_WINDOW * n // k)),
                seed=config.seed,
                is_known=_known_in(corpus, split),
            )
        if n_asked(config.sample, split, "similar"):
            similar[split] = SimilarTiles.draw(
                corpus.tokens,
                corpus.contexts_of(split),
                n=config.sample.similar_pool,
                window=config.sample.window_tokens,
                rng=Stream.SIMILAR_POOL.generator(config.seed, split),
            )
    return Pools(places=places, similar=similar)


def has_neighbours(run: RunDirectory) -> bool:
    """Whether any latent has nearest latents (the dictionary has a decoder and they were asked for)."""
    tables = run.dataset("latents").iter_shards(columns=["neighbours"])
    return any(table.column("neighbours").null_count < table.num_rows for table in tables)


def _known_in(
    corpus: Corpus, split: str
) -> Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]] | None:
    reach = corpus.reach
    if reach is None:
        return None
    through = reach.through[:, SPLITS.index(split)]
    return lambda latent, context: reach.priority[context] <= through[latent]


def read_corpus(run: RunDirectory, seed: int) -> Corpus:
    """All contexts of the run as one array, [n_contexts, context_size], and how far latents are known."""
    tokens, is_test = [], []
    for table in run.dataset("contexts").iter_shards(columns=["split", "tokens"]):
        column = table.column("tokens").combine_chunks()
        tokens.append(column.flatten().to_numpy().reshape(len(column), -1))
        is_test.append(pc.equal(table.column("split"), "test").to_numpy())
    return Corpus(
        tokens=np.concatenate(tokens),
        is_test=np.concatenate(is_test),
        reach=_reach(run, seed, sum(len(part) for part in tokens)),
    )


def _reach(run: RunDirectory, seed: int, n_contexts: int) -> Reach | None:
    """What a cache with `[cache.reservoir]` knows of each latent; None for one that keeps everything."""
    if not run.dataset("reservoir").shards:
        return None
    known = run.dataset("reservoir").read(columns=["known_through"]).column("known_through")
    # Rows come by latent, train before test.
    through = pc.fill_null(known, pa.scalar(int(LAST_PRIORITY), pa.uint64())).to_numpy().reshape(-1, 2)
    return Reach(priority=priorities(seed, n_contexts), through=through)


def _blocks(activations: Path, latents: Path) -> Iterator[tuple[list[LatentActivations], NDArray[np.int64]]]:
    """A shard's latents, some at a time, and their nearest latents [n, k], -1 for none."""
    table = read_shard(latents, DATASETS["latents"], ["latent", "neighbours"])
    first = table.column("latent")[0].as_py()
    lists = table.column("neighbours").combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    nearest = np.full((len(sizes), max(sizes.max(initial=0), 1)), -1, dtype=np.int64)
    nearest[np.arange(nearest.shape[1]) < sizes[:, None]] = lists.flatten().field("latent").to_numpy()
    block: list[LatentActivations] = []
    n_held = 0
    for acts in latents_of(read_shard(activations, DATASETS["activations"])):
        if block and (len(block) == _LATENTS_PER_BLOCK or n_held + len(acts.context) > _ROWS_PER_BLOCK):
            yield block, nearest[[one.latent - first for one in block]]
            block, n_held = [], 0
        block.append(acts)
        n_held += len(acts.context)
    if block:
        yield block, nearest[[one.latent - first for one in block]]


def _counts(run: RunDirectory, config: RunConfig) -> dict[str, object]:
    """Windows by split and kind, and latents with fewer windows than asked."""
    windows: Counter[str] = Counter()
    short: Counter[str] = Counter()
    asked = {
        f"{split} {kind}": n
        for split in SPLITS
        for kind in KINDS
        if (n := n_asked(config.sample, split, kind)) or kind in ("activating", "random")
    }
    n_with_windows: Counter[str] = Counter()
    n_active = 0
    for table in run.dataset("examples").iter_shards(columns=["latent", "split", "kind"]):
        grouped = table.group_by(["latent", "split", "kind"]).aggregate([([], "count_all")])
        n_active += pc.count_distinct(grouped.column("latent")).as_py()
        for row in grouped.to_pylist():
            name = f"{row['split']} {row['kind']}"
            windows[name] += row["count_all"]
            n_with_windows[name] += 1
            if row["count_all"] < asked[name]:
                short[name] += 1
    counts: dict[str, object] = {
        "windows": {name: windows[name] for name in asked},
        "latents_with_windows": n_active,
        "latents_with_fewer_than_asked": {
            name: short[name] + (n_active - n_with_windows[name]) * (n > 0) for name, n in asked.items()
        },
    }
    if any(n_asked(config.sample, split, "neighbour") for split in SPLITS):
        counts["neighbours"] = _why_neighbours(run, config)
    return counts


def _why_neighbours(run: RunDirectory, config: RunConfig) -> str:
    if config.cache.n_neighbours == 0:
        return "none drawn: cache.n_neighbours is 0"
    if not has_neighbours(run):
        return "none drawn: the dictionary has no decoder directions"
    return f"the {config.cache.n_neighbours} nearest by cosine of decoder directions"

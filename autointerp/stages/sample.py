"""Stage `sample`: activations to windows of text, train and test from disjoint documents."""

from __future__ import annotations

from collections.abc import Callable
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
from autointerp.sampling.corpus import SPLITS, Corpus, Reach, blocks_of
from autointerp.sampling.examples import KINDS, Pools, Stream, n_asked, sample_latents
from autointerp.sampling.places import sample_places
from autointerp.sampling.reservoir import LAST_PRIORITY, priorities
from autointerp.sampling.similar import SimilarTiles
from autointerp.stages.step import Step, StepResult

VERSION = 3
_LEAST_PLACES, _PLACES_PER_WINDOW = 16, 8
"""Activations kept of each latent for its neighbours' sake: at least so many, and so many per window asked."""
_LATENTS_PER_BLOCK, _ROWS_PER_BLOCK, _CELLS_PER_BLOCK = 512, 500_000, 4_000_000
"""Latents drawn together, and at most so many activations and tokens of windows of theirs: bounds the
memory beside a shard's own."""
_ROWS_PER_SHARD = 250_000
"""Windows asked for the latents of one shard of `examples`."""


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
    """Write `examples`, one shard or more per shard of `activations`; shards that exist are kept."""
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
    shards = _shards(config, run)
    n_shards = sum(len(pieces) for _, pieces in shards)
    n_latents = sum(last - first for _, pieces in shards for _, first, last in pieces)
    pools = Pools()
    if not all(run.shard("examples", index=index).exists() for index in range(n_shards)):
        pools = build_pools(config, run, corpus)
    with Tracker("sample", n_latents, "latents") as tracker:
        for source, pieces in shards:
            missing = [piece for piece in pieces if not run.shard("examples", index=piece[0]).exists()]
            if not run.takes(source):
                missing = []
            tracker.skip(
                sum(end - begin for index, begin, end in pieces if (index, begin, end) not in missing)
            )
            if not missing:
                continue
            active = read_shard(run.shard("activations", index=source), DATASETS["activations"])
            first, nearest = _nearest(run.shard("latents", index=source))
            for index, begin, end in missing:
                with ShardWriter(run.shard("examples", index=index), DATASETS["examples"]) as writer:
                    for block in blocks_of(
                        _of_latents(active, begin, end), _latents_per_block(config), _ROWS_PER_BLOCK
                    ):
                        table = sample_latents(
                            block,
                            nearest[block.latent - first],
                            corpus=corpus,
                            config=config.sample,
                            seed=config.seed,
                            pools=pools,
                        )
                        writer.write(table)
                tracker.advance(end - begin)
    dataset = run.dataset("examples")
    return StepResult(
        n_shards={"examples": n_shards},
        n_rows={"examples": dataset.n_rows},
        counts=_counts(run, config),
    )


def build_pools(config: RunConfig, run: RunDirectory, corpus: Corpus) -> Pools:
    """What windows of the kinds `neighbour` and `similar` are chosen from, in one pass over `activations`.

    Its memory is set by the number of latents and by `sample.similar_pool`, not by the activations.
    """
    places, similar = {}, {}
    for split in SPLITS:
        if (most := _n_places(config, split)) and has_neighbours(run):
            tables = run.dataset("activations").iter_shards(columns=["latent", "context", "position"])
            places[split] = sample_places(
                tables,
                n_latents=run.dataset("latents").n_rows,
                contexts_kept=corpus.is_test == (split == "test"),
                context_size=corpus.context_size,
                most=most,
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
    priority = priorities(seed, sum(len(part) for part in tokens))
    return Corpus(
        tokens=np.concatenate(tokens),
        is_test=np.concatenate(is_test),
        priority=priority,
        reach=_reach(run, priority),
    )


def _reach(run: RunDirectory, priority: NDArray[np.uint64]) -> Reach | None:
    """What a cache with `[cache.reservoir]` knows of each latent; None for one that keeps everything."""
    if not run.dataset("reservoir").shards:
        return None
    known = run.dataset("reservoir").read(columns=["known_through"]).column("known_through")
    # Rows come by latent, train before test.
    through = pc.fill_null(known, pa.scalar(int(LAST_PRIORITY), pa.uint64())).to_numpy().reshape(-1, 2)
    return Reach(priority=priority, through=through)


def _latents_per_block(config: RunConfig) -> int:
    """As many latents as keep windows, and places of neighbours, within `_CELLS_PER_BLOCK`."""
    windows = sum(n_asked(config.sample, split, kind) for split in SPLITS for kind in KINDS)
    near = max(_n_places(config, split) for split in SPLITS) * config.cache.n_neighbours
    largest = max(windows * config.sample.window_tokens, near)
    return max(1, min(_LATENTS_PER_BLOCK, _CELLS_PER_BLOCK // largest))


def _n_places(config: RunConfig, split: str) -> int:
    """Activations kept of each latent for its neighbours' sake; 0 where no window of a neighbour is asked."""
    n, k = n_asked(config.sample, split, "neighbour"), config.cache.n_neighbours
    # Many of a neighbour's places lie beside activations of the latent itself.
    return max(_LEAST_PLACES, -(-_PLACES_PER_WINDOW * n // k)) if n and k else 0


def _shards(config: RunConfig, run: RunDirectory) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """Shards of `activations`, each with the shards of `examples` made from it: index, first and last latent
    (exclusive).

    Few enough rows are in each that its footer, which a reader of a few latents reads whole, is small.
    """
    windows = sum(n_asked(config.sample, split, kind) for split in SPLITS for kind in KINDS)
    step = max(1, _ROWS_PER_SHARD // windows)
    shards, n_so_far, first = [], 0, 0
    for source in range(len(run.dataset("activations").shards)):
        # Shard k of `latents` lists the latents whose activations lie in shard k of `activations`.
        last = first + check_shard(run.shard("latents", index=source), DATASETS["latents"])
        pieces = [
            (n_so_far + i, begin, min(begin + step, last)) for i, begin in enumerate(range(first, last, step))
        ]
        shards.append((source, pieces))
        n_so_far, first = n_so_far + len(pieces), last
    return shards


def _of_latents(active: pa.Table, first: int, last: int) -> pa.Table:
    """The rows of latents [first, last) of an `activations` table, which is sorted by latent."""
    begin, end = np.searchsorted(active.column("latent").to_numpy(), [first, last])
    return active.slice(begin, end - begin)


def _nearest(latents: Path) -> tuple[int, NDArray[np.int64]]:
    """The first latent of a shard of `latents`, and the nearest latents of each [n, k], -1 for none."""
    table = read_shard(latents, DATASETS["latents"], ["latent", "neighbours"])
    lists = table.column("neighbours").combine_chunks()
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    nearest = np.full((len(sizes), max(sizes.max(initial=0), 1)), -1, dtype=np.int64)
    nearest[np.arange(nearest.shape[1]) < sizes[:, None]] = lists.flatten().field("latent").to_numpy()
    return table.column("latent")[0].as_py(), nearest


def _counts(run: RunDirectory, config: RunConfig) -> dict[str, object]:
    """Windows by split and kind, and latents with fewer windows than asked."""
    asked = {
        f"{split} {kind}": n
        for split in SPLITS
        for kind in KINDS
        if (n := n_asked(config.sample, split, kind)) or kind in ("activating", "random")
    }
    windows, short, n_active = dict.fromkeys(asked, 0), dict.fromkeys(asked, 0), 0
    for table in run.dataset("examples").iter_shards(columns=["latent", "split", "kind"]):
        latent = table.column("latent").to_numpy()
        if len(latent) == 0:
            continue
        begins = np.flatnonzero(np.r_[True, latent[1:] != latent[:-1]])
        n_active += len(begins)
        named = pc.binary_join_element_wise(table.column("split"), table.column("kind"), " ")
        for name, n in asked.items():
            found = np.add.reduceat(pc.equal(named, name).to_numpy().astype(np.int64), begins)
            windows[name] += int(found.sum())
            short[name] += int((found < n).sum())
    counts: dict[str, object] = {
        "windows": windows,
        "latents_with_windows": n_active,
        "latents_with_fewer_than_asked": short,
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

"""Stage `sample`: activations to windows of text, train and test from disjoint documents."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.dataset import check_shard, read_shard
from autointerp.config import RunConfig
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.sampling.examples import Corpus, latents_of, sample_latent
from autointerp.stages.step import Step, StepResult

VERSION = 1


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
        )
    ]


def sample(config: RunConfig, run: RunDirectory) -> StepResult:
    """Write `examples`, one shard per shard of `activations`; shards that exist are kept."""
    corpus = read_corpus(run)
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
    spec = DATASETS["examples"]
    shards = run.dataset("activations").shards
    n_latents = run.dataset("latents").n_rows
    with Tracker("sample", n_latents, "latents") as tracker:
        for index, activations in enumerate(shards):
            path = run.shard("examples", index=index)
            # Shard k of `latents` lists the latents whose activations lie in shard k of `activations`.
            n_in_shard = check_shard(run.shard("latents", index=index), DATASETS["latents"])
            if path.exists():
                tracker.skip(n_in_shard)
                continue
            parts = [spec.schema.empty_table()]
            for acts in latents_of(read_shard(activations, DATASETS["activations"])):
                parts.append(sample_latent(acts, corpus, config.sample, config.seed).cast(spec.schema))
                tracker.advance()
            tracker.advance(n_in_shard - (len(parts) - 1))
            write_shard(path, pa.concat_tables(parts), spec)
    dataset = run.dataset("examples")
    return StepResult(
        n_shards={"examples": len(shards)},
        n_rows={"examples": dataset.n_rows},
        counts=_counts(run, config),
    )


def read_corpus(run: RunDirectory) -> Corpus:
    """All contexts of the run as one array, [n_contexts, context_size]."""
    tokens, is_test = [], []
    for table in run.dataset("contexts").iter_shards(columns=["split", "tokens"]):
        column = table.column("tokens").combine_chunks()
        tokens.append(column.flatten().to_numpy().reshape(len(column), -1))
        is_test.append(pc.equal(table.column("split"), "test").to_numpy())
    return Corpus(tokens=np.concatenate(tokens), is_test=np.concatenate(is_test))


def _counts(run: RunDirectory, config: RunConfig) -> dict[str, object]:
    """Windows by split and kind, and latents with fewer windows than asked."""
    windows: Counter[str] = Counter()
    short: Counter[str] = Counter()
    asked = {
        "train activating": config.sample.n_train,
        "train random": config.sample.n_train_random,
        "test activating": config.sample.n_test,
        "test random": config.sample.n_test_random,
    }
    n_with_windows: Counter[str] = Counter()
    n_active = 0
    for table in run.dataset("examples").iter_shards(columns=["latent", "split", "kind"]):
        grouped = table.group_by(["latent", "split", "kind"]).aggregate([([], "count_all")])
        n_active += len(set(grouped.column("latent").to_pylist()))
        for row in grouped.to_pylist():
            name = f"{row['split']} {row['kind']}"
            windows[name] += row["count_all"]
            n_with_windows[name] += 1
            if row["count_all"] < asked[name]:
                short[name] += 1
    return {
        "windows": {name: windows[name] for name in asked},
        "latents_with_windows": n_active,
        "latents_with_fewer_than_asked": {
            name: short[name] + (n_active - n_with_windows[name]) * (asked[name] > 0) for name in asked
        },
    }

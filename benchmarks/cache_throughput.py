"""Tokens per second of the cache stage's reading half, beside the bare model and dictionary.

    python benchmarks/cache_throughput.py [--run pipelines/demo.toml] [--tokens 60_000]

The floor is a loop of forward passes to the hook point and encodings of the same batches, nothing kept.
Floor, stage and floor again are timed in one process, so that a slow minute of the machine shows in both;
the stage's time counts everything until its shards are on disk (the aim: at least 90% of the floor).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.stages.reading import Reader, read_together
from autointerp.subject.corpus import CorpusCounts
from autointerp.subject.tokenise import PackingCounts


def floor_seconds(reader: Reader, n_contexts: int) -> float:
    """Seconds of bare forward passes and encodings of `n_contexts` contexts."""
    contexts = reader.contexts(CorpusCounts(), PackingCounts())
    tokens = np.stack([next(contexts).tokens for _ in range(n_contexts)]).astype(np.int64)
    per_batch = reader.config.cache.contexts_per_batch
    hook = reader.dictionary.hook_point
    begun = time.perf_counter()
    with torch.inference_mode():
        for begin in range(0, n_contexts, per_batch):
            batch = torch.from_numpy(tokens[begin : begin + per_batch]).to(reader.subject.device)
            acts = reader.subject.activations(batch, [hook])[hook]
            # The first position is left out by the stage as well.
            reader.dictionary.encode(acts[:, 1:].flatten(0, 1))
    return time.perf_counter() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", default="pipelines/demo.toml")
    parser.add_argument("--tokens", type=int, default=60_000)
    arguments = parser.parse_args()
    # Shards small enough that writing beside reading is part of what is measured.
    options = [f"cache.n_tokens={arguments.tokens}", "cache.contexts_per_shard=64"]
    config = load_config(Path(arguments.run), options)
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader.open(config, RunDirectory(Path(folder) / "run"))
        n_contexts = reader.n_wanted()
        floor_seconds(reader, config.cache.contexts_per_batch)
        before = floor_seconds(reader, n_contexts)
        begun = time.perf_counter()
        read_together([reader])
        stage = time.perf_counter() - begun
        after = floor_seconds(reader, n_contexts)
    n = n_contexts * reader.tokenisation.context_size
    floor = (before + after) / 2
    print(f"{n:,} tokens, batches of {config.cache.contexts_per_batch} contexts")
    print(
        f"  bare forward and encode {n / floor:10,.0f} tokens/s ({before:.1f} s before, {after:.1f} s after)"
    )
    print(f"  cache stage             {n / stage:10,.0f} tokens/s, {floor / stage:.0%} (aim: at least 90%)")


if __name__ == "__main__":
    main()

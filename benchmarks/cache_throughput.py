"""Tokens per second of the cache stage's reading half, beside the bare model and dictionary.

    python benchmarks/cache_throughput.py [--run pipelines/demo.toml ...] [--tokens 60_000]

The floor is a loop of forward passes to the hook point and encodings of the same positions of the same
batches, nothing kept. Floor, stage and floor again are timed in one process, with the same model, threads
and arithmetic, so that a slow minute of the machine shows in both; the stage's time counts everything from
text to shards on disk (the aim: at least 90% of the floor). With several runs of one subject (dictionaries
at several hook points) one pass for all of them is set beside a pass for each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.stages.reading import Reader, read_together
from autointerp.subject.corpus import CorpusCounts
from autointerp.subject.tokenise import PackingCounts


def now() -> NDArray[np.float64]:
    """Wall and processor seconds, [2]."""
    return np.array([time.perf_counter(), time.process_time()])


def floor_seconds(readers: Sequence[Reader], n_contexts: int) -> NDArray[np.float64]:
    """Wall and processor seconds [2] of bare forward passes over `n_contexts` contexts, and of encodings by each dictionary."""
    lead = readers[0]
    contexts = lead.contexts(CorpusCounts(), PackingCounts())
    tokens = np.stack([next(contexts).tokens for _ in range(n_contexts)])
    per_batch, device = lead.config.cache.contexts_per_batch, lead.subject.device
    hooks = list(dict.fromkeys(reader.dictionary.hook_point for reader in readers))
    batches = []
    for begin in range(0, n_contexts, per_batch):
        chosen = tokens[begin : begin + per_batch]
        at = np.flatnonzero(~lead.is_masked(chosen))
        batches.append(
            (torch.from_numpy(chosen.astype(np.int64)).to(device), torch.from_numpy(at).to(device))
        )
    begun = now()
    with torch.inference_mode():
        for ids, at in batches:
            found = lead.subject.activations(ids, hooks)
            acts = {hook: x.flatten(0, 1).index_select(0, at) for hook, x in found.items()}
            for reader in readers:
                reader.dictionary.encode(acts[reader.dictionary.hook_point])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - begun


def stage_seconds(readers: Sequence[Reader]) -> NDArray[np.float64]:
    """Wall and processor seconds [2] of the stage's reading half, everything on disk."""
    begun = now()
    read_together(readers)
    return now() - begun


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs="+", default=["pipelines/demo.toml"])
    parser.add_argument("--tokens", type=int, default=60_000)
    parser.add_argument("--set", action="append", default=[], help="a further setting of every run")
    arguments = parser.parse_args()
    # Shards small enough that writing beside reading is part of what is measured.
    options = [f"cache.n_tokens={arguments.tokens}", "cache.contexts_per_shard=64", *arguments.set]
    configs = [load_config(Path(run), options) for run in arguments.run]
    subject = None

    def opened(folder: str) -> list[Reader]:
        nonlocal subject
        readers = []
        for index, config in enumerate(configs):
            readers.append(Reader.open(config, RunDirectory(Path(folder) / str(index)), subject))
            subject = readers[0].subject
        return readers

    with tempfile.TemporaryDirectory() as folder:
        readers = opened(f"{folder}/together")
        n_contexts = readers[0].n_wanted()
        floor_seconds(readers, configs[0].cache.contexts_per_batch)
        before = floor_seconds(readers, n_contexts)
        stage = stage_seconds(readers)
        after = floor_seconds(readers, n_contexts)
        alone = []
        if len(readers) > 1:
            alone = [stage_seconds([reader]) for reader in opened(f"{folder}/alone")]
    n = n_contexts * readers[0].tokenisation.context_size
    floor = (before + after) / 2
    print(
        f"{n:,} tokens, batches of {configs[0].cache.contexts_per_batch} contexts, {len(readers)} dictionaries, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"  {'':<26}{'wall':>8}{'processor':>11}")
    rows = {"bare forward and encode": floor, "  before": before, "  after": after, "cache stage": stage}
    for name, seconds in {
        **rows,
        **{f"  alone: {c.name}": s for c, s in zip(configs, alone, strict=False)},
    }.items():
        print(f"  {name:<26}{seconds[0]:>7.1f}s{seconds[1]:>10.1f}s{n / seconds[0]:>9,.0f} tokens/s")
    wall, processor = floor / stage
    print(f"  of the floor: {wall:.0%} by wall clock, {processor:.0%} by processor time (aim: at least 90%)")
    if alone:
        wall, processor = sum(alone) / stage
        print(
            f"  one pass for all is {wall:.2f} times as fast as one each, {processor:.2f} by processor time"
        )


if __name__ == "__main__":
    main()

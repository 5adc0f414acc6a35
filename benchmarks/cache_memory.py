"""Peak memory of the cache stage against the number of tokens: it must not grow with them.

    python benchmarks/cache_memory.py [--few 20_000] [--many 200_000] [--run pipelines/demo.toml]
        [--set 'cache.reservoir={n_random=32, n_top=16}'] [--set cache.rows_per_shard=200_000]
    python benchmarks/cache_memory.py --tiny --few 60_000 --many 600_000

Caches the same recipe twice, each in a process of its own, and prints both peaks of resident memory and
their ratio (the aim: ten times the tokens, at most 1.1 times the memory). Memory is set by `contexts_per_shard`
and `rows_per_shard`: with few tokens make them small, so that the smaller run fills them too. `--tiny` takes a model of
two layers instead, with 4,096 random directions of which 32 are active at each position: as many activations as a real
dictionary has, from a model whose loading hides nothing. The peak of a run of 2,000 tokens, which is that of the
libraries and the model, is printed beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEAST = 2_000
"""Tokens of the run that shows what is there without them."""
TINY = (
    "dictionary={source='random', hook_point='blocks.1.hook_resid_post', n_latents=4096, top_k=32}",
    "cache.context_size=128",
    "cache.contexts_per_shard=128",
    "cache.contexts_per_batch=32",
    "cache.rows_per_shard=500_000",
    "cache.n_neighbours=0",
)


def peak_megabytes(run: str, n_tokens: int, settings: Sequence[str]) -> float:
    """Peak resident memory of `autointerp cache` over `n_tokens`, in MB."""
    code = (
        "import resource, sys; from autointerp.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    with tempfile.TemporaryDirectory() as folder:
        options = ["--run-dir", f"{folder}/run"]
        for setting in (f"cache.n_tokens={n_tokens}", *settings):
            options += ["--set", setting]
        done = subprocess.run(
            [sys.executable, "-c", code, "cache", run, *options],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    unit = 1024 if sys.platform != "darwin" else 1
    return int(done.stdout.split()[-1]) * unit / 1e6


def tiny(folder: Path, n_tokens: int) -> str:
    """A recipe with a model of two layers and text enough for `n_tokens`."""
    sys.path.insert(0, str(ROOT))
    from tests.planted import build

    run, corpus, rng = build(folder), folder / "corpus.jsonl", random.Random(0)
    texts = [json.loads(line)["text"].split() for line in corpus.read_text().splitlines()]
    with corpus.open("w") as file:
        for index in range(n_tokens // 190 + 10):
            words = texts[index % len(texts)]
            file.write(json.dumps({"text": " ".join(rng.sample(words, len(words)))}) + "\n")
    os.environ["PLANTED_MODEL"] = str(folder / "model")
    return str(run)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--run", default="pipelines/demo.toml")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--set", action="append", default=[], help="a further setting of the run")
    arguments = parser.parse_args()
    run, settings = arguments.run, arguments.set
    with tempfile.TemporaryDirectory() as folder:
        if arguments.tiny:
            run, settings = tiny(Path(folder), arguments.many), [*TINY, *settings]
        least, few, many = (peak_megabytes(run, n, settings) for n in (LEAST, arguments.few, arguments.many))
    print(f"{LEAST:>10,} tokens: {least:8,.0f} MB, hardly more than libraries and model")
    print(f"{arguments.few:>10,} tokens: {few:8,.0f} MB")
    print(
        f"{arguments.many:>10,} tokens: {many:8,.0f} MB, {many / few:.2f} times as much (aim: at most 1.10)"
    )


if __name__ == "__main__":
    main()

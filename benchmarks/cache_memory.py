"""Peak memory of the cache stage against the number of tokens: it must not grow with them.

    python benchmarks/cache_memory.py [--few 20_000] [--many 200_000] [--run pipelines/demo.toml]
        [--set 'cache.reservoir={n_random=32, n_top=16}'] [--set cache.rows_per_shard=200_000]

Caches the same recipe twice, each in a process of its own, and prints both peaks of resident memory and
their ratio (the aim: ten times the tokens, at most 1.1 times the memory). Memory is set by `contexts_per_shard`
and `rows_per_shard`: with few tokens make them small, so that the smaller run fills them too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=20_000)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--run", default="pipelines/demo.toml")
    parser.add_argument("--set", action="append", default=[], help="a further setting of the run")
    arguments = parser.parse_args()
    few, many = (peak_megabytes(arguments.run, n, arguments.set) for n in (arguments.few, arguments.many))
    print(f"{arguments.few:>10,} tokens: {few:8,.0f} MB")
    print(
        f"{arguments.many:>10,} tokens: {many:8,.0f} MB, {many / few:.2f} times as much (aim: at most 1.10)"
    )


if __name__ == "__main__":
    main()

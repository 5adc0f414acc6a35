"""Ten latents out of a million: seconds from a new process to their rows of every dataset.

    python benchmarks/read_latents.py [--latents 20_000] [--folder FOLDER] [--repeat 5]
    python benchmarks/read_latents.py --latents 1_000_000 --contexts 50_000 --folder FOLDER

FOLDER may hold the run that `sample_scale.py` left there; what it lacks is made: activations, windows, and
explanations and scores of every latent in shards of the default size (so a million latents are 3,907 and
15,625 files). Each measurement is a new process that opens the run and reads ten latents, drawn at random, of
`latents`, `activations`, `examples`, `explanations` and `scores`. Its imports are given apart. The floor is
reading the row groups those rows lie in, through PyArrow, with paths and numbers known beforehand. The aim:
under 0.2 s. The operating system may still hold the files in memory; `--cold` asks it to let go of their pages
first (not of its folder entries, which it keeps). Seconds are given on the clock and of a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.config import load_config
from autointerp.stages.sample import sample
from benchmarks.sample_scale import EXAMPLES
from benchmarks.synthetic_run import Size, configuration, write_run

READ = ("latents", "activations", "examples", "explanations", "scores")
_OPEN = """
import json, sys, time
begun = time.perf_counter()
from autointerp.run import open_run
import pyarrow.parquet
imported, cpu = time.perf_counter(), time.process_time()
latents = json.loads(sys.argv[2])
run = open_run(sys.argv[1])
spent, rows = {}, {}
for name in json.loads(sys.argv[3]):
    at = time.process_time()
    rows[name] = run.table(name, latents=latents).num_rows
    spent[name] = time.process_time() - at
reading, processor = time.perf_counter() - imported, time.process_time() - cpu
print(json.dumps({"imports": imported - begun, "reading": reading, "processor": processor, "each": spent, "rows": rows}))
"""
_FLOOR = """
import json, sys, time
import pyarrow.parquet as pq
places = json.loads(sys.argv[1])
begun, cpu = time.perf_counter(), time.process_time()
for path, groups in places:
    pq.ParquetFile(path, memory_map=True).read_row_groups(groups)
print(json.dumps({"reading": time.perf_counter() - begun, "processor": time.process_time() - cpu}))
"""


def write_labels(run: RunDirectory, per_explanations: int, per_scores: int) -> None:
    """One explanation and one score of every latent."""
    n = run.dataset("latents").n_rows
    for index, first in enumerate(range(0, n, per_explanations)):
        latents = np.arange(first, min(first + per_explanations, n))
        own = {"explanation": "default/0", "explainer": "default", "status": "ok", "details": "{}"}
        text = pa.array([f"words that have to do with matter {i}" for i in latents.tolist()])
        table = _filled("explanations", latents, own).set_column(5, "text", text)
        write_shard(run.shard("explanations", "default", index=index), table, DATASETS["explanations"])
    for index, first in enumerate(range(0, n, per_scores)):
        latents = np.arange(first, min(first + per_scores, n))
        own = {"explanation": "default/0", "explainer": "default", "scorer": "detection", "status": "ok"}
        own |= {"metric": "balanced_accuracy", "details": "{}", "value": 0.75, "n_examples": 100}
        table = _filled("scores", latents, own)
        write_shard(run.shard("scores", "detection", "default", index=index), table, DATASETS["scores"])


def _filled(dataset: str, latents: np.ndarray, own: dict[str, Any]) -> pa.Table:
    """Rows with some columns of one value each; the others are null, or 0 where null is not allowed."""
    columns = []
    for field in DATASETS[dataset].schema:
        if field.name == "latent":
            columns.append(pa.array(latents, field.type))
        elif field.name in own or not field.nullable:
            columns.append(pa.repeat(pa.scalar(own.get(field.name, 0), field.type), len(latents)))
        else:
            columns.append(pa.nulls(len(latents), field.type))
    return pa.table(columns, schema=DATASETS[dataset].schema)


def make(root: Path, size: Size) -> RunDirectory:
    """The run directory, with all that is read."""
    run = RunDirectory(root)
    if not (root / "latents").is_dir():
        write_run(root, size, configuration(EXAMPLES))
    config = load_config(root / "run.toml")
    if len(run.dataset("examples").shards) < len(run.dataset("activations").shards):
        sample(config, run)
    if not (root / "scores").is_dir():
        write_labels(run, config.explain.latents_per_shard, config.score.latents_per_shard)
    return run


def limits_of(run: RunDirectory) -> list[tuple[str, np.ndarray]]:
    """Every shard and the smallest and largest latent of its row groups, [n_groups, 2], over all datasets read."""
    import pyarrow.parquet as pq

    found = []
    for path in (path for name in READ for path in run.dataset(name).shards):
        footer = pq.read_metadata(path)
        told = [footer.row_group(i).column(0).statistics for i in range(footer.num_row_groups)]
        found.append((str(path), np.array([(one.min, one.max) for one in told])))
    return found


def places_of(limits: list[tuple[str, np.ndarray]], latents: list[int]) -> list[tuple[str, list[int]]]:
    """Shards and row groups that hold the latents."""
    places = []
    for path, each in limits:
        held = ((each[:, :1] <= latents) & (each[:, 1:] >= latents)).any(axis=1)
        if held.any():
            places.append((path, np.flatnonzero(held).tolist()))
    return places


def forget(paths: list[str]) -> None:
    """Ask the operating system to drop what it holds of some files."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def process(code: str, *arguments: str) -> dict[str, Any]:
    """What a new Python process prints last, as JSON."""
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(run: RunDirectory, n_read: int, repeat: int, cold: bool) -> None:
    """Measure and print."""
    n = run.dataset("latents").n_rows
    shards = {name: run.dataset(name).shards for name in READ}
    limits = limits_of(run)
    ours, floors = [], []
    for seed in range(repeat):
        latents = np.sort(np.random.default_rng(seed).choice(n, n_read, replace=False)).tolist()
        places = places_of(limits, latents)
        for code, arguments, results in (
            (_OPEN, (str(run.root), json.dumps(latents), json.dumps(READ)), ours),
            (_FLOOR, (json.dumps(places),), floors),
        ):
            if cold:
                forget([path for path, _ in limits])
            results.append(process(code, *arguments))
    files = ", ".join(f"{len(paths):,} of {name}" for name, paths in shards.items())
    print(f"{n_read} of {n:,} latents, from files: {files}; median of {repeat} processes")
    print(f"  opened and read: {_both(ours)} (aim: under 0.2), {ours[0]['rows']}")
    each = {name: statistics.median(one["each"][name] for one in ours) for name in READ}
    print(
        f"    of a processor, of these: {', '.join(f'{name} {seconds:.3f}' for name, seconds in each.items())}"
    )
    print(f"  imports before that: {_median(ours, 'imports'):.2f} s")
    print(f"  floor, the same row groups by path and number: {_both(floors)}")


def _both(results: list[dict[str, Any]]) -> str:
    """Median seconds on the clock and of a processor."""
    return f"{_median(results, 'reading'):.3f} s ({_median(results, 'processor'):.3f} of a processor)"


def _median(results: list[dict[str, Any]], name: str) -> float:
    return statistics.median(result[name] for result in results)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=20_000)
    parser.add_argument("--contexts", type=int, default=16_384)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--read", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    arguments = parser.parse_args()
    kept = arguments.folder
    with nullcontext(kept) if kept else tempfile.TemporaryDirectory() as folder:
        run = make(Path(folder) / "run", Size(latents=arguments.latents, contexts=arguments.contexts))
        measure(run, arguments.read, arguments.repeat, arguments.cold)


if __name__ == "__main__":
    main()

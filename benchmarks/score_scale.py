"""Judged requests per second of `score` at the scale of 100,000 latents, through the canned backend.

    python benchmarks/score_scale.py [--latents 100000] [--few 10000] [--windows 20] [--no-control]
        [--processes 1 2] [--store without with]

A synthetic run directory is written with this package's own writers: statistics, windows of 32 tokens (half of
the test windows active), explanations and their shuffled control. Then `score` runs the scorer `detection` with
its readout `json` (5 windows per request) and every request is answered at once by the canned backend, so that
all the time is ours: reading, drawing, prompts, hashes, replies, metrics, tables. It runs with and without a
reply store (without one, the store is a stand-in that keeps nothing), in one process and in two worker
processes (`engine.kind = "processes"`), each in processes of its own so that peak memory can be told;
`--processes` and `--store` choose among these four. Memory is flat where many latents peak as few do.

The floor is the least any pipeline must do: the same windows, already in memory, made into the same prompts,
each hashed and answered, in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.dataset import ShardWriter
from autointerp.config import load_config
from autointerp.engine.processes import ProcessWorkers
from autointerp.llm import store
from autointerp.llm.canned import open_canned
from autointerp.llm.options import CannedOptions
from autointerp.llm.types import Reply
from autointerp.scorers.base import Item, JudgeContext
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.readouts import readout_plan
from autointerp.stages import plugins, score
from autointerp.stages.plugins import Models
from autointerp.stages.selection import read_records, read_vocabulary
from autointerp.stages.step import Step

N_TOKENS = 49_152
WINDOW_TOKENS = 32
N_TRAIN = 10
LATENTS_PER_SHARD = 8_192
MOST_IN_MEMORY = 2_000
"""Latents of the floor."""
ANSWER = '{"1":0,"2":1,"3":0,"4":1,"5":0}'
NO_STORE = "SCORE_SCALE_NO_STORE"
STEP = "score/detection/statistics"
RUN = f"""
name = "scale"
[subject]
model = "none"
[dictionary]
source = "random"
hook_point = "blocks.0.hook_resid_post"
n_latents = 1
top_k = 1
[corpus]
dataset = "none"
[explain]
explainers = ["statistics"]
[score]
scorers = ["detection"]
[models.judge]
backend = "canned"
default_text = '{ANSWER}'
"""


class NoStore:
    """Stands for a reply store and keeps nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get_many(self, keys: Iterable[str]) -> dict[str, Reply]:
        return {}

    def put(self, *reply: Any) -> None:
        pass

    flush = close = put

    def record_use(self, *counts: Any, **more: Any) -> None:
        pass


def keep_no_replies() -> None:
    """Here and, by the environment, in worker processes, which import this file first."""
    os.environ[NO_STORE] = "1"
    store.ReplyStore = NoStore  # type: ignore[misc, assignment]
    plugins.Models = partial(Models, open_store=NoStore)  # type: ignore[misc, assignment]


if os.environ.get(NO_STORE):
    keep_no_replies()


def write_run(root: Path, n_latents: int, n_windows: int, control: bool) -> None:
    """The datasets `score` reads, as the stages before it would leave them."""
    run, rng = RunDirectory(root), np.random.default_rng(0)
    root.mkdir(parents=True)
    settings = f"[explain]\nshuffled_control = {str(control).lower()}\n"
    (root / "scale.toml").write_text(RUN.replace("[explain]\n", settings))
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(letters[rng.integers(len(letters), size=n)]) for n in rng.integers(1, 9, size=N_TOKENS)]
    texts = [f" {word}" if rng.random() < 0.7 else word for word in words]
    counts = np.ones(N_TOKENS, dtype=np.uint64)
    columns = {
        "token": np.arange(N_TOKENS), "text": texts, "bytes": [text.encode() for text in texts],
        "special": np.zeros(N_TOKENS, dtype=bool), "n_occurrences": counts, "n_occurrences_train": counts,
    }  # fmt: skip
    write_shard(run.shard("vocabulary", index=0), table("vocabulary", columns), DATASETS["vocabulary"])
    for index, start in enumerate(range(0, n_latents, LATENTS_PER_SHARD)):
        latents = np.arange(start, min(start + LATENTS_PER_SHARD, n_latents))
        write_shard(run.shard("latents", index=index), latents_table(latents, rng), DATASETS["latents"])
        with ShardWriter(run.shard("examples", index=index), DATASETS["examples"]) as writer:
            for block in np.array_split(latents, max(1, len(latents) // 512)):
                writer.write(examples_table(block, n_windows, rng))
    names = ["statistics", *(["statistics.shuffled"] if control else [])]
    for name in names:
        for index, start in enumerate(range(0, n_latents, 256)):
            some = np.arange(start, min(start + 256, n_latents))
            path = run.shard("explanations", name, index=index)
            write_shard(path, explanations_table(some, name, words), DATASETS["explanations"])


def table(name: str, columns: dict[str, Any]) -> pa.Table:
    schema = DATASETS[name].schema
    n = len(next(iter(columns.values())))
    return pa.table(
        [
            column if isinstance(column, pa.Array) else pa.array(column, field.type)
            for field in schema
            for column in [columns.get(field.name, pa.nulls(n, field.type))]
        ],
        schema=schema,
    )


def lists(values: np.ndarray | pa.Array, per_row: int, kind: pa.DataType) -> pa.Array:
    values = values if isinstance(values, pa.Array) else pa.array(values, kind.value_type)
    return pa.ListArray.from_arrays(
        pa.array(np.arange(0, len(values) + 1, per_row), pa.int32()), values, type=kind
    )


def latents_table(latents: np.ndarray, rng: np.random.Generator) -> pa.Table:
    n, kinds = len(latents), {field.name: field.type for field in DATASETS["latents"].schema}
    top = pa.array(
        [{"token": int(t), "n_active": 3, "total": 2.0, "max": 1.0} for t in rng.integers(N_TOKENS, size=20 * n)],
        kinds["top_tokens"].value_type,
    )  # fmt: skip
    logits = pa.array(
        [{"token": int(t), "logit": 1.0} for t in rng.integers(N_TOKENS, size=10 * n)],
        kinds["top_logits"].value_type,
    )
    columns = {
        "latent": latents, "n_active_tokens": np.full(n, 500), "n_active_contexts": np.full(n, 300),
        "density": np.full(n, 1e-3), "max_activation": np.ones(n), "mean_activation": np.ones(n),
        "quantiles": lists(np.tile(np.linspace(0, 1, 11), n), 11, kinds["quantiles"]),
        "top_tokens": lists(top, 20, kinds["top_tokens"]), "top_logits": lists(logits, 10, kinds["top_logits"]),
        "bottom_logits": lists(logits, 10, kinds["bottom_logits"]), "status": ["ok"] * n,
    }  # fmt: skip
    return table("latents", columns)


def examples_table(latents: np.ndarray, n_windows: int, rng: np.random.Generator) -> pa.Table:
    """10 train windows and `n_windows` test windows for each latent, every second one active."""
    kinds = {field.name: field.type for field in DATASETS["examples"].schema}
    per_latent = N_TRAIN + n_windows
    n = len(latents) * per_latent
    example = np.tile(np.arange(per_latent), len(latents))
    active = example % 2 == 0
    acts = np.zeros((n, WINDOW_TOKENS), dtype=np.float32)
    acts[np.arange(n), rng.integers(WINDOW_TOKENS, size=n)] = np.where(active, rng.uniform(1, 9, size=n), 0)
    columns = {
        "latent": np.repeat(latents, per_latent), "example": example,
        "split": np.where(example < N_TRAIN, "train", "test").tolist(),
        "kind": np.where(active, "activating", "random").tolist(),
        "decile": pa.array(example % 10 + 1, pa.uint8(), mask=~active),
        "context": rng.integers(100_000, size=n), "start": rng.integers(90, size=n),
        "tokens": lists(rng.integers(N_TOKENS, size=n * WINDOW_TOKENS), WINDOW_TOKENS, kinds["tokens"]),
        "activations": lists(acts.reshape(-1), WINDOW_TOKENS, kinds["activations"]),
        "max_activation": acts.max(axis=1),
    }  # fmt: skip
    return table("examples", columns)


def explanations_table(latents: np.ndarray, name: str, words: list[str]) -> pa.Table:
    n, shuffled = len(latents), name.endswith(".shuffled")
    about = [", ".join(words[(7 * int(i) + k) % N_TOKENS] for k in range(5)) for i in latents + shuffled]
    columns = {
        "latent": latents, "explanation": [f"{name}/0"] * n, "explainer": ["statistics"] * n,
        "control": pa.array(["shuffled" if shuffled else None] * n, pa.string()), "text": about,
        "status": ["ok"] * n, "details": ["{}"] * n,
    }  # fmt: skip
    return table("explanations", columns)


def measured_floor(root: Path) -> None:
    """Prompts of windows in memory, hashed and answered: requests per second."""
    run, scorer = RunDirectory(root), Detection(DetectionConfig())
    n_latents = min(MOST_IN_MEMORY, run.dataset("latents").n_rows)
    tokens, _ = read_vocabulary(run)
    context = JudgeContext(model=None, tokens=tokens, seed=0)
    records = read_records(run, range(n_latents), "test")
    text = (
        run.dataset("explanations", "statistics").read(["text"], range(n_latents)).column("text").to_pylist()
    )
    items = [Item(explanation="x", text=t, record=r) for t, r in zip(text, records, strict=True)]
    shown = [scorer.shown(item, context) for item in items]
    backend = open_canned(CannedOptions(default_text=ANSWER))
    begun, n = clocks(), 0
    for item, windows in zip(items, shown, strict=True):
        plan = readout_plan(scorer.config, "detection", item.text, windows, scorer.pool, tokens)
        for request in plan.requests:
            request.key(backend.identity)
        backend.complete(plan.requests, lambda index, reply: None)
        n += len(plan.requests)
    report(n, begun)


def measured(root: Path, n_workers: int, stored: bool) -> None:
    """The stage on the run directory: requests per second and peak memory."""
    settings = (
        [f"engine={{kind='processes', workers={n_workers}, threads_per_worker=1}}"] if n_workers > 1 else []
    )
    config = load_config(root / "scale.toml", settings)
    if not stored:
        keep_no_replies()
    models, run = plugins.Models(config), RunDirectory(root)
    step = the_step(score.steps(config, models))
    begun = clocks()
    if n_workers > 1:
        workers = ProcessWorkers(config, root)
        result = workers.carry_out(step)
        workers.close()
    else:
        result = step.work(run)
    models.close()
    n_latents = run.dataset("latents").n_rows
    per_explanation = -(-result.n_rows[f"judgements/{STEP[6:]}"] // result.n_rows[f"scores/{STEP[6:]}"] // 5)
    assert result.counts["status"] == {"ok": result.n_rows[f"scores/{STEP[6:]}"]}, result.counts
    report(result.n_rows[f"scores/{STEP[6:]}"] * per_explanation, begun, n_latents, root)


def the_step(steps: list[Step]) -> Step:
    (step,) = [step for step in steps if step.name == STEP]
    return step


def clocks() -> tuple[float, float]:
    """Seconds on the clock, and of processor by this process and the workers that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return time.perf_counter(), sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(n_requests: int, begun: tuple[float, float], n_latents: int = 0, root: Path | None = None) -> None:
    seconds, processor = (now - then for now, then in zip(clocks(), begun, strict=True))
    own, workers = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    written = [p for d in ("judgements", "scores") for p in (root / d).rglob("*.parquet")] if root else []
    print(
        json.dumps(
            {
                "requests": n_requests, "latents": n_latents, "seconds": seconds, "rate": n_requests / seconds,
                "processor_seconds": processor, "peak_mb": max(own, workers), "files": len(written),
                "bytes": sum(p.stat().st_size for p in written),
            }
        )
    )  # fmt: skip


def in_own_process(root: Path, *arguments: object) -> dict[str, float]:
    """One measurement in a fresh process, on a run directory without results."""
    for name in ("judgements", "scores"):
        shutil.rmtree(root / name, ignore_errors=True)
    for path in root.glob("replies.sqlite*"):
        path.unlink()
    command = [sys.executable, __file__, "--measure", str(root), *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--few", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--no-control", action="store_true")
    parser.add_argument("--processes", type=int, nargs="+", choices=(1, 2), default=(1, 2))
    parser.add_argument("--store", nargs="+", choices=("without", "with"), default=("without", "with"))
    parser.add_argument(
        "--measure", nargs=3, metavar=("RUN_DIR", "WORKERS", "STORED"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.measure:
        root, n_workers, stored = Path(arguments.measure[0]), *map(int, arguments.measure[1:])
        if n_workers == 0:
            measured_floor(root)
        else:
            measured(root, n_workers, bool(stored))
        return
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder) / "few", Path(folder) / "many"
        begun = time.perf_counter()
        write_run(few, arguments.few, arguments.windows, not arguments.no_control)
        write_run(many, arguments.latents, arguments.windows, not arguments.no_control)
        print(f"written       {arguments.latents:,} latents in {time.perf_counter() - begun:.0f} s")
        floor = in_own_process(few, 0, 0)
        print(
            f"floor         {floor['rate']:8,.0f} prompts/s built, hashed and answered, one process; "
            f"{floor['requests'] / floor['processor_seconds']:,.0f} per second of processor"
        )
        for n_workers in arguments.processes:
            for store_kept in arguments.store:
                stored = int(store_kept == "with")
                small, large = (in_own_process(root, n_workers, stored) for root in (few, many))
                print(
                    f"{n_workers} process{'es' if n_workers > 1 else '  '}   {large['rate']:8,.0f} requests/s "
                    f"{store_kept:7} reply store; {large['seconds']:.0f} s, {large['processor_seconds']:.0f} s of "
                    f"processor, {large['requests'] / large['processor_seconds']:,.0f} requests per second of it; peak {large['peak_mb']:.0f} MB "
                    f"({large['peak_mb'] / small['peak_mb']:.2f}x that of {small['latents']:,.0f} latents); "
                    f"{large['files']} files of {large['bytes'] / large['files'] / 1e3:.0f} kB"
                )
        floor = in_own_process(few, 0, 0)
        print(
            f"floor again   {floor['rate']:8,.0f} prompts/s, "
            f"{floor['requests'] / floor['processor_seconds']:,.0f} per second of processor"
        )


if __name__ == "__main__":
    main()

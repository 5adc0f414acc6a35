"""Shards of slow plug-ins are computed in parts that outlive a kill; latents are read block after block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.by_latent import LatentReader
from autointerp.artifacts.dataset import ShardWriter
from autointerp.artifacts.schemas import table_of
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.explainer import GradientExplainer
from autointerp.stages.selection import read_records
from autointerp.stages.shards import (
    LATENTS_AT_ONCE,
    Tables,
    latents_at_once,
    remove_parts,
    write_parts,
)

ROOT = Path(__file__).parents[2]


def explanations(latents: Sequence[int]) -> Tables:
    rows = [
        {"latent": i, "explanation": "slow/0", "explainer": "slow", "text": f"about {i}" if i % 3 else None,
         "status": "ok" if i % 3 else "failed", "details": "{}"}
        for i in latents
    ]  # fmt: skip
    return {"explanations": table_of("explanations", rows)}


SLOW = """
import sys, time
from pathlib import Path
from autointerp.stages.shards import write_parts
from tests.stages.test_shards import explanations

def compute(latents):
    for latent in latents:
        print(latent, flush=True)
        time.sleep(float(sys.argv[2]))
    return explanations(latents)

write_parts({"explanations": Path(sys.argv[1])}, range(20), 4, compute)
"""


def slow(path: Path, seconds: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SLOW, str(path), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_a_kill_loses_the_part_under_way_and_no_more(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    path = run.shard("explanations", "slow", index=0)
    process = slow(path, 0.05)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 10:
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    assert run.dataset("explanations", "slow").shards == []
    assert len(list(path.parent.glob(".part-*"))) >= 2
    again = slow(path, 0.0)
    done = [int(line) for line in (again.stdout or ())]
    assert again.wait() == 0
    assert done == list(range(8, 20))
    whole = run.shard("explanations", "at-once", index=0)
    write_shard(whole, explanations(range(20))["explanations"], DATASETS["explanations"])
    assert path.read_bytes() == whole.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_two_datasets_are_kept_together(tmp_path: Path) -> None:
    """The last of them marks a part as whole; a part that is damaged or half there is computed anew."""
    run = RunDirectory(tmp_path)
    paths = {name: run.shard(name, "s", "e", index=0) for name in ("judgements", "scores")}
    computed: list[list[int]] = []

    def compute(latents: Sequence[int]) -> Tables:
        computed.append(list(latents))
        if len(computed) == 4:
            raise KeyboardInterrupt
        common = {"explanation": "e/0", "scorer": "s"}
        judged = [{"latent": i, **common, "example": 0, "kind": "random", "status": "ok"} for i in latents]
        scored = [
            {"latent": i, **common, "explainer": "e", "metric": "auroc", "status": "ok", "n_examples": 1,
             "n_unparsed": 0, "n_error": 0, "details": "{}"} for i in latents
        ]  # fmt: skip
        return {"judgements": table_of("judgements", judged), "scores": table_of("scores", scored)}

    with pytest.raises(KeyboardInterrupt):
        write_parts(paths, range(10), 2, compute)
    first, second, _ = sorted(paths["scores"].parent.glob(".part-*"))
    first.write_bytes(b"damaged")
    second.unlink()
    told: list[tuple[int, bool]] = []
    write_parts(paths, range(10), 2, compute, lambda n, found: told.append((n, found)))
    assert told == [(2, False), (2, False), (2, True), (2, False), (2, False)]
    assert computed[4:] == [[0, 1], [2, 3], [6, 7], [8, 9]]
    for name, path in paths.items():
        table = run.dataset(name, "s", "e").read()
        assert table.column("latent").to_pylist() == list(range(10))
        assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_a_kill_left_is_removed_by_the_process_that_finishes(tmp_path: Path) -> None:
    folder = tmp_path / "explanations" / "slow"
    folder.mkdir(parents=True)
    (folder / ".part-00003.from-00008.parquet").touch()
    remove_parts(RunDirectory(tmp_path, (0, 2)), "explanations/slow")
    assert len(list(folder.iterdir())) == 1
    remove_parts(RunDirectory(tmp_path), "explanations/slow")
    assert list(folder.iterdir()) == []


def test_who_is_handed_few_latents_at_a_time() -> None:
    assert latents_at_once(object(), needs_subject=False) is None
    assert latents_at_once(object(), needs_subject=True) == LATENTS_AT_ONCE
    gradient = GradientExplainer(GradientConfig(model="m", latents_at_once=3))
    assert latents_at_once(gradient, needs_subject=False) == 3


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=40),
    cuts=st.lists(st.integers(1, 39), max_size=3),
    asked=st.lists(st.lists(st.integers(0, 45), min_size=1, max_size=8), min_size=1, max_size=6),
)
@settings(max_examples=40, deadline=None)
def test_a_reader_finds_the_rows_a_dataset_holds(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cuts: list[int], asked: list[list[int]]
) -> None:
    """`sizes[i]` rows of latent i, in shards cut at `cuts`, each of several row groups."""
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    rows = [row(latent, n) for latent, size in enumerate(sizes) for n in range(size)]
    bounds = sorted({0, *cuts, 10**6})
    for index, (first, last) in enumerate(pairwise(bounds)):
        own = [r for r in rows if first <= r["latent"] < last]
        with ShardWriter(run.shard("examples", index=index), DATASETS["examples"]) as writer:
            for start in range(0, len(own) or 1, 7):
                writer.write(table_of("examples", own[start : start + 7]))
    reader = LatentReader(run.dataset("examples"))
    some = LatentReader(run.dataset("examples"), ["latent", "example"])
    for latents in asked:
        wanted = [r for r in rows if r["latent"] in latents]
        table = reader.read(latents)
        assert table.to_pylist() == table_of("examples", wanted).to_pylist()
        assert table.equals(run.dataset("examples").read(latents=latents))
        assert some.read(latents).to_pylist() == [
            {"latent": r["latent"], "example": r["example"]} for r in wanted
        ]


def row(latent: int, example: int) -> dict[str, object]:
    return {
        "latent": latent, "example": example, "split": "test" if example % 2 else "train",
        "kind": "random" if example else "neighbour", "source_latent": None if example else 7,
        "decile": example or None, "context": 3, "start": example, "tokens": [latent, example][: 1 + example],
        "activations": [0.0, 0.5][: 1 + example], "max_activation": 0.5,
    }  # fmt: skip


def test_records_hold_windows_as_they_were_written(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    rows = [row(latent, n) for latent in (2, 5) for n in range(4)]
    write_shard(run.shard("examples", index=0), table_of("examples", rows), DATASETS["examples"])
    statistics = [
        {"latent": i, "n_active_tokens": 1, "n_active_contexts": 1, "density": 0.1, "top_tokens": [],
         "status": "ok"} for i in range(6)
    ]  # fmt: skip
    write_shard(run.shard("latents", index=0), table_of("latents", statistics), DATASETS["latents"])
    five, two = read_records(run, [5, 2], "test")
    assert (five.latent, two.latent) == (5, 2)
    assert [w.example for w in five.windows] == [1, 3]
    window = two.windows[0]
    assert (window.kind, window.decile, window.start, window.source_latent) == ("random", 1, 1, None)
    np.testing.assert_array_equal(window.tokens, np.array([2, 1], dtype=np.int64))
    np.testing.assert_array_equal(window.activations, np.array([0.0, 0.5], dtype=np.float32))
    assert window.tokens.dtype == np.int64
    assert window.activations.dtype == np.float32
    (bare,) = read_records(run, [0], None)
    assert bare.windows == ()

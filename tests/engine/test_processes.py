"""Worker processes leave the files that one process would, also when they die in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.engine.pipeline import run_stages
from autointerp.errors import UserError
from tests.oracle import Oracle
from tests.planted import build

STAGES = ["cache", "sample", "explain", "score"]
TABLES = (
    "contexts",
    "activations",
    "latents",
    "vocabulary",
    "examples",
    "explanations",
    "judgements",
    "scores",
)
PROCESSES = "engine={kind='processes', workers=2, threads_per_worker=1}"


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted") / "files", n_documents=60)


@pytest.fixture(autouse=True)
def _model(monkeypatch, run_file):
    monkeypatch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture(scope="module")
def oracle():
    with Oracle() as server:
        yield server


def config_of(run_file, oracle, *more):
    judge = f'{{backend="openai", model="oracle", base_url="{oracle.url}", max_concurrency=2}}'
    return load_config(run_file, [f"models.judge={judge}", 'scorers.detection={readout="json"}', *more])


@pytest.fixture(scope="module")
def alone(run_file, oracle, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
        run = RunDirectory(tmp_path_factory.mktemp("alone"))
        run_stages(config_of(run_file, oracle), run, STAGES)
    return run


def assert_same(one: RunDirectory, other: RunDirectory) -> None:
    for name in TABLES:
        mine, theirs = (
            {str(p.relative_to(r.folder(name))): p.read_bytes() for p in r.dataset(name).shards}
            for r in (one, other)
        )
        assert mine.keys() == theirs.keys(), name
        for path, content in mine.items():
            if name in ("explanations", "scores"):
                continue  # they hold seconds
            assert content == theirs[path], f"{name}/{path}"
    for name in ("explanations", "scores"):
        kept = [c for c in one.dataset(name).spec.schema.names if c not in ("seconds", "details")]
        assert one.dataset(name).read(columns=kept).equals(other.dataset(name).read(columns=kept)), name


def test_the_files_are_those_of_one_process(run_file, oracle, alone, tmp_path):
    run = RunDirectory(tmp_path)
    manifests = run_stages(config_of(run_file, oracle, PROCESSES), run, STAGES)
    assert all(m.status == "complete" for m in manifests)
    assert_same(alone, run)


def test_workers_that_die_are_replaced(run_file, oracle, alone, tmp_path):
    run = RunDirectory(tmp_path)
    config = config_of(run_file, oracle, PROCESSES)
    killed: list[int] = []
    over = threading.Event()

    def kill_children() -> None:
        while not over.is_set() and len(killed) < 2:
            time.sleep(0.5)
            for child in children():
                if run.folder("contexts").exists():
                    os.kill(child, signal.SIGKILL)
                    killed.append(child)
                    break

    thread = threading.Thread(target=kill_children)
    thread.start()
    try:
        run_stages(config, run, STAGES)
    finally:
        over.set()
        thread.join()
    assert killed, "nothing was killed"
    assert_same(alone, run)


def children() -> list[int]:
    """Worker processes of this one (the resource tracker aside)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and "spawn_main" in command:
                found.append(int(entry.name))
    return found


def test_a_budget_needs_one_process(run_file, oracle, tmp_path):
    with pytest.raises(UserError, match=r"--max-cost: seen with engine\.kind 'processes'"):
        run_stages(config_of(run_file, oracle, PROCESSES), RunDirectory(tmp_path), STAGES, max_cost_usd=1.0)


def test_ray_missing_is_one_line(run_file, oracle, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"engine\.kind: 'ray' needs the package ray"):
        run_stages(config_of(run_file, oracle, "engine={kind='ray'}"), RunDirectory(tmp_path), STAGES)

"""Worker processes leave the files that one process would, also when they die in the middle."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.engine.pipeline import run_stages
from autointerp.engine.processes import devices_of, visible
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


def test_each_worker_sees_a_gpu_of_its_own(run_file, oracle, alone, tmp_path, monkeypatch):
    """There is no GPU here: what each process would see of them is told, and the work is done on the CPU."""
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("NOTES_FOLDER", str(notes))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b,GPU-c")
    devices = "engine={kind='processes', workers=2, threads_per_worker=1, devices=['cuda:0', 'cuda:2']}"
    run = RunDirectory(tmp_path / "run")
    run_stages(
        config_of(run_file, oracle, devices, "dictionary.path='tests.engine.slow:dictionary'"), run, ["cache"]
    )
    seen = [json.loads(note.read_text())["device"] for note in notes.iterdir()]
    assert sorted(seen) == ["GPU-a", "GPU-c"]
    for name in ("contexts", "activations", "latents"):
        assert run.dataset(name).read().equals(alone.dataset(name).read()), name


def test_a_random_dictionary_is_standardised_once_for_all_workers(run_file, oracle, tmp_path):
    random = (
        "dictionary={source='random', hook_point='blocks.1.hook_resid_post', n_latents=24, top_k=3}",
        "cache.n_tokens=4096",
    )
    runs = [RunDirectory(tmp_path / name) for name in ("alone", "shared")]
    for run, engine in zip(runs, ("engine.kind='local'", PROCESSES), strict=True):
        run_stages(config_of(run_file, oracle, *random, engine), run, ["cache"])
    for name in ("contexts", "activations", "latents"):
        assert runs[0].dataset(name).read().equals(runs[1].dataset(name).read()), name


@pytest.mark.parametrize(
    ("devices", "seen", "expected"),
    [
        ("cuda:1", None, "1"),
        ("cuda:0, cuda:3", None, "0,3"),
        ("cuda:1", "4,7", "7"),
        ("cuda:0,cuda:1", "GPU-x,GPU-y", "GPU-x,GPU-y"),
    ],
)
def test_gpus_are_counted_among_those_this_process_sees(devices, seen, expected):
    assert visible(devices, seen) == expected


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"engine\.devices: seen 'cuda:2'.*shows 2; accepted: cuda:0, cuda:1"):
        visible("cuda:2", "4,7")


def test_all_gpus_are_used_in_turn_unless_the_subject_is_told_where_to_run(run_file, oracle, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert devices_of(config_of(run_file, oracle, "subject.device='auto'")) == ["0", "1", "2"]
    assert devices_of(config_of(run_file, oracle, "subject.device='cpu'")) == []
    assert devices_of(config_of(run_file, oracle, "subject.device='cuda:1'")) == []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert devices_of(config_of(run_file, oracle, "subject.device='auto'")) == []


def test_a_budget_needs_one_process(run_file, oracle, tmp_path):
    with pytest.raises(UserError, match=r"--max-cost: seen with engine\.kind 'processes'"):
        run_stages(config_of(run_file, oracle, PROCESSES), RunDirectory(tmp_path), STAGES, max_cost_usd=1.0)


def test_ray_missing_is_one_line(run_file, oracle, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"engine\.kind: 'ray' needs the package ray"):
        run_stages(config_of(run_file, oracle, "engine={kind='ray'}"), RunDirectory(tmp_path), STAGES)

"""Runs on a Ray cluster of several nodes on this machine, nodes and head killed in mid-run.

Not part of `make test`: `make test-ray` installs Ray and runs it.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time

import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import EngineConfig, load_config
from autointerp.engine.pipeline import run_stages
from tests.engine.slow import SECONDS_VARIABLE, Server
from tests.engine.test_processes import STAGES, assert_same
from tests.planted import build

if not os.environ.get("AUTOINTERP_TEST_RAY"):
    pytest.skip("make test-ray runs these", allow_module_level=True)
ray = pytest.importorskip("ray")

from tests.ray_cluster import LocalCluster, Losses, environment  # noqa: E402

LOST_IN = {
    "cache": "contexts",
    "explain/default": "explanations/default",
    "score/detection/default": "scores",
}
"""Steps in which a node is lost, and the datasets whose first shards say that they are under way."""


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted") / "files", n_documents=60)


@pytest.fixture(scope="module", autouse=True)
def _environment(run_file):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():
            patch.setenv(name, value)
        patch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
        patch.setenv(SECONDS_VARIABLE, "0.1")
        yield


@pytest.fixture(scope="module")
def server():
    with Server(delay_seconds=0.3) as server:
        yield server


@pytest.fixture
def cluster():
    with LocalCluster(n_nodes=2) as cluster:
        yield cluster


def told_of(server, *more):
    model = f'{{backend="openai", model="m", base_url="{server.url}", max_concurrency=1}}'
    return [
        f"models.explainer={model}",
        f"models.judge={model}",
        "dictionary.path='tests.engine.slow:dictionary'",
        "cache.contexts_per_shard=32",
        "explain={explainers=['default'], latents_per_shard=1}",
        "score={scorers=['detection'], latents='all', latents_per_shard=1}",
        'scorers.detection={readout="json"}',
        *more,
    ]


def config_of(run_file, server, *more):
    return load_config(run_file, told_of(server, *more))


def on(cluster, **more):
    told = {"kind": "'ray'", "workers": 2, "address": f"'{cluster.address}'", **more}
    return "engine={" + ", ".join(f"{name}={value}" for name, value in told.items()) + "}"


@pytest.fixture(scope="module")
def alone(run_file, server, tmp_path_factory):
    run = RunDirectory(tmp_path_factory.mktemp("alone"))
    run_stages(config_of(run_file, server), run, STAGES)
    return run


def test_nodes_lost_in_every_stage_change_no_table(run_file, server, alone, cluster, tmp_path, caplog):
    run = RunDirectory(tmp_path)
    losses = Losses(cluster, run, LOST_IN)
    losses.start()
    with caplog.at_level(logging.WARNING):
        manifests = run_stages(config_of(run_file, server, on(cluster)), run, STAGES)
    losses.finish()
    assert [m.status for m in manifests] == ["complete"] * len(manifests)
    assert losses.in_the_middle == dict.fromkeys(LOST_IN, True)
    lost = [r.getMessage() for r in caplog.records if "was lost" in r.getMessage()]
    print("\n".join(lost))
    assert {message.split(":")[0] for message in lost} >= set(LOST_IN)
    assert_same(alone, run)


def test_a_lost_cluster_is_one_line_and_what_was_computed_is_kept(run_file, server, alone, cluster, tmp_path):
    run = RunDirectory(tmp_path)
    told = told_of(server, on(cluster))
    words = ["cache", str(run_file), "--run-dir", str(tmp_path), *(w for t in told for w in ("--set", t))]
    command = subprocess.Popen(
        [sys.executable, "-m", "autointerp.cli", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(list(run.folder("contexts").glob("part-*.parquet"))) < 2:
        assert command.poll() is None, command.communicate()[0]
        time.sleep(0.05)
    cluster.kill_all()
    begun = time.monotonic()
    said = command.communicate(timeout=300)[0]
    print(f"{said}\n{time.monotonic() - begun:.0f} s after the loss")
    assert command.returncode == 2
    assert time.monotonic() - begun < 60 < EngineConfig().wait_seconds
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert line.startswith("error: engine.address: the Ray cluster at 127.0.0.2:")
    assert "what was computed is kept" in line
    assert "Traceback" not in said
    kept = {p: p.stat().st_mtime_ns for p in run.folder("contexts").glob("part-*.parquet")}
    assert len(kept) >= 2
    run_stages(config_of(run_file, server), run, STAGES)
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert_same(alone, run)

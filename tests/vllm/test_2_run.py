"""A whole run on the command line with vLLM as explainer and judge: labels, scores, nothing asked twice."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autointerp.artifacts import RunDirectory
from tests.planted import build
from tests.vllm.conftest import ENGINE, MODEL, ROOT

LATENTS = 3


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = build(tmp_path_factory.mktemp("planted"))
    options = "\n".join(f"{name} = {str(value).lower()}" for name, value in ENGINE.items())
    model = f'backend = "vllm"\nmodel = "{MODEL}"\n{options}\n'
    text = path.read_text().partition("[explain]")[0]
    path.write_text(
        f"""{text}
[explain]
explainers = ["default"]
latents = {LATENTS}
[explainers.default]
style = "completion"
[score]
scorers = ["detection"]
latents = {LATENTS}
[scorers.detection]
readout = "likelihood"
n_activating = 3
n_silent = 3
[models.explainer]
{model}
[models.judge]
{model}
"""
    )
    return path


def carry_out(run_file: Path, run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = [
        sys.executable,
        "-m",
        "autointerp.cli",
        "run",
        str(run_file),
        "--run-dir",
        str(run_dir),
        *options,
    ]
    # One process: the start is most of the time, and the test of `vllm serve` runs the usual three.
    more = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "PYTHONPATH": str(ROOT),
        "PLANTED_MODEL": str(run_file.parent / "model"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        words, env={**os.environ, **more}, cwd=ROOT, capture_output=True, text=True, timeout=900
    )


def test_explain_and_score(run_file: Path, tmp_path: Path, measured: list[str]) -> None:
    begun = time.perf_counter()
    done = carry_out(run_file, tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3_000:]
    seconds = time.perf_counter() - begun
    run = RunDirectory(tmp_path / "run")
    explanations = [r for r in run.dataset("explanations").read().to_pylist() if r["control"] is None]
    assert len(explanations) == LATENTS
    assert all(row["status"] == "ok" and row["text"] for row in explanations)
    judgements = run.dataset("judgements").read().to_pylist()
    assert len(judgements) >= 6 * LATENTS
    assert all(row["status"] == "ok" and math.isfinite(row["probability"]) for row in judgements)
    scores = run.dataset("scores").read().to_pylist()
    assert all(row["auroc"] is not None for row in scores)
    labels = "; ".join(sorted(str(row["text"]) for row in explanations))
    measured.append(
        f"autointerp run: {LATENTS} latents explained and {len(judgements)} windows judged by likelihood in "
        f"{seconds:.0f} s, the engine's start included; labels: {labels}"
    )

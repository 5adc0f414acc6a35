"""What goes wrong in a user's surroundings: each fault is one line or a row with a reason, nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from autointerp.artifacts import RunDirectory
from tests.oracle import Oracle
from tests.planted import N_LATENTS
from tests.test_planted import ROOT, carry_out, command, environment, finished, judge, planted  # noqa: F401

# ruff: noqa: F811


def copy_of(run: RunDirectory, folder: Path) -> RunDirectory:
    shutil.copytree(run.root, folder / "run")
    return RunDirectory(folder / "run")


def error_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize(("text", "expected"), [("", "corpus.dataset"), ('{"text": "a cat"}\n', "context")])
def test_an_empty_or_too_small_corpus(planted, tmp_path, text, expected):
    (tmp_path / "small.jsonl").write_text(text)
    done = carry_out(
        "cache", planted, tmp_path / "run", "--set", f"corpus.dataset={tmp_path / 'small.jsonl'}"
    )
    assert expected in error_line(done)


@pytest.mark.parametrize("damage", ["truncated", "garbage"])
def test_a_damaged_shard_is_named_and_can_be_restored(planted, finished, tmp_path, damage):
    run = copy_of(finished[0], tmp_path)
    shard = run.shard("activations", index=1)
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\0" * len(whole))
    options = ["--set", "sample.n_test=9", "--rebuild", "sample"]
    line = error_line(carry_out("sample", planted, run.root, *options))
    assert str(shard) in line
    shard.unlink()
    assert carry_out("cache", planted, run.root, "--set", "sample.n_test=9").returncode == 0
    assert shard.read_bytes() == whole
    assert carry_out("sample", planted, run.root, *options).returncode == 0


def test_a_full_disk_loses_nothing(planted, finished, tmp_path):
    """A limit on the size of files stands in for a disk that fills up while a shard is written."""
    run = RunDirectory(tmp_path / "run")
    words = command("cache", planted, run.root)
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 4; exec "$@"', "-", *words],
        env=environment(planted), cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert "cannot be written" in error_line(limited)
    assert not [p for p in run.root.rglob("*") if p.name.endswith(".tmp")]
    assert carry_out("cache", planted, run.root).returncode == 0
    for path in (finished[0].root / "activations").iterdir():
        assert (run.root / "activations" / path.name).read_bytes() == path.read_bytes()


def test_a_server_that_refuses(planted, finished, tmp_path):
    run = copy_of(finished[0], tmp_path)
    shutil.rmtree(run.root / "scores")
    (run.root / "replies.sqlite").unlink()
    line = error_line(carry_out("score", planted, run.root, *judge("http://127.0.0.1:9/v1")))
    assert "127.0.0.1:9" in line


def test_a_dead_latent_asked_for_by_id_is_a_row_with_its_reason(planted, tmp_path, finished):
    run = copy_of(finished[0], tmp_path)
    dead = N_LATENTS - 1
    overrides = [
        "--set",
        f"explain.latents=[0, {dead}]",
        "--set",
        f"score.latents=[0, {dead}]",
        "--rebuild",
        "all",
    ]
    with Oracle() as oracle:
        done = carry_out("explain", planted, run.root, *judge(oracle.url), *overrides)
        assert done.returncode == 0, done.stderr
        done = carry_out("score", planted, run.root, *judge(oracle.url), *overrides)
        assert done.returncode == 0, done.stderr
    rows = {row["latent"]: row for row in run.dataset("explanations", "statistics").read().to_pylist()}
    assert rows[dead]["status"] == "failed"
    assert "dead" in rows[dead]["reason"]
    assert rows[dead]["text"] is None
    (score,) = [r for r in run.dataset("scores").read().to_pylist() if r["latent"] == dead]
    assert score["status"] == "unexplained"
    assert score["value"] is None


class Rambling(Oracle):
    """A judge that answers every second request with prose instead of JSON."""

    def reply(self, body):
        reply = super().reply(body)
        if len(self.asked) % 2:
            reply["choices"][0]["message"]["content"] = "As I see it, some of these texts fit quite well."
        return reply


def test_replies_that_are_not_what_was_asked_are_unparsed_rows(planted, finished, tmp_path):
    run = copy_of(finished[0], tmp_path)
    for folder in ("scores", "judgements"):
        shutil.rmtree(run.root / folder)
    (run.root / "replies.sqlite").unlink()
    with Rambling() as oracle:
        done = carry_out("score", planted, run.root, *judge(oracle.url))
        assert done.returncode == 0, done.stderr
    judgements = run.dataset("judgements").read().to_pylist()
    unparsed = [j for j in judgements if j["status"] == "unparsed"]
    assert 0 < len(unparsed) < len(judgements)
    assert all(j["prediction"] is None and j["reason"] for j in unparsed)
    scores = run.dataset("scores").read().to_pylist()
    assert sum(s["n_unparsed"] for s in scores) == len(unparsed)
    for s in scores:
        assert s["coverage"] == pytest.approx(1 - s["n_unparsed"] / s["n_examples"])
        if s["control"] is None and s["value"] is not None:
            assert s["balanced_accuracy"] == 1.0
            assert s["worst_case_accuracy"] == pytest.approx(s["coverage"])
    manifest = json.loads((run.root / "manifests" / "score.detection.statistics.json").read_text())
    assert manifest["status"] == "complete"


def test_the_key_reaches_no_file_and_no_output(planted, finished, tmp_path, monkeypatch):
    secret = "sk-test-3141592653589793"
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    run = copy_of(finished[0], tmp_path)
    shutil.rmtree(run.root / "scores")
    (run.root / "replies.sqlite").unlink()
    with Oracle() as oracle:
        done = carry_out("score", planted, run.root, *judge(oracle.url))
    assert done.returncode == 0, done.stderr
    assert secret not in done.stdout + done.stderr
    for path in run.root.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path

"""The whole pipeline on a planted dictionary: what it must find is known from the text alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from autointerp.artifacts import RunDirectory
from tests.oracle import Oracle
from tests.planted import N_LATENTS, WORD_SETS, build, strengths

ROOT = Path(__file__).parent.parent
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


def command(stage: str, run_file: Path, run_dir: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "autointerp.cli", stage, str(run_file), "--run-dir", str(run_dir), *options]


def environment(run_file: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PLANTED_MODEL": str(run_file.parent / "model"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def judge(url: str) -> list[str]:
    table = f'{{backend="openai", model="oracle", base_url="{url}", max_concurrency=2, max_retries=2}}'
    return ["--set", f"models.judge={table}", "--set", 'scorers.detection={readout="json"}']


def carry_out(stage: str, run_file: Path, run_dir: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(stage, run_file, run_dir, *options),
        env=environment(run_file),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def finished(planted, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "planted"
    with Oracle() as oracle:
        done = carry_out("run", planted, run_dir, *judge(oracle.url))
    assert done.returncode == 0, done.stderr
    return RunDirectory(run_dir), oracle, done


def tokenizer_of(planted: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(planted.parent / "model")


def test_exactly_the_planted_activations_are_found(planted, finished):
    run = finished[0]
    tokenizer = tokenizer_of(planted)
    table = strengths(tokenizer, len(tokenizer))
    contexts = run.dataset("contexts").read().to_pylist()
    expected = set()
    for row in contexts:
        assert row["tokens"][0] == tokenizer.bos_token_id
        for position, token in enumerate(row["tokens"]):
            if position == 0 or token in tokenizer.all_special_ids:
                continue
            for latent in np.flatnonzero(table[token]):
                expected.add((int(latent), row["context"], position, float(table[token, latent])))
    found = run.dataset("activations").read()
    assert len(run.dataset("activations").shards) > 1
    rows = list(zip(*(found.column(c).to_pylist() for c in found.column_names), strict=True))
    assert rows == sorted(rows)
    assert set(rows) == expected
    assert len(rows) == len(expected) > 1000


def test_status_of_live_rare_and_dead_latents(finished):
    status = finished[0].dataset("latents").read().column("status").to_pylist()
    assert status == ["ok"] * len(WORD_SETS) + ["rare", "dead"]


def test_examples_are_true_to_the_text_and_split_by_document(finished):
    run = finished[0]
    contexts = {row["context"]: row for row in run.dataset("contexts").read().to_pylist()}
    activations = Counter()
    for row in run.dataset("activations").read().to_pylist():
        activations[row["latent"], row["context"], row["position"]] = row["activation"]
    examples = run.dataset("examples").read().to_pylist()
    kinds = Counter((row["split"], row["kind"]) for row in examples if row["latent"] == 0)
    assert kinds == {
        ("train", "activating"): 12, ("train", "random"): 6, ("test", "activating"): 10, ("test", "random"): 4,
        ("test", "neighbour"): 3, ("test", "similar"): 3,
    }  # fmt: skip
    for row in examples:
        context, start = contexts[row["context"]], row["start"]
        assert row["split"] == context["split"]
        assert row["tokens"] == context["tokens"][start : start + 8]
        truth = [activations[row["latent"], row["context"], start + i] for i in range(8)]
        assert row["activations"] == truth
        assert (max(truth) > 0) == (row["kind"] == "activating")
        assert (row["source_latent"] is None) == (row["kind"] != "neighbour")
        if row["kind"] == "neighbour":
            assert any(activations[row["source_latent"], row["context"], row["start"] + i] for i in range(8))
    documents = {
        split: {c["document"] for c in contexts.values() if c["split"] == split}
        for split in ("train", "test")
    }
    assert documents["train"]
    assert documents["test"]
    assert not documents["train"] & documents["test"]


def test_the_statistics_explainer_names_the_planted_words(finished):
    rows = finished[0].dataset("explanations", "statistics").read().to_pylist()
    by_latent = {row["latent"]: row for row in rows}
    for latent, words in enumerate(WORD_SETS.values()):
        assert by_latent[latent]["status"] == "ok"
        for word in words[:3]:
            assert word in by_latent[latent]["text"]
    assert N_LATENTS - 1 not in by_latent, "dead latents are not among 'all'"


def test_true_labels_score_full_marks_and_shuffled_ones_do_not(finished):
    rows = finished[0].dataset("scores").read().to_pylist()
    real = [row for row in rows if row["control"] is None]
    control = [row for row in rows if row["control"] == "shuffled"]
    assert len(real) == len(control) == 4
    for row in real:
        assert row["balanced_accuracy"] == 1.0
        assert row["coverage"] == 1.0
        assert row["n_examples"] == 20
    for row in control:
        assert row["balanced_accuracy"] < 0.8
    judgements = finished[0].dataset("judgements").read().to_pylist()
    assert len(judgements) == 8 * 20
    assert all(row["request"] and row["prediction"] is not None for row in judgements)


def test_a_second_run_computes_and_asks_nothing(planted, finished):
    run = finished[0]

    def written() -> dict[Path, int]:
        found = {path: path.stat().st_mtime_ns for path in run.root.rglob("*.parquet")}
        # The summary is made from the scores each time, as the report is.
        return {path: time for path, time in found.items() if path.parent.name != "summary"}

    before = written()
    with Oracle() as oracle:
        done = carry_out("run", planted, run.root, *judge(oracle.url))
        assert done.returncode == 0, done.stderr
        assert not oracle.asked
    assert written() == before


def moments(run: RunDirectory, oracle: Oracle) -> list[Callable[[], bool]]:
    """Moments spread over all stages, each told by what can be seen from outside."""

    def there(pattern: str, n: int = 1) -> Callable[[], bool]:
        return lambda: len(list(run.root.glob(pattern))) >= n

    return [
        there("manifests/cache.json"),
        there("scratch/cache/part-*.parquet", 3),
        there("activations/part-*.parquet"),
        there("examples/part-*.parquet"),
        there("explanations/statistics/part-*.parquet", 2),
        lambda: oracle.answered >= 5,
        lambda: oracle.answered >= 15,
        there("scores/detection/statistics/part-*.parquet"),
    ]


def test_killed_at_any_moment_it_ends_with_the_same_files(planted, finished, tmp_path):
    """A run is killed (SIGKILL) at eight moments, one after another, and started again each time."""
    reference = finished[0]
    run = RunDirectory(tmp_path / "killed")
    rng = np.random.default_rng(0)
    kills = 0
    with Oracle(delay_seconds=0.1) as oracle:
        for moment in moments(run, oracle):
            process = subprocess.Popen(
                command("run", planted, run.root, *judge(oracle.url)),
                env=environment(planted),
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and not moment():
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 0.02))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait()
        done = carry_out("run", planted, run.root, *judge(oracle.url))
        assert done.returncode == 0, done.stderr
        assert kills >= 6
        # Only what was in flight at a kill can have been asked twice: at most two at a time.
        assert sum(oracle.asked.values()) - len(oracle.asked) <= 2 * kills
    for name in TABLES:
        expected = sorted(p.relative_to(reference.root) for p in (reference.root / name).rglob("*.parquet"))
        assert sorted(p.relative_to(run.root) for p in (run.root / name).rglob("*.parquet")) == expected
        for path in expected:
            got, want = pq.read_table(run.root / path), pq.read_table(reference.root / path)
            if "seconds" in got.column_names:
                got, want = got.drop_columns(["seconds"]), want.drop_columns(["seconds"])
            assert got.equals(want), path


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--set", "subject.model=/no/such/folder"], "no/such/folder"),
        (["--set", "dictionary.hook_point=blocks.7.hook_resid_pre"], "blocks.7.hook_resid_pre"),
        (["--set", "corpus.dataset=/no/such/text.jsonl"], "/no/such/text.jsonl"),
        (["--set", "corpus.text_column=body"], "text"),
        (["--set", "cache.context_size=60_000"], "context"),
        (["--set", "explain.explainers=['statistic']"], "did you mean 'statistics'"),
        (["--set", "score.scorers=['detecton']"], "did you mean 'detection'"),
        (["--set", "scorers.detection={readout='telepathy'}"], "scorers.detection.readout"),
        (["--set", "models.judge={backend='opnai', model='x'}"], "did you mean 'openai'"),
        (["--set", "models.judge={backend='openai', model='x', base_url='http://192.0.2.1/v1', api_key_env='NO_SUCH_KEY'}"], "NO_SUCH_KEY"),
        (["--set", "explain.latents=[3, 99]"], "99"),
        (["--set", "score.latents=50"], "score"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_exit_code_2(planted, finished, tmp_path, options, expected):
    import shutil

    # What is already computed is reused where the mistake concerns a later stage.
    late = any(o.startswith(("explain", "score", "models")) for o in options)
    run_dir = tmp_path / "run"
    if late:
        shutil.copytree(finished[0].root, run_dir)
    defaults = [] if any("models.judge" in o for o in options) else judge("http://127.0.0.1:9/v1")
    done = carry_out("run", planted, run_dir, *defaults, *options, "--rebuild", "all")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert expected in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert done.stderr.splitlines()[-1] == lines[0]

"""What goes wrong in a user's surroundings: each fault is one line or a row with a reason, nothing is lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.engine.pipeline import run_stages
from autointerp.errors import ModelUnavailableError
from autointerp.llm import batch_backend
from tests.llm.batch_server import BatchServer, without_answer
from tests.llm.server import Answer, failure, serve
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


class Troubled:
    """An oracle behind a server that has its troubles; counts how often each request was answered well."""

    def __init__(self, trouble, every=3, lasting=False):
        self.trouble, self.every, self.lasting = trouble, every, lasting
        self.served = Counter()
        self.seen = Counter()
        self._lock = threading.Lock()

    def __call__(self, path, body, number):
        text = json.dumps(body, sort_keys=True)
        with self._lock:
            chosen = zlib.crc32(text.encode()) % self.every == 0
            self.seen[text] += 1
            bad = chosen and (self.lasting or self.seen[text] == 1)
            if not bad:
                self.served[text] += 1
        if bad:
            answer = self.trouble() if callable(self.trouble) else self.trouble
            return answer if isinstance(answer, Answer) else Answer(**answer)
        return Answer(body=Oracle.reply(self, body))


def judged_by(url, **more):
    told = {
        "max_concurrency": 4,
        "max_retries": 6,
        "max_retry_wait_seconds": 0.05,
        "timeout_seconds": 0.7,
        **more,
    }
    table = ", ".join(f"{name}={json.dumps(value)}" for name, value in told.items())
    model = "" if "model" in told else 'model="oracle", '
    backend = "" if "backend" in told else 'backend="openai", '
    return [
        f'models.judge={{{backend}{model}base_url="{url}", {table}}}',
        'scorers.detection={readout="json"}',
        'score.scorers=["detection"]',
    ]


@pytest.fixture
def explained(planted, finished, tmp_path, monkeypatch):
    """A run whose stages are finished but for `score`, and its scores as they must come out."""
    monkeypatch.setenv("PLANTED_MODEL", str(planted.parent / "model"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    run = copy_of(finished[0], tmp_path)
    for folder in ("scores", "judgements"):
        shutil.rmtree(run.root / folder)
    (run.root / "replies.sqlite").unlink()
    for manifest in (run.root / "manifests").glob("score.*"):
        manifest.unlink()
    return run


def score(planted, run, url, **more):
    run_stages(load_config(planted, judged_by(url, **more)), run, ["score"])


def rows_of(run, name):
    rows = run.dataset(name).read().to_pylist()
    return [{column: value for column, value in row.items() if column != "seconds"} for row in rows]


PASSING = {
    "slow": {"delay_seconds": 1.5, "body": {}},
    "dropped": {"drop": True},
    "429": failure(429, "slow down"),
    "429 with Retry-After": failure(429, "slow down", Retry_After="0.2"),
    "500": failure(500, "oops"),
    "503 in HTML": {"status": 503, "raw": b"<html>busy</html>"},
    "truncated JSON": {"raw": b'{"choices": [{"message": {"content": "{\\"1'},
    "no choices": {"body": {"choices": []}},
}


@pytest.mark.parametrize("trouble", PASSING)
def test_troubles_that_pass_change_nothing(planted, finished, explained, trouble):
    handle = Troubled(PASSING[trouble])
    with serve(handle) as served:
        score(planted, explained, served.url)
    assert set(handle.served.values()) == {1}, "no request was served twice"
    assert max(handle.seen.values()) == 2
    assert rows_of(explained, "judgements") == rows_of(finished[0], "judgements")
    assert rows_of(explained, "scores") == rows_of(finished[0], "scores")


def test_a_storm_of_errors_is_sat_out(planted, finished, explained):
    """Nothing but 500 for the first sixty requests."""
    left = [60]

    def handle(path, body, number):
        left[0] -= 1
        return failure(500, "storm") if left[0] >= 0 else Answer(body=Oracle.reply(None, body))

    with serve(handle) as served:
        score(planted, explained, served.url, max_retries=30)
    assert rows_of(explained, "scores") == rows_of(finished[0], "scores")


@pytest.mark.parametrize("trouble", ["slow", "dropped", "429", "500", "truncated JSON"])
def test_troubles_that_last_are_error_rows_and_only_they_are_asked_again(
    planted, finished, explained, trouble
):
    with serve(handle := Troubled(PASSING[trouble], lasting=True)) as served:
        score(planted, explained, served.url, max_retries=1, timeout_seconds=0.4)
    judgements = rows_of(explained, "judgements")
    failed = [j for j in judgements if j["status"] == "error"]
    assert 0 < len(failed) < len(judgements)
    assert {j["status"] for j in judgements} == {"ok", "error"}
    assert all(j["prediction"] is None and j["probability"] is None and j["reason"] for j in failed)
    wanted = {(s["latent"], s["control"]): s for s in rows_of(finished[0], "scores")}
    for s in rows_of(explained, "scores"):
        assert s["coverage"] == pytest.approx(1 - s["n_error"] / s["n_examples"])
        if s["control"] is None and s["value"] is not None:
            assert s["value"] == wanted[s["latent"], None]["value"], (
                "failures are left out, not counted as wrong"
            )
    assert set(handle.served.values()) == {1}
    whole = Troubled(None, every=10**9)
    for folder in ("scores", "judgements"):
        shutil.rmtree(explained.root / folder)
    for manifest in (explained.root / "manifests").glob("score.*"):
        manifest.unlink()
    with serve(whole) as served:
        score(planted, explained, served.url)
    assert rows_of(explained, "scores") == rows_of(finished[0], "scores")
    assert not set(whole.served) & set(handle.served), "what was answered is not asked again"


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (failure(404, "The model `oracle` does not exist", code="model_not_found"), "no such model"),
        (failure(401, "Incorrect API key provided"), "OPENAI_API_KEY is not accepted"),
        (failure(429, "You exceeded your current quota", code="insufficient_quota"), "out of credit"),
        (failure(402, "Insufficient balance"), "out of credit"),
    ],
)
def test_what_nothing_can_get_past_stops_the_stage_and_keeps_the_replies(
    planted, finished, explained, trouble, told
):
    answered = Counter()

    def handle(path, body, number):
        if len(answered) >= 5:
            return trouble if path.endswith("completions") else Answer(body={"data": []})
        answered[json.dumps(body, sort_keys=True)] += 1
        return Answer(body=Oracle.reply(None, body))

    # A 404 after successes may be about one request, so there the model is unknown from the start.
    if trouble.status == 404:
        answered.update(str(i) for i in range(5))
    with serve(handle) as served, pytest.raises(ModelUnavailableError, match=told):
        score(planted, explained, served.url)
    assert not (explained.root / "scores").exists() or not rows_of(explained, "scores")
    with serve(whole := Troubled(None, every=10**9)) as served:
        score(planted, explained, served.url)
    assert not set(whole.served) & set(answered)
    assert rows_of(explained, "scores") == rows_of(finished[0], "scores")


def test_a_server_that_restarts_in_mid_run(planted, finished, explained):
    with serve(lambda *_: Answer()) as free:
        port = int(free.url.split(":")[2].split("/")[0])
    handle = Troubled(None, every=10**9)
    failures = []

    def run():
        try:
            score(planted, explained, f"http://127.0.0.1:{port}/v1", max_retries=30, max_concurrency=2)
        except BaseException as error:
            failures.append(error)

    def slowly(path, body, number):
        time.sleep(0.1)
        return handle(path, body, number)

    thread = threading.Thread(target=run)
    with serve(slowly, port) as served:
        thread.start()
        while len(served.calls) < 9:
            time.sleep(0.01)
    with serve(slowly, port):
        thread.join(timeout=60)
    assert not failures
    assert not thread.is_alive()
    # Only what was in flight when the server went away was asked for again.
    assert sum(handle.served.values()) - len(handle.served) <= 2
    assert rows_of(explained, "scores") == rows_of(finished[0], "scores")


def batch_answer(body):
    value = Oracle.reply(None, body)
    return {"response": {"status_code": 200, "request_id": "r", "body": value}, "error": None}


def test_a_stage_through_the_batch_api(planted, finished, explained):
    """Interrupted while its batch was under way, it collects that batch; expired requests are rows."""
    told = {"backend": "openai_batch", "poll_seconds": 0.02, "resubmit": 0}
    told |= {"max_concurrency": 1, "max_retries": 1}

    expired = []

    def answer(body):
        if len(expired) < 2:
            expired.append(body)
            return without_answer("batch_expired")
        return batch_answer(body)

    with BatchServer(answer, polls=2) as server:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(batch_backend, "time", Mock(sleep=Mock(side_effect=KeyboardInterrupt)))
            with pytest.raises(KeyboardInterrupt):
                score(planted, explained, server.url, **told)
        assert len(server.lines) == 1
        score(planted, explained, server.url, **told)
        n_batches = len(server.lines)
        assert max(server.executed.values()) == 1
        judgements = rows_of(explained, "judgements")
        failed = [j for j in judgements if j["status"] == "error"]
        assert failed
        assert all("expired" in j["reason"] for j in failed)
        for folder in ("scores", "judgements"):
            shutil.rmtree(explained.root / folder)
        for manifest in (explained.root / "manifests").glob("score.*"):
            manifest.unlink()
        score(planted, explained, server.url, **told)
        assert sum(len(lines) for lines in server.lines[n_batches:]) == 2
    assert rows_of(explained, "scores") == rows_of(finished[0], "scores")

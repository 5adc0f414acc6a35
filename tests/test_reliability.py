"""What may befall a run: kills, a full disk, damaged files, a second writer, wrong clocks, inputs that cannot be written."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from autointerp import storage
from autointerp.artifacts import DATASETS, RunDirectory
from autointerp.config import load_config
from autointerp.engine.pipeline import STAGES, run_stages
from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm.openai_errors import retry_after
from autointerp.report.finish import finish
from autointerp.run import open_run
from tests.llm.server import Answer, failure, serve
from tests.oracle import Oracle
from tests.planted import build
from tests.test_planted import ROOT, command, environment

OPTIONS = [
    'scorers.detection={readout="json", examples_per_request=3}',
    "explain.latents_per_shard=2",
    "score.latents_per_shard=1",
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    run_file = build(tmp_path_factory.mktemp("planted"), n_documents=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
        patch.setenv("OPENAI_API_KEY", "sk-test")
        yield run_file


def settings(url):
    told = f'{{backend="openai", model="oracle", base_url="{url}", max_concurrency=2, max_retries=8}}'
    return [f"models.judge={told}", *OPTIONS]


def carry_out(planted, root, stages=STAGES, handle=None, **more):
    """Stages in this process, judged by an oracle; returns the requests it answered."""
    answer = handle or (lambda path, body, number: Answer(body=Oracle.reply(None, body)))
    with serve(answer) as served:
        run_stages(load_config(planted, settings(served.url)), RunDirectory(root), stages, **more)
    return served.calls


@pytest.fixture(scope="module")
def whole(planted, tmp_path_factory):
    """The root of a finished run."""
    root = tmp_path_factory.mktemp("whole") / "run"
    carry_out(planted, root)
    finish(root)
    return root


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def rows_of(root):
    tables = {name: RunDirectory(root).dataset(name).read() for name in DATASETS}
    return {
        name: table.select([column for column in table.column_names if column != "seconds"])
        for name, table in tables.items()
    }


def forget(root, *stages):
    """Take a run back to before some stages."""
    for stage, folders in {"score": ("scores", "judgements"), "explain": ("explanations",)}.items():
        if stage in stages:
            for folder in folders:
                shutil.rmtree(root / folder)
            for manifest in (root / "manifests").glob(f"{stage}.*"):
                manifest.unlink()
    (root / "replies.sqlite").unlink(missing_ok=True)


@contextmanager
def mounted(path, *options):
    """A file system mounted at a folder; the test is left out where that is not allowed."""
    path.mkdir(parents=True, exist_ok=True)
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")
    for words in options:
        if subprocess.run(["mount", *words, str(path)], capture_output=True).returncode:
            subprocess.run(["umount", "-l", str(path)], capture_output=True)
            pytest.skip("mounting is not allowed here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def small_disk(path, kib):
    return mounted(path, ["-t", "tmpfs", "-o", f"size={kib}k", "tmpfs"])


def read_only(path):
    return mounted(path, ["--bind", str(path)], ["-o", "remount,bind,ro"])


# Kills


@pytest.mark.slow
def test_random_kills_over_all_stages():
    """The short form of benchmarks/random_kills.py."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "random_kills.py"), "--kills", "6"],
        capture_output=True,
        text=True,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed        6 times" in done.stdout
    assert "stored, yet served again   0" in done.stdout
    assert "final tables  equal" in done.stdout


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(planted, whole, copy):
    forget(copy, "score")
    asked = []

    def slowly(path, body, number):
        asked.append(json.dumps(body, sort_keys=True))
        time.sleep(0.2)
        return Answer(body=Oracle.reply(None, body))

    with serve(slowly) as served:
        words = command("score", planted, copy, *(w for s in settings(served.url) for w in ("--set", s)))
        process = subprocess.Popen(
            words,
            env=environment(planted),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # not ignored as in a background job
        )
        while len(asked) < 6 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=300)[1]
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("interrupted; run the same command again")
    again = carry_out(planted, copy, ["score"])
    assert rows_of(copy) == rows_of(whole)
    before = len(asked)
    # Two in flight, and one handed over beyond them, may be asked twice.
    assert before + len(again) - len({*asked, *(json.dumps(body, sort_keys=True) for _, body in again)}) <= 3


# A full disk


@pytest.mark.parametrize("stage", ["cache", "score"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_space(planted, whole, tmp_path, stage):
    with small_disk(tmp_path / "disk", 20_000) as disk:
        root = disk / "run"
        if stage == "score":
            shutil.copytree(whole, root)
            forget(root, "score")
        usage = shutil.disk_usage(disk)
        room = 24_000 if stage == "cache" else 60_000
        (disk / "ballast").write_bytes(b"\0" * (usage.free - room))
        stages = [name for name in STAGES if stage in ("cache", name)]
        with pytest.raises(UserError, match=r"written|disk is full") as caught:
            carry_out(planted, root, stages)
        assert caught.value.exit_code == 2
        assert "\n" not in str(caught.value)
        kept = {path: path.read_bytes() for path in storage.files_below(root, "part-*.parquet")}
        (disk / "ballast").unlink()
        carry_out(planted, root, stages)
        assert rows_of(root) == rows_of(whole)
        assert all(path.read_bytes() == data for path, data in kept.items() if path.exists())
        assert not list(root.rglob(".*.tmp"))


# Damaged files


@pytest.mark.parametrize("damage", ["truncated", "empty", "zeros"])
@pytest.mark.parametrize(
    ("dataset", "stage"),
    [
        ("contexts", "sample"),
        ("activations", "sample"),
        ("latents", "sample"),
        ("vocabulary", "explain"),
        ("examples", "score"),
        ("explanations", "score"),
        ("scores", "report"),
    ],
)
def test_a_damaged_shard_is_named_and_its_stage_restores_it(planted, whole, copy, dataset, stage, damage):
    shard = RunDirectory(copy).dataset(dataset).shards[0]
    before = shard.read_bytes()
    shard.write_bytes(
        {"truncated": before[: len(before) // 2], "empty": b"", "zeros": b"\0" * len(before)}[damage]
    )
    folder = {"sample": "examples", "explain": "explanations", "score": "scores"}.get(stage)
    if folder:
        shutil.rmtree(copy / folder)
    with pytest.raises(CorruptArtifactError, match="remove this file") as caught:
        finish(copy) if stage == "report" else carry_out(planted, copy, [stage])
    assert str(shard) in str(caught.value)
    assert "\n" not in str(caught.value)
    shard.unlink()
    carry_out(planted, copy)
    assert rows_of(copy) == rows_of(whole)


def test_a_damaged_shard_in_scratch_is_named(planted, whole, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    root = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("autointerp.stages.cache._finish", stop)
        with pytest.raises(KeyboardInterrupt):
            carry_out(planted, root, ["cache"])
    shard = sorted((root / "scratch").rglob("part-*.parquet"))[0]
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(CorruptArtifactError, match="remove this file") as caught:
        carry_out(planted, root, ["cache"])
    assert str(shard) in str(caught.value)
    shard.unlink()
    carry_out(planted, root)
    assert rows_of(root) == rows_of(whole)


def test_a_damaged_manifest_is_named(planted, whole, copy):
    path = copy / "manifests" / "sample.json"
    path.write_text(path.read_text()[:40])
    with pytest.raises(CorruptArtifactError, match=r"sample\.json: unreadable manifest"):
        carry_out(planted, copy)


# Two runs on one directory

HOLD = "from autointerp.artifacts import RunDirectory; import sys, time; lock = RunDirectory(sys.argv[1]).lock(); print(1, flush=True); time.sleep(600)"


def test_a_second_run_is_refused_by_name_and_a_dead_one_leaves_no_lock(planted, whole, copy):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(copy)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    try:
        assert holder.stdout.readline() == "1\n"
        before = (copy / "run.toml").read_bytes()
        with pytest.raises(UserError, match=f"process {holder.pid} on {socket.gethostname()}") as caught:
            carry_out(planted, copy)
        assert "choose another RUN_DIR" in str(caught.value)
        assert (copy / "run.toml").read_bytes() == before
        assert open_run(copy).scores().shape[0], "reading is free"
    finally:
        holder.kill()
        holder.wait()
    assert json.loads((copy / ".holder.json").read_text())["pid"] == holder.pid
    carry_out(planted, copy)
    assert json.loads((copy / ".holder.json").read_text())["pid"] == os.getpid()


# Clocks


def test_a_clock_that_jumps_changes_nothing(planted, whole, copy, monkeypatch):
    """Wall-clock time goes to and fro by years at every look, while a server asks for waits and retries."""
    rng = random.Random(0)
    seen = set()

    def trouble(path, body, number):
        text = json.dumps(body, sort_keys=True)
        if text not in seen:
            seen.add(text)
            if len(seen) % 3 == 0:
                return failure(429, "slow down", Retry_After="0.05")
            if len(seen) % 3 == 1:
                return failure(500, "oops")
        return Answer(body=Oracle.reply(None, body))

    forget(copy, "explain", "score")
    monkeypatch.setattr(time, "time", lambda: 1e9 * rng.uniform(0.5, 3.0))
    began = time.monotonic()
    carry_out(planted, copy, handle=trouble)
    spent = time.monotonic() - began
    assert rows_of(copy) == rows_of(whole)
    for name, manifest in open_run(copy).steps().items():
        if name.startswith(("explain", "score")):
            assert 0 <= manifest.seconds <= spent
    for name in ("explanations", "scores"):
        seconds = RunDirectory(copy).dataset(name).read().column("seconds").to_pylist()
        assert all(value is None or 0 <= value <= spent for value in seconds)


def test_a_date_to_wait_for_is_read_by_the_servers_clock(monkeypatch):
    monkeypatch.setattr("autointerp.llm.openai_errors.time", lambda: 0.0)
    headers = {"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert retry_after(headers) == 30.0
    assert retry_after({**headers, "date": "Wed, 21 Oct 2026 09:00:00 GMT"}) == 0.0


# Inputs that cannot be written


def test_inputs_may_be_read_only(planted, whole, tmp_path):
    with read_only(planted.parent):
        with pytest.raises(OSError, match="Read-only"):
            (planted.parent / "x").touch()
        carry_out(planted, tmp_path / "run")
    assert rows_of(tmp_path / "run") == rows_of(whole)


def test_a_read_only_run_is_read_and_not_written(planted, whole, copy):
    from autointerp.analyze.compare import compare
    from autointerp.analyze.statistics import statistics_of
    from autointerp.report.serve import Browser

    with read_only(copy):
        assert statistics_of(copy).scores == statistics_of(whole).scores
        assert open_run(copy).latent(0).windows()
        assert compare([copy, whole], n_resamples=20, n_flips=20)
        Browser(open_run(copy)).close()
        with pytest.raises(UserError, match=r"autointerp summary .*autointerp serve") as caught:
            finish(copy)
        assert "\n" not in str(caught.value)
        with pytest.raises(UserError, match=r"RUN_DIR: .* cannot be written: Read-only file system"):
            carry_out(planted, copy)
    finish(copy)


@pytest.mark.parametrize("holds_a_run", [False, True])
def test_a_folder_in_place_of_a_recipe(tmp_path, holds_a_run):
    if holds_a_run:
        (tmp_path / "run.toml").write_text("")
    with pytest.raises(UserError, match="is a folder") as caught:
        load_config(tmp_path)
    assert "Errno" not in str(caught.value)
    assert ("--run-dir" in str(caught.value)) == holds_a_run

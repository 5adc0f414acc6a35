"""Bookkeeping of steps: skip what is done, resume what is begun, refuse what is stale."""

from __future__ import annotations

import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.config import RunConfig, parse_table
from autointerp.engine.local import run_steps
from autointerp.errors import StaleRunError, UserError
from autointerp.stages.step import Step, StepResult
from autointerp.storage import whole_file

CONFIG = parse_table(
    RunConfig, {"subject": {"model": "m"}, "dictionary": {"path": "p"}, "corpus": {"dataset": "d"}}
)


def activation_rows(value: float) -> pa.Table:
    return pa.table(
        {
            "latent": pa.array([0], pa.uint32()),
            "context": pa.array([0], pa.uint32()),
            "position": pa.array([0], pa.uint16()),
            "activation": pa.array([value], pa.float32()),
        }
    )


class Recorder:
    """Two chained steps that count what they compute."""

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.fail_at: str | None = None

    def steps(self, value: float = 1.0, n_shards: int = 3) -> list[Step]:
        def work(name: str, folder: str):
            def compute(run: RunDirectory) -> StepResult:
                for index in range(n_shards):
                    path = run.shard(folder, index=index)
                    if path.exists():
                        continue
                    if self.fail_at == f"{name}/{index}":
                        raise RuntimeError("killed")
                    self.computed.append(f"{name}/{index}")
                    write_shard(path, activation_rows(value), DATASETS["activations"])
                return StepResult(n_shards={folder: n_shards}, n_rows={folder: n_shards})

            return compute

        first = Step(
            name="cache", version=1, config={"value": value}, inputs=(), folders=("activations",),
            work=work("cache", "activations"),
        )  # fmt: skip
        second = Step(
            name="sample",
            version=1,
            config={},
            inputs=("cache",),
            folders=("examples",),
            work=work("sample", "examples"),
        )
        return [first, second]


def go(recorder, run, stages=("cache", "sample"), rebuild=(), **options):
    return run_steps(recorder.steps(**options), run, CONFIG, stages=stages, rebuild=rebuild)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "run")


def test_a_finished_step_is_not_computed_again(run):
    recorder = Recorder()
    go(recorder, run)
    assert len(recorder.computed) == 6
    go(recorder, run)
    assert len(recorder.computed) == 6
    assert run.is_complete("sample")


def test_an_interrupted_step_goes_on_where_it_stopped(run):
    recorder = Recorder()
    recorder.fail_at = "cache/1"
    with pytest.raises(RuntimeError):
        go(recorder, run)
    assert run.manifest("cache").status == "running"
    recorder.fail_at = None
    go(recorder, run)
    assert recorder.computed.count("cache/0") == 1
    assert run.is_complete("cache")


def test_a_step_that_failed_before_its_first_file_may_be_set_otherwise(run):
    recorder = Recorder()
    recorder.fail_at = "cache/0"
    with pytest.raises(RuntimeError):
        go(recorder, run, value=1.0)
    recorder.fail_at = None
    go(recorder, run, value=2.0)
    assert run.is_complete("cache")
    recorder.fail_at = "cache/1"
    with pytest.raises(RuntimeError):
        go(recorder, run, value=3.0, rebuild=["cache"])
    with pytest.raises(StaleRunError):
        go(recorder, run, value=4.0)


def test_changed_settings_are_refused_and_named(run):
    recorder = Recorder()
    go(recorder, run)
    with pytest.raises(StaleRunError, match=r"value was 1\.0, now 2\.0.*--rebuild cache"):
        go(recorder, run, value=2.0)
    assert len(recorder.computed) == 6


def test_a_refused_command_leaves_the_settings_of_the_run(run):
    recorder = Recorder()
    go(recorder, run)
    before = (run.root / "run.toml").read_text()
    other = CONFIG.model_copy(update={"name": "other"})
    with pytest.raises(StaleRunError):
        run_steps(recorder.steps(value=2.0), run, other, stages=["cache"])
    assert (run.root / "run.toml").read_text() == before
    run_steps(recorder.steps(value=2.0), run, other, stages=["cache"], rebuild=["cache"])
    assert 'name = "other"' in (run.root / "run.toml").read_text()


def test_a_later_stage_refuses_an_input_made_otherwise(run):
    recorder = Recorder()
    go(recorder, run)
    with pytest.raises(StaleRunError, match=r"results of 'cache'.*value was 1\.0"):
        go(recorder, run, stages=["sample"], value=2.0)


def test_rebuild_discards_only_what_is_stale(run):
    recorder = Recorder()
    go(recorder, run)
    go(recorder, run, rebuild=["all"])
    assert len(recorder.computed) == 6
    go(recorder, run, rebuild=["cache"], stages=["cache"], value=2.0)
    assert len(recorder.computed) == 9
    with pytest.raises(StaleRunError, match="input 'cache' was computed anew"):
        go(recorder, run, stages=["sample"], value=2.0)
    go(recorder, run, stages=["sample"], rebuild=["sample"], value=2.0)
    assert len(recorder.computed) == 12


def test_a_removed_shard_is_restored(run):
    recorder = Recorder()
    go(recorder, run)
    run.shard("activations", index=1).unlink()
    with pytest.raises(UserError, match="is missing"):
        go(recorder, run, stages=["sample"])
    go(recorder, run)
    assert recorder.computed[-1] == "cache/1"


def test_files_of_unknown_origin_are_refused(run):
    write_shard(run.shard("activations", index=0), activation_rows(9.0), DATASETS["activations"])
    with pytest.raises(StaleRunError, match="without a manifest"):
        go(Recorder(), run)


def test_missing_input_says_what_to_run(run):
    with pytest.raises(UserError, match="needs step 'cache', which was never run"):
        go(Recorder(), run, stages=["sample"])


def test_an_unwritable_run_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="RUN_DIR"):
        go(Recorder(), RunDirectory(tmp_path / "file" / "run"))


def test_a_file_that_a_killed_process_was_writing_is_removed_when_the_step_is_done(run):
    shard = run.shard("activations", index=0)
    code = (
        "import os, signal, sys; from pathlib import Path; from autointerp.storage import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as file:\n"
        "    file.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(shard)], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = shard.parent.iterdir()
    assert left.read_bytes() == b"half"
    go(Recorder(), run, rebuild=["cache"])
    assert [path.name for path in shard.parent.iterdir() if path.name.startswith(".")] == []
    assert not left.exists()
    assert run.is_complete("cache")


def test_two_writers_with_one_process_number_do_not_share_an_unfinished_file(tmp_path):
    path = tmp_path / "shard"
    with whole_file(path) as one, whole_file(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]

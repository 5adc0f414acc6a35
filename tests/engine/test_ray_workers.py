"""Who is given which part, and what happens when actors, or the cluster, are lost: without Ray."""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.config import load_config
from autointerp.engine import ray_workers
from autointerp.engine.ray_workers import MOST_TRIES, RayWorkers
from autointerp.engine.worker import PARTS_PER_WORKER
from autointerp.errors import UserError
from autointerp.stages.step import Step, StepResult
from tests.engine.fake_ray import FakeRay, LostError

RUN = """
name = "small"
subject.model = "m"
dictionary = {path = "p"}
corpus.dataset = "c"
"""
RESULT = StepResult(n_shards={"explanations/default": 4}, n_rows={"explanations/default": 1_000_000})


class TinyWorker:
    """Notes what it is asked."""

    computed: Counter
    sees_mark = True

    def __init__(self, config, root, threads, replies) -> None:
        pass

    def where(self, mark):
        return "node", self.sees_mark

    def prepare(self, step) -> None:
        assert not self.computed
        self.computed["prepared"] += 1

    def compute(self, step, part) -> None:
        self.computed[part] += 1

    def finish(self, step):
        assert sum(self.computed.values()) >= 0
        return RESULT

    def close(self) -> None:
        pass


@pytest.fixture
def make(monkeypatch, tmp_path):
    """RayWorkers on a fake Ray."""
    monkeypatch.setattr(TinyWorker, "computed", Counter(), raising=False)
    monkeypatch.setattr(ray_workers, "Worker", TinyWorker)
    monkeypatch.setattr(ray_workers, "_answers", lambda host, port: True)
    monkeypatch.setattr(ray_workers, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(ray_workers, "CLOSE_SECONDS", 0.2)
    (tmp_path / "run.toml").write_text(RUN)

    def make(ray: FakeRay, *overrides: str) -> RayWorkers:
        monkeypatch.setattr(ray_workers, "_ray", lambda: ray)
        config = load_config(tmp_path / "run.toml", ["engine.kind='ray'", *overrides])
        return RayWorkers(config, tmp_path / "run")

    return make


def step(stage="explain") -> Step:
    def never(run):
        raise AssertionError("the driver does no work of its own")

    return Step(name=f"{stage}/default", version=1, config={}, inputs=(), folders=(), work=never, share=never)


def parts(n_workers: int) -> Counter:
    n = PARTS_PER_WORKER * n_workers
    return Counter((part, n) for part in range(n))


def test_each_part_is_given_once_and_the_step_finished_by_one(make):
    ray = FakeRay(room=3)
    workers = make(ray, "engine.workers=3", "engine.gpus_per_worker=1", "engine.cpus_per_worker=2.0")
    assert workers.carry_out(step()) == RESULT
    assert TinyWorker.computed == parts(3)
    assert ray.n_started == 3
    assert all(r == {"num_cpus": 2.0, "num_gpus": 1.0, "max_restarts": 0} for r in ray.resources)
    workers.close()
    assert ray.placed == []


def test_text_is_read_once_by_each_worker(make):
    make(FakeRay()).carry_out(step("cache"))
    assert TinyWorker.computed == Counter({(0, 2): 1, (1, 2): 1})


def test_what_all_shards_depend_on_is_made_first_and_once(make):
    prepared = replace(step("cache"), prepare=lambda run: None)
    make(FakeRay()).carry_out(prepared)
    assert TinyWorker.computed == Counter({"prepared": 1, (0, 2): 1, (1, 2): 1})


def test_a_step_that_is_not_shared_is_done_by_one_actor(make):
    alone = Step(
        name="explain/x.shuffled", version=1, config={}, inputs=(), folders=(), work=lambda run: RESULT
    )
    assert make(FakeRay()).carry_out(alone) == RESULT
    assert not TinyWorker.computed


def test_room_for_one_of_three_is_enough(make):
    """Parts go only to actors that have started: one that waits for room holds up nothing."""
    ray = FakeRay(room=1)
    assert make(ray, "engine.workers=3").carry_out(step()) == RESULT
    assert TinyWorker.computed == parts(3)
    assert ray.n_started == 1


@settings(max_examples=30, deadline=None)
@given(losses=st.lists(st.booleans(), max_size=40), room=st.integers(1, 4), n=st.integers(1, 4))
def test_whatever_is_lost_every_part_is_computed(losses, room, n, tmp_path_factory):
    fates = iter(losses)
    tries = Counter()

    def fate(method, told):
        key = (method, str(told))
        if next(fates, False) and tries[key] < MOST_TRIES - 1 and method != "where":
            tries[key] += 1
            raise LostError

    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("run")
        patch.setattr(TinyWorker, "computed", Counter(), raising=False)
        patch.setattr(ray_workers, "Worker", TinyWorker)
        patch.setattr(ray_workers, "_answers", lambda host, port: True)
        patch.setattr(ray_workers, "POLL_SECONDS", 0.001)
        patch.setattr(ray_workers, "MOST_LOSSES_PER_WORKER", 100)
        patch.setattr(ray_workers, "_ray", lambda: FakeRay(room=room, fate=fate))
        (root / "run.toml").write_text(RUN)
        config = load_config(root / "run.toml", ["engine.kind='ray'", f"engine.workers={n}"])
        assert RayWorkers(config, root / "run").carry_out(step()) == RESULT
        assert TinyWorker.computed == parts(n)


def test_a_part_that_kills_every_worker_ends_the_run_in_one_line(make):
    def fate(method, told):
        if method == "compute" and told[1][0] == 2:
            raise LostError

    with pytest.raises(UserError, match=rf"one part of 8 was lost {MOST_TRIES} times.*computed is kept"):
        make(FakeRay(fate=fate)).carry_out(step())


def test_workers_lost_as_soon_as_they_start_end_the_run(make):
    def fate(method, told):
        if method == "where":
            raise LostError

    with pytest.raises(UserError, match="none finished anything"):
        make(FakeRay(fate=fate)).carry_out(step())


def test_a_cluster_without_room_is_waited_for_only_so_long(make):
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"gave no worker in 0\.3 s.*asks for 1 CPUs and 2 GPUs"):
        make(FakeRay(room=0), "engine.wait_seconds=0.3", "engine.gpus_per_worker=2").carry_out(step())
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("hanging_seconds", "head_seconds", "wait_seconds"), [(0.01, 0.2, 300), (60, 0.2, 300), (60, 15, 0.2)]
)
def test_a_head_that_does_not_answer_ends_the_run_and_nothing_hangs(
    make, monkeypatch, hanging_seconds, head_seconds, wait_seconds
):
    ray = FakeRay()
    workers = make(ray, f"engine.wait_seconds={wait_seconds}")
    monkeypatch.setattr(ray_workers, "_answers", lambda host, port: False)
    monkeypatch.setattr(ray_workers, "HEAD_SECONDS", head_seconds)

    def wait(references, **keywords):
        time.sleep(hanging_seconds)
        return [], references

    monkeypatch.setattr(ray, "wait", wait)
    monkeypatch.setattr(ray, "kill", lambda handle: time.sleep(60))
    monkeypatch.setattr(ray, "shutdown", lambda: time.sleep(60))
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"cluster at 127\.0\.0\.1:6379 has not answered"):
        workers.carry_out(step())
    workers.close()
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("raised", "seen", "match"),
    [
        (UserError("models.judge: no key"), UserError, "^models.judge: no key$"),
        (KeyError("x"), RuntimeError, "x"),
    ],
)
def test_what_a_worker_raises_is_raised_here(make, monkeypatch, raised, seen, match):
    def fail(self, step, part):
        raise raised

    monkeypatch.setattr(TinyWorker, "compute", fail)
    with pytest.raises(seen, match=match):
        make(FakeRay()).carry_out(step())


def test_a_node_that_sees_another_folder_is_told(make, monkeypatch):
    monkeypatch.setattr(TinyWorker, "sees_mark", False)
    with pytest.raises(UserError, match=r"^RUN_DIR: .* is not the same folder on the node 'node'"):
        make(FakeRay()).carry_out(step())


def test_only_names_and_small_numbers_travel(make):
    ray = FakeRay()
    workers = make(ray)
    told = len(ray.sent)
    workers.carry_out(step())
    started, rest = (
        [b for b in ray.sent[told:] if len(b) > 300],
        [b for b in ray.sent[told:] if len(b) <= 300],
    )
    assert len(started) == 2, "the configuration, once per actor"
    assert max(map(len, started)) < 10_000
    # Each actor says where it is; each part is told and answered; and so is the end.
    assert len(rest) == 2 * (2 + 8 + 1)


def test_batches_are_refused(make):
    with pytest.raises(UserError, match=r"models\.judge\.backend: 'openai_batch'"):
        make(FakeRay(), 'models.judge={backend="openai_batch", model="m"}')


def test_ray_is_told_not_to_end_this_process_when_the_head_of_a_cluster_is_gone(make, monkeypatch):
    seen, ray = [], FakeRay()
    monkeypatch.delenv(ray_workers.RECONNECT, raising=False)
    monkeypatch.setattr(ray, "init", lambda **options: seen.append(os.environ.get(ray_workers.RECONNECT)))
    make(ray, "engine.address='auto'")
    make(ray, "engine.address='local'")  # a cluster of its own ends with it
    assert int(seen[0]) > 3_600
    assert seen[1] is None
    assert ray_workers.RECONNECT not in os.environ


def test_an_address_where_nothing_answers_is_one_line(make, monkeypatch):
    monkeypatch.setattr(ray_workers, "_answers", lambda host, port: False)
    with pytest.raises(UserError, match=r"engine\.address: 'head:6379' cannot be reached"):
        make(FakeRay(), "engine.address='head:6379'")
    with pytest.raises(UserError, match=r"engine\.address: seen 'ray://head:10001'"):
        make(FakeRay(), "engine.address='ray://head:10001'")

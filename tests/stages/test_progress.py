"""What a step says of its progress."""

from __future__ import annotations

import time
from typing import Any

import pytest

from autointerp.llm.client import ModelStats
from autointerp.progress import Tracker
from autointerp.stages.plugins import ShardProgress


class Model:
    """As much of a `StoredModel` as a step's progress sees."""

    def __init__(self, **counts: int) -> None:
        self.stats = ModelStats(**counts)
        self.progress: Any = None


def test_requests_of_every_model_of_a_step_count() -> None:
    explaining, judging = Model(requests=24, stored=4), Model()
    with ShardProgress("explain/refine", [[0, 1]], explaining, judging, explaining, None) as progress:
        progress.start()
        explaining.stats.sent = 2
        explaining.progress(explaining.stats)
        assert progress.tracker.line().startswith("explain/refine: 6 of 24 requests (25%)")
        judging.stats.requests, judging.stats.sent = 16, 3
        judging.progress(judging.stats)
        assert progress.tracker.line().startswith("explain/refine: 9 of 40 requests (22%)")
    assert explaining.progress is None
    assert judging.progress is None


def test_a_step_that_asks_no_model_counts_latents() -> None:
    with ShardProgress("explain/statistics", [[0, 1], [2]], None, None) as progress:
        progress.finish(found_done=True)
        progress.start()
        progress.finish()
        assert progress.tracker.line().startswith("explain/statistics: 3 of 3 latents (100%)")


def test_parts_of_a_shard_count_as_they_are_finished() -> None:
    with ShardProgress("explain/gradient", [range(20), range(5)]) as progress:
        progress.start()
        progress.part(8, True)
        progress.part(8, False)
        assert progress.tracker.line().startswith("explain/gradient: 16 of 25 latents (64%)")
        progress.part(4, False)
        progress.finish()
        assert progress.tracker.done == 20
        progress.start()
        progress.finish()
        assert progress.tracker.done == 25


def test_slow_work_shows_seconds_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    tracker = Tracker("explain/default", 24, "requests")
    now += 500  # the model is loaded
    tracker.advance(1)
    assert tracker.line() == "explain/default: 1 of 24 requests (4%)"
    now += 120
    tracker.advance(2)
    assert tracker.line() == "explain/default: 3 of 24 requests (12%), 60 s each, 21:00 left"
    tracker.advance(21)
    assert tracker.line() == "explain/default: 24 of 24 requests (100%), 0.2 requests/s, 0:00 left"


def test_stored_replies_make_no_rate() -> None:
    tracker = Tracker("score/detection", None, "requests")
    tracker.update(600, 800, skipped=600)
    assert tracker.line() == "score/detection: 600 of 800 requests (75%)"

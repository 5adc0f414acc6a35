from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.llm.types import Reply
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.base import Item
from autointerp.scorers.fuzzing import Fuzzing, FuzzingConfig
from autointerp.scorers.marks import active_marks, false_marks, place_weights, run_lengths
from tests.scorers import fakes

READOUTS = ["json", "logprob", "likelihood"]


def answer_for(readout: str) -> fakes.Answer:
    return fakes.likelihoods if readout == "likelihood" else fakes.perfect


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("hostile", [False, True])
def test_a_judge_that_knows_is_always_right(readout: str, hostile: bool) -> None:
    scorer = Fuzzing(FuzzingConfig(readout=readout, n_silent=8))  # type: ignore[arg-type]
    (judged,) = scorer.judge([fakes.item(hostile=hostile)], fakes.context(fakes.Judge(answer_for(readout))))
    score = judged.score
    assert score["value"] == 1.0
    assert score["accuracy"] == 1.0
    assert score["tp"] == 10
    assert score["tn"] >= 16
    by_kind = score["specificity_by_kind"]
    assert by_kind["mismarked"] == by_kind["random"] == by_kind["similar"] == 1.0


def test_a_judge_that_guesses_is_near_chance() -> None:
    scorer = Fuzzing(FuzzingConfig(n_silent=10))
    items = [fakes.item(latent) for latent in range(20)]
    judged = scorer.judge(items, fakes.context(fakes.Judge(fakes.coin)))
    assert 0.42 < np.mean([j.score["value"] for j in judged]) < 0.58


def test_seeing_only_that_a_concept_word_is_there_earns_nothing() -> None:
    """What detection rewards: mismarked windows hold the concept too."""
    anywhere = fakes.answering(lambda text: fakes.fits(text.replace("<<", "").replace(">>", "")))
    (judged,) = Fuzzing(FuzzingConfig()).judge([fakes.item()], fakes.context(fakes.Judge(anywhere)))
    assert judged.score["value"] == 0.5


def test_failures_have_rows() -> None:
    answer = fakes.failing_every(3, fakes.perfect)
    (judged,) = Fuzzing(FuzzingConfig(readout="logprob")).judge(
        [fakes.item()], fakes.context(fakes.Judge(answer))
    )
    assert 0 < judged.score["n_error"] < 20
    assert judged.score["accuracy"] == 1.0
    (judged,) = Fuzzing(FuzzingConfig()).judge(
        [fakes.item()], fakes.context(fakes.Judge(lambda r: Reply(text="no idea")))
    )
    assert judged.score["n_unparsed"] == 20
    assert judged.score["value"] is None


def test_false_marks_are_as_many_as_true_ones_on_silent_tokens_and_all_different() -> None:
    scorer, model = Fuzzing(FuzzingConfig(n_silent=20)), fakes.Judge(fakes.perfect)
    item = fakes.item()
    shown, _ = scorer.shown(item, fakes.context(model))
    numbers: dict[bool, list[int]] = {True: [], False: []}
    places = []
    for s in shown:
        assert s.marks is not None
        true = active_marks(s.window, 0.3)
        if s.label:
            assert (s.marks == true).all()
        else:
            assert not (s.marks & (s.window.activations > 0)).any()
            places.append(tuple(np.flatnonzero(s.marks)))
            if s.kind == "mismarked":
                assert run_lengths(s.marks) == run_lengths(true)
        numbers[s.label].append(int(s.marks.sum()))
    assert set(numbers[False]) <= {1, 2, 3}
    assert abs(np.mean(numbers[True]) - np.mean(numbers[False])) < 0.5
    assert len(set(places)) > 10
    centre = {
        label: np.mean([np.flatnonzero(s.marks).mean() for s in shown if s.label is label])
        for label in (True, False)
    }
    assert abs(centre[True] - centre[False]) < 1.5
    again, _ = scorer.shown(item, fakes.context(model))
    assert all((a.marks == b.marks).all() and a.window is b.window for a, b in zip(shown, again, strict=True))  # type: ignore[union-attr]


def test_positives_and_mismarked_are_other_windows_of_like_strength() -> None:
    shown, _ = Fuzzing(FuzzingConfig()).shown(fakes.item(), fakes.context(fakes.Judge(fakes.perfect)))
    positive = [s.window.max_activation for s in shown if s.label]
    negative = [s.window.max_activation for s in shown if not s.label]
    assert len(positive) == len(negative) == 10
    assert not set(positive) & set(negative)
    assert abs(np.mean(positive) - np.mean(negative)) < 2.0


def test_marks_in_the_prompt_are_ours_alone() -> None:
    model = fakes.Judge(fakes.perfect)
    scorer = Fuzzing(FuzzingConfig(readout="logprob"))
    item = fakes.item(hostile=True)
    scorer.judge([item], fakes.context(model))
    shown, _ = scorer.shown(item, fakes.context(model))
    for s, request in zip(shown, model.requests, strict=True):
        (text,) = fakes.texts_of(request)
        assert text == s.text
        assert s.marks is not None
        assert len(re.findall("<<", text)) == len(re.findall(">>", text)) == len(run_lengths(s.marks))


def test_windows_without_room_or_sight_are_left_out_and_counted() -> None:
    windows = (
        fakes.window(0, ["cat"] * 6, "activating", [1.0] * 6),
        fakes.window(1, ["cat", "the", "of", "the", "of", "red"], "activating", [1.0, 0, 0, 0, 0, 0]),
        fakes.window(2, ["cat"] * 6, "activating", [2.0] * 6),
    )
    item = Item(
        explanation="x", text="animals", record=LatentRecord(latent=0, statistics={}, windows=windows)
    )
    config = FuzzingConfig(mismarked_share=0.99)
    shown, left_out = Fuzzing(config).shown(item, fakes.context(fakes.Judge(fakes.perfect)))
    assert left_out["n_marks_unseen"] == 0
    assert left_out["n_without_silent_tokens"] >= 1
    assert len(shown) + left_out["n_without_silent_tokens"] == 3


def test_no_windows_is_failed_not_zero() -> None:
    item = Item(explanation="x", text="animals", record=LatentRecord(latent=0, statistics={}))
    (judged,) = Fuzzing(FuzzingConfig()).judge([item], fakes.context(fakes.Judge(fakes.perfect)))
    assert judged.score["value"] is None
    assert judged.score["reason"] == "no test windows to judge"
    assert judged.score["coverage"] is None


@pytest.mark.parametrize("readout", READOUTS)
def test_batching_changes_nothing(readout: str) -> None:
    scorer = Fuzzing(FuzzingConfig(readout=readout, n_silent=4))  # type: ignore[arg-type]
    items = [fakes.item(latent) for latent in range(4)]
    context = fakes.context(fakes.Judge(answer_for(readout)))
    assert scorer.judge(items, context) == [scorer.judge([item], context)[0] for item in items]


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=2, max_size=30),
    st.integers(0, 2**32 - 1),
)
def test_false_marks_property(runs: list[int], allowed: list[bool], seed: int) -> None:
    flags = np.array(allowed)
    marks = false_marks(sorted(runs, reverse=True), flags, np.ones(len(flags)), np.random.default_rng(seed))
    if sum(runs) > flags.sum():
        assert marks is None
        return
    assert marks is not None
    assert int(marks.sum()) == sum(runs)
    assert not (marks & ~flags).any()


def test_false_marks_follow_the_places_of_true_ones() -> None:
    true = [np.arange(32) == place for place in (20, 21, 22, 23, 24)] * 5
    weights = place_weights(true, 32)
    rng = np.random.default_rng(0)
    drawn = [false_marks([1], np.ones(32, dtype=bool), weights, rng) for _ in range(200)]
    places = [int(np.flatnonzero(m)[0]) for m in drawn if m is not None]
    assert np.mean([19 <= p <= 25 for p in places]) > 0.95
    assert len(set(places)) >= 5

"""The arithmetic the explainer stands on: areas, thresholds, folds, entropies, an identity."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.explainers.gradient.items import choose, folds, gather
from autointerp.explainers.gradient.recording import Recorder
from autointerp.explainers.gradient.scoring import (
    auc,
    best_threshold,
    class_weights,
    permutation_maxima,
    rates,
)
from autointerp.explainers.gradient.simplex import entropy, entropy_at, mean_divergence, with_entropy
from autointerp.explainers.gradient.types import TokenItem

seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.integers(2, 40), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_mean_divergence_is_the_published_kl(seed: int, n_labels: int, n_rows: int) -> None:
    """mean_i KL(p || q_i) = -H(p) - p . mean_i log q_i, against the definition term by term."""
    rng = torch.Generator().manual_seed(seed)
    p = torch.softmax(torch.randn(n_labels, generator=rng, dtype=torch.float64), -1)
    logq = torch.log_softmax(torch.randn(n_rows, n_labels, generator=rng, dtype=torch.float64), -1)
    wanted = torch.nn.functional.kl_div(logq, p.expand_as(logq), reduction="batchmean")
    assert float(mean_divergence(p, logq)) == pytest.approx(float(wanted), abs=1e-9)


@given(seeds, st.integers(3, 300), st.floats(0.05, 0.98))
@settings(max_examples=40, deadline=None)
def test_bisection_reaches_the_wanted_entropy_and_keeps_the_order(seed: int, n: int, share: float) -> None:
    logits = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nats = share * math.log(n)
    p = with_entropy(logits, nats)
    assert entropy(p).tolist() == pytest.approx([nats, nats], abs=5e-3)
    assert (p.argmax(-1) == logits.argmax(-1)).all()
    assert p.sum(-1).tolist() == pytest.approx([1.0, 1.0])


def test_bisection_of_equal_logits_stays_uniform() -> None:
    assert with_entropy(torch.zeros(5), 0.1).tolist() == pytest.approx([0.2] * 5)


def test_the_schedule_falls_from_many_labels_to_one_and_a_half() -> None:
    path = [entropy_at(step, 10, 5000) for step in range(10)]
    assert path[0] == pytest.approx(math.log(300))
    assert path[-1] == pytest.approx(math.log(1.5))
    assert path == sorted(path, reverse=True)


@given(seeds, st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_auc_is_the_share_of_weighted_pairs(seed: int, n_high: int, n_low: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (n_high + n_low, 3)).astype(float)
    positive = np.arange(n_high + n_low) < n_high
    weights = rng.uniform(0.5, 1.0, n_high + n_low)
    for column, area in zip(scores.T, auc(scores, positive, weights), strict=True):
        won = total = 0.0
        for i in range(n_high):
            for j in range(n_high, n_high + n_low):
                weight = weights[i] * weights[j]
                won += weight * ((column[i] > column[j]) + 0.5 * (column[i] == column[j]))
                total += weight
        assert area == pytest.approx(won / total)


@given(seeds, st.integers(1, 10), st.integers(1, 10))
@settings(max_examples=40, deadline=None)
def test_no_threshold_does_better_than_the_best_one(seed: int, n_high: int, n_low: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_high + n_low, 1))
    positive = np.arange(n_high + n_low) < n_high
    weights = class_weights(positive, np.ones(n_high + n_low), None)
    best = best_threshold(scores, positive, weights)[0]
    here = rates(scores[:, 0] > best, positive, weights)[2]
    assert here is not None
    for other in scores[:, 0]:
        there = rates(scores[:, 0] > other, positive, weights)[2]
        assert there is not None
        assert here >= there - 1e-9


def test_permutations_of_pure_noise_are_as_good_as_the_real_labels() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(40):
        scores = rng.normal(size=(30, 50))
        positive = rng.permutation(np.arange(30) < 12)
        real, shuffled = permutation_maxima(scores, positive, 99, rng)
        p_values.append((1 + (shuffled >= real).sum()) / 100)
    assert 0.35 < np.mean(p_values) < 0.65
    assert np.mean(np.array(p_values) <= 0.05) <= 0.15


def test_a_permutation_test_sees_one_good_column_among_many() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(30) < 12
    scores = rng.normal(size=(30, 200))
    scores[:, 7] += 10.0 * positive
    real, shuffled = permutation_maxima(scores, positive, 99, rng)
    assert real == pytest.approx(1.0)
    assert shuffled.max() < 1.0


@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.booleans()), min_size=1, max_size=60), seeds
)
@settings(max_examples=40, deadline=None)
def test_folds_keep_groups_whole_and_choice_keeps_both_sides(
    drawn: list[tuple[str, bool]], seed: int
) -> None:
    items = [TokenItem(token=w + ("" if a else "x"), activation=float(a), group=w) for w, a in drawn]
    words = gather(items)
    rng = np.random.default_rng(seed)
    fold = folds(words, 5, rng)
    for group in set(words.groups.tolist()):
        assert len(set(fold[words.groups == group].tolist())) == 1
    kept = choose(words, np.eye(len(words.words)), rng, most_positive=4, most_negative=4)
    assert kept.positive.sum() == min(4, words.n_positive)
    assert (~kept.positive).sum() == min(4, words.n_negative)


def test_a_word_is_positive_if_active_in_half_its_places_and_weighs_by_its_strength() -> None:
    items = [TokenItem(token=t, activation=a) for t, a in [("a", 0), ("a", 4), ("b", 2), ("c", 0), ("c", 0)]]
    words = gather([*items, TokenItem(token="c", activation=1)])
    assert words.words == ("a", "b", "c")
    assert words.positive.tolist() == [True, True, False]
    assert words.weights.tolist() == [1.0, 0.75, 1.0]


def test_a_recorder_keeps_few_tokens_and_points() -> None:
    recorder = Recorder([f"t{i}" for i in range(100)], restart=1)
    rng = torch.Generator().manual_seed(0)
    for step in range(500):
        recorder.add(step, torch.softmax(3 * torch.randn(100, generator=rng), -1), {"prediction": 1.0})
    kept = recorder.trajectory()
    assert len(kept.tokens) == 12
    assert len(kept.steps) == len(kept.probabilities) == len(kept.losses["prediction"]) == 60
    assert (kept.steps[0], kept.steps[-1]) == (0, 499)

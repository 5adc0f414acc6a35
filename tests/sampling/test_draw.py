"""Drawing windows of many groups at once: ranks, deciles and strategies, against slow restatements."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.config import Strategy
from autointerp.sampling.draw import deciles, draw, rank_within
from autointerp.sampling.places import tickets

STRATEGIES = get_args(Strategy)


def one_group(peak, n, strategy, seed=0, fair=None):
    """What is drawn of a single latent."""
    codes = np.arange(len(peak))
    return draw(
        np.zeros(len(peak), dtype=np.int64),
        np.asarray(peak, dtype=np.float32),
        n,
        strategy,
        tickets(seed, np.zeros_like(codes), codes, 8),
        tickets(seed, np.zeros((1, 10), np.int64), np.arange(10)[None], 9),
        fair,
    )


def decile(peak, fair=None):
    return deciles(np.zeros(len(peak), dtype=np.int64), peak, fair)


@st.composite
def groups(draw_):
    """Peaks with ties, of groups of any size, some of them empty, sorted by group."""
    sizes = draw_(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    rng = np.random.default_rng(draw_(st.integers(0, 2**20)))
    group = np.repeat(np.arange(len(sizes)), sizes)
    peak = rng.choice([0.5, 1.0, 2.0, 2.5, 7.0], size=len(group)).astype(np.float32)
    if draw_(st.booleans()):
        peak = rng.gamma(2.0, size=len(group)).astype(np.float32)
    return group, peak, rng


@given(groups(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_ranks_are_those_of_a_stable_sort(world, many):
    group, key, rng = world
    if many:
        # So many and such groups that they do not fit into one number with the key.
        group, key = np.tile(group * 10**6, 50), np.tile(key, 50)
    shuffled = rng.permutation(len(group))
    group, key = group[shuffled], key[shuffled]
    for values in (
        key,
        -key,
        key.astype(np.float64),
        rng.integers(0, 2**64, len(key), np.uint64) & np.uint64(7 << 40),
    ):
        rank = rank_within(group, values)
        for one in np.unique(group):
            mine = np.flatnonzero(group == one)
            assert rank[mine[np.argsort(values[mine], kind="stable")]].tolist() == list(range(len(mine)))


@given(groups(), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_deciles_of_each_group_are_its_own(world, fair_of):
    group, peak, rng = world
    fair = [None, np.ones(len(peak), bool), np.zeros(len(peak), bool), rng.random(len(peak)) < 0.5][fair_of]
    found = deciles(group, peak, fair)
    for one in np.unique(group):
        mine = np.flatnonzero(group == one)
        values = peak[mine]
        if fair is None or fair[mine].all():
            rank = np.empty(len(mine), dtype=int)
            rank[np.argsort(values, kind="stable")] = np.arange(len(mine))
            expected = 1 + rank * 10 // len(mine)
        else:
            measured = np.sort(values[fair[mine]])
            below = np.minimum(np.searchsorted(measured, values), max(len(measured) - 1, 0))
            expected = 1 + below * 10 // max(len(measured), 1)
        assert found[mine].tolist() == expected.tolist()


@given(groups(), st.integers(1, 30), st.sampled_from(STRATEGIES), st.booleans())
@settings(max_examples=150, deadline=None)
def test_a_group_is_drawn_the_same_whatever_stands_beside_it(world, n, strategy, sampled):
    group, peak, rng = world
    fair = rng.random(len(peak)) < 0.6 if sampled else None
    n_groups = int(group.max(initial=0)) + 1
    ticket = tickets(1, group, np.arange(len(group)), 8)
    quota = tickets(1, np.arange(n_groups)[:, None], np.arange(10)[None], 9)
    chosen = draw(group, peak, n, strategy, ticket, quota, fair)
    assert (np.diff(group[chosen]) >= 0).all()
    for one in range(n_groups):
        mine = np.flatnonzero(group == one)
        alone = draw(
            np.zeros(len(mine), np.int64),
            peak[mine],
            n,
            strategy,
            ticket[mine],
            quota[[one]],
            None if fair is None else fair[mine],
        )
        assert chosen[group[chosen] == one].tolist() == mine[alone].tolist()
        assert (np.diff(peak[mine[alone]]) <= 0).all()
        if fair is None:
            assert len(alone) == min(n, len(mine))
        elif strategy in ("random", "quantiles", "importance"):
            assert fair[mine[alone]].all()


@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from(STRATEGIES))
@settings(max_examples=100, deadline=None)
def test_draw_gives_distinct_windows_strongest_first(n_windows, n, strategy):
    peak = np.random.default_rng(n_windows).exponential(size=n_windows).astype(np.float32)
    chosen = one_group(peak, n, strategy)
    assert len(chosen) == len(set(chosen.tolist())) == min(n, n_windows)
    assert (np.diff(peak[chosen]) <= 0).all()


def test_quantiles_draw_as_many_from_each_decile():
    peak = np.random.default_rng(1).exponential(size=1000).astype(np.float32)
    for n in (50, 47):
        counts = np.bincount(decile(peak)[one_group(peak, n, "quantiles")], minlength=11)[1:]
        assert sorted(counts.tolist()) == sorted([n // 10] * (10 - n % 10) + [n // 10 + 1] * (n % 10))


@pytest.mark.parametrize("strategy", ["random", "quantiles"])
def test_every_window_is_drawn_as_often(strategy):
    peak = np.arange(100, dtype=np.float32)
    n_seeds = 2000
    times = np.zeros(100)
    for seed in range(n_seeds):
        times[one_group(peak, 25, strategy, seed)] += 1
    # Five standard deviations of a count.
    assert np.abs(times / n_seeds - 0.25).max() < 5 * (0.25 * 0.75 / n_seeds) ** 0.5


def test_what_thin_deciles_lack_is_drawn_evenly_from_the_rest():
    # 25 windows, 24 asked: deciles of two or three windows, two or three wanted of each.
    peak = np.arange(25, dtype=np.float32)
    times = np.zeros(25)
    for seed in range(2000):
        times[one_group(peak, 24, "quantiles", seed)] += 1
    assert times.min() > 0.8 * 2000
    assert times.sum() == 24 * 2000


def test_top_is_the_strongest_and_mixed_holds_half_of_them():
    peak = np.arange(100, dtype=np.float32)
    assert one_group(peak, 10, "top").tolist() == list(range(99, 89, -1))
    mixed = one_group(peak, 20, "mixed").tolist()
    assert set(range(90, 100)) <= set(mixed)


def test_importance_draws_by_the_square_of_the_peak():
    peak = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    first, second = np.zeros(3), np.zeros(3)
    n = 6000
    for seed in range(n):
        first[one_group(peak, 1, "importance", seed)[0]] += 1
        second[np.setdiff1d(np.arange(3), one_group(peak, 2, "importance", n + seed))[0]] += 1
    np.testing.assert_allclose(first / n, np.array([1, 4, 9]) / 14, atol=0.02)
    # Two of three, one after another: window i is left with the chance of the two orders of the others.
    left_out = [
        9 / 14 * 4 / 5 + 4 / 14 * 9 / 10,
        9 / 14 * 1 / 5 + 1 / 14 * 9 / 13,
        4 / 14 * 1 / 10 + 1 / 14 * 4 / 13,
    ]
    np.testing.assert_allclose(second / n, left_out, atol=0.02)


def test_top_importance_is_half_top():
    peak = np.r_[np.full(100, 1.0), np.full(20, 50.0), np.arange(100, 110)].astype(np.float32)
    chosen = one_group(peak, 20, "top_importance").tolist()
    assert set(range(120, 130)) <= set(chosen)
    # Of the rest the strong ones hold 99.8% of the weight.
    assert len(set(chosen) & set(range(100, 120))) >= 8


def test_deciles_of_a_hundred():
    assert np.bincount(decile(np.arange(100, dtype=np.float32)))[1:].tolist() == [10] * 10

"""Windows of one latent: placement, strategies, silent windows, against slow restatements."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.config import Strategy
from autointerp.sampling.places import tickets
from autointerp.sampling.select import (
    deciles,
    draw,
    first_apart,
    silent_spans,
    tile_spans,
    trigger_spans,
    window_activations,
)

CONTEXT_SIZE = 32


@st.composite
def activations(draw_):
    codes = draw_(st.lists(st.integers(0, 6 * CONTEXT_SIZE - 1), min_size=1, max_size=80, unique=True))
    codes = np.array(sorted(codes))
    values = draw_(st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=len(codes), max_size=len(codes)))
    return codes // CONTEXT_SIZE, codes % CONTEXT_SIZE, np.array(values, dtype=np.float32)


def dense(context, position, activation):
    out = np.zeros((6, CONTEXT_SIZE), dtype=np.float32)
    out[context, position] = activation
    return out


def ticket(latent, seed):
    return tickets(seed, np.zeros_like(latent[0]), latent[0] * CONTEXT_SIZE + latent[1])


@given(activations(), st.integers(2, 32), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_trigger_windows_hold_their_peak_and_never_overlap(latent, window, seed):
    spans = trigger_spans(
        *latent,
        window=window,
        context_size=CONTEXT_SIZE,
        trigger_position=(0.5, 0.9),
        ticket=ticket(latent, seed),
    )
    grid = dense(*latent)
    assert len(spans) > 0
    covered = np.zeros_like(grid, dtype=int)
    for context, start, peak in zip(spans.context, spans.start, spans.peak, strict=True):
        assert 0 <= start <= CONTEXT_SIZE - window
        assert peak == grid[context, start : start + window].max() > 0
        covered[context, start : start + window] += 1
    assert covered.max() == 1
    # The strongest activation of each context is always shown.
    for context in np.unique(latent[0]):
        best = grid[context].max()
        assert (spans.peak[spans.context == context] == best).any()


@given(activations(), st.integers(2, 32))
@settings(max_examples=100, deadline=None)
def test_tiles_are_exactly_the_active_ones(latent, window):
    spans = tile_spans(*latent, window=window, context_size=CONTEXT_SIZE)
    grid = dense(*latent)
    expected = {
        (c, s): grid[c, s : s + window].max()
        for c in range(6)
        for s in range(0, CONTEXT_SIZE - window + 1, window)
        if grid[c, s : s + window].any()
    }
    assert {(c, s): p for c, s, p in zip(spans.context, spans.start, spans.peak, strict=True)} == expected


@given(activations(), st.integers(2, 20), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_silent_windows_are_silent_and_apart(latent, window, seed):
    context, position, activation = latent
    spans = silent_spans(
        context * CONTEXT_SIZE + position,
        contexts=np.arange(6),
        n=10,
        window=window,
        context_size=CONTEXT_SIZE,
        taken=np.array([40]),
        rng=np.random.default_rng(seed),
    )
    grid = dense(context, position, activation)
    for c, s in zip(spans.context, spans.start, strict=True):
        assert not grid[c, s : s + window].any()
    begin = np.sort(np.r_[spans.context * CONTEXT_SIZE + spans.start, 40])
    assert (np.diff(begin) >= window).all(), "they overlap neither one another nor the one taken before"


@given(activations(), st.integers(2, 32), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_window_activations_are_those_of_the_grid(latent, window, seed):
    spans = trigger_spans(
        *latent,
        window=window,
        context_size=CONTEXT_SIZE,
        trigger_position=(0.0, 1.0),
        ticket=ticket(latent, seed),
    )
    codes = latent[0] * CONTEXT_SIZE + latent[1]
    values = window_activations(codes, latent[2], spans, window=window, context_size=CONTEXT_SIZE)
    grid = dense(*latent)
    for row, c, s in zip(values, spans.context, spans.start, strict=True):
        np.testing.assert_array_equal(row, grid[c, s : s + window])


@given(st.integers(1, 300), st.integers(1, 60), st.sampled_from(get_args(Strategy)))
@settings(max_examples=100, deadline=None)
def test_draw_gives_distinct_windows_strongest_first(n_windows, n, strategy):
    peak = np.random.default_rng(n_windows).exponential(size=n_windows).astype(np.float32)
    chosen = draw(peak, n, strategy, np.random.default_rng(0))
    assert len(chosen) == len(set(chosen.tolist())) == min(n, n_windows)
    assert (np.diff(peak[chosen]) <= 0).all()


def test_quantiles_draw_as_many_from_each_decile():
    peak = np.random.default_rng(1).exponential(size=1000).astype(np.float32)
    chosen = draw(peak, 50, "quantiles", np.random.default_rng(0))
    assert np.bincount(deciles(peak)[chosen], minlength=11)[1:].tolist() == [5] * 10


def test_top_is_the_strongest_and_mixed_holds_half_of_them():
    peak = np.arange(100, dtype=np.float32)
    assert draw(peak, 10, "top", np.random.default_rng(0)).tolist() == list(range(99, 89, -1))
    mixed = draw(peak, 20, "mixed", np.random.default_rng(0)).tolist()
    assert set(range(90, 100)) <= set(mixed)


def test_importance_draws_by_the_square_of_the_peak():
    peak = np.array([1.0, 2.0, 3.0], dtype=np.float32)
    first = np.zeros(3)
    second = np.zeros(3)
    n = 6000
    for seed in range(n):
        rng = np.random.default_rng(seed)
        first[draw(peak, 1, "importance", rng)[0]] += 1
        second[np.setdiff1d(np.arange(3), draw(peak, 2, "importance", rng))[0]] += 1
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
    chosen = draw(peak, 20, "top_importance", np.random.default_rng(0)).tolist()
    assert set(range(120, 130)) <= set(chosen)
    # Of the rest the strong ones hold 99.8% of the weight.
    assert len(set(chosen) & set(range(100, 120))) >= 8


def test_first_apart_is_the_greedy_choice():
    rng = np.random.default_rng(0)
    for _ in range(300):
        window = int(rng.integers(2, 8))
        begin = rng.integers(0, 60, size=rng.integers(0, 25))
        taken = np.sort(rng.integers(0, 60, size=rng.integers(0, 4)))
        expected, so_far = [], taken.tolist()
        for i, b in enumerate(begin.tolist()):
            if all(abs(b - t) >= window for t in so_far):
                expected.append(i)
                so_far.append(b)
        assert first_apart(begin, 3, taken, window).tolist() == expected[:3]


def test_deciles_of_a_hundred():
    assert np.bincount(deciles(np.arange(100, dtype=np.float32)))[1:].tolist() == [10] * 10


@pytest.mark.parametrize("seed", range(3))
def test_equal_seeds_give_equal_windows(seed):
    latent = (np.array([0, 1, 2]), np.array([5, 9, 30]), np.ones(3, np.float32))
    a, b = (
        trigger_spans(
            *latent,
            window=8,
            context_size=32,
            trigger_position=(0.2, 0.9),
            ticket=ticket(latent, seed),
        )
        for _ in range(2)
    )
    np.testing.assert_array_equal(a.start, b.start)

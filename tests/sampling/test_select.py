"""Where windows lie: placement and silent windows, against slow restatements."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.sampling.places import tickets
from autointerp.sampling.select import (
    first_apart,
    random_silent,
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
    codes = context * CONTEXT_SIZE + position
    # The same latent twice: the second has its own places, and may look at two contexts only.
    row_size = 6 * CONTEXT_SIZE
    row, begin = random_silent(
        np.r_[codes, codes + row_size],
        row_size=row_size,
        contexts=np.arange(6),
        n_known=np.array([6, 2]),
        n=10,
        window=window,
        context_size=CONTEXT_SIZE,
        taken=np.array([40]),
        ticket=lambda row, i: tickets(seed, row, i),
    )
    grid = dense(context, position, activation)
    assert (np.diff(row) >= 0).all()
    assert np.bincount(row, minlength=2).max() <= 10
    for r, code in zip(row, begin - row * row_size, strict=True):
        c, s = divmod(code, CONTEXT_SIZE)
        assert c < (6, 2)[r]
        assert not grid[c, s : s + window].any()
    begin = np.sort(np.r_[begin, 40])
    assert (np.diff(begin) >= window).all(), "they overlap neither one another nor the one taken before"


def test_silent_windows_are_drawn_uniformly_over_contexts_and_starts():
    row, begin = random_silent(
        np.array([5]),
        row_size=50 * 20,
        contexts=np.arange(10, 50),
        n_known=np.full(3000, 40),
        n=1,
        window=4,
        context_size=20,
        taken=np.empty(0, np.int64),
        ticket=lambda row, i: tickets(0, row, i),
    )
    context, start = np.divmod(begin - row * 1000, 20)
    assert np.abs(np.bincount(context - 10, minlength=40) / 3000 - 1 / 40).max() < 0.012
    assert np.abs(np.bincount(start, minlength=17) / 3000 - 1 / 17).max() < 0.02


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
    values = window_activations(codes, latent[2], spans.context * CONTEXT_SIZE + spans.start, window)
    grid = dense(*latent)
    for row, c, s in zip(values, spans.context, spans.start, strict=True):
        np.testing.assert_array_equal(row, grid[c, s : s + window])


def test_first_apart_is_the_greedy_choice():
    rng = np.random.default_rng(0)
    for _ in range(300):
        window = int(rng.integers(2, 8))
        row = np.sort(rng.integers(0, 3, size=rng.integers(0, 40)))
        begin = row * 100 + rng.integers(0, 60, size=len(row))
        taken = np.sort(rng.integers(0, 300, size=rng.integers(0, 4)))
        n = rng.integers(0, 5, size=3)
        expected, so_far = [], taken.tolist()
        for i, b in enumerate(begin.tolist()):
            if all(abs(b - t) >= window for t in so_far):
                expected.append(i)
                so_far.append(b)
        expected = [i for r in range(3) for i in [i for i in expected if row[i] == r][: n[r]]]
        assert first_apart(row, begin, n, taken, window).tolist() == expected


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

"""The reservoir keeps what a choice among all contexts would, whatever the order they come in."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from autointerp.sampling.reservoir import Bounds, Groups, choose, priorities


def draw_activations(rng, n_latents, n_contexts):
    latent, context, activation = [], [], []
    for one in range(n_latents):
        active = np.flatnonzero(rng.random(n_contexts) < rng.random())
        for c in active:
            n = rng.integers(1, 4)
            latent += [one] * n
            context += [c] * n
            activation += rng.random(n).tolist()
    return (
        np.array(latent, np.uint32),
        np.array(context, np.uint32),
        np.array(activation, np.float32),
    )


def expected(latent, context, activation, is_test, priority, n_random, n_top):
    kept = set()
    for one in set(latent.tolist()):
        for side in (False, True):
            mine = sorted({c for c in context[latent == one].tolist() if is_test[c] == side})
            peak = {c: activation[(latent == one) & (context == c)].max() for c in mine}
            kept |= {(one, c) for c in sorted(mine, key=lambda c: priority[c])[:n_random]}
            kept |= {(one, c) for c in sorted(mine, key=lambda c: (-peak[c], c))[:n_top]}
    return kept


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(0, 6), st.integers(0, 4))
@settings(max_examples=30, deadline=None)
def test_what_is_kept_is_what_a_choice_among_all_keeps(seed, n_pieces, n_random, n_top):
    rng = np.random.default_rng(seed)
    n_contexts = 40
    latent, context, activation = draw_activations(rng, 5, n_contexts)
    is_test, priority = rng.random(n_contexts) < 0.4, priorities(seed, n_contexts)
    bounds = Bounds.open(5)
    held = np.empty(0, np.int64)
    for piece in np.array_split(rng.permutation(n_contexts), n_pieces):
        new = np.flatnonzero(np.isin(context, piece))
        groups = Groups.of(latent[new], context[new], activation[new], is_test)
        new = new[groups.rows(bounds.admit(groups, priority))]
        held = np.sort(np.concatenate([held, new]))
        if rng.random() < 0.6:  # compaction now and then
            groups = Groups.of(latent[held], context[held], activation[held], is_test)
            chosen = choose(groups, priority, n_random=n_random, n_top=n_top, bounds=bounds)
            held = held[groups.rows(chosen)]
    groups = Groups.of(latent[held], context[held], activation[held], is_test)
    chosen = choose(groups, priority, n_random=n_random, n_top=n_top, bounds=bounds)
    kept = set(zip(groups.latent[chosen].tolist(), groups.context[chosen].tolist(), strict=True))
    assert kept == expected(latent, context, activation, is_test, priority, n_random, n_top)


def test_every_context_is_as_likely_to_be_kept():
    n_contexts, n_random = 12, 3
    context = np.arange(n_contexts, dtype=np.uint32)
    latent, activation = np.zeros(n_contexts, np.uint32), np.linspace(1, 2, n_contexts, dtype=np.float32)
    is_test = np.zeros(n_contexts, dtype=bool)
    kept = np.zeros(n_contexts)
    for seed in range(2_000):
        groups = Groups.of(latent, context, activation, is_test)
        bounds = Bounds.open(1)
        priority = priorities(seed, n_contexts)
        kept += choose(groups, priority, n_random=n_random, n_top=0, bounds=bounds)
    assert kept.sum() == 2_000 * n_random
    assert chisquare(kept).pvalue > 0.001


def test_the_bounds_are_the_last_that_were_kept():
    context = np.arange(4, dtype=np.uint32)
    groups = Groups.of(
        np.zeros(4, np.uint32), context, np.array([4, 1, 3, 2], np.float32), np.zeros(4, dtype=bool)
    )
    priority, bounds = np.array([40, 10, 30, 20], np.uint64), Bounds.open(1)
    chosen = choose(groups, priority, n_random=2, n_top=1, bounds=bounds)
    assert chosen.tolist() == [True, True, False, True]
    assert bounds.priority[0, 0] == 20
    assert bounds.peak[0, 0] == 4
    assert bounds.priority[0, 1] == 2**64 - 1

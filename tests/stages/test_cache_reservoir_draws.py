"""What a reservoir draws is a uniform sample: no context is favoured for when it is read or how strong it is.

The reservoir is fed as the stage feeds it: shard by shard, rows let in by the bounds, chosen anew now and
then. A draw that is wrong by a fifth is shown to fail the same test, so that passing it means something.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, norm

from autointerp.sampling.reservoir import Bounds, Groups, choose, priorities

N_CONTEXTS, N_ACTIVE, N_RANDOM, N_TOP, N_SEEDS = 300, 60, 12, 4, 600
SHARE = N_RANDOM / N_ACTIVE


def groups_of(contexts, peaks):
    n = len(contexts)
    return Groups(
        latent=np.zeros(n, np.int64),
        context=contexts,
        side=np.zeros(n, np.int64),
        peak=peaks,
        total=peaks.astype(np.float64),
        size=np.ones(n, np.int64),
    )


def drawn(seed, contexts, peaks, priority=None):
    """Which active contexts are in the uniform sample in the end, [N_ACTIVE]."""
    priority = priorities(seed, N_CONTEXTS) if priority is None else priority
    bounds, held = Bounds.open(1), np.empty(0, dtype=np.int64)
    for shard in np.array_split(np.arange(N_ACTIVE), 7):
        new = groups_of(contexts[shard], peaks[shard])
        held = np.r_[held, shard[bounds.admit(new, priority)]]
        groups = groups_of(contexts[held], peaks[held])
        held = held[choose(groups, priority, n_random=N_RANDOM, n_top=N_TOP, bounds=bounds)]
    sample = np.zeros(N_ACTIVE, dtype=bool)
    sample[held] = priority[contexts[held]] <= bounds.priority[0, 0]
    return sample


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    contexts = np.sort(rng.choice(N_CONTEXTS, N_ACTIVE, replace=False))
    # Stronger and stronger while it is read, so that order and strength would both show.
    return contexts, (np.arange(N_ACTIVE) + rng.random(N_ACTIVE)).astype(np.float32)


@pytest.fixture(scope="module")
def samples(world):
    return np.array([drawn(seed, *world) for seed in range(N_SEEDS)])


def p_value(samples):
    """Chi-square of how often each context is drawn, for draws without replacement."""
    often, expected = samples.sum(axis=0), len(samples) * SHARE
    n = samples.shape[1]
    statistic = ((often - expected) ** 2).sum() / (expected * (1 - SHARE)) * (n - 1) / n
    return chi2.sf(statistic, n - 1)


def test_every_draw_has_the_size_asked_for(samples):
    assert (samples.sum(axis=1) == N_RANDOM).all()


def test_every_context_is_drawn_equally_often(samples):
    assert p_value(samples) > 0.001


def test_pairs_are_drawn_as_by_chance(samples):
    """Each pair together in (n / N) (n - 1) / (N - 1) of the draws: being drawn together is no habit either."""
    together = samples.astype(int).T @ samples
    pairs = together[np.triu_indices(N_ACTIVE, 1)]
    share = SHARE * (N_RANDOM - 1) / (N_ACTIVE - 1)
    assert pairs.mean() == pytest.approx(N_SEEDS * share, rel=1e-9)
    # Counts of pairs vary as binomial ones do, up to 5%.
    assert pairs.var() == pytest.approx(N_SEEDS * share * (1 - share), rel=0.2)


def test_strong_contexts_are_not_favoured(world, samples):
    _, peaks = world
    error = peaks.std(ddof=1) * np.sqrt((1 - SHARE) / N_RANDOM)
    z = (samples @ peaks / N_RANDOM - peaks.mean()) / error
    assert abs(z.mean()) * np.sqrt(N_SEEDS) < norm.isf(0.0005)
    assert z.std() == pytest.approx(1.0, abs=0.1)


def test_deciles_of_the_sample_are_those_of_everything_up_to_chance(world, samples):
    """The share of draws above each decile of all peaks is that decile's, within four standard errors."""
    _, peaks = world
    for decile in range(1, 10):
        above = peaks > np.quantile(peaks, decile / 10)
        found = samples[:, above].sum() / samples.sum()
        error = np.sqrt(above.mean() * (1 - above.mean()) * (1 - SHARE) / (N_RANDOM * N_SEEDS))
        assert abs(found - above.mean()) < 4 * error


def test_a_draw_that_favours_late_contexts_by_a_fifth_would_be_noticed(world):
    contexts, peaks = world
    wrong = []
    for seed in range(N_SEEDS):
        priority = priorities(seed, N_CONTEXTS).astype(np.float64)
        priority[contexts[N_ACTIVE // 2 :]] /= 1.2
        wrong.append(drawn(seed, contexts, peaks, priority.astype(np.uint64)))
    assert p_value(np.array(wrong)) < 0.001

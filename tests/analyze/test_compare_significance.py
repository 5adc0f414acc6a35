from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from autointerp.analyze.compare_significance import detectable, fewest_p, holm, paired_p, unpaired_p

P = st.one_of(st.none(), st.floats(0, 1))


@pytest.mark.parametrize("n", [2, 5, 9])
def test_few_latents_are_tested_exactly(n):
    apart = np.random.default_rng(n).normal(0.3, 1, n)
    signs = np.array([[1 - 2 * (i >> k & 1) for k in range(n)] for i in range(2**n)])
    exact = (np.abs(signs @ apart) >= abs(apart.sum()) - 1e-12).mean()
    assert paired_p(apart, seed=0) == pytest.approx(exact)
    assert paired_p(apart, seed=0) >= 2 / 2**n


def test_many_latents_agree_with_scipy():
    rng = np.random.default_rng(0)
    apart = rng.normal(0.15, 1, 60)
    reference = stats.permutation_test(
        (apart,), np.mean, permutation_type="samples", n_resamples=9_999, vectorized=True, rng=1, axis=-1
    )
    assert paired_p(apart, seed=3) == pytest.approx(reference.pvalue, abs=0.02)


def test_unpaired_is_near_welch():
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.4, 1, 40), rng.normal(0, 2, 70)
    welch = stats.ttest_ind(first, second, equal_var=False).pvalue
    assert unpaired_p(first, second, seed=0) == pytest.approx(welch, abs=0.02)


def test_above_the_limit_the_normal_distribution_agrees():
    rng = np.random.default_rng(2)
    apart = rng.normal(0.03, 1, 2_500)
    assert paired_p(apart, seed=0) == pytest.approx(stats.ttest_1samp(apart, 0).pvalue, rel=0.05)
    other = rng.normal(0, 1, 2_500)
    assert unpaired_p(apart, other, seed=0) == pytest.approx(stats.ttest_ind(apart, other).pvalue, rel=0.05)


def test_no_difference_at_all():
    assert paired_p(np.zeros(20), seed=0) == 1.0
    assert unpaired_p(np.ones(5), np.ones(7), seed=0) == 1.0
    assert paired_p(np.array([0.3]), seed=0) is None
    assert unpaired_p(np.array([0.3]), np.ones(5), seed=0) is None


def test_false_positives_are_as_rare_as_said():
    """Skewed and unlike samples, no difference in mean: about one test in twenty is below .05."""
    rng = np.random.default_rng(3)
    paired = [paired_p(rng.exponential(1, 25) - 1, seed=i, n_flips=400) for i in range(400)]
    unpaired = [
        unpaired_p(rng.normal(0, 3, 10), rng.normal(0, 1, 40), seed=i, n_flips=400) for i in range(400)
    ]
    for p_values in (paired, unpaired):
        rate = float(np.mean(np.array(p_values) < 0.05))
        assert 0.01 < rate < 0.095


@given(st.lists(P, max_size=12))
def test_holm_lies_between_the_test_and_bonferroni(p_values):
    adjusted = holm(p_values)
    n = sum(p is not None for p in p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert (p is None) == (q is None)
        if p is not None:
            assert p <= q <= min(1.0, n * p) + 1e-12
    known = sorted((p, q) for p, q in zip(p_values, adjusted, strict=True) if p is not None)
    assert [q for _, q in known] == sorted(q for _, q in known)
    if known:
        assert known[0][1] == pytest.approx(min(1.0, n * known[0][0]))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_rejects_what_the_step_down_rule_rejects(p_values):
    """The rule as published: go through the sorted p-values while the k-th is below alpha / (m - k)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    rejected = set()
    for k, i in enumerate(order):
        if (len(order) - k) * p_values[i] >= 0.05:
            break
        rejected.add(i)
    assert {i for i, q in enumerate(holm(p_values)) if q < 0.05} == rejected


@settings(max_examples=30)
@given(st.integers(1, 200), st.floats(0.001, 1))
def test_what_could_be_shown_grows_with_the_family(n_tests, half_width):
    least = detectable(half_width, 1)
    normal = NormalDist()
    assert least == pytest.approx(half_width * (1 + normal.inv_cdf(0.8) / normal.inv_cdf(0.975)))
    assert detectable(half_width, n_tests) >= least
    assert detectable(None, n_tests) is None


def test_what_could_be_shown_is_shown_four_times_in_five():
    """A true difference of the size said is found in about .8 of samples."""
    rng = np.random.default_rng(4)
    n, sd = 60, 0.2
    size = detectable(1.96 * sd / math.sqrt(n), 1)
    found = [paired_p(rng.normal(size, sd, n), seed=i, n_flips=500) < 0.05 for i in range(300)]
    assert 0.72 < np.mean(found) < 0.88


def test_what_is_plain_is_shown_in_a_large_family():
    rng = np.random.default_rng(5)
    apart = rng.normal(1, 0.3, 30)
    p = paired_p(apart, seed=0)
    assert fewest_p(30) <= p < 1e-7
    assert unpaired_p(rng.normal(3, 1, 30), rng.normal(0, 1, 30), seed=0) < 1e-7
    assert paired_p(np.full(16, 0.4), seed=0) == fewest_p(16) == 2 / 2**16
    assert unpaired_p(np.full(9, 0.4), np.full(9, 0.1), seed=0) < 0.001

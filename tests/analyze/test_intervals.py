from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.analyze import intervals
from autointerp.analyze.intervals import (
    FEWEST,
    bootstrap_difference,
    bootstrap_mean,
    bootstrap_quantiles,
    bootstrap_ratios,
)
from autointerp.analyze.summary import weighted_mean

QUARTILES = (0.25, 0.5, 0.75)


def test_mean_agrees_with_scipy_and_with_the_normal_interval(monkeypatch):
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).normal(0.7, 0.1, size=300)
    ours = bootstrap_mean(values, seed=1, n_resamples=4000)
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.001)
    monkeypatch.setattr(intervals, "EXACT_BELOW", 100)
    normal = bootstrap_mean(values, seed=1)
    assert (normal.low, normal.high) == pytest.approx((ours.low, ours.high), abs=0.001)
    assert ours.n == 300


def test_quantiles_agree_with_scipy_and_with_order_statistics(monkeypatch):
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).beta(4, 2, size=400)
    ours = bootstrap_quantiles(values, QUARTILES, seed=1, n_resamples=4000)
    monkeypatch.setattr(intervals, "EXACT_BELOW", 100)
    ranks = bootstrap_quantiles(values, QUARTILES, seed=1)
    for share, one, other in zip(QUARTILES, ours, ranks, strict=True):

        def quantile(x, axis, share=share):
            return np.quantile(x, share, axis=axis)

        theirs = bootstrap((values,), quantile, n_resamples=4000, method="percentile", rng=2)
        ends = theirs.confidence_interval
        assert one.value == other.value == np.quantile(values, share)
        assert (one.low, one.high) == pytest.approx((ends.low, ends.high), abs=0.006)
        assert (other.low, other.high) == pytest.approx((ends.low, ends.high), abs=0.012)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.sampled_from(QUARTILES))
@settings(max_examples=40, deadline=None)
def test_a_quantile_is_numpys_and_its_interval_holds_values(values, share):
    (found,) = bootstrap_quantiles(np.array(values), (share,), seed=0, n_resamples=50)
    assert found.value == pytest.approx(np.quantile(values, share))
    if len(values) >= FEWEST:
        assert min(values) - 1e-12 <= found.low <= found.high <= max(values) + 1e-12


def test_order_statistic_interval_covers_as_often_as_it_says(monkeypatch):
    monkeypatch.setattr(intervals, "EXACT_BELOW", 50)
    rng = np.random.default_rng(1)
    hits = sum(
        i.low <= 0.25 <= i.high
        for i in (bootstrap_quantiles(rng.uniform(size=200), (0.25,), seed=0)[0] for _ in range(400))
    )
    assert 0.92 < hits / 400 < 0.99


def test_weighted_mean_by_hand_and_its_two_intervals(monkeypatch):
    values, weights = np.array([0.0, 1.0, 0.5]), np.array([1.0, 3.0, 4.0])
    assert weighted_mean(values, weights, seed=0).value == pytest.approx(5 / 8)
    rng = np.random.default_rng(0)
    values, weights = rng.uniform(size=400), rng.exponential(size=400)
    exact = weighted_mean(values, weights, seed=0)
    monkeypatch.setattr(intervals, "EXACT_BELOW", 100)
    linear = weighted_mean(values, weights, seed=0)
    assert exact.value == linear.value == pytest.approx(np.average(values, weights=weights))
    assert (exact.low, exact.high) == pytest.approx((linear.low, linear.high), abs=0.004)
    equal = weighted_mean(values, np.ones(400), seed=0)
    plain = bootstrap_mean(values, seed=0)
    assert (equal.value, equal.low, equal.high) == pytest.approx((plain.value, plain.low, plain.high))


def test_ratios_leave_out_what_a_latent_lacks():
    values = np.array([[0.5, 0.0, 0.0], [1.0, 0.25, 0.0]])
    known = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    both, one, none = bootstrap_ratios(values, known, seed=0)
    assert (both.value, both.n) == (0.75, 2)
    assert (one.value, one.low, one.high, one.n) == (0.25, None, None, 1)
    assert (none.value, none.low, none.n) == (None, None, 0)


def test_difference_of_two_samples(monkeypatch):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.8, 0.1, 300), rng.normal(0.5, 0.2, 200)
    exact = bootstrap_difference(a, b, seed=0)
    monkeypatch.setattr(intervals, "EXACT_BELOW", 100)
    normal = bootstrap_difference(a, b, seed=0)
    assert exact.value == pytest.approx(a.mean() - b.mean())
    assert (exact.low, exact.high) == pytest.approx((normal.low, normal.high), abs=0.005)
    assert (exact.n, exact.low < exact.value < exact.high) == (200, True)
    assert bootstrap_difference(a, b[:0], seed=0).value is None
    assert bootstrap_difference(a, b[: FEWEST - 1], seed=0).low is None
    assert bootstrap_difference(a[:FEWEST], b[:FEWEST], seed=0).low is not None


def test_interval_of_the_mean_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for i in range(300):
        interval = bootstrap_mean(rng.uniform(size=60), seed=i, n_resamples=400)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.90 < hits / 300 < 0.985


@pytest.mark.parametrize("n", [0, 1, 2, FEWEST - 1])
def test_few_latents_have_a_number_and_no_interval(n):
    values = np.full(n, 0.5)
    found = [bootstrap_mean(values, seed=0), *bootstrap_quantiles(values, QUARTILES, seed=0)]
    found += bootstrap_ratios(values[:, None], np.ones((n, 1)), seed=0)
    assert {(i.value, i.low, i.high, i.n) for i in found} == {(0.5 if n else None, None, None, n)}


def test_from_the_fewest_latents_on_there_is_an_interval():
    values = np.linspace(0, 1, FEWEST)
    found = [bootstrap_mean(values, seed=0), *bootstrap_quantiles(values, QUARTILES, seed=0)]
    found += bootstrap_ratios(values[:, None], np.ones((FEWEST, 1)), seed=0)
    assert all(i.low < i.value < i.high for i in found)
    # Half of the latents may lack a rate: then it is over too few.
    known = (np.arange(FEWEST) % 2)[:, None].astype(float)
    (few,) = bootstrap_ratios(values[:, None] * known, known, seed=0)
    assert (few.n, few.low) == (FEWEST // 2, None)


def test_the_range_of_one_latent_fewer_is_no_interval_of_the_median():
    # Both sides of the median are as likely: all values lie on one side 2 times in 2^n.
    assert 1 - 2.0 ** (1 - FEWEST) >= intervals.CONFIDENCE > 1 - 2.0 ** (2 - FEWEST)

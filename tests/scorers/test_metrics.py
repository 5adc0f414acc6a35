from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from autointerp.artifacts.schemas import KINDS
from autointerp.scorers.base import Judgement
from autointerp.scorers.metrics import (
    NEGATIVE_KINDS,
    auroc,
    balanced_accuracy,
    classification,
    headline,
    mean_interval,
    pearson,
    pooled_pearson,
    rsquared,
    wilson,
)


def judged(label: bool, prediction: bool | None, i: int = 0, **columns: object) -> Judgement:
    kind = "activating" if label else "random"
    return Judgement(example=i, label=label, prediction=prediction, **{"kind": kind, **columns})  # type: ignore[arg-type]


def test_kinds_are_those_of_the_schema() -> None:
    assert KINDS[1:] == NEGATIVE_KINDS


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_metrics_equal_sklearn(pairs: list[tuple[bool, bool]]) -> None:
    labels, predictions = zip(*pairs, strict=True)
    row = classification([judged(label, prediction) for label, prediction in pairs])
    assert row["accuracy"] == pytest.approx(np.mean(np.array(labels) == np.array(predictions)))
    assert row["tp"] + row["fp"] + row["tn"] + row["fn"] == row["n_examples"] == len(pairs)
    if len(set(labels)) == 2:
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predictions))
    else:
        assert row["balanced_accuracy"] is None
    if any(labels) or any(predictions):
        assert row["f1"] == pytest.approx(f1_score(labels, predictions))
    else:
        assert row["f1"] is None


@given(
    st.lists(st.tuples(st.booleans(), st.integers(-3, 3)), min_size=1, max_size=50),
)
def test_auroc_equals_sklearn_with_ties(pairs: list[tuple[bool, int]]) -> None:
    positive = [float(v) for label, v in pairs if label]
    negative = [float(v) for label, v in pairs if not label]
    area = auroc(positive, negative)
    if not positive or not negative:
        assert area == (None, None, None)
        return
    assert area.value == pytest.approx(roc_auc_score([p[0] for p in pairs], [p[1] for p in pairs]))
    assert area.low is not None
    assert area.high is not None
    assert 0 <= area.low <= area.value + 1e-9
    assert area.value - 1e-9 <= area.high <= 1


def test_auroc_takes_infinite_evidence_but_no_nan() -> None:
    assert auroc([math.inf, 1.0], [-math.inf]).value == 1.0
    assert auroc([math.nan, 1.0], [0.0]).value is None


def test_auroc_interval_covers_the_truth() -> None:
    """Normal scores one standard deviation apart: the true area is Phi(1 / sqrt 2) = 0.760."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(400):
        area = auroc(rng.normal(1, 1, 25), rng.normal(0, 1, 25))
        assert area.low is not None
        assert area.high is not None
        hits += area.low <= 0.7602 <= area.high
    assert 0.92 <= hits / 400 <= 0.99
    perfect = auroc([2.0] * 20, [1.0] * 20)
    assert perfect.high == 1.0
    assert perfect.low is not None
    assert 0.75 < perfect.low < 0.95


def test_wilson_by_its_formula() -> None:
    z = 1.959964
    low = (10 + z**2 / 2 - z * math.sqrt(10 * 10 / 20 + z**2 / 4)) / (20 + z**2)
    assert wilson(10, 20) == pytest.approx((0.5, low, 1 - low))
    assert wilson(0, 0) == (None, None, None)
    assert wilson(5, 5).high == 1.0
    assert wilson(0, 5).low == 0.0


@settings(max_examples=50)
@given(st.integers(0, 20), st.integers(0, 20))
def test_balanced_accuracy_interval_holds_the_value(a: int, b: int) -> None:
    interval = balanced_accuracy(a, 20, b, 20)
    assert interval.value == pytest.approx((a + b) / 40)
    assert interval.low is not None
    assert interval.high is not None
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_undefined_is_none_and_failures_are_counted() -> None:
    rows = [
        judged(True, True, 0, decile=10),
        judged(True, False, 1, decile=1),
        judged(True, None, 2, status="unparsed", decile=1),
        judged(False, False, 3),
        judged(False, None, 4, status="error"),
        judged(False, True, 5, kind="mismarked"),
    ]
    row = classification(rows)
    assert (row["tp"], row["fp"], row["tn"], row["fn"]) == (1, 1, 1, 1)
    assert (row["n_unparsed"], row["n_error"], row["n_examples"]) == (1, 1, 6)
    assert row["coverage"] == pytest.approx(4 / 6)
    assert row["worst_case_accuracy"] == pytest.approx(2 / 6)
    assert row["auroc"] is None
    assert row["sensitivity_by_decile"] == [0.0, *[None] * 8, 1.0]
    others = dict.fromkeys(("similar", "neighbour", "unread", "decoy"))
    assert row["specificity_by_kind"] == {"random": 1.0, **others, "mismarked": 0.0}
    nothing = classification([judged(True, None, status="error")])
    assert [nothing[k] for k in ("tp", "accuracy", "balanced_accuracy", "f1", "auroc")] == [None] * 5
    assert nothing["worst_case_accuracy"] == 0.0
    assert nothing["coverage"] == 0.0
    empty = classification([])
    assert (empty["coverage"], empty["worst_case_accuracy"], empty["n_examples"]) == (None, None, 0)
    assert headline("balanced_accuracy", rows).value == pytest.approx(row["balanced_accuracy"])
    assert headline("accuracy", rows).value == pytest.approx(row["accuracy"])


def test_pearson_equals_scipy_and_is_none_for_a_constant() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=50), rng.normal(size=50)
    assert pearson(x, x + y) == pytest.approx(pearsonr(x, x + y).statistic)
    assert pearson(x, np.ones(50)) is None
    assert pearson(np.zeros(0), np.zeros(0)) is None
    assert pearson(x, -x) == -1.0


def test_pooled_correlation_is_over_all_tokens_with_windows_resampled() -> None:
    rng = np.random.default_rng(0)
    true = [rng.normal(size=8) + w for w in range(20)]
    predicted = [t + rng.normal(size=8) for t in true]
    interval = pooled_pearson(true, predicted, np.random.default_rng(1))
    assert interval.value == pytest.approx(np.corrcoef(np.concatenate(true), np.concatenate(predicted))[0, 1])
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < interval.value < interval.high
    # The bootstrap itself, done the slow way with the same draws.
    counts = np.random.default_rng(1).multinomial(20, np.full(20, 1 / 20), size=1000)
    slow = [
        np.corrcoef(
            np.concatenate([true[w] for w in range(20) for _ in range(c[w])]),
            np.concatenate([predicted[w] for w in range(20) for _ in range(c[w])]),
        )[0, 1]
        for c in counts
    ]
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])))
    assert pooled_pearson(true[:1], predicted[:1], rng)[1:] == (None, None)
    assert pooled_pearson([], [], rng).value is None
    assert pooled_pearson(true, [np.zeros(8)] * 20, rng).value is None


def test_rsquared_is_the_published_uncentred_formula() -> None:
    r, p = np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0, 2.0])
    assert rsquared(r, p) == pytest.approx(1 - np.mean((r - p) ** 2) / np.mean(r**2))
    assert rsquared(np.zeros(3), p) is None


def test_mean_interval_covers_the_mean_of_latents() -> None:
    rng, hits = np.random.default_rng(3), 0
    for seed in range(300):
        interval = mean_interval(list(rng.normal(0.7, 0.1, size=40)), seed)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.7 <= interval.high
    assert 0.89 <= hits / 300 <= 0.99
    assert mean_interval([None, None], 0) == (None, None, None)
    assert mean_interval([0.5, None], 0) == (0.5, None, None)
    assert mean_interval([0.1, 0.9], 7) == mean_interval([0.1, 0.9], 7)

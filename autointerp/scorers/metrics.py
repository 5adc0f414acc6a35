"""Numbers from judgements: classification metrics, AUROC, correlation, and their 95% intervals.

An undefined number is None, never 0: a rate over no items, a balanced accuracy with one class
missing, a correlation with a constant. Intervals treat the judged windows of a latent as
independent draws; windows that share a document are not quite that, so real uncertainty is larger.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, rankdata

from autointerp.scorers.base import Judgement

NEGATIVE_KINDS = ("random", "similar", "neighbour", "unread", "mismarked", "decoy")
"""Kinds of judged items whose true answer is no, as in the column `specificity_by_kind`."""

CONFIDENCE = 0.95
_Z = float(norm.ppf(0.5 + CONFIDENCE / 2))


class Interval(NamedTuple):
    """An estimate with the ends of its 95% interval; None where undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


UNDEFINED = Interval(None)


def classification(judgements: Sequence[Judgement]) -> dict[str, Any]:
    """The classification columns of a `scores` row, from judgements that carry labels.

    Only judgements of status `ok` enter the metrics, except `worst_case_accuracy`, which counts
    every other one as wrong (None where the judge gives evidence but decides nothing), and
    `coverage`, the share of status `ok`.
    """
    total = len(judgements)
    read = [j for j in judgements if j.status == "ok"]
    decided = [j for j in read if j.label is not None and j.prediction is not None]
    tp = sum(bool(j.label and j.prediction) for j in decided)
    fp = sum(bool(not j.label and j.prediction) for j in decided)
    tn = sum(bool(not j.label and not j.prediction) for j in decided)
    fn = sum(bool(j.label and not j.prediction) for j in decided)
    counts: dict[str, int | None] = {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
    sensitivity, specificity = _share(tp, tp + fn), _share(tn, tn + fp)
    said_yes = _rates_by((j.decile, j.prediction is True) for j in decided if j.label)
    said_no = _rates_by((j.kind, j.prediction is False) for j in decided if not j.label)
    return {
        "n_examples": total,
        "coverage": _share(len(read), total),
        **(counts if decided else dict.fromkeys(counts)),
        "n_unparsed": sum(j.status == "unparsed" for j in judgements),
        "n_error": sum(j.status == "error" for j in judgements),
        "accuracy": _share(tp + tn, len(decided)),
        "balanced_accuracy": None
        if sensitivity is None or specificity is None
        else (sensitivity + specificity) / 2,
        "worst_case_accuracy": None if read and not decided else _share(tp + tn, total),
        "f1": _share(2 * tp, 2 * tp + fp + fn),
        "auroc": auroc_of(judgements).value,
        "sensitivity_by_decile": [said_yes.get(decile) for decile in range(1, 11)],
        "specificity_by_kind": {kind: said_no.get(kind) for kind in NEGATIVE_KINDS},
    }


def headline(metric: str, judgements: Sequence[Judgement]) -> Interval:
    """One of `accuracy`, `balanced_accuracy` and `auroc` of labelled judgements, with its interval."""
    if metric == "auroc":
        return auroc_of(judgements)
    decided = [j for j in judgements if j.status == "ok" and None not in (j.label, j.prediction)]
    right = {
        label: sum(j.prediction == label for j in decided if j.label == label) for label in (True, False)
    }
    n = {label: sum(j.label == label for j in decided) for label in (True, False)}
    if metric == "accuracy":
        return wilson(right[True] + right[False], n[True] + n[False])
    assert metric == "balanced_accuracy", metric
    return balanced_accuracy(right[True], n[True], right[False], n[False])


def auroc_of(judgements: Sequence[Judgement]) -> Interval:
    """AUROC of the `log_odds` of labelled judgements of status `ok`."""
    scored = [j for j in judgements if j.status == "ok" and None not in (j.label, j.log_odds)]
    positive = [j.log_odds for j in scored if j.label and j.log_odds is not None]
    negative = [j.log_odds for j in scored if not j.label and j.log_odds is not None]
    return auroc(positive, negative)


def auroc(positive: Sequence[float] | np.ndarray, negative: Sequence[float] | np.ndarray) -> Interval:
    """Area under the ROC curve: P(positive > negative) + P(equal) / 2, by Mann-Whitney's U.

    U is the rank sum of the m positives, with mean ranks for ties, less m (m + 1) / 2; the area is
    U / (m n). None if either side is empty or holds a NaN. Interval: method 5 of Newcombe,
    Statistics in Medicine 25 (2006) 559-573, the areas t with |area - t| <= z sqrt(V(t)) where
    V(t) = t (1 - t) / (m n) (1 + (N - 1) ((1 - t) / (2 - t) + t / (1 + t))), N = (m + n) / 2.
    Unlike DeLong's interval it keeps its width at an area of 1.
    """
    x = np.concatenate([np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)])
    m, n = len(positive), len(negative)
    if m == 0 or n == 0 or bool(np.isnan(x).any()):
        return UNDEFINED
    u = float(rankdata(x)[:m].sum()) - m * (m + 1) / 2
    area = u / (m * n)

    return auroc_interval(area, m, n)


def auroc_interval(area: float, n_positive: int, n_negative: int) -> Interval:
    """Newcombe's interval of an AUROC (see `auroc`) for so many independent draws.

    For draws that come in clusters, `n_*` are the clusters: right if those of one cluster all agree,
    else too wide, never too narrow.
    """

    def excess(t: float) -> float:
        more = (n_positive + n_negative) / 2 - 1
        spread = 1 + more * ((1 - t) / (2 - t) + t / (1 + t))
        return (area - t) ** 2 - _Z**2 * t * (1 - t) / (n_positive * n_negative) * spread

    low = 0.0 if area <= 0 else float(brentq(excess, 0.0, min(area, 1 - 1e-9)))
    high = 1.0 if area >= 1 else float(brentq(excess, max(area, 1e-9), 1.0))
    return Interval(area, low, high)


def wilson(right: int, total: int) -> Interval:
    """A proportion with Wilson's score interval (JASA 22 (1927) 209-212); None of 0 items."""
    if total == 0:
        return UNDEFINED
    p, z2 = right / total, _Z**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return Interval(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def balanced_accuracy(right_positive: int, n_positive: int, right_negative: int, n_negative: int) -> Interval:
    """Mean of sensitivity and specificity; None unless both classes were decided.

    Interval: the Wilson intervals of the two rates combined by squaring and adding the distances
    to their ends (Newcombe, Statistics in Medicine 17 (1998) 873-890, for a sum).
    """
    a, b = wilson(right_positive, n_positive), wilson(right_negative, n_negative)
    if a.value is None or b.value is None:
        return UNDEFINED
    value = (a.value + b.value) / 2
    below = math.hypot(a.value - (a.low or 0.0), b.value - (b.low or 0.0)) / 2
    above = math.hypot((a.high or 0.0) - a.value, (b.high or 0.0) - b.value) / 2
    return Interval(value, max(0.0, value - below), min(1.0, value + above))


def pearson(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson correlation of two equally long vectors; None if either is constant or empty."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    norms = math.sqrt(float(x @ x) * float(y @ y))
    if norms == 0 or not math.isfinite(norms):
        return None
    return float(np.clip(float(x @ y) / norms, -1.0, 1.0))


def pooled_pearson(
    true: Sequence[np.ndarray],
    predicted: Sequence[np.ndarray],
    rng: np.random.Generator,
    n_resamples: int = 1_000,
) -> Interval:
    """Correlation over the tokens of all windows together, with a bootstrap interval over windows.

    Tokens of a window depend on one another, so whole windows are drawn with replacement; the
    interval holds the middle 95% of the resampled correlations. It is None with fewer than two
    windows or when over half of the resamples are constant.
    """
    if not true:
        return UNDEFINED
    x, y = np.concatenate(true).astype(np.float64), np.concatenate(predicted).astype(np.float64)
    value = pearson(x, y)
    if value is None or len(true) < 2:
        return Interval(value)
    x, y = x - x.mean(), y - y.mean()
    window = np.repeat(np.arange(len(true)), [len(t) for t in true])
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    sums = np.stack([np.bincount(window, m, minlength=len(true)) for m in moments], axis=1)
    drawn = rng.multinomial(len(true), np.full(len(true), 1 / len(true)), size=n_resamples) @ sums
    n, sx, sy, sxx, syy, sxy = drawn.T
    with np.errstate(invalid="ignore", divide="ignore"):
        vx, vy = sxx - sx * sx / n, syy - sy * sy / n
        r = (sxy - sx * sy / n) / np.sqrt(vx * vy)
    r = r[np.isfinite(r) & (vx > 1e-12 * sums[:, 3].sum()) & (vy > 1e-12 * sums[:, 4].sum())]
    if len(r) < n_resamples / 2:
        return Interval(value)
    low, high = np.quantile(np.clip(r, -1, 1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def rsquared(true: np.ndarray, predicted: np.ndarray) -> float | None:
    """1 - mean((true - predicted)^2) / mean(true^2), uncentred; None if `true` is all 0 or empty.

    As `rsquared` in `neuron_explainer/explanations/scoring.py` of OpenAI's automated-interpretability;
    meaningful only for predictions in the units of the activations.
    """
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    power = float(np.mean(true**2)) if len(true) else 0.0
    return None if power == 0 else 1 - float(np.mean((true - predicted) ** 2)) / power


def absolute_dev_explained(true: np.ndarray, predicted: np.ndarray) -> float | None:
    """1 - mean |true - predicted| / mean |true|; None if `true` is all 0 or empty.

    As `absolute_dev_explained_score_from_sequences` in OpenAI's `scoring.py`; meaningful only for
    predictions in the units of the activations.
    """
    true, predicted = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    size = float(np.mean(np.abs(true))) if len(true) else 0.0
    return None if size == 0 else 1 - float(np.mean(np.abs(true - predicted))) / size


def linear_calibration(predicted: np.ndarray, true: np.ndarray) -> tuple[float, float] | None:
    """Slope and intercept of the least-squares line from predicted to true; None if `predicted` is constant.

    As OpenAI's `LinearCalibratedNeuronSimulator`. A negative slope turns the sign of a correlation:
    fitted on the tokens it is then judged on, the correlation becomes its absolute value.
    """
    x, y = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    centred = x - x.mean()
    slope = float(centred @ (y - y.mean()) / (centred @ centred))
    if not math.isfinite(slope):
        return None
    return slope, float(y.mean() - slope * x.mean())


def percentile_calibration(values: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray | None:
    """Values moved from the distribution of `predicted` to that of `true`, sorted onto sorted.

    As OpenAI's `PercentileMatchingCalibratedNeuronSimulator`: linear in between, flat beyond the
    ends; of equal predictions the largest true one counts. None if there is nothing to fit.
    """
    if not len(predicted):
        return None
    moved: np.ndarray = np.interp(np.asarray(values, dtype=np.float64), np.sort(predicted), np.sort(true))
    return moved


def mean_interval(values: Sequence[float | None], seed: int, n_resamples: int = 2_000) -> Interval:
    """Mean over latents with a percentile bootstrap interval; latents are the independent unit.

    None (an undefined score) is left out: report how many there were beside it. With one value
    there is no interval.
    """
    x = np.array([v for v in values if v is not None], dtype=np.float64)
    if len(x) == 0:
        return UNDEFINED
    value = float(x.mean())
    if len(x) == 1:
        return Interval(value)
    rng = np.random.default_rng([seed, len(x)])
    means = np.concatenate(
        [
            x[rng.integers(0, len(x), size=(rows, len(x)))].mean(axis=1)
            for rows in _chunks(n_resamples, max(1, 4_000_000 // len(x)))
        ]
    )
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(value, float(low), float(high))


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _rates_by(answers: Iterable[tuple[Hashable, bool]]) -> dict[Hashable, float]:
    """For each group, the share of its answers that are true."""
    told: dict[Hashable, list[bool]] = {}
    for group, answer in answers:
        told.setdefault(group, []).append(answer)
    return {group: sum(all_of) / len(all_of) for group, all_of in told.items()}

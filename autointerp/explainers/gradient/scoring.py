"""How well evidence separates positives from negatives: exact, for all labels at once."""

from __future__ import annotations

import numpy as np


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted probability that a positive scores above a negative, ties half: [n_columns].

    `scores` [n_words, n_columns], `positive` [n_words] bool, `weights` [n_words].
    """
    high, low = scores[positive], scores[~positive]
    wins = np.zeros(scores.shape[1], dtype=np.float64)
    heavy, light = weights[positive], weights[~positive]
    for row, weight in zip(high, heavy, strict=True):
        above = light @ (row > low) + 0.5 * (light @ (row == low))
        wins += weight * above
    return wins / max(float(heavy.sum() * light.sum()), 1e-12)


def balanced_auc(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray, near: np.ndarray | None
) -> np.ndarray:
    """`auc`, where near and far negatives weigh the same together; `near` [n_words] bool or None."""
    if near is None or not (near & ~positive).any() or not (~near & ~positive).any():
        return auc(scores, positive, weights)
    balanced = weights.astype(np.float64).copy()
    for stratum in (near & ~positive, ~near & ~positive):
        balanced[stratum] /= balanced[stratum].sum()
    return auc(scores, positive, balanced)


def class_weights(positive: np.ndarray, weights: np.ndarray, near: np.ndarray | None) -> np.ndarray:
    """Weights by which each class, and each stratum of negatives within its class, sums to a half."""
    out = weights.astype(np.float64).copy()
    strata = [positive]
    if near is None or not (near & ~positive).any() or not (~near & ~positive).any():
        strata.append(~positive)
    else:
        strata += [near & ~positive, ~near & ~positive]
    for stratum in strata:
        if stratum.any():
            out[stratum] *= (0.5 if stratum is positive else 0.5 / (len(strata) - 1)) / out[stratum].sum()
    return out


def best_threshold(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Per column, the threshold of highest weighted balanced accuracy: [n_columns].

    Midway between neighbouring scores; `weights` from `class_weights`.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked = np.take_along_axis(scores, order, 0)
    gain = np.cumsum(np.where(positive, weights, -weights)[order], 0)
    tied = np.vstack([ranked[1:] == ranked[:-1], np.zeros((1, scores.shape[1]), dtype=bool)])
    best = np.where(tied, -np.inf, gain).argmax(0)
    columns = np.arange(scores.shape[1])
    here = ranked[best, columns]
    last = best + 1 == len(ranked)
    after = np.where(last, here - 1.0, ranked[np.minimum(best + 1, len(ranked) - 1), columns])
    return np.asarray((here + after) / 2)


def rates(
    accepted: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """Precision, recall and balanced accuracy under weights that balance the classes."""
    hit = float(weights[accepted & positive].sum())
    false = float(weights[accepted & ~positive].sum())
    total, rest = float(weights[positive].sum()), float(weights[~positive].sum())
    precision = hit / (hit + false) if hit + false > 0 else None
    recall = hit / total if total > 0 else None
    if recall is None or rest <= 0:
        return precision, recall, None
    return precision, recall, (recall + 1 - false / rest) / 2


def permutation_maxima(
    scores: np.ndarray,
    positive: np.ndarray,
    n: int,
    rng: np.random.Generator,
    mix: tuple[float, float, float] = (1.0, 0.0, 0.0),
) -> tuple[float, np.ndarray]:
    """Largest statistic over all columns: of `positive` itself, and of `n` shuffles of it [n].

    The statistic of a column is `mix` times its AUC, the difference of its means over positives and
    the rest, and its mean over positives. With few words some column has an AUC of 1 by chance; that it
    is also likely after all positives is rarer.
    """
    ranks = (
        np.argsort(np.argsort(scores, axis=0, kind="stable"), axis=0, kind="stable").astype(np.float32) + 1
    )
    n_high = int(positive.sum())
    n_low = len(positive) - n_high
    rows = np.stack([positive, *(rng.permutation(positive) for _ in range(n))]).astype(np.float32)
    statistic = mix[0] * (rows @ ranks - n_high * (n_high + 1) / 2) / (n_high * n_low)
    if mix[1] or mix[2]:
        values = scores.astype(np.float32)
        high = rows @ values / n_high
        low = (values.sum(0) - n_high * high) / n_low
        statistic += mix[1] * (high - low) + mix[2] * high
    maxima = statistic.max(1)
    return float(maxima[0]), maxima[1:]

"""Narrower and broader labels: counter-examples that call for a narrower one, and the chain of broader ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autointerp.explainers.gradient.candidates import Candidate
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.items import Words
from autointerp.explainers.gradient.problem import Problem
from autointerp.explainers.gradient.ranking import BACKWARD_WEIGHT, N_RESAMPLES, scores
from autointerp.explainers.gradient.scoring import balanced_auc, class_weights, rates
from autointerp.explainers.gradient.types import Link
from autointerp.explainers.words import stem

N_ROUNDS, MIN_COUNTER, COUNTER_WITHIN, COUNTER_GAIN = 3, 4, 4.0, 0.04
SAID_ITSELF = -2.0
"""Of counter-examples: rounds; negatives needed; how far behind in score, and how much better in AUC on
them, the candidate is that takes the place. A counter-example is a negative of which the model would say
the label itself, with at least that log-probability."""
SAID_OF_LABEL = -7.0
"""A broader label is said of the label with at least this log-probability."""
N_UPPER, RISING_BY, BROADER_BY, MOST_BROADER = 8, 1.0, 0.05, 2
"""Labels that may be broader; by how much likelier (nats) they are said of the label than it of them; by how much less precise they must be; how many are kept."""


def counter_examples(
    chosen: int, candidates: Sequence[Candidate], problem: Problem, discriminator: Discriminator
) -> tuple[int, np.ndarray]:
    """The candidate chosen once the negatives it would also hold for count as much as all others.

    A broad label (animal) accepts some negatives (birds); where another candidate nearly as good tells
    those from the positives surely better (mammal), it takes the place. At most `N_ROUNDS` times.
    Returns the candidate and the scores under the last weighting of negatives.
    """
    total, _ = scores(candidates, problem.words, problem.near)
    words = problem.words
    for _ in range(N_ROUNDS):
        best = candidates[chosen]
        held = discriminator.holds(best.aspect, best.label, best.evidence(BACKWARD_WEIGHT), best.columns)
        counter = None if held is None else held & ~words.positive & (best.forward > SAID_ITSELF)
        if counter is None or counter.sum() < MIN_COUNTER or (counter == ~words.positive).all():
            break
        again, _ = scores(candidates, words, counter)
        far, _ = scores(candidates, words, problem.near)
        close = [int(i) for i in np.argsort(-again, kind="stable") if far[chosen] - far[i] <= COUNTER_WITHIN]
        close = [i for i in close if candidates[i].aspect == best.aspect and i != chosen][:6]
        part = np.flatnonzero(counter | words.positive)
        rival = _surely_better(chosen, close, candidates, words, part)
        if rival is None or not is_kind_of(discriminator, candidates[rival], best):
            break
        chosen, total, problem.near = rival, again, counter
    return chosen, total


def _surely_better(
    chosen: int, rivals: Sequence[int], candidates: Sequence[Candidate], words: Words, part: np.ndarray
) -> int | None:
    """The first rival whose AUC on some words is higher by `COUNTER_GAIN` and by 3/4 standard error."""
    if not rivals:
        return None
    evidence = np.stack([candidates[i].evidence(BACKWARD_WEIGHT) for i in [chosen, *rivals]], 1)
    high, low = part[words.positive[part]], part[~words.positive[part]]
    rng = np.random.default_rng(len(part))
    area = balanced_auc(evidence[part], words.positive[part], words.weights[part], None)
    gains = []
    for _ in range(N_RESAMPLES):
        draw = np.concatenate([rng.choice(high, len(high)), rng.choice(low, len(low))])
        drawn = balanced_auc(evidence[draw], words.positive[draw], words.weights[draw], None)
        gains.append(drawn[1:] - drawn[0])
    spread = np.std(gains, axis=0)
    for i, rival in enumerate(rivals):
        if area[1 + i] - area[0] >= max(COUNTER_GAIN, 0.75 * spread[i]):
            return rival
    return None


def is_kind_of(discriminator: Discriminator, narrow: Candidate, broad: Candidate) -> bool:
    """Whether the model says the broad label of the narrow one, rather than the other way round."""
    rows = discriminator.forward(narrow.aspect, [narrow.label, broad.label])
    return bool(rows[0, broad.columns].max() > rows[1, narrow.columns].max())


def chain(
    chosen: int,
    candidates: Sequence[Candidate],
    problem: Problem,
    discriminator: Discriminator,
    last: Link,
) -> tuple[Link, ...]:
    """Broader labels that hold for the positives too, the broadest first, then the label itself.

    The model itself is asked what the label is. A broader label is one it says of the label as of a word, by
    `RISING_BY` rather than the other way round; that holds for nearly all positives by the capability
    bank's threshold; and that is clearly less precise. The likeliest `MOST_BROADER` are taken that
    make a chain: of two links the less precise one is said of the other by the same margin.
    """
    words, best = problem.words, candidates[chosen]
    own = discriminator.holds(best.aspect, best.label, best.evidence(BACKWARD_WEIGHT), best.columns)
    if own is None or not len(best.columns):
        return (last,)
    above = discriminator.forward(best.aspect, [best.label])[0]
    upper = _upper(above, best, discriminator)
    below = discriminator.forward(best.aspect, [discriminator.labels[column] for column in upper])
    rising = {
        c: row
        for c, row in zip(upper, below, strict=True)
        if above[c] >= SAID_OF_LABEL and above[c] > row[best.columns].max() + RISING_BY
    }
    if not rising:
        return (last,)
    rows = discriminator.backward(best.aspect, [discriminator.labels[c] for c in rising], words.words)
    weights = class_weights(words.positive, words.weights, problem.near)
    kept: dict[int, Link] = {}
    for column, row in zip(rising, rows, strict=True):
        evidence = problem.forward[best.aspect][:, column] + BACKWARD_WEIGHT * row
        held = discriminator.holds(best.aspect, discriminator.labels[column], evidence, [column])
        if held is None or held[words.positive].mean() < 0.8:
            continue
        precision, recall, balanced = rates(held, words.positive, weights)
        if last.precision is None or (precision or 0.0) > last.precision - BROADER_BY:
            continue
        one = Link(
            label=discriminator.labels[column],
            precision=precision,
            recall=recall,
            balanced_accuracy=balanced,
        )
        if len(kept) < MOST_BROADER and all(
            _in_order(column, one, other, link, rising) for other, link in kept.items()
        ):
            kept[column] = one
    broader = sorted(kept.values(), key=lambda link: link.precision or 0.0)
    return (*broader, last)


def _upper(above: np.ndarray, best: Candidate, discriminator: Discriminator) -> list[int]:
    """Columns of the labels the model says of the label, the likeliest first, each word once.

    `above` [n_labels]: log p(label | the label as a word).
    """
    roots = {stem(best.label)}
    upper: list[int] = []
    for column in np.argsort(-above, kind="stable")[:N_UPPER]:
        root = stem(discriminator.labels[column])
        if root not in roots:
            roots.add(root)
            upper.append(int(column))
    return upper


def _in_order(a: int, link_a: Link, b: int, link_b: Link, said: Mapping[int, np.ndarray]) -> bool:
    """Whether the less precise of two labels is said of the other one, rather than the other way round.

    `said` holds log p(label | word), [n_labels], of the label of each column as the word.
    """
    broad, narrow = (a, b) if (link_a.precision or 0.0) < (link_b.precision or 0.0) else (b, a)
    return bool(said[narrow][broad] > said[broad][narrow] + RISING_BY)

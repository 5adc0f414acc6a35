"""Mode `robust`: gradients and contrasts propose labels, exact scoring decides, statistics doubt.

Steps, for a batch of features at once: distinct words; forward evidence for all one-token labels;
candidates by contrast, by lists of positives and by gradient; backward evidence for the candidates;
a score with weights fixed once on the development bank; hierarchy; cross-validation by word;
a permutation test; a status.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from autointerp.explainers.gradient.candidates import (
    AUC_WEIGHT,
    CONTRAST_WEIGHT,
    LIKELIHOOD_WEIGHT,
    Candidate,
    Pool,
    by_stem,
    first_glance,
    merged,
)
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.items import Words, choose, folds, gather, nearness
from autointerp.explainers.gradient.scoring import (
    balanced_auc,
    best_threshold,
    class_weights,
    permutation_maxima,
    rates,
)
from autointerp.explainers.gradient.types import Link, TokenItem, TokenLabel, Trajectory
from autointerp.explainers.words import stem

BACKWARD_WEIGHT = 1.0
"""Of backward evidence beside forward evidence, both in nats."""
SCORE_WEIGHTS = {
    "auc_forward": 3.3,
    "auc_backward": 6.6,
    "auc_both": 8.0,
    "contrast_forward": 0.94,
    "contrast_backward": 0.92,
    "likelihood": 1.17,
}
"""Of a candidate's score, fitted once on the development bank by conditional logit (leave one concept
out: 39 of 40 first). AUCs are between 0 and 1, the others in nats."""
WORD_COST = 1.0
"""What each further word of a label must bring: *past tense* brings it, *French verb* for French words does not."""
CONFIDENCE_MIDDLE, CONFIDENCE_SCALE = 12.7, 1.0
"""Score at which a candidate is as likely right as not, and the width of the doubt."""
NARROWER_WITHIN, NARROWER_GAIN = 3.0, 0.04
"""A candidate whose score is that close to the best, and whose AUC is that much higher beyond one
standard error, takes its place: likelihood likes broad words, near negatives tell them apart."""
N_ROUNDS, MIN_COUNTER, COUNTER_WITHIN, COUNTER_GAIN = 3, 4, 4.0, 0.04
SAID_ITSELF = -2.0
"""Of counter-examples: rounds; negatives needed; how far behind in score, and how much better in AUC on
them, the candidate is that takes the place. A counter-example is a negative of which the model would say
the label itself, with at least that log-probability."""
N_UPPER, RISING_BY, BROADER_BY, MOST_BROADER = 8, 1.0, 0.05, 2
"""Labels that may be broader; by how much likelier (nats) they are said of the label than it of them; by how much less precise they must be; how many are kept."""
N_EXTENDED = 3
"""Best candidates that may grow longer."""
N_FOLDS, N_RESAMPLES = 5, 60


@dataclass(kw_only=True)
class Problem:
    """One feature on its way through the steps."""

    words: Words
    rng: np.random.Generator
    near: np.ndarray | None = None
    forward: dict[str, np.ndarray] = field(default_factory=dict)
    glance: dict[str, np.ndarray] = field(default_factory=dict)
    pool: Pool | None = None
    trajectories: list[Trajectory] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def positives(self) -> list[str]:
        """The words it fires on, the strongest first."""
        order = np.argsort(-self.words.weights, kind="stable")
        return [self.words.words[i] for i in order if self.words.positive[i]]


def label_features(
    features: Sequence[Sequence[TokenItem]],
    config: GradientConfig,
    discriminator: Discriminator,
    seeds: Sequence[Sequence[int]],
) -> list[TokenLabel]:
    """One label per feature, in order; `seeds` key each feature's own random stream."""
    out: list[TokenLabel | None] = [None] * len(features)
    at_once = config.latents_at_once
    forms = by_stem(discriminator.labels)
    for begin in range(0, len(features), at_once):
        start = time.monotonic()
        problems: dict[int, Problem] = {}
        for i in range(begin, min(begin + at_once, len(features))):
            rng = np.random.default_rng([*seeds[i]])
            words = gather(features[i])
            short = too_few(words, config)
            if short is not None:
                out[i] = short
                continue
            problems[i] = Problem(words=pick_words(words, discriminator, rng, config), rng=rng)
        propose(list(problems.values()), config, discriminator, forms)
        answers = {i: decide(problem, config, discriminator) for i, problem in problems.items()}
        each = (time.monotonic() - start) / max(len(problems), 1)
        for i, answer in answers.items():
            out[i] = _timed(answer, each)
    return [label for label in out if label is not None]


def too_few(words: Words, config: GradientConfig) -> TokenLabel | None:
    """The answer for a feature with too few words to tell anything."""
    if words.n_positive >= config.min_positive and words.n_negative >= config.min_positive:
        return None
    return TokenLabel(
        label=None,
        status="undetermined",
        reason=f"few_examples: {words.n_positive} distinct tokens with and {words.n_negative} without "
        f"activation; at least {config.min_positive} of each are needed",
        mode=config.mode,
        n_positive=words.n_positive,
        n_negative=words.n_negative,
    )


def pick_words(
    words: Words, discriminator: Discriminator, rng: np.random.Generator, config: GradientConfig
) -> Words:
    """At most as many words as the configuration wants."""
    vectors = discriminator.word_vectors(words.words)
    return choose(words, vectors, rng, most_positive=config.max_positive, most_negative=config.max_negative)


def propose(
    problems: Sequence[Problem],
    config: GradientConfig,
    discriminator: Discriminator,
    forms: dict[str, list[int]],
) -> None:
    """Fill the pools of all problems: forward evidence, then each kind of proposal."""
    every = list(dict.fromkeys(word for problem in problems for word in problem.words.words))
    for aspect in config.aspects if every else ():
        discriminator.forward(aspect, every)  # all at once; what follows finds it remembered
    for problem in problems:
        words = problem.words
        for aspect in config.aspects:
            problem.forward[aspect] = discriminator.forward(aspect, words.words)
        if config.negatives == "strata":
            like = nearness(problem.forward[config.aspects[0]], words.positive)
            problem.near = ~words.positive & (like >= np.quantile(like[~words.positive], 2 / 3))
        problem.pool = Pool(discriminator.labels)
        for name, forward in problem.forward.items():
            problem.glance[name] = first_glance(forward, words.positive, words.weights, problem.near)
            if "contrastive" in config.proposals:
                best = np.argsort(-problem.glance[name], kind="stable")[: config.n_contrastive]
                problem.pool.add(name, best, "contrastive")
            if "lists" in config.proposals:
                listed = discriminator.listed(name, _lists(problem))
                if len(listed):
                    problem.pool.add(name, np.argsort(-listed.mean(0))[:8], "lists")
    if "gradient" in config.proposals:
        from autointerp.explainers.gradient.descent import gradient_proposals

        gradient_proposals(problems, config, discriminator)
    for problem in problems:
        assert problem.pool is not None
        problem.pool.complete(forms)


def weigh(problem: Problem, candidates: Sequence[Candidate], discriminator: Discriminator) -> None:
    """Fill in both directions' evidence of candidates that have none yet."""
    for aspect, forward in problem.forward.items():
        new = [c for c in candidates if c.aspect == aspect and not len(c.forward)]
        if new:
            backward = discriminator.backward(aspect, [c.label for c in new], problem.words.words)
            for candidate, row in zip(new, backward, strict=True):
                candidate.forward = merged(forward, candidate.columns)
                candidate.backward = row


def scores(
    candidates: Sequence[Candidate], words: Words, near: np.ndarray | None, keep: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Each candidate's score, and AUC of its evidence: two [n_candidates]; of the words `keep` only."""
    part = np.arange(len(words.words)) if keep is None else keep
    positive, weights = words.positive[part], words.weights[part]
    near = None if near is None else near[part]
    forward = np.stack([c.forward[part] for c in candidates], 1)
    backward = np.stack([c.backward[part] for c in candidates], 1)
    both = forward + BACKWARD_WEIGHT * backward
    areas = balanced_auc(np.hstack([forward, backward, both]), positive, weights, near)
    n = len(candidates)
    shares = class_weights(positive, weights, near) * 2
    sign = np.where(positive, shares, -shares)
    values = {
        "auc_forward": areas[:n],
        "auc_backward": areas[n : 2 * n],
        "auc_both": areas[2 * n :],
        "contrast_forward": sign @ forward,
        "contrast_backward": sign @ backward,
        "likelihood": shares[positive] @ forward[positive],
    }
    longer = np.array([c.label.count(" ") for c in candidates])
    total = sum(weight * values[name] for name, weight in SCORE_WEIGHTS.items()) - WORD_COST * longer
    return np.asarray(total), areas[2 * n :]


def decide(problem: Problem, config: GradientConfig, discriminator: Discriminator) -> TokenLabel:
    """Exact scoring, hierarchy, held-out figures, permutation test and status of one feature."""
    assert problem.pool is not None
    words = problem.words
    weigh(problem, list(problem.pool.candidates.values()), discriminator)
    _extend(problem, discriminator)
    candidates = list(problem.pool.candidates.values())
    total, areas = scores(candidates, words, problem.near)
    order = np.argsort(-total, kind="stable")
    first = total
    chosen = narrower(candidates, total, areas, problem)
    chosen, total = counter_examples(chosen, candidates, problem, discriminator)
    order = np.argsort(-total, kind="stable")
    order = np.concatenate([[chosen], order[order != chosen]])
    fold = folds(words, N_FOLDS, problem.rng)
    weights = class_weights(words.positive, words.weights, problem.near)
    precision, recall, balanced = rates(
        held_out_decisions(candidates, problem, fold, weights), words.positive, weights
    )
    links = [
        link(candidates[i], float(total[i]), float(areas[i]), words, fold, weights)
        for i in order[: max(config.max_candidates, 12)]
    ]
    p_value = permutation_p(problem, config)
    confidence = float(1 / (1 + np.exp(-(first[chosen] - CONFIDENCE_MIDDLE) / CONFIDENCE_SCALE)))
    status, reason = verdict(confidence, p_value, balanced, config)
    return TokenLabel(
        label=candidates[chosen].label if status == "ok" else None,
        status=status,
        reason=reason,
        precision=precision,
        recall=recall,
        balanced_accuracy=balanced,
        p_value=p_value,
        confidence=confidence,
        chain=chain(chosen, candidates, problem, discriminator, links[0]) if status == "ok" else (),
        candidates=tuple(links[: config.max_candidates]),
        trajectories=tuple(problem.trajectories) if config.keep_trajectories else (),
        mode="robust",
        readout=discriminator.readout,
        aspect=candidates[chosen].aspect,
        n_positive=words.n_positive,
        n_negative=words.n_negative,
    )


def narrower(
    candidates: Sequence[Candidate],
    total: np.ndarray,
    areas: np.ndarray,
    problem: Problem,
    keep: np.ndarray | None = None,
) -> int:
    """The candidate chosen: the best score, unless one close behind separates surely better."""
    best = int(np.argmax(total))
    close = [i for i in np.argsort(-total, kind="stable") if total[best] - total[i] <= NARROWER_WITHIN]
    close = [int(i) for i in close if areas[i] >= areas[best] + NARROWER_GAIN]
    if not close:
        return best
    words, near = problem.words, problem.near
    part = np.arange(len(words.words)) if keep is None else keep
    high, low = part[words.positive[part]], part[~words.positive[part]]
    rng = np.random.default_rng(len(part))
    evidence = np.stack([candidates[i].evidence(BACKWARD_WEIGHT) for i in [best, *close]], 1)
    gains = []
    for _ in range(N_RESAMPLES):
        draw = np.concatenate([rng.choice(high, len(high)), rng.choice(low, len(low))])
        strata = None if near is None else near[draw]
        area = balanced_auc(evidence[draw], words.positive[draw], words.weights[draw], strata)
        gains.append(area[1:] - area[0])
    spread = np.std(gains, axis=0)
    sure = [i for i, s in zip(close, spread, strict=True) if areas[i] - areas[best] >= s]
    return sure[0] if sure else best


def held_out_decisions(
    candidates: Sequence[Candidate], problem: Problem, fold: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Whether each word is accepted by the candidate chosen without its fold: [n_words] bool."""
    words = problem.words
    accepted = np.zeros(len(words.words), dtype=bool)
    for held in range(N_FOLDS):
        train, test = np.flatnonzero(fold != held), np.flatnonzero(fold == held)
        if not len(test) or words.positive[train].all() or not words.positive[train].any():
            continue
        total, areas = scores(candidates, words, problem.near, train)
        evidence = candidates[narrower(candidates, total, areas, problem, train)].evidence(BACKWARD_WEIGHT)[
            :, None
        ]
        threshold = best_threshold(evidence[train], words.positive[train], weights[train])
        accepted[test] = evidence[test, 0] > threshold[0]
    return accepted


def link(
    candidate: Candidate, score: float, area: float, words: Words, fold: np.ndarray, weights: np.ndarray
) -> Link:
    """A candidate with rates on held-out words, its threshold set on the others."""
    evidence = candidate.evidence(BACKWARD_WEIGHT)[:, None]
    accepted = np.zeros(len(words.words), dtype=bool)
    for held in range(N_FOLDS):
        train, test = fold != held, fold == held
        if words.positive[train].any() and not words.positive[train].all():
            threshold = best_threshold(evidence[train], words.positive[train], weights[train])
            accepted[test] = evidence[test, 0] > threshold[0]
    precision, recall, balanced = rates(accepted, words.positive, weights)
    return Link(
        label=candidate.label,
        precision=precision,
        recall=recall,
        balanced_accuracy=balanced,
        score=score,
        auc=area,
        sources=tuple(sorted(candidate.sources)),
    )


def permutation_p(problem: Problem, config: GradientConfig) -> float | None:
    """Share of shuffles whose best label, over all of them, looks as promising at first glance as the real best."""
    if not config.n_permutations:
        return None
    positive = problem.words.positive
    columns = np.concatenate([f.astype(np.float32) for f in problem.forward.values()], 1)
    mix = (AUC_WEIGHT, CONTRAST_WEIGHT, LIKELIHOOD_WEIGHT)
    real, maxima = permutation_maxima(columns, positive, config.n_permutations, problem.rng, mix)
    return float((1 + (maxima >= real - 1e-9).sum()) / (1 + config.n_permutations))


def verdict(
    confidence: float, p_value: float | None, balanced: float | None, config: GradientConfig
) -> tuple[str, str | None]:
    """Status and reason."""
    if p_value is not None and p_value > config.max_p_value:
        return "undetermined", (
            f"discriminator_incapable: shuffled tokens are separated as well (p = {p_value:.2g})"
        )
    if confidence < config.min_confidence:
        if balanced is not None and balanced >= 0.85:
            return "undetermined", (
                f"not_found: candidates separate held-out tokens (balanced accuracy {balanced:.2f}), "
                f"but none fits well (confidence {confidence:.2f})"
            )
        return "undetermined", (
            f"discriminator_incapable: no candidate fits the tokens well (confidence {confidence:.2f})"
        )
    return "ok", None


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

    The model itself is asked what the label is: a broader label is one it says of the label as of a
    word, rather than the other way round; that holds for nearly all positives; and for clearly more
    of the negatives, all by the capability bank's threshold.
    """
    words, best = problem.words, candidates[chosen]
    own = discriminator.holds(best.aspect, best.label, best.evidence(BACKWARD_WEIGHT), best.columns)
    if own is None or not len(best.columns):
        return (last,)
    above = discriminator.forward(best.aspect, [best.label])[0]
    roots = {stem(best.label)}
    upper: list[int] = []
    for column in np.argsort(-above, kind="stable")[:N_UPPER]:
        root = stem(discriminator.labels[column])
        if root not in roots:
            roots.add(root)
            upper.append(int(column))
    below = discriminator.forward(best.aspect, [discriminator.labels[column] for column in upper])
    rising = [
        c for c, row in zip(upper, below, strict=True) if above[c] > row[best.columns].max() + RISING_BY
    ]
    if not rising:
        return (last,)
    rows = discriminator.backward(best.aspect, [discriminator.labels[c] for c in rising], words.words)
    weights = class_weights(words.positive, words.weights, problem.near)
    links: list[tuple[float, Link]] = []
    for column, row in zip(rising, rows, strict=True):
        evidence = problem.forward[best.aspect][:, column] + BACKWARD_WEIGHT * row
        held = discriminator.holds(best.aspect, discriminator.labels[column], evidence, [column])
        if held is None or held[words.positive].mean() < 0.8:
            continue
        precision, recall, balanced = rates(held, words.positive, weights)
        if last.precision is not None and (precision or 0.0) <= last.precision - BROADER_BY:
            label = discriminator.labels[column]
            row_link = Link(label=label, precision=precision, recall=recall, balanced_accuracy=balanced)
            links.append((precision or 0.0, row_link))
    links = links[:MOST_BROADER]
    links.sort(key=lambda pair: pair[0])
    return (*(row for _, row in links), last)


def _lists(problem: Problem) -> list[list[str]]:
    """Two draws of up to four positives."""
    positives = problem.positives
    size = min(4, len(positives))
    return [list(problem.rng.choice(positives, size, replace=False)) for _ in range(2)]


def _extend(problem: Problem, discriminator: Discriminator) -> None:
    """Carry the best candidates on where the model would not end them: pieces of words, first words.

    Each longer label is one more candidate, with the forward evidence of its first token and backward
    evidence of its own; a piece of a word gives way to its whole.
    """
    assert problem.pool is not None
    candidates = list(problem.pool.candidates.values())
    total, _ = scores(candidates, problem.words, problem.near)
    best = [candidates[i] for i in np.argsort(-total, kind="stable")[:N_EXTENDED]]
    new = []
    for aspect in problem.forward:
        some = [c for c in best if c.aspect == aspect]
        longer = discriminator.finish(aspect, [c.label for c in some], problem.positives[:4]) if some else []
        for candidate, label in zip(some, longer, strict=True):
            if label == candidate.label:
                continue
            if label.startswith(f"{candidate.label} "):
                added = problem.pool.add_text(aspect, label, candidate, "extended")
                new += [] if added is None else [added]
            else:
                candidate.label, candidate.backward = label, np.zeros(0)
                candidate.forward = np.zeros(0)
                new.append(candidate)
    weigh(problem, new, discriminator)


def _timed(label: TokenLabel, seconds: float) -> TokenLabel:
    from dataclasses import replace

    return replace(label, seconds=seconds)

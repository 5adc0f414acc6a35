"""Gradient proposals: mixtures of labels optimised to make the positives' words likelier.

A mixture of labels stands in the label's place of the backward prompt, and the model says which
words follow it. One forward and one backward pass of a few tokens thus serve all words of a feature,
and rows of many features and restarts share it. The gradient at the embedding, times the matrix of
label embeddings, says for every label at once how a step toward it changes the loss. The mixture is
never the answer: labels it visits are candidates for exact scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator
from autointerp.explainers.gradient.recording import Recorder
from autointerp.explainers.gradient.scoring import class_weights
from autointerp.explainers.gradient.simplex import entropy, entropy_at, with_entropy

if TYPE_CHECKING:
    import torch

    from autointerp.explainers.gradient.problem import Problem

_MOMENTUM = 0.8
_INIT_NOISE = 0.3
_HARD_SHARE = 1 / 3
"""Share of the steps, the last ones, in which the forward pass sees the likeliest label alone."""


def gradient_proposals(
    problems: Sequence[Problem], config: GradientConfig, discriminator: Discriminator
) -> None:
    """Adds what mixtures visit to the problems' pools, and their trajectories."""
    for aspect in config.aspects:
        chosen = [p for p in problems if _aspect(p) == aspect]
        if chosen:
            _optimise(aspect, chosen, config, discriminator)


def _aspect(problem: Problem) -> str:
    """The aspect in which some label looks most promising."""
    return max(problem.glance, key=lambda aspect: float(problem.glance[aspect].max()))


def _optimise(
    aspect: str, problems: Sequence[Problem], config: GradientConfig, discriminator: Discriminator
) -> None:
    import torch

    n_labels, restarts = len(discriminator.labels), config.restarts
    logits = torch.stack([start_logits(p, aspect, restarts) for p in problems]).flatten(0, 1)
    loss = PairLoss(problems, restarts)
    recorders = [Recorder(discriminator.labels, restart=i % restarts) for i in range(len(logits))]
    velocity = torch.zeros_like(logits)
    second = torch.zeros_like(logits)
    found: list[list[np.ndarray]] = [[] for _ in problems]
    first_hard = config.steps - max(1, round(config.steps * _HARD_SHARE))
    for step in range(config.steps):
        nats = entropy_at(step, config.steps, n_labels)
        p = with_entropy(logits, nats) if config.entropy_schedule else torch.softmax(logits, -1)
        seen = p
        if step >= first_hard:
            seen = torch.nn.functional.one_hot(p.argmax(-1), n_labels).to(p.dtype)
        seen = seen.detach().requires_grad_()
        values = loss(discriminator.soft_backward(aspect, seen, loss.words))
        (slope,) = torch.autograd.grad(values.sum(), seen)
        if config.optimiser == "mirror":
            unit = (slope - slope.mean(-1, keepdim=True)) / slope.std(-1, keepdim=True).clamp_min(1e-12)
            velocity = _MOMENTUM * velocity + (1 - _MOMENTUM) * unit
            logits = logits - config.step_size * velocity / (1 - _MOMENTUM ** (step + 1))
        else:
            grad = p * (slope - (p * slope).sum(-1, keepdim=True))
            velocity = 0.9 * velocity + 0.1 * grad
            second = 0.999 * second + 0.001 * grad**2
            unit = (velocity / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            logits = logits * (1 - config.step_size * 0.01) - config.step_size * unit
        for row, recorder in enumerate(recorders):
            losses = {"prediction": float(values[row].detach()), "entropy": float(entropy(p[row]))}
            recorder.add(step, p[row], losses)
        if step % 3 == 2 or step >= first_hard:
            _collect(found, p, slope if step >= first_hard else None, restarts)
    for problem, columns in zip(problems, found, strict=True):
        assert problem.pool is not None
        ranked = _most_often(columns)[: config.n_gradient]
        problem.pool.add(aspect, ranked, "gradient")
    for row, recorder in enumerate(recorders):
        problems[row // restarts].trajectories.append(recorder.trajectory())


def start_logits(problem: Problem, aspect: str, restarts: int) -> torch.Tensor:
    """Where mixtures start: the first glance, standardised, with noise of each restart's own."""
    import torch

    glance = problem.glance[aspect]
    base = (glance - glance.mean()) / max(float(glance.std()), 1e-9)
    noise = problem.rng.normal(0.0, _INIT_NOISE, (restarts, len(glance)))
    return torch.as_tensor(base + noise, dtype=torch.float32)


class PairLoss:
    """Mean over pairs of log(1 + exp(s_negative - s_positive)): a smooth rank loss, blind to offsets."""

    def __init__(self, problems: Sequence[Problem], restarts: int) -> None:
        import torch

        self.words = list(dict.fromkeys(word for p in problems for word in p.words.words))
        place = {word: i for i, word in enumerate(self.words)}
        self.parts = []
        for p in problems:
            weights = torch.as_tensor(class_weights(p.words.positive, p.words.weights, p.near) * 2)
            index = torch.as_tensor([place[word] for word in p.words.words])
            high = torch.as_tensor(p.words.positive)
            self.parts.append((index[high], index[~high], weights[high].float(), weights[~high].float()))
        self.restarts = restarts

    def __call__(self, evidence: torch.Tensor) -> torch.Tensor:
        """Losses of rows of evidence [n_problems * restarts, n_words], in nats."""
        import torch

        out = []
        for row, values in enumerate(evidence):
            high, low, heavy, light = (x.to(values.device) for x in self.parts[row // self.restarts])
            gaps = values[low][None, :] - values[high][:, None]
            out.append(heavy @ torch.nn.functional.softplus(gaps) @ light)
        return torch.stack(out)


def _collect(
    found: list[list[np.ndarray]], p: torch.Tensor, slope: torch.Tensor | None, restarts: int
) -> None:
    """The likeliest labels of each row, and at hard steps those the gradient points to."""
    likely = p.topk(min(8, p.shape[-1])).indices.cpu().numpy()
    for row, columns in enumerate(likely):
        found[row // restarts].append(columns)
    if slope is not None:
        pointed = slope.topk(min(4, slope.shape[-1]), largest=False).indices.cpu().numpy()
        for row, columns in enumerate(pointed):
            found[row // restarts].append(columns)


def _most_often(columns: Sequence[np.ndarray]) -> list[int]:
    """Columns by how early and how often they were seen."""
    marks: dict[int, float] = {}
    for ranked in columns:
        for rank, column in enumerate(ranked.tolist()):
            marks[column] = marks.get(column, 0.0) + 1 / (1 + rank)
    return sorted(marks, key=lambda column: -marks[column])

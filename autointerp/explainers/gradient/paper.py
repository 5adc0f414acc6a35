"""Mode `paper`: the published method (Schulz & Fallows 2025, arXiv 2504.00754), limits included.

One vector v over the whole vocabulary, drawn from N(0, 1); p = softmax(v); the mixture of
embeddings stands in the label's place; total = w_prediction * prediction + w_entropy * H(p) +
w_kl * mean_i KL(p || q_i), with q_i the model's own next-token distribution at that place; AdamW
with weight decay 0.01 at a constant rate; tokens drawn with replacement, positives and negatives
equally often; the label is the likeliest token at the end.

Prediction, by readout. `yes_no`, as published: cross entropy over the whole vocabulary of the right
answer. `likelihood`, for models that cannot answer: the mixture stands in the backward prompt, and
the loss is binary cross entropy with log-odds log p(word | mixture) - mean log p(word | reference
labels): a label must make the feature's words likelier than labels do in general, and the other
words less likely. This keeps what makes the method what it is (a mixture of embeddings in the
label's place, and a gradient through the frozen model); the sum of single labels' evidence weighted
by p would be linear in p and no such test. q_i is then log p(label | word_i) of the forward prompt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import LikelihoodDiscriminator
from autointerp.explainers.gradient.items import Words, gather
from autointerp.explainers.gradient.recording import Recorder
from autointerp.explainers.gradient.robust import too_few
from autointerp.explainers.gradient.scoring import class_weights, rates
from autointerp.explainers.gradient.simplex import entropy, mean_divergence
from autointerp.explainers.gradient.types import Link, TokenItem, TokenLabel

if TYPE_CHECKING:
    import torch

_WEIGHT_DECAY = 0.01
_CANDIDATES = 5


def label_features_paper(
    features: Sequence[Sequence[TokenItem]],
    config: GradientConfig,
    discriminator: Any,
    seeds: Sequence[Sequence[int]],
) -> list[TokenLabel]:
    """One label per feature, in order; rows of several features share forward passes."""
    out: list[TokenLabel | None] = [None] * len(features)
    for begin in range(0, len(features), config.latents_at_once):
        start = time.monotonic()
        runs: dict[int, Run] = {}
        for i in range(begin, min(begin + config.latents_at_once, len(features))):
            words = gather(features[i])
            out[i] = too_few(words, config)
            if out[i] is None:
                runs[i] = Run(features[i], words, config, discriminator, np.random.default_rng([*seeds[i]]))
        if runs:
            optimise(list(runs.values()), config, discriminator)
            each = (time.monotonic() - start) / len(runs)
            for i, run in runs.items():
                out[i] = run.answer(config, each)
    return [label for label in out if label is not None]


class Run:
    """One feature's optimisation."""

    def __init__(
        self,
        items: Sequence[TokenItem],
        words: Words,
        config: GradientConfig,
        discriminator: Any,
        rng: np.random.Generator,
    ) -> None:
        import torch

        self.words, self.rng, self.discriminator = words, rng, discriminator
        texts: dict[str, str | None] = {}
        for item in items:
            texts.setdefault(" ".join(item.token.split()), item.text)
        self.asked = [(word, texts.get(word)) for word in words.words]
        self.yes_no = discriminator.readout == "yes_no"
        size = discriminator.lm.n_vocabulary
        self.logits = torch.tensor(
            rng.normal(size=size), dtype=torch.float32, device=discriminator.lm.device
        ).requires_grad_()
        self.recorder = Recorder(_Pieces(discriminator.lm), restart=0)

    def draw(self, n: int) -> np.ndarray:
        """Words of one step: positive or negative with equal odds, then any of that class."""
        sides = self.rng.random(n) < 0.5
        high, low = np.flatnonzero(self.words.positive), np.flatnonzero(~self.words.positive)
        return np.array([self.rng.choice(high if side else low) for side in sides])

    def natural(self, drawn: np.ndarray) -> torch.Tensor:
        """log q_i at the label's place for drawn words, [n, n_vocabulary]."""
        import torch

        pairs = [self.asked[i] for i in drawn.tolist()]
        if self.yes_no:
            rows = self.discriminator.before_label(pairs)
        else:
            rows = self.discriminator.label_logprobs("category", [word for word, _ in pairs])
        return torch.as_tensor(rows, device=self.logits.device)

    def answer(self, config: GradientConfig, seconds: float) -> TokenLabel:
        """The likeliest token; how it does as a hard label is said beside it and changes nothing."""
        import torch

        p = torch.softmax(self.logits.detach(), -1)
        top = p.topk(_CANDIDATES)
        pieces = [self.discriminator.lm.piece(int(t)).strip() for t in top.indices]
        labels = [piece or repr(piece) for piece in pieces]
        words = self.words
        evidence = self.discriminator.backward("category", labels, words.words)
        weights = class_weights(words.positive, words.weights, None)
        links = []
        for label, row, probability in zip(labels, evidence, top.values.tolist(), strict=True):
            precision, recall, balanced = rates(row > 0, words.positive, weights)
            links.append(
                Link(
                    label=label,
                    precision=precision,
                    recall=recall,
                    balanced_accuracy=balanced,
                    score=probability,
                    sources=("gradient",),
                )
            )
        best = links[0]
        return TokenLabel(
            label=best.label,
            status="ok",
            precision=best.precision,
            recall=best.recall,
            balanced_accuracy=best.balanced_accuracy,
            chain=(best,),
            candidates=tuple(links),
            trajectories=(self.recorder.trajectory(),) if config.keep_trajectories else (),
            mode="paper",
            readout=self.discriminator.readout,
            n_positive=words.n_positive,
            n_negative=words.n_negative,
            seconds=seconds,
            notes={"probability": round(float(top.values[0]), 4)},
        )


def optimise(runs: Sequence[Run], config: GradientConfig, discriminator: Any) -> None:
    """All steps of all runs; each run's gradient is its own."""
    import torch

    optimiser = torch.optim.AdamW(
        [run.logits for run in runs], lr=config.paper_learning_rate, weight_decay=_WEIGHT_DECAY
    )
    for step in range(config.paper_steps):
        optimiser.zero_grad()
        drawn = [run.draw(config.paper_batch) for run in runs]
        mixtures = torch.stack([torch.softmax(run.logits, -1) for run in runs])
        slots = mixtures.to(discriminator.lm.embeddings.dtype) @ discriminator.lm.embeddings
        if discriminator.readout == "yes_no":
            predictions = [_answer_loss(run, slots[i], drawn[i]) for i, run in enumerate(runs)]
        else:
            predictions = _word_losses(runs, slots, drawn, discriminator)
        total = torch.zeros((), device=mixtures.device)
        for run, p, prediction, picks in zip(runs, mixtures, predictions, drawn, strict=True):
            spread, kl = entropy(p), mean_divergence(p, run.natural(picks))
            total = total + (
                config.paper_weight_prediction * prediction
                + config.paper_weight_entropy * spread
                + config.paper_weight_kl * kl
            )
            losses = {
                "prediction": float(prediction.detach()),
                "entropy": float(spread.detach()),
                "kl": float(kl.detach()),
            }
            if step % max(1, config.paper_steps // 120) == 0 or step == config.paper_steps - 1:
                run.recorder.add(step, p, losses)
        total.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def _answer_loss(run: Run, slot: torch.Tensor, drawn: np.ndarray) -> torch.Tensor:
    """Cross entropy of the right answer over the whole vocabulary, the mean over drawn words."""
    import torch

    asked = [run.asked[i] for i in drawn.tolist()]
    logits = run.discriminator.ask(asked, slot.expand(len(asked), 1, -1))
    right = [run.discriminator.yes if run.words.positive[i] else run.discriminator.no for i in drawn]
    return torch.nn.functional.cross_entropy(logits, torch.as_tensor(right, device=logits.device))


def _word_losses(
    runs: Sequence[Run],
    slots: torch.Tensor,
    drawn: Sequence[np.ndarray],
    discriminator: LikelihoodDiscriminator,
) -> list[torch.Tensor]:
    """Binary cross entropy of drawn words: are they likelier after the mixture than after labels in general?"""
    import torch

    template = discriminator.templates.aspects["category"].backward
    logits = discriminator.lm.soft_logits(template.beginning, "", slots[:, None], template.after)
    logprobs = torch.log_softmax(logits, -1)
    out = []
    for run, row, picks in zip(runs, logprobs, drawn, strict=True):
        words = [run.words.words[i] for i in picks.tolist()]
        usual = torch.as_tensor(discriminator.usual("category", words), device=row.device)
        odds = row[discriminator.first_tokens(words)] - usual
        target = torch.as_tensor(run.words.positive[picks], dtype=odds.dtype, device=odds.device)
        out.append(torch.nn.functional.binary_cross_entropy_with_logits(odds, target))
    return out


class _Pieces(Sequence[str]):
    """Texts of a model's tokens, decoded when asked for."""

    def __init__(self, lm: Any) -> None:
        self.lm = lm

    def __len__(self) -> int:
        return int(self.lm.n_vocabulary)

    def __getitem__(self, token: Any) -> Any:
        return self.lm.piece(int(token))

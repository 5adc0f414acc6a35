"""The tokens whose probability changes when a latent is turned up in the running subject.

After the method TokenChange of Gur-Arieh et al., "Enhancing Automated Interpretability with Output-Centric
Feature Descriptions" (arXiv 2501.08319): the latent is turned up while the subject reads some texts, and
tokens are ranked by their mean change over positions. Ours differs in how far it is turned up: not to a
fixed value, but to a set divergence of the next-token distribution (`SteeredSubject.match`), so that
latents and hook points compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autointerp.explainers.base import ExplainContext
from autointerp.explainers.words import printable
from autointerp.sampling.windows import LatentRecord, TokenTable

if TYPE_CHECKING:
    from torch import Tensor

    from autointerp.subject.steering import SteeredSubject

NO_SILENT = "no train window in which the latent is silent (sample.n_train_random makes them)"
_PROMPTS_STREAM = 65
_TOLERANCE = 0.1
_MAX_NORM = 20.0
_ROWS_PER_PASS = 64


@dataclass(frozen=True, kw_only=True)
class TokenChange:
    """What turning a latent up does to the next token, or why that is not known."""

    risen: tuple[int, ...] = ()
    """Tokens whose log-probability rises most on average, first the most risen."""
    fallen: tuple[int, ...] = ()
    """Tokens whose log-probability falls most, first the most fallen."""
    strength: float | None = None
    """What the direction was multiplied by."""
    kl: float | None = None
    """The divergence reached, nats."""
    n_prompts: int = 0
    reason: str | None = None
    """Why there are no tokens, if so."""


def silent_prompts(record: LatentRecord, n: int, context: ExplainContext) -> list[list[int]]:
    """Tokens of at most `n` train windows in which the latent is silent: of kind `random`, or else of any kind."""
    silent = sorted(record.silent, key=lambda w: w.example)
    windows = [w for w in silent if w.kind == "random"] or silent
    order = context.rng(record.latent, _PROMPTS_STREAM).permutation(len(windows))
    return [windows[int(i)].tokens.tolist() for i in order[:n]]


def token_change(
    record: LatentRecord,
    steered: SteeredSubject,
    prompts: Sequence[Sequence[int]],
    *,
    n_tokens: int,
    kl: float,
    n_risen: int,
    n_fallen: int,
    readable: Tensor,
) -> TokenChange:
    """Turn the latent up on some prompts' last `n_tokens` tokens and rank tokens by their mean change.

    Over all positions but the first of each prompt. `readable` [n_vocabulary] bool: tokens that may
    be named.
    """
    import torch

    tokens, kept = steered.prompts(prompts, n_tokens)
    if not kept:
        return TokenChange(reason=NO_SILENT)
    n_read = max(tokens.shape[1] - 1, 1)
    with torch.no_grad():
        clean = steered.clean(tokens, n_read, _ROWS_PER_PASS)
        (found,) = steered.match(
            clean,
            steered.directions([record.latent]),
            lambda log_probs: _ranked(log_probs, clean.log_probs, n_risen, n_fallen, readable),
            kl=kl,
            tolerance=_TOLERANCE,
            max_norm=_MAX_NORM,
            rows_per_pass=_ROWS_PER_PASS,
        )
    if found.effect is None:
        return TokenChange(reason=f"not turned up: {found.reason}", n_prompts=len(kept))
    risen, fallen = found.effect
    return TokenChange(risen=risen, fallen=fallen, strength=found.strength, kl=found.kl, n_prompts=len(kept))


def _ranked(
    after: Tensor, before: Tensor, n_risen: int, n_fallen: int, readable: Tensor
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The readable tokens of the largest and of the smallest mean change, from log-probabilities [..., n_vocabulary]."""
    change = (after - before).mean(tuple(range(after.ndim - 1)))

    def most(values: Tensor, n: int) -> tuple[int, ...]:
        allowed = readable & (values > 0)
        n = min(n, int(allowed.sum()))
        return tuple(values.masked_fill(~allowed, float("-inf")).topk(n).indices.tolist())

    return most(change, n_risen), most(-change, n_fallen)


def readable_tokens(tokens: TokenTable, steered: SteeredSubject, accept: Callable[[str], bool]) -> Tensor:
    """The tokens of the subject that can be shown and whose text is accepted, bool [n_vocabulary]."""
    import torch

    n = len(steered.subject.tokenizer)
    texts = (tokens.text([token]).strip() for token in range(min(n, len(tokens.pieces))))
    shown = np.array([printable(text) and accept(text) for text in texts], dtype=bool)
    found = torch.zeros(n, dtype=torch.bool)
    found[: len(shown)] = torch.from_numpy(shown)
    return found.to(steered.subject.device)

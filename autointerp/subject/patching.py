"""A vector in place of a word: what the subject then says, and how like the vector a text is to it.

Directions are written into the residual stream entering an early block, at every token of one word of
a prompt; the subject reads on from there. After Chen, Vondrick & Mao, "SelfIE" (arXiv 2403.10949),
Ghandeharioun et al., "Patchscopes" (arXiv 2401.06102) and Kharlapenko et al., "Self-explaining SAE
features" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from autointerp.errors import UserError
from autointerp.subject.model import SubjectModel, layer_of
from autointerp.subject.steering import SteeredSubject


@dataclass(frozen=True, kw_only=True)
class Slotted:
    """A prompt with a word whose place vectors take."""

    tokens: tuple[int, ...]
    places: tuple[int, ...]
    """Indices of the tokens of that word, wherever it stands."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """How the subject reads a prompt with each of some vectors in place of the word."""

    log_probs: Tensor
    """Of the token after the prompt, float32 [n, n_vocabulary]."""
    states: Tensor
    """Residual stream at the prompt's last token, where the dictionary writes, float32 [n, d_model]."""
    past: Any
    """The `transformers` cache of the prompt, to go on from."""


def slotted(steered: SteeredSubject, text: str, word: str) -> Slotted:
    """A prompt's tokens, with the token that begins contexts in front, and where `word` stands in it.

    Raises `UserError` if the subject's tokenizer does not tell where its tokens lie in a text.
    """
    tokenizer = steered.subject.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("subject.model: its tokenizer tells no places of tokens; accepted: a fast tokenizer")
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = [i for i in range(len(text)) if text.startswith(word, i)]
    places = [
        index
        for index, (left, right) in enumerate(found["offset_mapping"])
        if any(left < start + len(word) and start < right for start in starts)
    ]
    assert places, f"no token of {text!r} holds {word!r}"
    front = _front(steered)
    return Slotted(tokens=(*front, *found["input_ids"]), places=tuple(place + len(front) for place in places))


def stream_at(subject: SubjectModel, hook_point: str) -> str:
    """The hook point in the residual stream where what a decoder writes at `hook_point` has arrived."""
    where = layer_of(hook_point)
    if where is None:
        return "blocks.0.hook_resid_pre"
    return hook_point if where[1] == "hook_resid_pre" else f"blocks.{where[0]}.hook_resid_post"


def in_stream(steered: SteeredSubject, latents: Sequence[int]) -> Tensor:
    """Decoder directions of some latents in the residual stream, of length 1 (or 0), [n, d_model]."""
    written = steered.subject.to_residual(steered.hook_point, steered.directions(latents))
    assert written is not None, "check() comes first"
    directions: Tensor = written / written.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return directions


def entering(steered: SteeredSubject, layer: int) -> str:
    """The hook point before block `layer`. Raises `UserError` if the subject has no such block."""
    if layer >= steered.subject.n_layers:
        raise UserError(
            f"layer: seen {layer}, but the subject has {steered.subject.n_layers} blocks; "
            f"accepted: 0 to {steered.subject.n_layers - 1}"
        )
    return f"blocks.{layer}.hook_resid_pre"


def mean_length(steered: SteeredSubject, text: str, hook_point: str) -> float:
    """Mean length of the activations at a hook point over a text, without its first token."""
    tokens = _batch(steered, [_ids(steered, text)])
    return float(
        steered.subject.activations(tokens, [hook_point])[hook_point][0, 1:].float().norm(dim=-1).mean()
    )


def say(steered: SteeredSubject, prompt: Slotted, vectors: Tensor, hook_point: str) -> Said:
    """Read a prompt with each of some vectors [n, d_model] in place of its word, at `hook_point`."""
    from transformers import DynamicCache

    subject = steered.subject
    tokens = _batch(steered, [prompt.tokens]).repeat(len(vectors), 1)
    places = torch.tensor(prompt.places, device=subject.device)

    def replace(value: Tensor) -> Tensor:
        changed = value.clone()
        changed[:, places] = vectors[:, None, :].to(value.dtype)
        return changed

    read = stream_at(subject, steered.hook_point)
    past = DynamicCache()
    with subject.editing(hook_point, replace):
        logits = subject.logits(tokens, past)[:, -1, : len(subject.tokenizer)].float()
        states = subject.activations(tokens, [read])[read][:, -1].float()
    return Said(log_probs=logits.log_softmax(-1), states=states, past=past)


def go_on(
    steered: SteeredSubject,
    said: Said,
    rows: Sequence[int],
    firsts: Sequence[int],
    n_tokens: int,
    draw: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Go on from rows of `said`, each with its first token, to `n_tokens` tokens, [len(rows), n_tokens].

    The likeliest token each time, or what `draw` takes from log-probabilities [len(rows), n_vocabulary].
    Uses up `said.past`.
    """
    subject = steered.subject
    said.past.batch_select_indices(torch.tensor(list(rows), device=subject.device))
    tokens = torch.tensor(list(firsts), dtype=torch.long, device=subject.device)[:, None]
    new = [tokens]
    for _ in range(n_tokens - 1):
        logits = subject.logits(tokens, said.past)[:, -1, : len(subject.tokenizer)].float()
        chosen = logits.argmax(-1) if draw is None else draw(logits.log_softmax(-1)).to(logits.device)
        tokens = chosen[:, None]
        new.append(tokens)
    return torch.cat(new, dim=1)


def likeness(
    steered: SteeredSubject, context: str, plain: str, texts: Sequence[str], direction: Tensor
) -> list[float]:
    """How like a direction [d_model] the subject's reading of each text is: the largest cosine of a token's.

    Texts stand after `context`. The residual stream is read where the dictionary writes, less its
    mean over the tokens of the text `plain`, also after `context`.
    """
    if not texts:
        return []
    before = _ids(steered, context)
    bodies = [_ids(steered, f"{context} {text}")[len(before) :] for text in (plain, *texts)]
    read = stream_at(steered.subject, steered.hook_point)
    tokens = _batch(steered, [[*before, *body] for body in bodies[:1]])
    # Front tokens and context are left out: their states are of the prompt, not of the text.
    start = tokens.shape[1] - len(bodies[0])
    usual = steered.subject.activations(tokens, [read])[read][0, start:].float().mean(0)
    tokens = _batch(steered, [[*before, *body] for body in bodies[1:]])
    states = steered.subject.activations(tokens, [read])[read][:, start:].float() - usual
    cosines = torch.cosine_similarity(states, direction, dim=-1)
    return [
        float(row[: len(body)].max()) if body else -1.0 for row, body in zip(cosines, bodies[1:], strict=True)
    ]


def _front(steered: SteeredSubject) -> list[int]:
    return [] if steered.tokenisation.bos_id is None else [steered.tokenisation.bos_id]


def _ids(steered: SteeredSubject, text: str) -> list[int]:
    """Tokens of a text, with the token that begins contexts in front."""
    return [*_front(steered), *steered.subject.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _batch(steered: SteeredSubject, rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of tokens as one tensor, filled up at the end (where nothing that is read can see it)."""
    longest = max(len(row) for row in rows)
    filled = [[*row, *[row[-1]] * (longest - len(row))] for row in rows]
    tokens = torch.tensor(filled, dtype=torch.long, device=steered.subject.device)
    steered.subject.check_tokens(tokens)
    return tokens

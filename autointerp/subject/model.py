"""The language model under study, whoever runs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor

from autointerp.config import SubjectConfig
from autointerp.errors import UserError, nearest
from autointerp.subject.device import resolve_device
from autointerp.subject.layout import Layout, norm_facts, weight_in_out

_LAYER_HOOK = re.compile(r"blocks\.(\d+)\.(.+)")
_WRITES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


def layer_of(hook_point: str) -> tuple[int, str] | None:
    """`blocks.9.hook_mlp_out` as (9, `hook_mlp_out`); None for a hook point outside the blocks."""
    match = _LAYER_HOOK.fullmatch(hook_point)
    return (int(match[1]), match[2]) if match else None


class SubjectModel(Protocol):
    """A causal language model that shows its inner activations.

    Hook points go by TransformerLens' names: `hook_embed` and, for block i, `blocks.i.` before
    `hook_resid_pre`, `ln1.hook_normalized`, `attn.hook_z` (heads flattened), `attn.hook_out`,
    `hook_attn_out`, `hook_resid_mid`, `hook_mlp_in`, `ln2.hook_normalized`, `mlp.hook_in`,
    `mlp.hook_post`, `mlp.hook_out`, `hook_mlp_out`, `hook_resid_post`. `hook_attn_out` and
    `hook_mlp_out` are what is added to the residual stream (behind the post-norm where the family has
    one, as Gemma 2 does), `attn.hook_out` and `mlp.hook_out` what the module itself returns;
    `hook_mlp_in` is the residual stream before the norm, `mlp.hook_in` what the module is given.
    Activations and weights are the raw ones of the checkpoint: nothing is folded or centred.
    """

    @property
    def tokenizer(self) -> Any:
        """The model's `transformers` tokenizer."""
        ...

    @property
    def layout(self) -> Layout:
        """Where the model keeps its parts; the modules are those that run, in either backend."""
        ...

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        ...

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        ...

    @property
    def device(self) -> torch.device:
        """Where tokens go and activations come from."""
        ...

    def hook_points(self) -> list[str]:
        """Every hook point of this model, in the order of the forward pass."""
        ...

    def check_hook_points(self, names: Sequence[str]) -> None:
        """Raises `UserError` for a name that is no hook point of this model."""
        ...

    def check_tokens(self, tokens: Tensor) -> None:
        """Raises `UserError` for contexts [batch, position] longer than the model's positions."""
        ...

    def activations(self, tokens: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations [batch, position, width] at each hook point, in the model's dtype.

        `tokens` are ids [batch, position] on `device`. The model runs no further than the deepest
        hook point asked for. Raises `UserError` for contexts longer than the model's positions.
        """
        ...

    def logits(self, tokens: Tensor, past: Any = None) -> Tensor:
        """Next-token logits [batch, position, n_vocabulary (and its padding)], no gradients kept.

        `past` is a `transformers` cache of the tokens before these, to which these are added.
        """
        ...

    def editing(self, hook_point: str, edit: Callable[[Tensor], Tensor]) -> AbstractContextManager[None]:
        """While open, passes of `logits` go on with `edit` of the activations at a hook point.

        `edit` is given them as the model has them (heads may stand apart) and returns the same shape.
        For the hook points that `decoder_writes_to_residual` allows.
        """
        ...

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """The unembedding [d_model, n_vocabulary] and the final norm's scale [d_model] or None, float32."""
        ...

    @property
    def final_norm_centres(self) -> bool:
        """Whether the final norm subtracts the mean over `d_model` (LayerNorm) or not (RMSNorm)."""
        ...

    def decoder_writes_to_residual(self, hook_point: str) -> bool:
        """Whether directions at this hook point have an image in the residual stream."""
        ...

    def to_residual(self, hook_point: str, directions: Tensor) -> Tensor | None:
        """Directions [n, width] at a hook point as directions [n, d_model] in the residual stream.

        Through the output matrix and the scale of the post-norm where one stands in between (a norm's
        division by a token's own length changes no direction). None where there is no linear way.
        """
        ...

    def mlp_out_weights(self, layer: int) -> Tensor:
        """What each MLP neuron of a block writes, float32 [d_mlp, d_model]."""
        ...


class LayoutSubject:
    """What both backends share: everything that is read off the weights."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device, layout: Layout) -> None:
        self.model, self.tokenizer, self.device, self.layout = model, tokenizer, device, layout
        self._unembedding: tuple[Tensor, Tensor | None] | None = None
        self._hook_points: list[str] = []

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.layout.layers)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.layout.d_model

    @property
    def final_norm_centres(self) -> bool:
        """Whether the final norm subtracts the mean over `d_model`."""
        facts = norm_facts(self.layout.final_norm, self.d_model)
        return facts is not None and facts.centres

    def hook_points(self) -> list[str]:
        """Every hook point of this model, in the order of the forward pass."""
        return list(self._hook_points)

    def check_hook_points(self, names: Sequence[str]) -> None:
        """Raises `UserError` for a name that is no hook point of this model."""
        known = set(self._hook_points)
        for name in names:
            if name in known:
                continue
            where = layer_of(name)
            if where and where[0] >= self.n_layers:
                raise UserError(
                    f"hook point {name!r}: the subject has {self.n_layers} blocks; accepted: "
                    f"blocks.0 to blocks.{self.n_layers - 1}"
                )
            layer = where[0] if where else 0
            here = [n.split(".", 2)[2] for n in self._hook_points if n.startswith(f"blocks.{layer}.")]
            close = nearest(name, known)
            hint = f" (did you mean {' or '.join(repr(c) for c in close)}?)" if close else ""
            raise UserError(
                f"hook point: seen {name!r}{hint}; accepted: hook_embed, or blocks.N. before {', '.join(here)}"
            )

    def check_tokens(self, tokens: Tensor) -> None:
        """Raises `UserError` for contexts [batch, position] longer than the model's positions."""
        limit = self.layout.max_positions
        if limit is not None and tokens.shape[1] > limit:
            raise UserError(
                f"cache.context_size: seen {tokens.shape[1]:,}, but the subject has {limit:,} positions; "
                f"accepted: 2 to {limit:,}"
            )

    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """The unembedding [d_model, n_vocabulary] and the final norm's scale [d_model] or None, float32."""
        if self._unembedding is None:
            head = self.layout.unembedding
            if head is None:
                raise UserError(f"subject.model: {type(self.model).__name__} has no output embedding")
            facts = norm_facts(self.layout.final_norm, self.d_model)
            self._unembedding = weight_in_out(head).float(), facts.scale if facts else None
        return self._unembedding

    def decoder_writes_to_residual(self, hook_point: str) -> bool:
        """Whether directions at this hook point have an image in the residual stream."""
        where = layer_of(hook_point)
        if where is None:
            return hook_point == "hook_embed"
        if where[0] >= self.n_layers:
            return False
        layer = self.layout.layers[where[0]]
        return (
            where[1] in _WRITES
            or where[1] in ("attn.hook_out", "mlp.hook_out")
            or (where[1] == "attn.hook_z" and layer.attention_out is not None)
            or (where[1] == "mlp.hook_post" and layer.mlp_out is not None)
        )

    def to_residual(self, hook_point: str, directions: Tensor) -> Tensor | None:
        """Directions [n, width] at a hook point as directions [n, d_model]; None without a linear way."""
        if not self.decoder_writes_to_residual(hook_point):
            return None
        where = layer_of(hook_point)
        if where is None or where[1] in _WRITES:
            return directions
        layer = self.layout.layers[where[0]]
        in_attention = where[1].startswith("attn")
        linear = {"attn.hook_z": layer.attention_out, "mlp.hook_post": layer.mlp_out}.get(where[1])
        if linear is not None:
            directions = directions @ weight_in_out(linear).to(directions)
        post_norm = layer.attention_post_norm if in_attention else layer.mlp_post_norm
        facts = norm_facts(post_norm, self.d_model)
        if facts is None:
            return directions
        if facts.centres:
            directions = directions - directions.mean(-1, keepdim=True)
        return directions * facts.scale.to(directions)

    def mlp_out_weights(self, layer: int) -> Tensor:
        """What each MLP neuron of a block writes, float32 [d_mlp, d_model]."""
        linear = self.layout.layers[layer].mlp_out
        if linear is None:
            raise UserError(f"subject.model: no MLP output matrix known in {type(self.model).__name__}")
        return weight_in_out(linear).float()


def open_subject(config: SubjectConfig) -> SubjectModel:
    """Load the subject with the backend its configuration names.

    Raises `UserError` for a model that cannot be loaded, an absent device and a missing library.
    """
    device = resolve_device(config.device)
    if config.backend == "transformer_lens":
        from autointerp.subject.model_tl import TransformerLensSubject

        return TransformerLensSubject.load(config, device)
    from autointerp.subject.model_hf import HuggingFaceSubject

    return HuggingFaceSubject.load(config, device)

"""Where a Hugging Face causal language model keeps the parts that hook points name.

One map for all families, by the names their modules go by: Llama and its kin (Mistral, Qwen, OLMo,
SmolLM...), GPT-2, GPT-NeoX (Pythia), GPT-J, Phi, Gemma 1 to 3 and others with norms after their
sublayers, OPT, Falcon and more. What a family lacks has no hook point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autointerp.errors import UserError

_LAYER_LISTS = (
    "model.layers",
    "transformer.h",
    "gpt_neox.layers",
    "model.decoder.layers",
    "model.language_model.layers",
    "language_model.model.layers",
    "transformer.blocks",
    "backbone.layers",
)
_ATTENTION = ("self_attn", "attn.attention", "attn", "attention", "self_attention")
_ATTENTION_OUT = ("o_proj", "c_proj", "out_proj", "dense", "wo")
_MLP = ("mlp", "feed_forward")
_MLP_OUT = ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2", "w2")
_NORM_1 = ("input_layernorm", "ln_1", "self_attn_layer_norm", "norm_1", "ln_attn")
_NORM_2 = ("post_attention_layernorm", "ln_2", "final_layer_norm", "norm_2", "ln_mlp")
_FINAL_NORM = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")


@dataclass(frozen=True, kw_only=True)
class Layer:
    """The parts of one transformer block; None where the family has no such part."""

    block: nn.Module
    norm_1: nn.Module | None
    """Norm before attention."""
    attention: nn.Module | None
    attention_out: nn.Module | None
    """Linear map whose input is `attn.hook_z`."""
    attention_post_norm: nn.Module | None
    """Norm between attention and the residual stream."""
    norm_2: nn.Module | None
    """Norm before the MLP."""
    mlp_in: nn.Module | None
    """The module whose input is the MLP's: the MLP itself, or the first matrix where it has no module."""
    mlp: nn.Module | None
    """The module whose output is the MLP's."""
    mlp_out: nn.Module | None
    """Linear map whose input is `mlp.hook_post`."""
    mlp_post_norm: nn.Module | None
    """Norm between the MLP and the residual stream."""
    parallel: bool
    """Whether attention and MLP read the same residual stream, so that there is none in between."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The parts of a model."""

    layers: tuple[Layer, ...]
    embedding: nn.Module
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    d_model: int
    max_positions: int | None
    """Positions the model has; None if it says nothing."""

    @classmethod
    def of(cls, model: Any) -> Layout:
        """The layout of a `transformers` causal language model.

        Raises `UserError` for a model whose blocks cannot be found.
        """
        config = model.config.get_text_config()
        found = next(((path, m) for path in _LAYER_LISTS if (m := _at(model, path)) is not None), None)
        if found is None:
            raise UserError(
                f"subject.model: no transformer blocks known in {type(model).__name__}; accepted: a causal "
                f"language model with its blocks at one of {', '.join(_LAYER_LISTS)}"
            )
        path, blocks = found
        trunk = _at(model, path.rpartition(".")[0])
        return cls(
            layers=tuple(_layer(block, config) for block in blocks),
            # Bloom normalises its embeddings before anything else.
            embedding=_first(trunk, ("word_embeddings_layernorm",)) or model.get_input_embeddings(),
            final_norm=_first(trunk, _FINAL_NORM),
            unembedding=model.get_output_embeddings(),
            d_model=int(model.get_input_embeddings().weight.shape[1])
            if not hasattr(config, "hidden_size")
            else int(config.hidden_size),
            max_positions=getattr(config, "max_position_embeddings", None),
        )


def _layer(block: nn.Module, config: Any) -> Layer:
    attention, mlp = _first(block, _ATTENTION), _first(block, _MLP)
    mlp_in, mlp_out = mlp, _first(mlp, _MLP_OUT)
    if mlp is None:  # OPT keeps the MLP's two matrices in the block
        mlp_in, mlp_out = _first(block, ("fc1",)), _first(block, ("fc2",))
        mlp = mlp_out
    parallel = any(
        bool(getattr(config, name, False))
        for name in ("use_parallel_residual", "parallel_attn", "new_decoder_architecture")
    )
    norm_2: nn.Module | None
    if hasattr(block, "pre_feedforward_layernorm"):  # Gemma 2 and 3
        norm_2 = _at(block, "pre_feedforward_layernorm")
        post_norms = _at(block, "post_attention_layernorm"), _at(block, "post_feedforward_layernorm")
    elif hasattr(block, "post_self_attn_layernorm"):  # GLM 4
        norm_2 = _at(block, "post_attention_layernorm")
        post_norms = _at(block, "post_self_attn_layernorm"), _at(block, "post_mlp_layernorm")
    elif hasattr(block, "post_feedforward_layernorm"):  # OLMo 2 and 3: no norm before either sublayer
        norm_2 = None
        post_norms = _at(block, "post_attention_layernorm"), _at(block, "post_feedforward_layernorm")
    else:
        norm_2 = _first(block, _NORM_2)
        post_norms = None, None
    return Layer(
        block=block,
        norm_1=_first(block, _NORM_1),
        attention=attention,
        attention_out=_first(attention, _ATTENTION_OUT),
        attention_post_norm=post_norms[0],
        norm_2=norm_2,
        mlp_in=mlp_in,
        mlp=mlp,
        mlp_out=mlp_out,
        mlp_post_norm=post_norms[1],
        # Families that never say so (GPT-J, Phi, Cohere) show it by having one norm for both.
        parallel=parallel or (norm_2 is None and post_norms[1] is None),
    )


def _at(root: nn.Module | None, path: str) -> Any:
    for name in path.split("."):
        root = getattr(root, name, None)
    return root


def _first(root: nn.Module | None, paths: tuple[str, ...]) -> nn.Module | None:
    return next((m for path in paths if isinstance(m := _at(root, path), nn.Module)), None)


def weight_in_out(linear: nn.Module) -> Tensor:
    """The matrix of a linear map as [d_in, d_out], whichever way round it is stored (GPT-2's `Conv1D`)."""
    weight = linear.weight
    assert isinstance(weight, Tensor)
    return weight.detach() if type(linear).__name__ == "Conv1D" else weight.detach().T


@dataclass(frozen=True)
class NormFacts:
    """What a norm does besides dividing by a vector's own length."""

    centres: bool
    """Whether it subtracts the mean over the model dimension (LayerNorm) or not (RMSNorm)."""
    scale: Tensor
    """The factor of each dimension, float32 [d_model]."""


def norm_facts(norm: nn.Module | None, d_model: int) -> NormFacts | None:
    """The facts of a norm over [..., d_model]; None for no norm.

    Found by trying it out, as families differ: some norms called LayerNorm have no weight, some
    store the scale minus one, some centre without a bias.
    """
    if norm is None:
        return None
    if norm not in _known_norms:
        _known_norms[norm] = _try_out(norm, d_model)
    return _known_norms[norm]


_known_norms: WeakKeyDictionary[nn.Module, NormFacts] = WeakKeyDictionary()


def _try_out(norm: nn.Module, d_model: int) -> NormFacts:
    stored = getattr(norm, "weight", None)
    weight = stored.detach() if isinstance(stored, Tensor) else None
    like = torch.zeros(0) if weight is None else weight
    # Plus and minus 1,000: no element is near zero, and epsilon does not count.
    x = 1_000 * (1 - 2 * (torch.arange(d_model, device=like.device) % 2)).to(like.dtype)[None]
    with torch.no_grad():
        # Not norm(v): this may happen inside a hook on this very norm.
        shown, mirrored, moved = (norm.forward(v).float() for v in (x, -x, x + 500))
    tolerance = 1e-3 if like.dtype == torch.float32 else 5e-2
    centres = bool((shown - moved).abs().max() <= tolerance * shown.abs().max())
    plain = x.float() - x.float().mean(-1, keepdim=True) if centres else x.float()
    plain = plain / plain.pow(2).mean(-1, keepdim=True).sqrt()
    scale = ((shown - mirrored) / (2 * plain))[0]  # a bias falls out
    for exact in () if weight is None else (weight.float(), weight.float() + 1):
        if exact.shape == scale.shape and (exact - scale).abs().max() <= tolerance * scale.abs().max():
            scale = exact
            break
    return NormFacts(centres=centres, scale=scale)


def normalised(norm: nn.Module, x: Tensor) -> Tensor:
    """A norm's input normalised but not yet scaled: TransformerLens' `hook_normalized`, [..., d_model]."""
    facts = norm_facts(norm, x.shape[-1])
    eps = next(
        (float(v) for n in ("eps", "variance_epsilon", "epsilon") if (v := getattr(norm, n, None))), 1e-5
    )
    wide = x.float()
    if facts is not None and facts.centres:
        wide = wide - wide.mean(-1, keepdim=True)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)

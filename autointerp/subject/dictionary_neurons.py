"""MLP neurons as latents: the baseline a dictionary has to beat."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.dictionary import check_width, encode_in_chunks
from autointerp.subject.sparse import SparseLatents

_HOOK = re.compile(r"blocks\.\d+\.mlp\.hook_post")


class NeuronDictionary:
    """Each neuron of one MLP is a latent, its activation the positive part of `mlp.hook_post`.

    The negative part is left out: a latent that means one thing when positive and another when negative
    cannot have one label (and most of what GELU and SiLU leave below zero is small). With `k`, only the
    k largest neurons of a position count, as in the sparse-neuron baseline of Paulo et al. 2024,
    "Automatically Interpreting Millions of Features in Large Language Models"; without it up to half
    of all neurons are active everywhere.
    """

    def __init__(self, hook_point: str, n_neurons: int, k: int | None = None) -> None:
        self.hook_point = self.hook_point_out = hook_point
        self.d_in = self.n_latents = n_neurons
        self._k = k
        self.metadata: dict[str, Any] = {"architecture": "neurons", "k": k, "signed": False}

    @classmethod
    def open(cls, config: DictionaryConfig, subject: SubjectConfig) -> NeuronDictionary:
        """From `hook_point`; the width comes from the model's configuration, k from `top_k`."""
        from autointerp.weights import load_model_config

        hook_point = str(config.hook_point)
        if not _HOOK.fullmatch(hook_point):
            raise UserError(
                f"dictionary.hook_point: seen {hook_point!r}; accepted for neurons: blocks.N.mlp.hook_post"
            )
        model = load_model_config(
            subject.model, subject.revision, trust_remote_code=subject.trust_remote_code
        ).get_text_config()
        return cls(hook_point, mlp_width(model), config.top_k)

    @property
    def identity(self) -> str:
        """The hook point and k; the weights are the subject's own."""
        return f"neurons:{self.hook_point}:{self._k or 'all'}"

    def encode(self, activations: Tensor, *, room: int | None = None) -> SparseLatents:
        """Positive parts of activations [n, d_mlp]."""
        check_width(activations, self.d_in, self.hook_point)
        return encode_in_chunks(activations, self.n_latents, self._encode, room)

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        """Unit vectors [n, d_mlp] at `hook_point`; `SubjectModel.to_residual` makes them rows of W_out."""
        return torch.nn.functional.one_hot(latents.long(), self.n_latents).float()

    def encoder_directions(self, latents: Tensor) -> Tensor | None:
        """None: a neuron is a coordinate at `hook_point`; what the MLP reads for it is no one direction if gated."""
        return None

    def _encode(self, x: Tensor, room: int | None) -> SparseLatents:
        positive = x.relu()
        if self._k is None:
            return SparseLatents.from_dense(positive, room)
        values, indices = positive.topk(min(self._k, self.n_latents), dim=-1, sorted=False)
        return SparseLatents.from_top_k(indices, values, room)


def mlp_width(config: Any) -> int:
    """Neurons of one MLP, by a model's configuration. Raises `UserError` if it does not say."""
    for name in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"):
        if isinstance(width := getattr(config, name, None), int):
            return width
    if isinstance(width := getattr(config, "n_embd", None), int):
        return 4 * width  # GPT-2's n_inner is null unless it is another
    raise UserError("dictionary: the subject's configuration does not say how wide its MLPs are")

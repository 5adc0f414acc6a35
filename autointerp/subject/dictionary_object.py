"""Any Python object with `encode` as a dictionary."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError, nearest
from autointerp.subject.device import resolve_device
from autointerp.subject.dictionary import check_width, encode_in_chunks, encoder_rows, fingerprint
from autointerp.subject.sparse import SparseLatents


class ObjectDictionary:
    """An object with `encode(activations [n, d_in])`, made by the function at `path`.

    What `encode` returns may be a dense tensor [n, n_latents], a sparse COO tensor of that shape,
    `SparseLatents`, or a pair (values, latents), both [n, k], as sparsify's `encode` begins. Optional
    attributes of the object: `d_in`; `n_latents` (needed with a pair or `SparseLatents`); `W_dec`
    [n_latents, width]; `W_enc` [d_in, n_latents] or its transpose; `hook_point_out`; `metadata`, a dict (see `Dictionary.metadata`).
    """

    def __init__(self, inner: Any, *, name: str, hook_point: str, d_in: int, dtype: str, device: str) -> None:
        self._inner, self._name = inner, name
        self.hook_point = hook_point
        self.hook_point_out = str(getattr(inner, "hook_point_out", None) or hook_point)
        self.d_in = d_in
        self._dtype, self._device = getattr(torch, dtype), device
        if isinstance(inner, torch.nn.Module):
            inner.to(device=device, dtype=self._dtype).eval().requires_grad_(False)
        self.n_latents = self._probe()
        given = getattr(inner, "metadata", None)
        self.metadata: dict[str, Any] = {
            "architecture": type(inner).__name__,
            **(given if isinstance(given, dict) else {}),
        }
        self._identity: str | None = None

    @classmethod
    def open(cls, config: DictionaryConfig, subject: SubjectConfig) -> ObjectDictionary:
        """Call the function of `path`; the input's width is the object's `d_in`, else the model's."""
        inner = _make(str(config.path))
        d_in = getattr(inner, "d_in", None) or _width(str(config.hook_point), subject)
        return cls(
            inner,
            name=str(config.path),
            hook_point=str(config.hook_point),
            d_in=int(d_in),
            dtype=config.dtype,
            device=str(resolve_device(subject.device)),
        )

    @property
    def identity(self) -> str:
        """The import path, and a fingerprint of its tensors where the object shows any."""
        if self._identity is None:
            inner = self._inner
            tensors = (
                inner.state_dict() if isinstance(inner, torch.nn.Module) else getattr(inner, "__dict__", {})
            )
            tensors = {k: v for k, v in tensors.items() if isinstance(v, Tensor)}
            self._identity = f"object:{self._name}:{fingerprint(tensors, [self.n_latents, self.d_in])}"
        return self._identity

    def encode(self, activations: Tensor, *, room: int | None = None) -> SparseLatents:
        """Non-zero latents of activations [n, d_in]."""
        check_width(activations, self.d_in, self.hook_point)
        with torch.no_grad():
            return encode_in_chunks(activations, self.n_latents, self._encode, room)

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        """Rows of the object's `W_dec`, float32 [n, width]; None if it has none."""
        decoder = getattr(self._inner, "W_dec", None)
        if not isinstance(decoder, Tensor) or decoder.shape[0] != self.n_latents:
            return None
        return decoder.detach()[latents.to(decoder.device)].float()

    def encoder_directions(self, latents: Tensor) -> Tensor | None:
        """The object's `W_enc`, [d_in, n_latents] or [n_latents, d_in], as float32 [n, d_in]; None if it has none."""
        return encoder_rows(getattr(self._inner, "W_enc", None), latents, self.n_latents, self.d_in)

    def _encode(self, x: Tensor, room: int | None) -> SparseLatents:
        result = self._inner.encode(x.to(device=self._device, dtype=self._dtype))
        if isinstance(result, SparseLatents):
            return result
        if isinstance(result, Tensor):
            return (
                SparseLatents.from_coo(result) if result.is_sparse else SparseLatents.from_dense(result, room)
            )
        if isinstance(result, (tuple, list)) and len(result) >= 2:
            return SparseLatents.from_top_k(result[1], result[0], room)
        raise UserError(
            f"dictionary.path: encode of {self._name!r} returned {type(result).__name__}; accepted: a tensor "
            "[n, n_latents], dense or sparse, SparseLatents, or a pair (values, latents)"
        )

    def _probe(self) -> int:
        stated = getattr(self._inner, "n_latents", None) or getattr(self._inner, "d_sae", None)
        with torch.no_grad():
            try:
                result = self._inner.encode(torch.zeros(2, self.d_in, dtype=self._dtype, device=self._device))
            except Exception as error:
                raise UserError(
                    f"dictionary.path: encode of {self._name!r} fails on zeros [2, {self.d_in}]: "
                    f"{type(error).__name__}: {error}"
                ) from error
        if isinstance(result, Tensor):
            if result.ndim != 2 or result.shape[0] != 2:
                raise UserError(
                    f"dictionary.path: encode of {self._name!r} made {tuple(result.shape)} of [2, {self.d_in}]; "
                    "accepted: [n, n_latents]"
                )
            return int(result.shape[1])
        if not isinstance(stated, int):
            raise UserError(
                f"dictionary.path: {self._name!r} needs an attribute n_latents, as encode is sparse"
            )
        return stated


def _make(path: str) -> Any:
    module_name, _, attribute = path.partition(":")
    if not module_name or not attribute:
        raise UserError(f"dictionary.path: seen {path!r}; accepted: 'package.module:function'")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # a module that lies beside the run's TOML file
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"dictionary.path: cannot import {module_name!r}: {error}") from error
    found = getattr(module, attribute, None)
    if found is None:
        close = nearest(attribute, vars(module))
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"dictionary.path: {module_name!r} has no {attribute!r}{hint}")
    inner = found() if isinstance(found, type) or not hasattr(found, "encode") else found
    if not callable(getattr(inner, "encode", None)):
        raise UserError(f"dictionary.path: {path!r} gave {type(inner).__name__}, which has no encode method")
    return inner


def _width(hook_point: str, subject: SubjectConfig) -> int:
    from autointerp.weights import load_model_config

    config = load_model_config(
        subject.model, subject.revision, trust_remote_code=subject.trust_remote_code
    ).get_text_config()
    if hook_point.endswith(("mlp.hook_post", "attn.hook_z")):
        raise UserError(
            f"dictionary.path: at {hook_point!r} the object needs an attribute d_in, its input's width"
        )
    return int(config.hidden_size)

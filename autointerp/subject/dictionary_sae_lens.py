"""Dictionaries of SAELens: its releases, Hugging Face repositories and saved folders."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError, looked_for, unknown_name
from autointerp.subject.device import resolve_device
from autointerp.subject.dictionary import (
    check_width,
    encode_in_chunks,
    encoder_rows,
    fingerprint,
    refuse_pickles,
)
from autointerp.subject.sparse import SparseLatents

logger = logging.getLogger(__name__)

_METADATA = (
    "model_name",
    "model_class_name",
    "hook_name",
    "hook_name_out",
    "hf_hook_name",
    "hf_hook_name_out",
    "hook_head_index",
    "neuronpedia_id",
    "context_size",
    "prepend_bos",
    "sequence_separator_token",
    "exclude_special_tokens",
    "seqpos_slice",
    "dataset_path",
    "model_from_pretrained_kwargs",
    "sae_lens_version",
)
_PROCESSING = ("fold_ln", "fold_value_biases", "refactor_factored_attn_matrices")
_RESIDUAL = (
    "hook_embed",
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
)


class SaeLensDictionary:
    """An SAE or transcoder of SAELens, encoded by its own `encode`.

    All inference architectures but `temporal`, whose latents depend on the tokens before. Input
    normalisation, decoder bias and hook_z shapes are SAELens' own business. Special are:
    `topk` and `abstopk`, which hand over their top-k without a dense tensor; `abstopk`, whose latents
    may be negative; `matching_pursuit`, which encodes in as many rounds as a position has latents.

    The SAE given is taken over: a top-k one's own `encode` gives pre-activations from then on.

    A dictionary trained on a model whose weights were centred (`center_writing_weights`, as
    gpt2-small-res-jb) is given the raw activations minus their mean over the model dimension, which is
    what centring every matrix that writes to the residual stream amounts to; so the subject needs no
    processing and both backends serve. As in TransformerLens, RMSNorm models are left alone.
    """

    def __init__(
        self, sae: Any, *, hook_point: str | None = None, subject_uses_rms_norm: bool = False
    ) -> None:
        architecture = sae.cfg.architecture()
        if architecture == "temporal":
            raise UserError(
                "dictionary: architecture 'temporal' is not supported, as its latents depend on the tokens before; "
                "accepted: every other architecture of SAELens"
            )
        self.sae = sae.eval().requires_grad_(False)
        self.metadata = _metadata(sae)
        self.hook_point = hook_point or _hook_point(self.metadata)
        out = self.metadata.get("hook_name_out")
        self.hook_point_out = str(out) if out else self.hook_point
        self.n_latents = int(sae.cfg.d_sae)
        self._head: int | None = self.metadata.get("hook_head_index")
        self.d_in = int(sae.cfg.d_in)
        self._centred = self._must_be_centred(subject_uses_rms_norm)
        self._k = _take_over_top_k(sae)
        self._signed = architecture == "abstopk"
        self._identity: str | None = None

    @classmethod
    def open(cls, config: DictionaryConfig, subject: SubjectConfig) -> SaeLensDictionary:
        """Load from `path`, or by `release` and `sae_id`; see `open_dictionary`."""
        device = str(resolve_device(subject.device))
        sae = _load_folder(config, device) if config.path else _load_release(config, device)
        kwargs = sae.cfg.metadata.model_from_pretrained_kwargs or {}
        rms_norm = bool(kwargs.get("center_writing_weights")) and _uses_rms_norm(subject)
        return cls(sae, hook_point=config.hook_point, subject_uses_rms_norm=rms_norm)

    @property
    def identity(self) -> str:
        """A stable fingerprint of weights and configuration."""
        if self._identity is None:
            facts = {k: v for k, v in self.sae.cfg.to_dict().items() if k not in ("device", "metadata")}
            self._identity = (
                f"sae_lens:{self.metadata['architecture']}:"
                f"{fingerprint(self.sae.state_dict(), sorted(facts.items()))}"
            )
        return self._identity

    def encode(self, activations: Tensor, *, room: int | None = None) -> SparseLatents:
        """Non-zero latents of activations [n, d_in]."""
        n_heads, rest = divmod(activations.shape[-1], self.d_in)
        if self._head is not None and self._head < n_heads and rest == 0:
            activations = activations.view(-1, n_heads, self.d_in)[:, self._head]
        check_width(activations, self.d_in, self.hook_point)
        with torch.no_grad():
            return encode_in_chunks(activations, self.n_latents, self._encode, room)

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        """Rows of the decoder, float32 [n, width]."""
        if self._head is not None:
            return None
        rows: Tensor = self.sae.W_dec[latents.to(self.sae.W_dec.device)]
        return rows.float()

    def encoder_directions(self, latents: Tensor) -> Tensor | None:
        """Columns of the encoder, float32 [n, d_in]; None for an architecture without `W_enc`."""
        return encoder_rows(getattr(self.sae, "W_enc", None), latents, self.n_latents, self.d_in)

    def _encode(self, x: Tensor, room: int | None) -> SparseLatents:
        x = x.to(device=self.sae.device, dtype=self.sae.dtype)
        if self._centred:
            x = x - x.mean(-1, keepdim=True)
        if self.sae.cfg.reshape_activations == "hook_z":
            x = x[:, None, :]  # SAELens flattens (heads, d_head); ours are flat already: one wide head
        latents = self.sae.encode(x)
        if self._k is None:
            return SparseLatents.from_dense(latents, room)
        indices = (latents.abs() if self._signed else latents).topk(self._k, dim=-1, sorted=False).indices
        values = latents.gather(-1, indices)
        return SparseLatents.from_top_k(indices, values if self._signed else values.relu(), room)

    def _must_be_centred(self, rms_norm: bool) -> bool:
        kwargs = self.metadata.get("model_from_pretrained_kwargs") or {}
        to_stream = self.hook_point.rpartition(".")[2] in _RESIDUAL
        folded = [name for name in _PROCESSING if kwargs.get(name)]
        if folded and not to_stream:
            raise UserError(
                f"dictionary: it was trained on a model loaded with {folded[0]} = true, which changes "
                f"{self.hook_point!r}; accepted: dictionaries of unprocessed weights there"
            )
        for name in ("checkpoint_index", "checkpoint_value", "revision"):
            if kwargs.get(name) is not None:
                logger.warning("the dictionary was trained on the model with %s = %r", name, kwargs[name])
        return bool(kwargs.get("center_writing_weights")) and to_stream and not rms_norm


def _take_over_top_k(sae: Any) -> int | None:
    """Let a top-k architecture's `encode` stop before it scatters; its k, or None for other kinds."""
    from sae_lens.saes.abstopk_sae import AbsTopK
    from sae_lens.saes.topk_sae import TopK

    if not isinstance(sae.activation_fn, (TopK, AbsTopK)):
        return None
    k = int(sae.activation_fn.k)
    sae.activation_fn = torch.nn.Identity()
    return k


def _metadata(sae: Any) -> dict[str, Any]:
    given = sae.cfg.metadata
    metadata: dict[str, Any] = {name: _plain(given[name]) for name in _METADATA}
    if metadata["sequence_separator_token"] is None and "sequence_separator_token" not in given:
        metadata["sequence_separator_token"] = "bos"  # the default of SAELens' activation store
    architecture = sae.cfg.architecture()
    normalisation = sae.cfg.normalize_activations
    if normalisation in ("expected_average_only_in", "covariance_whitening"):
        logger.warning(
            "the dictionary expects %s inputs, but carries no factor to make them: activations are encoded "
            "unscaled",
            normalisation,
        )
    return metadata | {
        "architecture": architecture,
        "normalize_activations": normalisation,
        "signed": architecture == "abstopk",
        "exclude_special_tokens": _plain(given["exclude_special_tokens"]),
    }


def _plain(value: Any) -> Any:
    """A value as plain JSON types."""
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value)


def _hook_point(metadata: dict[str, Any]) -> str:
    name = metadata.get("hook_name")
    if not name:
        raise UserError(
            "dictionary.hook_point: the dictionary's own metadata does not say where it reads; accepted: a hook "
            "point such as 'blocks.9.hook_resid_post'"
        )
    name = str(name)
    # SAELens calls the input of Gemma Scope 2 transcoders hook_mlp_in, the stream before the norm; the
    # repository's own name says that it is read behind the norm.
    behind = re.search(r"layernorm\.output|\.mlp\.input", str(metadata.get("hf_hook_name") or ""))
    if name.endswith(".hook_mlp_in") and behind:
        name = name.replace(".hook_mlp_in", ".mlp.hook_in")
    return name


def _uses_rms_norm(subject: SubjectConfig) -> bool:
    from autointerp.weights import load_model_config

    config = load_model_config(
        subject.model, subject.revision, trust_remote_code=subject.trust_remote_code
    ).get_text_config()
    return hasattr(config, "rms_norm_eps")


def _import_sae_lens() -> Any:
    try:
        import sae_lens
    except ImportError:
        raise UserError("dictionary.source: 'sae_lens' needs: pip install 'autointerp[sae-lens]'") from None
    return sae_lens


def _load_folder(config: DictionaryConfig, device: str) -> Any:
    sae_lens = _import_sae_lens()
    path = Path(str(config.path)).expanduser()
    if not path.is_dir():
        raise UserError(
            f"dictionary.path: no folder {looked_for(str(config.path))}; accepted: a folder saved by SAELens"
        )
    names = [p.name for p in path.iterdir()]
    wanted = "cfg.json and sae_weights.safetensors"
    if "sae.safetensors" in names and "sae_weights.safetensors" not in names:
        raise UserError(
            f"dictionary.path: {config.path!r} is a sparsify checkpoint; set dictionary.source = 'sparsify'"
        )
    if "cfg.json" not in names or "sae_weights.safetensors" not in names:
        raise refuse_pickles(f"dictionary.path {config.path!r}", names, wanted)
    with _quiet(), _told(f"dictionary.path {config.path!r}"):
        return sae_lens.SAE.load_from_disk(path, device=device, dtype=config.dtype)


def _load_release(config: DictionaryConfig, device: str) -> Any:
    sae_lens = _import_sae_lens()
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    release, sae_id = str(config.release), str(config.sae_id)
    directory = get_pretrained_saes_directory()
    if release in directory:
        if sae_id not in directory[release].saes_map:
            raise unknown_name("dictionary.sae_id", sae_id, directory[release].saes_map)
    elif "/" not in release:
        raise unknown_name("dictionary.release", release, directory)
    with _quiet(), _told(f"dictionary.release {release!r}, sae_id {sae_id!r}"), _no_pickles():
        return sae_lens.SAE.from_pretrained(release, sae_id, device=device, dtype=config.dtype)


@contextlib.contextmanager
def _no_pickles() -> Iterator[None]:
    """Some releases exist only as pickled `.pt` files: those are refused, whatever reads them."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise UserError(
            "dictionary.release: this release is stored as pickled .pt files, which are never loaded; "
            "accepted: releases in safetensors or .npz, or a converted folder as dictionary.path"
        )

    with mock.patch.object(torch, "load", refuse):
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """SAELens' advice on how to load the model does not apply: we centre ourselves."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        yield


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what can go wrong while loading into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # loaders of 15 formats and the hub raise many unrelated kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"{what}: cannot be loaded: {type(error).__name__}: {lines[0] if lines else 'no message'}; "
            "accepted: a release and id of SAELens, or a folder with cfg.json and sae_weights.safetensors"
        ) from error

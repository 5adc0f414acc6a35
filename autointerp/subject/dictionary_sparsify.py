"""Checkpoints of EleutherAI's sparsify: top-k SAEs and transcoders.

A checkpoint is a folder named after the hooked module that holds `cfg.json` and `sae.safetensors`
(`encoder.weight` [n_latents, d_in], `encoder.bias`, `W_dec` [n_latents, d_in], `b_dec`). Read without
the sparsify package, after its version 1.3 (`sparsify/sparse_coder.py`, `sparsify/fused_encoder.py`).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError, looked_for, unknown_name
from autointerp.subject.device import resolve_device
from autointerp.subject.dictionary import check_width, encode_in_chunks, fingerprint, refuse_pickles
from autointerp.subject.sparse import SparseLatents

WEIGHTS = "sae.safetensors"
_WANTED = f"cfg.json and {WEIGHTS}"
_MODULE = re.compile(r"(?:.*\.)?(?:layers|h|blocks)[._](\d+)(?:\.(mlp|self_attn|attn|attention))?")
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in")


def hook_points_of(module: str, transcode: bool) -> tuple[str, str] | None:
    """Where the hooked module of a checkpoint lies, as (hook point read, hook point written).

    sparsify hooks a module's output for an SAE and goes from its input to its output for a transcoder.
    None for a module we have no hook point for.
    """
    if module.rpartition(".")[2] in _EMBEDDINGS and not transcode:
        return "hook_embed", "hook_embed"
    match = _MODULE.fullmatch(module)
    if match is None:
        return None
    block, part = f"blocks.{match[1]}", match[2]
    read, written = f"{block}.hook_resid_pre", f"{block}.hook_resid_post"
    if part == "mlp":
        read, written = f"{block}.mlp.hook_in", f"{block}.mlp.hook_out"
    elif part is not None:
        if transcode:
            return None
        written = f"{block}.attn.hook_out"
    return (read, written) if transcode else (written, written)


class SparsifyDictionary:
    """A top-k (or group-max) SAE or transcoder of sparsify.

    Latents are `relu(W (x - b_dec) + b)`, without `b_dec` for a transcoder; of them the k largest, or
    the largest of each of k equal groups, are kept.
    """

    def __init__(
        self, config: dict[str, Any], weights: dict[str, Tensor], *, hook_point: str, hook_point_out: str
    ) -> None:
        self.hook_point, self.hook_point_out = hook_point, hook_point_out
        self._config, self._weights = config, weights
        self.n_latents, self.d_in = weights["encoder.weight"].shape
        self._k = int(config.get("k") or 32)
        self._activation = str(config.get("activation") or "topk")
        self._subtract = not config.get("transcode", False)
        if self._activation not in ("topk", "groupmax"):
            raise unknown_name(
                "dictionary: activation of the checkpoint", self._activation, ("topk", "groupmax")
            )
        if config.get("signed"):
            raise UserError("dictionary: a sparsify checkpoint with signed latents is not supported")
        if self._activation == "groupmax" and self.n_latents % self._k:
            raise UserError(
                f"dictionary: {self.n_latents} latents do not fall into {self._k} equal groups (groupmax)"
            )
        self.metadata: dict[str, Any] = {
            "architecture": f"sparsify_{self._activation}",
            "transcode": not self._subtract,
            "k": self._k,
            "model_name": config.get("model"),
            "dataset_path": config.get("dataset"),
            "context_size": config.get("ctx_len") or 2048,
            "prepend_bos": False,
            "sequence_separator_token": "eos",
            "leading_separator": True,
            "exclude_special_tokens": config.get("exclude_tokens") or None,
            "neuronpedia_id": None,
            "signed": False,
        }
        self._identity: str | None = None

    @classmethod
    def open(cls, config: DictionaryConfig, subject: SubjectConfig) -> SparsifyDictionary:
        """Load from `path` (with `sae_id` a folder inside it, if given) or from the hub's `release`."""
        if config.path:
            setting, folder = f"dictionary.path {config.path!r}", Path(config.path).expanduser()
        else:
            setting = f"dictionary.release {config.release!r}"
            folder = _download(str(config.release), config.sae_id)
        if not folder.is_dir():
            where = f"; looked for {looked_for(folder)}" if config.path else ""
            raise UserError(f"{setting}: no such folder{where}; accepted: a folder with {_WANTED}")
        if config.sae_id:
            _check_inside(folder, config.sae_id)
            folder = folder / config.sae_id
        names = [p.name for p in folder.iterdir()]
        if "cfg.json" not in names or WEIGHTS not in names:
            inside = sorted(p.parent.relative_to(folder).as_posix() for p in folder.rglob(f"*/{WEIGHTS}"))
            if inside and not config.sae_id:
                raise UserError(
                    f"dictionary.sae_id: {setting} holds several dictionaries; accepted: {', '.join(inside[:40])}"
                )
            raise refuse_pickles(setting, names, _WANTED)
        facts = _read_json(folder / "cfg.json")
        training = next(
            (
                _read_json(p / "config.json")
                for p in (folder.parent, folder.parent.parent)
                if (p / "config.json").is_file()
            ),
            {},
        )
        facts = {k: training.get(k) for k in ("model", "dataset", "ctx_len", "exclude_tokens")} | facts
        read, written = _hook_points(config, folder, bool(facts.get("transcode")))
        weights = _read_weights(folder / WEIGHTS, facts, config.dtype, str(resolve_device(subject.device)))
        return cls(facts, weights, hook_point=read, hook_point_out=written)

    @property
    def identity(self) -> str:
        """A stable fingerprint of weights and configuration."""
        if self._identity is None:
            facts = (self._activation, self._k, self._subtract)
            self._identity = f"sparsify:{fingerprint(self._weights, facts)}"
        return self._identity

    def encode(self, activations: Tensor, *, room: int | None = None) -> SparseLatents:
        """Non-zero latents of activations [n, d_in]."""
        check_width(activations, self.d_in, self.hook_point)
        with torch.no_grad():
            return encode_in_chunks(activations, self.n_latents, self._encode, room)

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        """Rows of the decoder, float32 [n, d_in]; None for a checkpoint without decoder."""
        decoder = self._weights.get("W_dec")
        return None if decoder is None else decoder[latents.to(decoder.device)].float()

    def encoder_directions(self, latents: Tensor) -> Tensor | None:
        """Rows of the encoder, float32 [n, d_in]."""
        encoder = self._weights["encoder.weight"]
        return encoder[latents.to(encoder.device)].float()

    def _encode(self, x: Tensor, room: int | None) -> SparseLatents:
        weight, bias = self._weights["encoder.weight"], self._weights["encoder.bias"]
        x = x.to(weight)
        if self._subtract:
            x = x - self._weights["b_dec"]
        latents = torch.nn.functional.linear(x, weight, bias).relu_()
        if self._activation == "topk":
            values, indices = latents.topk(min(self._k, self.n_latents), dim=-1, sorted=False)
        else:
            values, indices = latents.view(len(x), self._k, -1).max(dim=-1)
            indices = indices + torch.arange(0, self.n_latents, self.n_latents // self._k, device=x.device)
        return SparseLatents.from_top_k(indices, values, room)


def _hook_points(config: DictionaryConfig, folder: Path, transcode: bool) -> tuple[str, str]:
    # A run over several seeds keeps `layers.9/seed0`.
    candidates = [config.sae_id or "", *(config.sae_id or "").split("/"), folder.name, folder.parent.name]
    found = next((pair for name in candidates if (pair := hook_points_of(name, transcode))), None)
    if config.hook_point:
        return config.hook_point, found[1] if found and transcode else config.hook_point
    if found is None:
        raise UserError(
            f"dictionary.hook_point: not to be told from the folder {folder.name!r}; accepted: a hook point "
            "such as 'blocks.9.hook_resid_post'"
        )
    return found


def _read_weights(path: Path, facts: dict[str, Any], dtype: str, device: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        raw = load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise UserError(f"dictionary: cannot read {str(path)!r}: {error}") from None
    weights = {k: v.to(getattr(torch, dtype)) for k, v in raw.items() if k != "W_skip"}
    missing = [k for k in ("encoder.weight", "encoder.bias", "b_dec") if k not in weights]
    if missing:
        raise UserError(
            f"dictionary: {str(path)!r} has no tensor {missing[0]!r}; seen: {', '.join(sorted(raw))}"
        )
    d_in = int(facts.get("d_in") or weights["encoder.weight"].shape[1])
    n_latents = int(facts.get("num_latents") or d_in * int(facts.get("expansion_factor") or 32))
    if tuple(weights["encoder.weight"].shape) != (n_latents, d_in):
        raise UserError(
            f"dictionary: cfg.json says {n_latents} latents of width {d_in}, but {WEIGHTS} holds "
            f"{' x '.join(map(str, weights['encoder.weight'].shape))}"
        )
    return weights


def _check_inside(folder: Path, sae_id: str) -> None:
    if not (folder / sae_id).is_dir():
        inside = [p.parent.relative_to(folder).as_posix() for p in folder.rglob(f"*/{WEIGHTS}")]
        raise unknown_name("dictionary.sae_id", sae_id, inside)


def _download(repository: str, sae_id: str | None) -> Path:
    from huggingface_hub import list_repo_files, snapshot_download

    try:
        wanted = [f"{sae_id}/*"] if sae_id else ["cfg.json", WEIGHTS]
        folder = Path(
            snapshot_download(
                repository,
                allow_patterns=[*wanted, "config.json"],
                ignore_patterns=["*.pt", "*.pth", "*.bin", "*.pkl"],
            )
        )
        if (folder / (sae_id or ".") / "cfg.json").is_file():
            return folder
        inside = [f.rpartition("/")[0] for f in list_repo_files(repository) if f.endswith(f"/{WEIGHTS}")]
    except Exception as error:  # the hub's library raises many unrelated kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"dictionary.release: cannot load {repository!r}: {type(error).__name__}: "
            f"{lines[0] if lines else 'no message'}; accepted: a Hugging Face repository, or dictionary.path"
        ) from error
    raise unknown_name("dictionary.sae_id", sae_id or "", inside)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"dictionary: cannot read {str(path)!r}: {error}") from None
    return value if isinstance(value, dict) else {}

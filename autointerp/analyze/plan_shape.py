"""Sizes of a subject and its dictionary, read without loading either, and the arithmetic they ask for.

What is not known stays None: nothing that follows from it is given then.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autointerp.config import DictionaryConfig, RunConfig
from autointerp.errors import UserError

_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)(?:\.(.+))?$")
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WEIGHTS_PER_SQUARED_WIDTH = 12


@dataclass(frozen=True, kw_only=True)
class Given:
    """What the user says, in place of what would be read or measured; None: not said."""

    n_latents: int | None = None
    """Latents of the dictionary."""
    d_model: int | None = None
    """Width of the subject's residual stream, and of the dictionary's input."""
    n_layers: int | None = None
    """Layers that the subject runs: those up to the hook point."""
    layer_parameters: int | None = None
    """Weights of one layer."""
    l0: float | None = None
    """Mean number of active latents per token."""
    device_tflops: float | None = None
    """Peak arithmetic of one device, in 10^12 operations per second."""
    utilisation: float | None = None
    """Share of the peak that is reached."""
    cache_tokens_per_second: float | None = None
    """Tokens one worker caches per second."""
    sampled_per_second: float | None = None
    """Latents one worker samples per second."""
    tokens_per_second: float | None = None
    """Prompt and generated tokens that one server of a model works through per second."""
    workers: int = 1
    """Workers at the same time: each caches, samples, and asks a server of its own."""

    def __post_init__(self) -> None:
        if (self.device_tflops is None) != (self.utilisation is None):
            missing = "--utilisation" if self.utilisation is None else "--device-tflops"
            raise UserError(
                f"{missing}: missing; accepted: --device-tflops and --utilisation together, as in 400 and 0.4"
            )
        if self.device_tflops is not None and self.cache_tokens_per_second is not None:
            raise UserError(
                "--cache-tokens-per-second: seen beside --device-tflops; accepted: a measured rate, or a computed one"
            )


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What the work of the cache stage follows from."""

    n_layers: int | None = None
    """Layers that are run, up to the hook point."""
    layer_weights: int | None = None
    """Weights of one layer's matrices."""
    d_attention: int | None = None
    """Width of the queries: heads times their size."""
    d_in: int | None = None
    n_latents: int | None = None
    context_size: int | None = None
    l0: float | None = None
    """Mean number of active latents per unmasked position."""
    subject_parameters: int | None = None
    """All parameters of the subject."""
    subject_bytes_each: int = 4
    dictionary_bytes_each: int = 4
    sources: dict[str, str] = field(default_factory=dict)
    """Where the numbers come from, in words, by name."""

    @property
    def subject_flops(self) -> float | None:
        """Operations per token of the forward pass to the hook point.

        Two per weight, and for each position of the context four per value of the queries (scores and
        mix of all positions, as kernels without causal skipping do). Norms and activations are left out.
        """
        if self.n_layers == 0:
            return 0.0
        sizes = self.n_layers, self.layer_weights, self.d_attention, self.context_size
        if any(size is None for size in sizes):
            return None
        n_layers, weights, width, context = (float(size or 0) for size in sizes)
        return n_layers * (2 * weights + 4 * width * context)

    @property
    def encoder_flops(self) -> float | None:
        """Operations per token of the dictionary's encoder: a product of [d_in] with [d_in, n_latents]."""
        return None if self.d_in is None or self.n_latents is None else 2.0 * self.d_in * self.n_latents

    @property
    def flops(self) -> float | None:
        """Both."""
        subject, encoder = self.subject_flops, self.encoder_flops
        return None if subject is None or encoder is None else subject + encoder

    @property
    def dictionary_bytes(self) -> float | None:
        """Memory of the dictionary's encoder and decoder."""
        if self.d_in is None or self.n_latents is None:
            return None
        return 2.0 * self.d_in * self.n_latents * self.dictionary_bytes_each

    @property
    def subject_bytes(self) -> float | None:
        """Memory of the subject's weights, all of them."""
        return (
            None
            if self.subject_parameters is None
            else float(self.subject_parameters * self.subject_bytes_each)
        )


def shape_of(config: RunConfig, given: Given, cached: dict[str, Any] | None = None) -> Shape:
    """The sizes of a run: what is said, else of its finished cache, else what its files tell.

    `cached` are the counts in the manifest of its stage `cache`, with `n_latents`.
    """
    cached = cached or {}
    told = _dictionary_facts(config.dictionary)
    metadata = told.get("metadata") or {}
    subject = _subject_facts(config)
    hook = cached.get("hook_point") or config.dictionary.hook_point or metadata.get("hook_name")
    sources: dict[str, str] = {}

    def first(name: str, *choices: tuple[Any, str]) -> Any:
        for value, source in choices:
            if value is not None:
                sources[name] = source
                return value
        return None

    d_model = first("d_model", (given.d_model, "--d-model"), (subject.get("d_model"), "the subject"))
    weights = first(
        "layer_weights",
        (given.layer_parameters, "--layer-parameters"),
        (None if given.d_model else subject.get("layer_weights"), "the subject's modules"),
        (
            None if d_model is None else _WEIGHTS_PER_SQUARED_WIDTH * d_model**2,
            f"{_WEIGHTS_PER_SQUARED_WIDTH} x width^2 per layer",
        ),
    )
    n_layers = first(
        "n_layers", (given.n_layers, "--n-layers"), (layers_to(hook) if hook else None, f"hook point {hook}")
    )
    said = given.d_model is not None
    parameters = None if said else subject.get("parameters")
    return Shape(
        n_layers=n_layers,
        layer_weights=weights,
        d_attention=d_model if said else subject.get("d_attention", d_model),
        d_in=first("d_in", (told.get("d_in"), "the dictionary"), (d_model, "the subject's width")),
        n_latents=first(
            "n_latents",
            (given.n_latents, "--n-latents"),
            (cached.get("n_latents"), "the cache"),
            (config.dictionary.n_latents, "dictionary.n_latents"),
            (told.get("n_latents"), "the dictionary"),
        ),
        context_size=first(
            "context_size",
            (config.cache.context_size, "cache.context_size"),
            ((cached.get("tokenisation") or {}).get("context_size"), "the cache"),
            (metadata.get("context_size"), "the dictionary"),
        ),
        l0=first(
            "l0",
            (given.l0, "--l0"),
            (cached.get("mean_active_latents_per_position"), "measured in this run"),
            (config.dictionary.top_k, "dictionary.top_k"),
            (told.get("l0"), "the dictionary's metadata"),
        ),
        subject_parameters=parameters,
        subject_bytes_each=_BYTES[config.subject.dtype],
        dictionary_bytes_each=_BYTES[config.dictionary.dtype],
        sources=sources,
    )


def layers_to(hook_point: str) -> int | None:
    """Layers that are run to read a hook point; None for a name that does not tell."""
    if hook_point.endswith("hook_embed"):
        return 0
    found = _BLOCK.search(hook_point)
    if found is None:
        return None
    before = found.group(2) in ("hook_resid_pre", "ln1.hook_normalized")
    return int(found.group(1)) + (0 if before else 1)


def _dictionary_facts(config: DictionaryConfig) -> dict[str, Any]:
    """What the file beside saved weights says: d_in, n_latents, l0, metadata."""
    path = Path(config.path) / "cfg.json" if config.path and config.source != "object" else None
    if path is None or not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(facts, dict):
        return {}
    found = facts.get("metadata")
    metadata: dict[str, Any] = found if isinstance(found, dict) else {}
    return {
        "d_in": facts.get("d_in"),
        "n_latents": facts.get("d_sae") or facts.get("num_latents") or None,
        "l0": facts.get("k") or metadata.get("l0"),
        "metadata": metadata,
    }


def _subject_facts(config: RunConfig) -> dict[str, Any]:
    """Sizes of a subject whose configuration is on this machine, built without weights; else nothing."""
    found = _local_config(config)
    if found is None:
        return {}
    import torch
    from transformers import AutoModelForCausalLM

    from autointerp.subject.layout import Layout

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(found)
        layout = Layout.of(model)
    except (UserError, ValueError, ImportError, RuntimeError):
        return {}
    text = found.get_text_config()
    heads = getattr(text, "num_attention_heads", None)
    size = getattr(text, "head_dim", None) or (layout.d_model // heads if heads else None)
    per_layer = [sum(p.numel() for p in layer.block.parameters() if p.dim() >= 2) for layer in layout.layers]
    return {
        "d_model": layout.d_model,
        "d_attention": heads * size if heads and size else layout.d_model,
        "layer_weights": round(sum(per_layer) / len(per_layer)) if per_layer else None,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _local_config(config: RunConfig) -> Any:
    """The model's configuration if it lies on this machine; None where it would have to be fetched."""
    from autointerp.weights import load_model_config, local_fingerprint

    try:
        if local_fingerprint(config.subject.model) is not None:
            return load_model_config(config.subject.model)
        if config.subject.trust_remote_code:
            return None
        from transformers import AutoConfig

        return AutoConfig.from_pretrained(
            config.subject.model, revision=config.subject.revision, local_files_only=True
        )
    except (UserError, OSError, ValueError, ImportError):
        return None

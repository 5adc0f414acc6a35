"""The subject run by TransformerLens' `TransformerBridge`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from autointerp.config import SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.layout import Layout
from autointerp.subject.model import LayoutSubject, layer_of
from autointerp.subject.model_hf import HuggingFaceSubject


class TransformerLensSubject(LayoutSubject):
    """A `TransformerBridge` on the same weights, unprocessed; attention is always `eager`."""

    def __init__(
        self, bridge: Any, tokenizer: Any, device: torch.device, layout: Layout, hook_points: Sequence[str]
    ) -> None:
        super().__init__(bridge, tokenizer, device, layout)
        self._hook_points = [name for name in hook_points if _their_name(name) in bridge.hook_dict]

    @classmethod
    def load(cls, config: SubjectConfig, device: torch.device) -> TransformerLensSubject:
        """Load the model of a configuration and wrap it.

        Raises `UserError` as `autointerp.weights` does, and for a missing library or a model
        TransformerLens has no adapter for.
        """
        from autointerp.weights import load_causal_lm, load_tokenizer, resolve

        try:
            from transformer_lens.model_bridge import TransformerBridge
        except ImportError:
            raise UserError(
                "subject.backend: 'transformer_lens' needs: pip install 'autointerp[sae-lens]'; "
                "accepted without it: 'huggingface'"
            ) from None
        model, tokenizer = load_causal_lm(
            config.model,
            device=str(device),
            dtype=config.dtype,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            attn_implementation="eager",
        )
        # All that is read off the model comes before the bridge puts its own modules in its place.
        plain = HuggingFaceSubject(model, tokenizer, device)
        ids = torch.arange(1, 9, device=device)[None]
        expected = plain.activations(ids, plain.hook_points())
        try:
            bridge = TransformerBridge.boot_transformers(
                resolve(config.model),
                hf_model=model,
                # The bridge gives its tokenizer BOS and padding tokens of its own: not to ours.
                tokenizer=load_tokenizer(
                    config.model, config.revision, trust_remote_code=config.trust_remote_code
                ),
                device=str(device),
                dtype=getattr(torch, config.dtype),
                revision=config.revision,
                trust_remote_code=config.trust_remote_code,
            )
        except (ValueError, NotImplementedError, KeyError) as error:
            raise UserError(
                f"subject.backend: TransformerLens cannot run {config.model!r}: "
                f"{(str(error).splitlines() or [type(error).__name__])[0]}; accepted: 'huggingface'"
            ) from error
        subject = cls(bridge, tokenizer, device, plain.layout, plain.hook_points())
        tolerance = 1e-3 if config.dtype == "float32" else 5e-2
        read = subject._read(ids, subject.hook_points())
        same = [name for name, x in read.items() if _difference(x, expected[name]) <= tolerance]
        last = f"blocks.{subject.n_layers - 1}.hook_resid_post"
        if last not in same:
            by = (
                f"relative difference {_difference(read[last], expected[last]):.2g}" if last in read else last
            )
            raise UserError(
                f"subject.backend: TransformerLens computes {config.model!r} otherwise than its own code does "
                f"({by}); accepted: 'huggingface'"
            )
        subject._hook_points = [name for name in subject.hook_points() if name in same]
        return subject

    def activations(self, tokens: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations [batch, position, width] at each hook point; see `SubjectModel`."""
        self.check_hook_points(hook_points)
        self.check_tokens(tokens)
        return self._read(tokens, hook_points)

    def logits(self, tokens: Tensor, past: Any = None) -> Tensor:
        """Next-token logits [batch, position, n_vocabulary]; see `SubjectModel`."""
        with torch.no_grad():
            options = {"past_key_values": past, "use_cache": past is not None}
            logits: Tensor = self.model(tokens, return_type="logits", **options)
        return logits

    @contextlib.contextmanager
    def editing(self, hook_point: str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While open, passes go on with `edit` of the activations at a hook point; see `SubjectModel`."""

        def changed(value: Any, hook: Any) -> Any:
            return (edit(value[0]), *value[1:]) if isinstance(value, tuple) else edit(value)

        with self.model.hooks(fwd_hooks=[(_their_name(hook_point), changed)]):
            yield

    def _read(self, tokens: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations at those of the hook points that fire."""
        # The stream before a block is the stream after the one before it, which ends the pass earlier.
        asked = {name: _their_name(_earlier(name)) for name in hook_points}
        found: dict[str, Tensor] = {}
        wanted = set(asked.values())

        def record(value: Any, name: str) -> None:
            tensor: Tensor = value[0] if isinstance(value, tuple) else value
            found[name] = tensor.detach().clone()
            if len(found) == len(wanted):
                raise _stop(tensor)

        hooks = [(name, _bound(record, name)) for name in sorted(wanted)]
        with torch.no_grad(), self.model.hooks(fwd_hooks=hooks), contextlib.suppress(_stop_class()):
            self.model(tokens, return_type=None)
        return {
            name: found[theirs].reshape(*tokens.shape, -1)
            for name, theirs in asked.items()
            if theirs in found
        }


def _difference(x: Tensor, expected: Tensor) -> float:
    """Relative difference of two activations; infinite if their shapes differ."""
    if x.shape != expected.shape:
        return float("inf")
    return float((x.float() - expected.float()).norm() / expected.float().norm().clamp(min=1e-12))


def _bound(record: Any, name: str) -> Any:
    def hook_function(value: Any, hook: Any) -> None:
        record(value, name)

    return hook_function


def _stop_class() -> type[Exception]:
    from transformer_lens.model_bridge.exceptions import StopAtLayerException

    stop: type[Exception] = StopAtLayerException
    return stop


def _stop(tensor: Tensor) -> Exception:
    return _stop_class()(tensor)


def _earlier(name: str) -> str:
    where = layer_of(name)
    if where and where[1] == "hook_resid_pre" and where[0] > 0:
        return f"blocks.{where[0] - 1}.hook_resid_post"
    return name


def _their_name(name: str) -> str:
    """`hook_mlp_in` is off by default in TransformerLens; the same tensor stands at `hook_resid_mid`."""
    return name.replace(".hook_mlp_in", ".hook_resid_mid")

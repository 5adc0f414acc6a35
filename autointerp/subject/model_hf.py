"""The subject run by Hugging Face transformers, its activations read with module hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn

from autointerp.config import SubjectConfig
from autointerp.subject.layout import Layer, Layout, normalised
from autointerp.subject.model import LayoutSubject


@dataclass(frozen=True)
class Tap:
    """Where an activation is read: the input or the output of a module, perhaps transformed."""

    module: nn.Module
    side: Literal["input", "output"]
    transform: Callable[[nn.Module, Tensor], Tensor] | None = None
    """Given the module and the tensor."""


class _Done(Exception):  # noqa: N818 (a signal, not an error)
    """Every activation asked for is there: the rest of the forward pass is not needed."""


class HuggingFaceSubject(LayoutSubject):
    """Plain `transformers` with hooks; the forward pass ends at the deepest hook point."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device) -> None:
        super().__init__(model, tokenizer, device, Layout.of(model))
        self._taps = taps(self.layout)
        self._drop_what_does_not_add_up()
        self._hook_points = list(self._taps)

    @classmethod
    def load(cls, config: SubjectConfig, device: torch.device) -> HuggingFaceSubject:
        """Load the model of a configuration. Raises `UserError` as `autointerp.weights` does."""
        from autointerp.weights import load_causal_lm, load_model_config

        text_config = load_model_config(
            config.model, config.revision, trust_remote_code=config.trust_remote_code
        ).get_text_config()
        # The other attention implementations leave out Gemma 2's soft cap on attention scores.
        capped = getattr(text_config, "attn_logit_softcapping", None) is not None
        model, tokenizer = load_causal_lm(
            config.model,
            device=str(device),
            dtype=config.dtype,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
            attn_implementation="eager" if capped else None,
        )
        return cls(model, tokenizer, device)

    def activations(self, tokens: Tensor, hook_points: Sequence[str]) -> dict[str, Tensor]:
        """Activations [batch, position, width] at each hook point; see `SubjectModel`."""
        self.check_hook_points(hook_points)
        self.check_tokens(tokens)
        return self._read(tokens, {name: self._taps[name] for name in hook_points})

    def logits(self, tokens: Tensor, past: Any = None) -> Tensor:
        """Next-token logits [batch, position, n_vocabulary]; see `SubjectModel`."""
        with torch.no_grad():
            output = self.model(input_ids=tokens, past_key_values=past, use_cache=past is not None)
        logits: Tensor = output.logits
        return logits

    @contextlib.contextmanager
    def editing(self, hook_point: str, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """While open, passes go on with `edit` of the activations at a hook point; see `SubjectModel`."""

        def before(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            if args:
                return (edit(args[0]), *args[1:]), keywords
            return args, {**keywords, "hidden_states": edit(keywords["hidden_states"])}

        def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            return (edit(output[0]), *output[1:]) if isinstance(output, tuple) else edit(output)

        tap = self._taps[hook_point]
        assert tap.transform is None, f"{hook_point!r} is computed beside the model"
        if tap.side == "input":
            handle = tap.module.register_forward_pre_hook(before, with_kwargs=True)
        else:
            handle = tap.module.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    def _read(self, tokens: Tensor, wanted: Mapping[str, Tap]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        with torch.no_grad(), _one_sequence_a_row(), _hooks(wanted, found), contextlib.suppress(_Done):
            self.model(input_ids=tokens, use_cache=False)
        # Some families flatten batch and position, or keep heads apart.
        return {name: found[name].reshape(*tokens.shape, -1) for name in wanted}

    def _drop_what_does_not_add_up(self) -> None:
        """Check the map on one block: the residual stream must be the sum of what is said to be added.

        A family that adds elsewhere (inside the module, or with a factor) loses the hook points that
        would be wrong, instead of giving wrong numbers under a right name.
        """
        names = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")
        wanted = {n: t for n in names if (t := self._taps.get(f"blocks.0.{n}")) is not None}
        read = self._read(torch.arange(1, 5, device=self.device)[None], wanted)
        x = {name: value.float() for name, value in read.items()}
        tolerance = 1e-3 if next(self.model.parameters()).dtype == torch.float32 else 5e-2
        attention, mlp = x.get("hook_attn_out"), x.get("hook_mlp_out")
        middle = x.get("hook_resid_mid")
        wrong: set[str] = set()
        if (
            middle is not None
            and attention is not None
            and not _adds(x["hook_resid_pre"], attention, middle, tolerance)
        ):
            wrong |= {"hook_attn_out", "hook_resid_mid", "hook_mlp_in"}
        if mlp is not None:
            before = middle
            if before is None and attention is not None:
                before = x["hook_resid_pre"] + attention
            if before is not None and not _adds(before, mlp, x["hook_resid_post"], tolerance):
                wrong |= {"hook_mlp_out"} | ({"hook_attn_out"} if middle is None else set())
        self._taps = {name: tap for name, tap in self._taps.items() if name.rpartition(".")[2] not in wrong}


def _adds(before: Tensor, added: Tensor, after: Tensor, tolerance: float) -> bool:
    return bool((before + added - after).norm() <= tolerance * (after.norm() + added.norm()))


def taps(layout: Layout) -> dict[str, Tap]:
    """Every hook point of a model and where it is read, in the order of the forward pass."""
    found = {"hook_embed": Tap(layout.embedding, "output")}
    for index, layer in enumerate(layout.layers):
        found |= {f"blocks.{index}.{name}": tap for name, tap in _layer_taps(layer).items()}
    return found


def _layer_taps(layer: Layer) -> dict[str, Tap]:
    attention_added = layer.attention if layer.attention_post_norm is None else layer.attention_post_norm
    mlp_added = layer.mlp if layer.mlp_post_norm is None else layer.mlp_post_norm
    middle: nn.Module | None = None
    if not layer.parallel:
        # Without a norm the MLP reads the residual stream itself.
        middle = layer.mlp_in if layer.norm_2 is None else layer.norm_2
    found = {
        "hook_resid_pre": _tap(layer.block, "input"),
        "ln1.hook_normalized": _tap(layer.norm_1, "input", normalised),
        "attn.hook_z": _tap(layer.attention_out, "input"),
        "attn.hook_out": _tap(layer.attention, "output"),
        "hook_attn_out": _tap(attention_added, "output"),
        "hook_resid_mid": _tap(middle, "input"),
        "hook_mlp_in": _tap(middle, "input"),
        "ln2.hook_normalized": _tap(layer.norm_2, "input", normalised),
        "mlp.hook_in": _tap(layer.mlp_in, "input"),
        "mlp.hook_post": _tap(layer.mlp_out, "input"),
        "mlp.hook_out": _tap(layer.mlp, "output"),
        "hook_mlp_out": _tap(mlp_added, "output"),
        "hook_resid_post": _tap(layer.block, "output"),
    }
    return {name: tap for name, tap in found.items() if tap is not None}


def _tap(
    module: nn.Module | None,
    side: Literal["input", "output"],
    transform: Callable[[nn.Module, Tensor], Tensor] | None = None,
) -> Tap | None:
    return None if module is None else Tap(module, side, transform)


@contextlib.contextmanager
def _one_sequence_a_row() -> Iterator[None]:
    """transformers looks in the positions for several sequences in one row, and waits for the GPU to answer.

    Ours hold one each, with positions from 0, so the answer is known.
    """
    try:
        from transformers import masking_utils
    except ImportError:  # older releases do not look
        yield
        return
    with mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None, create=True):
        yield


@contextlib.contextmanager
def _hooks(wanted: Mapping[str, Tap], found: dict[str, Tensor]) -> Iterator[None]:
    """Hooks that fill `found` and raise `_Done` when it holds everything wanted; removed on leaving."""

    def record(name: str, value: Any) -> None:
        tensor: Tensor = (value[0] if isinstance(value, tuple) else value).detach()
        tap = wanted[name]
        found[name] = tensor if tap.transform is None else tap.transform(tap.module, tensor)
        if len(found) == len(wanted):
            raise _Done
        # Models may go on to add to this very tensor in place.
        found[name] = found[name].clone()

    def before(module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], *, name: str) -> None:
        record(name, args[0] if args else keywords["hidden_states"])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any, *, name: str) -> None:
        record(name, output)

    handles = []
    try:
        for name, tap in wanted.items():
            if tap.side == "input":
                handles.append(
                    tap.module.register_forward_pre_hook(partial(before, name=name), with_kwargs=True)
                )
            else:
                handles.append(tap.module.register_forward_hook(partial(after, name=name)))
        yield
    finally:
        for handle in handles:
            handle.remove()

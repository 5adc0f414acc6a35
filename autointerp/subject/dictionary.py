"""The sparse dictionary whose latents are labelled, whatever trained it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.sparse import SparseLatents

_ELEMENTS_PER_CHUNK = 1 << 25
"""Pre-activations held at once while encoding: 128 MiB in float32."""
_ELEMENTS_PER_CHUNK_ON_GPU = 1 << 29
"""The same on a GPU, 2 GiB: with fewer rows it would read the encoder's weights more often than it uses them."""


class Dictionary(Protocol):
    """A sparse dictionary of the activations at one hook point."""

    @property
    def hook_point(self) -> str:
        """Where its input is read, by the names of `SubjectModel`."""
        ...

    @property
    def hook_point_out(self) -> str:
        """Where its decoder writes: `hook_point`, or the output of a transcoder."""
        ...

    @property
    def d_in(self) -> int:
        """Width of its input."""
        ...

    @property
    def n_latents(self) -> int:
        """Number of latents."""
        ...

    @property
    def metadata(self) -> dict[str, Any]:
        """What is known of its training, as plain JSON types.

        `Tokenisation.resolve` reads `context_size`, `prepend_bos`, `sequence_separator_token` and
        `leading_separator`; further keys are `architecture`, `neuronpedia_id`, `model_name`,
        `exclude_special_tokens`, `signed` (latents may be negative)...
        """
        ...

    @property
    def identity(self) -> str:
        """A stable fingerprint of its weights and configuration."""
        ...

    def encode(self, activations: Tensor, *, room: int | None = None) -> SparseLatents:
        """Non-zero latents of activations [n, d_in].

        With `room`, the mean number of latents per row there is room for, nothing waits for the device (see
        `SparseLatents`). Raises `UserError` if the width is another than `d_in`.
        """
        ...

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        """What the latents [n] write at `hook_point_out`, float32 [n, width]; None if it has no decoder."""
        ...

    def encoder_directions(self, latents: Tensor) -> Tensor | None:
        """What the latents [n] read at `hook_point`, float32 [n, d_in]; None if it shows no such directions."""
        ...


def open_dictionary(config: DictionaryConfig, subject: SubjectConfig) -> Dictionary:
    """Open the dictionary of a configuration; the subject itself is not loaded.

    Raises `UserError` for a dictionary that cannot be found or read, with the nearest names.
    """
    if config.source == "sae_lens":
        from autointerp.subject.dictionary_sae_lens import SaeLensDictionary

        return SaeLensDictionary.open(config, subject)
    if config.source == "sparsify":
        from autointerp.subject.dictionary_sparsify import SparsifyDictionary

        return SparsifyDictionary.open(config, subject)
    if config.source == "neurons":
        from autointerp.subject.dictionary_neurons import NeuronDictionary

        return NeuronDictionary.open(config, subject)
    if config.source == "random":
        from autointerp.subject.dictionary_random import RandomDictionary

        return RandomDictionary.open(config, subject)
    from autointerp.subject.dictionary_object import ObjectDictionary

    return ObjectDictionary.open(config, subject)


def encode_in_chunks(
    activations: Tensor,
    n_latents: int,
    encode: Callable[[Tensor, int | None], SparseLatents],
    room: int | None = None,
) -> SparseLatents:
    """Encode rows [n, d_in] so many at a time that dense pre-activations stay within 128 MiB (2 GiB on a GPU)."""
    elements = _ELEMENTS_PER_CHUNK_ON_GPU if activations.is_cuda else _ELEMENTS_PER_CHUNK
    per_chunk = max(elements // max(n_latents, 1), 16)
    # One chunk at least, so that an empty batch has the right dtypes too.
    starts = range(0, max(len(activations), 1), per_chunk)
    return SparseLatents.concatenate([encode(activations[s : s + per_chunk], room) for s in starts])


def encoder_rows(weights: Any, latents: Tensor, n_latents: int, d_in: int) -> Tensor | None:
    """Rows [n, d_in] of encoder weights stored as [d_in, n_latents] or [n_latents, d_in]; None for anything else.

    Of square ones the first is taken, as SAELens stores them.
    """
    if not isinstance(weights, Tensor):
        return None
    at = latents.to(weights.device)
    if tuple(weights.shape) == (d_in, n_latents):
        return weights.detach()[:, at].T.float()
    if tuple(weights.shape) == (n_latents, d_in):
        return weights.detach()[at].float()
    return None


def check_width(activations: Tensor, d_in: int, hook_point: str) -> None:
    """Raises `UserError` if activations [n, width] are not `d_in` wide."""
    if activations.shape[-1] != d_in:
        raise UserError(
            f"dictionary: it reads {d_in:,} values at {hook_point!r}, but this subject has "
            f"{activations.shape[-1]:,} there; is it a dictionary of this model and hook point?"
        )


def fingerprint(tensors: Mapping[str, Tensor], facts: Iterable[Any] = ()) -> str:
    """A hash over named tensors (their dtypes, shapes and bytes) and further facts."""
    digest = hashlib.blake2b(digest_size=16)
    for fact in facts:
        digest.update(f"{fact!r}\0".encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def refuse_pickles(setting: str, names: Sequence[str], wanted: str) -> UserError:
    """The error for a folder whose weights are missing, or are there only as a pickle."""
    pickled = [n for n in names if n.endswith((".pt", ".pth", ".bin", ".pkl"))]
    if pickled:
        return UserError(
            f"{setting}: {pickled[0]} is a pickle, which can run any code and is never loaded; "
            f"accepted: {wanted} (convert it with safetensors.torch.save_file)"
        )
    return UserError(f"{setting}: no {wanted} there; seen: {', '.join(sorted(names)[:8]) or 'nothing'}")

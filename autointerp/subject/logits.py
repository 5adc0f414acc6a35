"""The tokens a latent's decoder direction promotes and demotes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from autointerp.artifacts.schemas import LATENTS

if TYPE_CHECKING:
    from autointerp.subject.dictionary import Dictionary
    from autointerp.subject.model import SubjectModel

_LATENTS_PER_CHUNK = 256


def top_and_bottom_logits(
    dictionary: Dictionary, subject: SubjectModel, latents: Sequence[int], k: int
) -> tuple[pa.Array, pa.Array]:
    """Columns `top_logits` (largest first) and `bottom_logits` (lowest first) of `latents`.

    A latent's logits are its decoder direction in the residual stream, times the final norm's scale,
    times the unembedding, minus their mean over the vocabulary: the direct effect of one unit of the
    latent, up to the norm's division by the token's own length. Ids beyond the tokenizer's (padding of
    the unembedding) are left out. At most `k` tokens each. Null where the dictionary has no
    decoder or writes at a hook point without a linear way to the residual stream, and for a direction
    of zeros.
    """
    kind = LATENTS.schema.field("top_logits").type
    nothing = pa.nulls(len(latents), kind)
    if not subject.decoder_writes_to_residual(dictionary.hook_point_out):
        return nothing, nothing
    tops: list[pa.Array] = []
    bottoms: list[pa.Array] = []
    for start in range(0, len(latents), _LATENTS_PER_CHUNK):
        chosen = torch.as_tensor(list(latents[start : start + _LATENTS_PER_CHUNK]))
        logits, defined = centred_logits(dictionary, subject, chosen)
        if logits is None:
            return nothing, nothing
        n = min(k, logits.shape[1])
        tops.append(_column(*logits.topk(n, dim=-1), defined, kind))
        values, tokens = (-logits).topk(n, dim=-1)
        bottoms.append(_column(-values, tokens, defined, kind))
    if not tops:
        return nothing, nothing
    return pa.concat_arrays(tops), pa.concat_arrays(bottoms)


def centred_logits(
    dictionary: Dictionary, subject: SubjectModel, latents: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Centred logits [n, n_vocabulary] of some latents, and which of them have a direction, bool [n]."""
    with torch.no_grad():
        unembedding, scale = subject.unembedding()
        directions = dictionary.decoder_directions(latents)
        if directions is None:
            return None, torch.zeros(len(latents), dtype=torch.bool)
        written = subject.to_residual(dictionary.hook_point_out, directions.to(unembedding.device))
        if written is None or written.shape[1] != unembedding.shape[0]:
            return None, torch.zeros(len(latents), dtype=torch.bool)
        defined = (written != 0).any(-1).cpu()
        if subject.final_norm_centres:
            written = written - written.mean(-1, keepdim=True)
        if scale is not None:
            written = written * scale
        logits = written @ unembedding[:, : len(subject.tokenizer)]
        return logits - logits.mean(-1, keepdim=True), defined


def _column(values: Tensor, tokens: Tensor, defined: Tensor, kind: pa.DataType) -> pa.Array:
    n, k = values.shape
    struct = pa.StructArray.from_arrays(
        [
            pa.array(tokens.flatten().cpu().numpy().astype(np.uint32)),
            pa.array(values.flatten().float().cpu().numpy()),
        ],
        fields=list(kind.value_type),
    )
    offsets = np.arange(n + 1, dtype=np.int32) * k
    mask = pa.array(~defined.numpy())
    return pa.ListArray.from_arrays(pa.array(offsets), struct, type=kind, mask=mask)

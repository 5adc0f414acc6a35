"""The nearest latents of each latent, by the cosine of what they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from autointerp.artifacts.schemas import LATENTS
from autointerp.progress import Tracker

if TYPE_CHECKING:
    from autointerp.subject.dictionary import Dictionary
    from autointerp.subject.model import SubjectModel

_ROWS, _COLUMNS = 2_048, 8_192
"""Latents compared at a time: 64 MiB of cosines."""


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The k nearest latents of every latent."""

    latent: NDArray[np.int64]
    """Nearest first, [n_latents, k]; -1 where there are fewer, and for a latent without direction."""
    cosine: NDArray[np.float32]
    """Their cosines, [n_latents, k]; -inf likewise."""

    def column(self, first: int, last: int) -> pa.Array:
        """Column `neighbours` of `latents` for latents [first, last); null for one without direction."""
        kind = LATENTS.schema.field("neighbours").type
        latent, cosine = self.latent[first:last], self.cosine[first:last]
        there = latent >= 0
        struct = pa.StructArray.from_arrays(
            [pa.array(latent[there].astype(np.uint32)), pa.array(cosine[there])], fields=list(kind.value_type)
        )
        offsets = np.r_[0, np.cumsum(there.sum(axis=1))].astype(np.int32)
        return pa.ListArray.from_arrays(
            pa.array(offsets), struct, type=kind, mask=pa.array(~there.any(axis=1))
        )


def nearest_latents(dictionary: Dictionary, subject: SubjectModel, k: int) -> Neighbours | None:
    """The `k` nearest other latents of each; None without a decoder or if `k` is 0.

    Exact, by blocks of cosines with a running choice of the largest: memory is that of a block and of
    the result, work that of all pairs. Of equal cosines the latent with the lower number comes first.
    """
    n = dictionary.n_latents
    k = min(k, n - 1)
    if k < 1 or _directions(dictionary, subject, 0, 1) is None:
        return None
    latent, cosine = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
    with Tracker("cache: neighbours", n, "latents") as tracker, torch.no_grad():
        for first in range(0, n, _ROWS):
            last = min(first + _ROWS, n)
            found = _nearest_to(dictionary, subject, first, last, k)
            if found is None:
                return None
            values, indices = found
            cosine[first:last] = values.cpu().numpy()
            latent[first:last] = indices.cpu().numpy()
            tracker.advance(last - first)
    latent[np.isneginf(cosine)] = -1
    return Neighbours(latent=latent, cosine=cosine)


def _nearest_to(
    dictionary: Dictionary, subject: SubjectModel, first: int, last: int, k: int
) -> tuple[Tensor, Tensor] | None:
    """Cosines and numbers of the `k` nearest latents of each in [first, last), both [last - first, k]."""
    rows = _directions(dictionary, subject, first, last)
    if rows is None:
        return None
    values = rows.new_full((last - first, 0), 0.0)
    indices = torch.empty((last - first, 0), dtype=torch.int64, device=rows.device)
    for start in range(0, dictionary.n_latents, _COLUMNS):
        end = min(start + _COLUMNS, dictionary.n_latents)
        columns = _directions(dictionary, subject, start, end)
        if columns is None:
            return None
        cosines = rows @ columns.T
        cosines[:, ~columns.any(-1)] = -torch.inf
        cosines[~rows.any(-1)] = -torch.inf
        itself = torch.arange(max(first, start), max(first, start, min(last, end)), device=rows.device)
        cosines[itself - first, itself - start] = -torch.inf
        # A stable sort of the few chosen keeps earlier latents before later ones of equal cosine.
        best, at = cosines.topk(min(k, end - start), dim=-1)
        at, order = at.sort(dim=-1)
        values = torch.cat([values, best.gather(-1, order)], dim=-1)
        indices = torch.cat([indices, at + start], dim=-1)
        order = values.sort(dim=-1, descending=True, stable=True).indices[:, :k]
        values, indices = values.gather(-1, order), indices.gather(-1, order)
    return values, indices


def _directions(dictionary: Dictionary, subject: SubjectModel, first: int, last: int) -> Tensor | None:
    """Unit directions of latents [first, last), in the residual stream if they write to it; zeros stay."""
    directions = dictionary.decoder_directions(torch.arange(first, last))
    if directions is None:
        return None
    if subject.decoder_writes_to_residual(dictionary.hook_point_out):
        written = subject.to_residual(dictionary.hook_point_out, directions.to(subject.device))
        directions = directions if written is None else written
    directions = torch.nan_to_num(directions.float(), posinf=0.0, neginf=0.0)
    return torch.nn.functional.normalize(directions, dim=-1)

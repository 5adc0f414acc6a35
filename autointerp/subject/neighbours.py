"""The nearest latents of each latent, by the cosine of what they write."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from autointerp.artifacts.schemas import LATENTS
from autointerp.errors import UserError
from autointerp.progress import Tracker

if TYPE_CHECKING:
    from autointerp.subject.dictionary import Dictionary
    from autointerp.subject.model import SubjectModel

_ROWS, _COLUMNS = 2_048, 8_192
"""Latents compared at a time: 64 MiB of cosines."""
MOST_EXACT = 131_072
"""Latents up to which all pairs are compared unless asked otherwise: about 2 x 10^13 products at width 1,024."""
_CLUSTERS_PER_ROOT, _TRAINED_PER_CLUSTER, _PROBES = 4, 64, 48
_CANDIDATES, _RANKED = 4, 256
"""Latents looked up for each one asked, to be ranked by their own cosines; and rows ranked at a time."""


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


def nearest_latents(
    dictionary: Dictionary,
    subject: SubjectModel,
    k: int,
    search: Literal["exact", "approximate"] | None = None,
) -> Neighbours | None:
    """The `k` nearest other latents of each; None without a decoder or if `k` is 0.

    `exact`: by blocks of cosines with a running choice of the largest; memory is that of a block and of
    the result, work that of all pairs. Of equal cosines the latent with the lower number comes first.
    `approximate`: by an inverted file of clusters (faiss), the nearest clusters of each latent searched for
    candidates among directions of one byte per number, which are then ranked by their exact cosines; memory is
    that of such directions. None: exact up to `MOST_EXACT` latents. Raises `UserError` if faiss
    is needed and not installed.
    """
    n = dictionary.n_latents
    k = min(k, n - 1)
    if k < 1 or _directions(dictionary, subject, 0, 1) is None:
        return None
    if search == "approximate" or (search is None and n > MOST_EXACT):
        return _approximate(dictionary, subject, k)
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


def _approximate(dictionary: Dictionary, subject: SubjectModel, k: int) -> Neighbours | None:
    """By faiss' inverted file: latents in clusters of directions, the `_PROBES` nearest searched."""
    try:
        import faiss
    except ImportError:
        raise UserError(
            "cache.n_neighbours: nearest latents of so large a dictionary need faiss; accepted: "
            'pip install "autointerp[scale]", or cache.n_neighbours = 0'
        ) from None
    n = dictionary.n_latents
    width = int(_block(dictionary, subject, 0, 1).shape[1])
    n_clusters = _clusters(n)
    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(width),
        width,
        n_clusters,
        faiss.ScalarQuantizer.QT_8bit,
        faiss.METRIC_INNER_PRODUCT,
    )
    index.cp.seed, index.cp.niter = 0, 10
    index.nprobe = min(_PROBES, n_clusters)
    step = max(1, n // _trained(n))
    blocks = [(first, min(first + _COLUMNS, n)) for first in range(0, n, _COLUMNS)]
    index.train(np.concatenate([_block(dictionary, subject, *b)[::step].copy() for b in blocks]))
    latent, cosine = np.full((n, k), -1, dtype=np.int64), np.full((n, k), -np.inf, dtype=np.float32)
    alive = np.zeros(n, dtype=bool)
    with Tracker("cache: neighbours, approximately", n, "latents") as tracker:
        for first, last in blocks:
            rows = _block(dictionary, subject, first, last)
            alive[first:last] = rows.any(axis=1)
            index.add(rows)
        for first, last in blocks:
            rows = _block(dictionary, subject, first, last)
            # One more than asked: a latent is its own nearest.
            _, found = index.search(rows, min(_CANDIDATES * (k + 1), n))
            for at in range(first, last, _RANKED):
                part = slice(at - first, min(at + _RANKED, last) - first)
                some = found[part]
                exact = np.einsum("bw,bcw->bc", rows[part], _rows(dictionary, subject, some))
                others = (some >= 0) & (some != np.arange(at, at + len(some))[:, None]) & alive[some]
                exact[~others | ~alive[at : at + len(some), None]] = -np.inf
                order = np.lexsort((some, -exact))[:, :k]
                values = np.take_along_axis(exact, order, axis=1)
                cosine[at : at + len(some), : order.shape[1]] = values
                nearest = np.where(np.isneginf(values), -1, np.take_along_axis(some, order, axis=1))
                latent[at : at + len(some), : order.shape[1]] = nearest
            tracker.advance(last - first)
    return Neighbours(latent=latent, cosine=cosine)


def approximate_bytes(n: int, width: int) -> float:
    """Host memory of an approximate search at its peak, beside a block of directions.

    Either the sample that clusters are found from, twice while it is put together, or the index: a byte a
    number, and half as much again while its lists grow.
    """
    return max(2.0 * 4.0 * _trained(n) * width, 1.5 * n * width)


def _clusters(n: int) -> int:
    return max(1, min(round(_CLUSTERS_PER_ROOT * math.sqrt(n)), n // 39 or 1))


def _trained(n: int) -> int:
    """Directions that clusters are found from."""
    return min(n, _clusters(n) * _TRAINED_PER_CLUSTER)


def _block(dictionary: Dictionary, subject: SubjectModel, first: int, last: int) -> NDArray[np.float32]:
    directions = _directions(dictionary, subject, first, last)
    assert directions is not None, "asked before"
    block: NDArray[np.float32] = directions.cpu().numpy()
    return block


def _rows(dictionary: Dictionary, subject: SubjectModel, latents: NDArray[np.int64]) -> NDArray[np.float32]:
    """Directions of latents (any for -1), [*latents.shape, width]."""
    ids = torch.from_numpy(np.maximum(latents, 0).reshape(-1))
    directions = _directions_of(dictionary, subject, ids)
    assert directions is not None, "asked before"
    return directions.cpu().numpy().reshape(*latents.shape, -1)


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
    return _directions_of(dictionary, subject, torch.arange(first, last))


def _directions_of(dictionary: Dictionary, subject: SubjectModel, latents: Tensor) -> Tensor | None:
    """The same of any latents, [len(latents), width]."""
    directions = dictionary.decoder_directions(latents)
    if directions is None:
        return None
    if subject.decoder_writes_to_residual(dictionary.hook_point_out):
        written = subject.to_residual(dictionary.hook_point_out, directions.to(subject.device))
        directions = directions if written is None else written
    directions = torch.nan_to_num(directions.float(), posinf=0.0, neginf=0.0)
    return torch.nn.functional.normalize(directions, dim=-1)

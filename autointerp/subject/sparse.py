"""Latent activations in sparse form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseLatents:
    """The non-zero activations of a batch of rows (token positions), sorted by (row, latent).

    Made with `room`, nothing waits for a GPU to say how many there are: the number of entries is known
    beforehand, and those not needed have the value zero (and any row and latent).
    """

    row: Tensor
    """Which row of the batch, int64 [nnz]."""
    latent: Tensor
    """Which latent, int64 [nnz]."""
    value: Tensor
    """Activation, zero only in entries that stand for nothing, [nnz]."""
    n_rows: int
    densest: Tensor | None = None
    """Non-zeros per row, float32 [], where there may be more than there was room for: the largest mean over
    rows encoded at once. Above `room`, some are missing. None where all are there."""

    @classmethod
    def from_dense(cls, dense: Tensor, room: int | None = None) -> SparseLatents:
        """The non-zeros of activations [n_rows, n_latents]; of at most `room` times `n_rows` of them."""
        if room is not None:
            n_rows = len(dense)
            at = torch.nonzero_static(dense, size=room * n_rows, fill_value=0)
            row, latent = at[:, 0], at[:, 1]
            n_found = dense.count_nonzero()
            there = torch.arange(len(at), device=dense.device) < n_found
            value = torch.where(
                there, dense[row, latent], torch.zeros((), dtype=dense.dtype, device=dense.device)
            )
            return cls(row, latent, value, n_rows, n_found.float() / max(n_rows, 1))
        row, latent = dense.nonzero(as_tuple=True)
        return cls(row, latent, dense[row, latent], dense.shape[0])

    @classmethod
    def from_top_k(cls, indices: Tensor, values: Tensor, room: int | None = None) -> SparseLatents:
        """From the chosen latents of each row and their activations, both [n_rows, k]; zeros are left out.

        With any `room` they are not: there are k entries a row.
        """
        latent, order = indices.sort(dim=-1)
        value = values.gather(-1, order)
        row = torch.arange(len(latent), device=latent.device)[:, None].expand_as(latent)
        if room is not None:
            return cls(row.flatten(), latent.flatten(), value.flatten(), len(latent))
        kept = value != 0
        return cls(row[kept], latent[kept], value[kept], len(latent))

    @classmethod
    def from_coo(cls, sparse: Tensor) -> SparseLatents:
        """From a sparse COO tensor [n_rows, n_latents]; waits for the device."""
        sparse = sparse.coalesce()
        (row, latent), value = sparse.indices(), sparse.values()
        kept = value != 0
        return cls(row[kept], latent[kept], value[kept], sparse.shape[0])

    @classmethod
    def concatenate(cls, parts: Sequence[SparseLatents]) -> SparseLatents:
        """The parts' rows one after another; at least one part."""
        if len(parts) == 1:
            return parts[0]
        rows, first = [], 0
        for part in parts:
            rows.append(part.row + first)
            first += part.n_rows
        densest = [part.densest for part in parts if part.densest is not None]
        return cls(
            torch.cat(rows),
            torch.cat([p.latent for p in parts]),
            torch.cat([p.value for p in parts]),
            first,
            torch.stack(densest).max() if densest else None,
        )

    def to_dense(self, n_latents: int) -> Tensor:
        """Activations [n_rows, n_latents]."""
        dense = self.value.new_zeros((self.n_rows, n_latents))
        dense.index_put_((self.row, self.latent), self.value, accumulate=True)
        return dense

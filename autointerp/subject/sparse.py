"""Latent activations in sparse form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SparseLatents:
    """The non-zero activations of a batch of rows (token positions), sorted by (row, latent)."""

    row: Tensor
    """Which row of the batch, int64 [nnz]."""
    latent: Tensor
    """Which latent, int64 [nnz]."""
    value: Tensor
    """Activation, never zero, [nnz]."""
    n_rows: int

    @classmethod
    def from_dense(cls, dense: Tensor) -> SparseLatents:
        """The non-zeros of activations [n_rows, n_latents]."""
        row, latent = dense.nonzero(as_tuple=True)
        return cls(row, latent, dense[row, latent], dense.shape[0])

    @classmethod
    def from_top_k(cls, indices: Tensor, values: Tensor) -> SparseLatents:
        """From the chosen latents of each row and their activations, both [n_rows, k]; zeros are left out."""
        latent, order = indices.sort(dim=-1)
        value = values.gather(-1, order)
        row = torch.arange(len(latent), device=latent.device)[:, None].expand_as(latent)
        kept = value != 0
        return cls(row[kept], latent[kept], value[kept], len(latent))

    @classmethod
    def from_coo(cls, sparse: Tensor) -> SparseLatents:
        """From a sparse COO tensor [n_rows, n_latents]."""
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
        return cls(
            torch.cat(rows), torch.cat([p.latent for p in parts]), torch.cat([p.value for p in parts]), first
        )

    def to_dense(self, n_latents: int) -> Tensor:
        """Activations [n_rows, n_latents]."""
        dense = self.value.new_zeros((self.n_rows, n_latents))
        dense[self.row, self.latent] = self.value
        return dense

"""One-to-one matching of the latents of two dictionaries, by whatever makes two latents alike.

The Hungarian algorithm where the matrix of all pairs fits (SciPy's `linear_sum_assignment`, exact); where
width forbids it, a matching over each latent's nearest candidates
(`min_weight_full_bipartite_matching`), whose total can only be smaller than the exact one's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

DENSE_CELLS = 20_000_000
"""Pairs up to which all of them are compared and matched exactly: about 4,400 latents on either side."""
N_CANDIDATES = 32
"""Beyond that: nearest latents of each latent, from either side, among which partners are looked for."""
_ALONE = 4.0
"""Cost of having no partner; a pair of similarity s costs 2 - s, so at most 3: partners are preferred."""

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Pairs of latents, each latent in one pair at most, ordered by the first."""

    a: Indices
    """Index on the first side, [n_pairs]."""
    b: Indices
    """Index on the second side, [n_pairs]."""
    similarity: NDArray[np.float64]
    """[n_pairs]."""


def match(similarities: Floats | sparse.csr_array) -> Matching:
    """The matching of largest total similarity.

    Dense similarities [n_a, n_b], -1 to 1: exact, min(n_a, n_b) pairs. Sparse ones of that shape: entries
    that are not stored are no candidates, and a latent all of whose candidates are taken stays alone.
    """
    if isinstance(similarities, np.ndarray):
        rows, columns = linear_sum_assignment(similarities, maximize=True)
        values = similarities[rows, columns]
    else:
        rows, columns, values = _match_sparse(similarities.tocoo())
    order = np.argsort(rows, kind="stable")
    return Matching(
        a=rows[order].astype(np.int64),
        b=columns[order].astype(np.int64),
        similarity=values[order].astype(float),
    )


def _match_sparse(found: sparse.coo_array) -> tuple[Indices, Indices, NDArray[np.float64]]:
    n_a, n_b = found.shape
    if n_a > n_b:
        columns, rows, values = _match_sparse(found.T.tocoo())
        return rows, columns, values
    # A place of its own for each row lets it stay alone, so that a full matching always exists.
    alone = np.arange(n_a)
    costs = sparse.csr_array(
        (
            np.concatenate([2.0 - np.clip(found.data, -1.0, 1.0), np.full(n_a, _ALONE)]),
            (np.concatenate([found.row, alone]), np.concatenate([found.col, n_b + alone])),
        ),
        shape=(n_a, n_b + n_a),
    )
    rows, columns = min_weight_full_bipartite_matching(costs)
    paired = columns < n_b
    rows, columns = rows[paired], columns[paired]
    values = sparse.csr_array(found)[rows, columns]
    return rows, columns, np.asarray(values, dtype=np.float64).ravel()


def keep_nearest(block: NDArray[np.float32], k: int, first: int) -> sparse.coo_array:
    """The `k` largest entries of each row of a block [n, m], as rows from `first` on."""
    k = min(k, block.shape[1])
    columns = np.argpartition(-block, k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(first, first + len(block)), k)
    values = np.take_along_axis(block, columns, axis=1).ravel()
    return sparse.coo_array((values, (rows, columns.ravel())), shape=(first + len(block), block.shape[1]))


def union(
    first: list[sparse.coo_array], second: list[sparse.coo_array], shape: tuple[int, int]
) -> sparse.csr_array:
    """Candidates named from either side (`second` is transposed), each pair once."""
    rows = np.concatenate([*(part.row for part in first), *(part.col for part in second)])
    columns = np.concatenate([*(part.col for part in first), *(part.row for part in second)])
    values = np.concatenate([*(part.data for part in first), *(part.data for part in second)])
    _, once = np.unique(rows.astype(np.int64) * shape[1] + columns, return_index=True)
    return sparse.csr_array((values[once], (rows[once], columns[once])), shape=shape)

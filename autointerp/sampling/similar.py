"""Windows that look like a latent's own: TF-IDF over the subject's tokens, no model asked.

A window's vector has one entry per token id: how often the token stands in it, times
ln((1 + n) / (1 + df)), where df of the n tiles of the pool hold the token; vectors have unit length. A
latent's query is the mean of the vectors of its activating windows, and tiles are ranked by their
cosine with it.

Not every tile is compared with every latent. Of each token only the `CHAMPIONS` tiles in which it weighs
most are looked up, for the `QUERY_TOKENS` tokens that weigh most in a query ("champion lists"; Manning,
Raghavan and Schuetze, "Introduction to information retrieval", 2008, section 7.1.3). The tiles that come
out best are then ranked by the whole cosine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHAMPIONS, QUERY_TOKENS = 128, 128
"""Tiles looked up of a token, and tokens of a query."""
_CELLS = 2_000_000
"""Numbers in the largest dense array: queries by vocabulary."""


@dataclass(frozen=True, kw_only=True)
class SimilarTiles:
    """A bounded pool of tiles of one split's contexts, and their TF-IDF vectors."""

    code: NDArray[np.int64]
    """Where each tile begins, context * context_size + start, ascending, [n_tiles]."""
    weight: NDArray[np.float32]
    """Inverse document frequency of each token, [n_vocabulary]."""
    vectors: Any
    """Unit TF-IDF vectors, scipy CSR [n_tiles, n_vocabulary]."""
    champions: Any
    """Of each token the tiles it weighs most in, scipy CSR [n_vocabulary, n_tiles]."""

    @classmethod
    def draw(
        cls,
        tokens: NDArray[np.uint32],
        contexts: NDArray[np.int64],
        *,
        n: int,
        window: int,
        rng: np.random.Generator,
    ) -> SimilarTiles:
        """At most `n` tiles, drawn uniformly over some contexts of `tokens` [n_contexts, context_size]."""
        context_size = tokens.shape[1]
        per_context = context_size // window
        n_all = len(contexts) * per_context
        tile = np.sort(rng.choice(n_all, size=min(n, n_all), replace=False))
        context, start = contexts[tile // per_context], tile % per_context * window
        counts = _counts(tokens[context[:, None], start[:, None] + np.arange(window)], int(tokens.max()) + 1)
        held = np.bincount(counts.indices, minlength=counts.shape[1])
        weight = np.log((1 + len(tile)) / (1 + held)).astype(np.float32)
        vectors = _unit(counts, weight)
        return cls(
            code=context * context_size + start,
            weight=weight,
            vectors=vectors,
            champions=_largest(vectors.T.tocsr(), CHAMPIONS),
        )

    def cosines(
        self, windows: NDArray[np.uint32], whose: NDArray[np.int64], n_latents: int
    ) -> NDArray[np.float32]:
        """Cosine of each latent's query with each tile, all of them, [n_latents, n_tiles].

        `windows` [n_windows, window] are the tokens of activating windows, `whose` [n_windows] (ascending)
        the row each belongs to.
        """
        cosines: NDArray[np.float32] = (self.queries(windows, whose, n_latents) @ self.vectors.T).toarray()
        return cosines

    def queries(self, windows: NDArray[np.uint32], whose: NDArray[np.int64], n_latents: int) -> Any:
        """Unit mean vectors of latents' windows, given as in `cosines`; scipy CSR [n_latents, n_vocabulary]."""
        from scipy import sparse

        vectors = _unit(_counts(windows, len(self.weight)), self.weight)
        belongs = sparse.csr_matrix(
            (np.ones(len(whose), np.float32), (whose, np.arange(len(whose)))),
            shape=(n_latents, len(whose)),
        )
        return _unit(belongs @ vectors)

    def nearest(
        self, queries: Any, n: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]]:
        """About the `n` tiles of largest positive cosine for each query (of equals the earlier first).

        Yields, for some queries after another, the row of the query, the tile and the cosine, by row and
        from the largest on.
        """
        step = max(1, _CELLS // len(self.weight))
        for first in range(0, queries.shape[0], step):
            some = queries[first : first + step]
            found = _largest(_largest(some, QUERY_TOKENS) @ self.champions, n)
            row = np.repeat(np.arange(some.shape[0]), np.diff(found.indptr))
            tile = found.indices.astype(np.int64)
            cosine = self._whole_cosines(some, row, tile)
            order = np.lexsort((tile, -cosine, row))
            yield first + row[order], tile[order], cosine[order]

    def _whole_cosines(
        self, queries: Any, row: NDArray[np.int64], tile: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Cosine of query row[i] with tile[i], [n]."""
        dense, vectors = queries.toarray().reshape(-1), self.vectors
        first, n = vectors.indptr[tile].astype(np.int64), np.diff(vectors.indptr)[tile].astype(np.int64)
        ends = np.cumsum(n)
        entry = np.arange(n.sum()) + np.repeat(first - (ends - n), n)
        at = np.repeat(row * queries.shape[1], n) + vectors.indices[entry]
        products = np.r_[dense[at] * vectors.data[entry], np.float32(0)]
        cosines = np.add.reduceat(products, ends - n, dtype=np.float64)
        return np.where(n > 0, cosines, 0).astype(np.float32)


def _largest(rows: Any, n: int) -> Any:
    """The `n` largest entries of each row of a CSR matrix, and any as large as the last of them."""
    from scipy import sparse

    sizes = np.diff(rows.indptr)
    least = np.full(len(sizes), -np.inf, dtype=rows.data.dtype)
    for row in np.flatnonzero(sizes > n).tolist():
        data = rows.data[rows.indptr[row] : rows.indptr[row + 1]]
        least[row] = np.partition(data, len(data) - n)[len(data) - n]
    whose = np.repeat(np.arange(len(sizes)), sizes)
    kept = rows.data >= least[whose]
    ends = np.r_[0, np.cumsum(np.bincount(whose[kept], minlength=len(sizes)))]
    return sparse.csr_matrix((rows.data[kept], rows.indices[kept], ends), shape=rows.shape)


def _counts(windows: NDArray[np.uint32], n_vocabulary: int) -> Any:
    """How often each token stands in each window, scipy CSR [n_windows, n_vocabulary]."""
    from scipy import sparse

    n, window = windows.shape
    ones = np.ones(windows.size, dtype=np.float32)
    ends = np.arange(n + 1, dtype=np.int64) * window
    counts = sparse.csr_matrix((ones, windows.ravel().astype(np.int64), ends), shape=(n, n_vocabulary))
    counts.sum_duplicates()
    return counts


def _unit(rows: Any, weight: NDArray[np.float32] | None = None) -> Any:
    """Rows of a CSR matrix, columns weighted, scaled to unit length (rows of zeros stay)."""
    from scipy import sparse

    data = rows.data if weight is None else rows.data * weight[rows.indices]
    row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
    length = np.sqrt(np.bincount(row, weights=data.astype(np.float64) ** 2, minlength=rows.shape[0]))
    scale = 1.0 / np.where(length > 0, length, 1.0)
    return sparse.csr_matrix(
        ((data * scale[row]).astype(np.float32), rows.indices, rows.indptr), shape=rows.shape
    )

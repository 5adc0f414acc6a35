"""Windows that look like a latent's own: TF-IDF over the subject's tokens, no model asked.

A window's vector has one entry per token id: how often the token stands in it, times
ln((1 + n) / (1 + df)), where df of the n tiles of the pool hold the token; vectors have unit length. A
latent's query is the mean of the vectors of its activating windows, and tiles are ranked by their
cosine with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class SimilarTiles:
    """A bounded pool of tiles of one split's contexts, and their TF-IDF vectors."""

    code: NDArray[np.int64]
    """Where each tile begins, context * context_size + start, ascending, [n_tiles]."""
    weight: NDArray[np.float32]
    """Inverse document frequency of each token, [n_vocabulary]."""
    vectors: Any
    """Unit TF-IDF vectors as columns, scipy CSR [n_vocabulary, n_tiles]."""

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
        return cls(
            code=context * context_size + start, weight=weight, vectors=_unit(counts, weight).T.tocsr()
        )

    def cosines(
        self, windows: NDArray[np.uint32], whose: NDArray[np.int64], n_latents: int
    ) -> NDArray[np.float32]:
        """Cosine of each latent's query with each tile, [n_latents, n_tiles].

        `windows` [n_windows, window] are the tokens of activating windows, `whose` [n_windows] (ascending)
        the row each belongs to.
        """
        from scipy import sparse

        vectors = _unit(_counts(windows, len(self.weight)), self.weight)
        belongs = sparse.csr_matrix(
            (np.ones(len(whose), np.float32), (whose, np.arange(len(whose)))),
            shape=(n_latents, len(whose)),
        )
        cosines: NDArray[np.float32] = (_unit(belongs @ vectors) @ self.vectors).toarray()
        return cosines


def best(
    cosine: NDArray[np.float32],
    code: NDArray[np.int64],
    n: int,
    allowed: Callable[[NDArray[np.int64]], NDArray[np.bool_]],
) -> NDArray[np.int64]:
    """Indices of at most `n` tiles of positive cosine, largest first (of equals the earlier).

    `allowed` says of codes of tiles which may be taken; only as many are asked about as are needed.
    """
    n_asked = 4 * n
    while n:
        whole = n_asked >= len(cosine)
        least = 0.0 if whole else np.partition(cosine, len(cosine) - n_asked)[len(cosine) - n_asked]
        index = np.flatnonzero(cosine >= least if least > 0 else cosine > 0)
        index = index[np.lexsort((code[index], -cosine[index]))]
        chosen = index[allowed(code[index])][:n]
        if len(chosen) == n or least <= 0:
            return chosen
        n_asked *= 8
    return np.empty(0, dtype=np.int64)


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

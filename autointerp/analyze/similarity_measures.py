"""What makes two latents alike: cosines of directions or of embedded labels, and firing together.

A measure compares the latents of one side with those of the other, and makes null pictures of itself: the
second side with everything kept but its correspondence to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from autointerp.analyze.similarity_matching import (
    DENSE_CELLS,
    N_CANDIDATES,
    Indices,
    keep_nearest,
    union,
)

_ROWS = 2_048
"""Latents compared with all others at a time where not all pairs are kept."""

Similarities: TypeAlias = "NDArray[np.float32] | sparse.csr_array"


class Measure(Protocol):
    """Likeness of latents of two sides, by one view of them."""

    @property
    def shape(self) -> tuple[int, int]:
        """Latents on either side."""
        ...

    def similarities(self) -> Similarities:
        """All pairs [n_a, n_b], or candidates only where there are too many."""
        ...

    def at(self, a: Indices, b: Indices) -> NDArray[np.float64]:
        """The similarity of some pairs, [n]."""
        ...

    def null(self, rng: np.random.Generator) -> Measure:
        """The same with the second side's correspondence to the first broken."""
        ...


class Cosine:
    """Cosine of vectors, as decoder rows, encoder rows or embedded labels.

    Null: the second side's vectors get random signs along their own principal axes across their mean
    direction. That is a reflection: the mean, the spread along each axis and all cosines within the side
    stay as they are, so that two dictionaries are not called alike for sharing a mean or a few large axes.
    """

    def __init__(self, a: NDArray[Any], b: NDArray[Any], *, dense_cells: int = DENSE_CELLS) -> None:
        self.a, self.b = unit(a), unit(b)
        self.dense_cells = dense_cells
        self._axes: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Latents on either side."""
        return len(self.a), len(self.b)

    def similarities(self) -> Similarities:
        """Cosines."""
        if self.shape[0] * self.shape[1] <= self.dense_cells:
            cosines: NDArray[np.float32] = np.clip(self.a @ self.b.T, -1.0, 1.0)
            return cosines
        return union(_nearest(self.a, self.b), _nearest(self.b, self.a), self.shape)

    def at(self, a: Indices, b: Indices) -> NDArray[np.float64]:
        """The cosine of some pairs, [n]."""
        cosines: NDArray[np.float64] = np.einsum("nd,nd->n", self.a[a], self.b[b]).astype(np.float64)
        return np.clip(cosines, -1.0, 1.0)

    def null(self, rng: np.random.Generator) -> Cosine:
        """Random signs along the second side's principal axes, the mean direction left alone."""
        mean = unit(self.b.mean(axis=0, keepdims=True))[0]
        along = (self.b @ mean)[:, None] * mean
        across = self.b - along
        if self._axes is None:
            wide = across.astype(np.float64)
            self._axes = np.linalg.eigh(wide.T @ wide)[1].astype(np.float32)
        signs = rng.choice(np.array([-1.0, 1.0], dtype=np.float32), size=len(mean))
        reflected = along + ((across @ self._axes) * signs) @ self._axes.T
        return Cosine(self.a, reflected, dense_cells=self.dense_cells)


class CoActivation:
    """How two latents fire on the same positions of the same text.

    `jaccard`: positions where both are active over positions where either is. `correlation`: Pearson's,
    over all positions read, silent ones as 0; a pair that never fires together counts as 0.

    Null: the second side's contexts change places, each whole; so densities, bursts within a context, and
    what fires together within the side stay as they are.
    """

    def __init__(
        self,
        a: sparse.csr_array,
        b: sparse.csr_array,
        *,
        kind: Literal["jaccard", "correlation"],
        n_positions: int,
        context_size: int,
        dense_cells: int = DENSE_CELLS,
    ) -> None:
        self.a, self.b = a, b
        """Activations, [n_contexts * context_size, n_latents], masked positions empty."""
        self.kind = kind
        self.n_positions, self.context_size = n_positions, context_size
        self.dense_cells = dense_cells
        self._sides = [_Side(x, kind, n_positions) for x in (a, b)]

    @property
    def shape(self) -> tuple[int, int]:
        """Latents on either side."""
        return self.a.shape[1], self.b.shape[1]

    def similarities(self) -> Similarities:
        """All pairs, or candidates."""
        if self.shape[0] * self.shape[1] <= self.dense_cells:
            dense: NDArray[np.float32] = np.zeros(self.shape, dtype=np.float32)
            for first, block in self._blocks(0):
                dense[first : first + block.shape[0]] = block.toarray()
            return dense
        sides = [[_nearest_stored(block, first) for first, block in self._blocks(side)] for side in (0, 1)]
        return union(sides[0], sides[1], self.shape)

    def at(self, a: Indices, b: Indices) -> NDArray[np.float64]:
        """The similarity of some pairs, [n]."""
        values = np.zeros(len(a))
        first, second = (side.columns for side in self._sides)
        for start in range(0, len(a), _ROWS):
            part = slice(start, start + _ROWS)
            both = np.asarray(first[:, a[part]].multiply(second[:, b[part]]).sum(axis=0)).ravel()
            values[part] = self._finish(both, a[part], b[part], (0, 1))
        return values

    def null(self, rng: np.random.Generator) -> CoActivation:
        """The second side's contexts in another order."""
        size = self.context_size
        order = rng.permutation(self.b.shape[0] // size)
        rows = (order[:, None] * size + np.arange(size)).ravel()
        return CoActivation(
            self.a,
            self.b[rows],
            kind=self.kind,
            n_positions=self.n_positions,
            context_size=size,
            dense_cells=self.dense_cells,
        )

    def _blocks(self, side: int) -> Iterator[tuple[int, sparse.csr_array]]:
        """The similarities of a side's latents, some at a time, with all of the other side's."""
        mine, other = self._sides[side], self._sides[1 - side]
        transposed = mine.columns.T.tocsr()
        for first in range(0, transposed.shape[0], _ROWS):
            together = (transposed[first : first + _ROWS] @ other.rows).tocoo()
            values = self._finish(
                together.data, together.row.astype(np.int64) + first, together.col, (side, 1 - side)
            )
            yield (
                first,
                sparse.csr_array(
                    (values.astype(np.float32), (together.row, together.col)), shape=together.shape
                ),
            )

    def _finish(
        self, together: NDArray[Any], a: Indices, b: Indices, sides: tuple[int, int]
    ) -> NDArray[np.float64]:
        """Sums over positions to similarities."""
        x, y = self._sides[sides[0]], self._sides[sides[1]]
        together = together.astype(np.float64)
        if self.kind == "jaccard":
            below = x.total[a] + y.total[b] - together
        else:
            below = x.spread[a] * y.spread[b]
            together = np.where(together != 0, together / self.n_positions - x.mean[a] * y.mean[b], 0.0)
        found: NDArray[np.float64] = np.divide(together, below, out=np.zeros_like(together), where=below > 0)
        return found


class _Side:
    """One side's activations as a measure counts them, with their sums over positions."""

    def __init__(self, x: sparse.csr_array, kind: str, n_positions: int) -> None:
        counted = x.astype(np.float32)
        if kind == "jaccard":
            counted.data = (counted.data != 0).astype(np.float32)
        self.rows = counted.tocsr()
        self.columns = counted.tocsc()
        self.total = np.asarray(counted.sum(axis=0), dtype=np.float64).ravel()
        squares = np.asarray(counted.multiply(counted).sum(axis=0), dtype=np.float64).ravel()
        self.mean = self.total / n_positions
        self.spread = np.sqrt(np.maximum(squares / n_positions - self.mean**2, 0.0))


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to length 1, float32; rows of zeros, or with numbers that are not finite, are zeros."""
    rows = np.asarray(vectors, dtype=np.float32)
    rows = np.where(np.isfinite(rows).all(axis=1, keepdims=True), rows, 0.0)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return scaled


def _nearest(a: NDArray[np.float32], b: NDArray[np.float32]) -> list[sparse.coo_array]:
    starts = range(0, len(a), _ROWS)
    return [keep_nearest(np.clip(a[s : s + _ROWS] @ b.T, -1.0, 1.0), N_CANDIDATES, s) for s in starts]


def _nearest_stored(block: sparse.csr_array, first: int) -> sparse.coo_array:
    """The largest stored entries of each row of a sparse block."""
    found = block.tocoo()
    order = np.lexsort((found.col, -found.data, found.row))
    row, col, data = found.row[order], found.col[order], found.data[order]
    starts = np.searchsorted(row, np.arange(block.shape[0]))
    kept = np.arange(len(row)) - starts[row] < N_CANDIDATES
    return sparse.coo_array(
        (data[kept], (row[kept].astype(np.int64) + first, col[kept])),
        shape=(first + block.shape[0], block.shape[1]),
    )

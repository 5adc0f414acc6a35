"""What the windows are cut from: the contexts of a run, and a block of latents with their activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All contexts of a run, of equal length."""

    tokens: NDArray[np.uint32]
    """Token ids, [n_contexts, context_size]."""
    is_test: NDArray[np.bool_]
    """Whether each context belongs to the test split, [n_contexts]."""
    priority: NDArray[np.uint64] | None = None
    """Random priority of each context, [n_contexts]: the order they are drawn from (None: as they come)."""
    reach: Reach | None = None
    """How far each latent's activations are known; None: everywhere."""

    @property
    def context_size(self) -> int:
        """Tokens per context."""
        return int(self.tokens.shape[1])

    def contexts_of(self, split: str) -> NDArray[np.int64]:
        """Indices of the contexts of a split, ascending."""
        return self._by_split[SPLITS.index(split)]

    def known_first(
        self, split: str, latents: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The contexts of a split in such an order that the first n are those of which it is known where a
        latent is active; and n of each latent."""
        contexts = self._by_priority[SPLITS.index(split)]
        if self.reach is None:
            return contexts, np.full(len(latents), len(contexts))
        through = self.reach.through[latents, SPLITS.index(split)]
        return contexts, np.searchsorted(self.reach.priority[contexts], through, side="right")

    @cached_property
    def _by_split(self) -> list[NDArray[np.int64]]:
        return [np.flatnonzero(~self.is_test), np.flatnonzero(self.is_test)]

    @cached_property
    def _by_priority(self) -> list[NDArray[np.int64]]:
        # The same order whether activations are known everywhere or not: what is drawn is the same too.
        priority = self.priority if self.reach is None else self.reach.priority
        if priority is None:
            return self._by_split
        return [part[np.argsort(priority[part], kind="stable")] for part in self._by_split]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """In which contexts each latent's activations are known (see `autointerp.sampling.reservoir`)."""

    priority: NDArray[np.uint64]
    """Of each context, [n_contexts]."""
    through: NDArray[np.uint64]
    """Last priority known of each latent, train and test, [n_latents, 2]."""

    def knows(self, latent: NDArray[np.int64], split: str, contexts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of latents and contexts of a split, pair by pair, whether the activations are known; elsewhere they
        may be known of a latent's strongest contexts only."""
        known: NDArray[np.bool_] = self.priority[contexts] <= self.through[latent, SPLITS.index(split)]
        return known


@dataclass(frozen=True, kw_only=True)
class Block:
    """Some latents and their non-zero activations, sorted by (latent, context, position)."""

    latent: NDArray[np.int64]
    """Ids, ascending, [n_latents]."""
    row: NDArray[np.int64]
    """Which of `latent` each activation belongs to, [n_activations]; the others are parallel."""
    context: NDArray[np.int64]
    position: NDArray[np.int64]
    activation: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.latent)


def blocks_of(table: pa.Table, most_latents: int, most_rows: int) -> Iterator[Block]:
    """An `activations` table (sorted as its schema says) cut into blocks of at most so many latents and
    activations; a latent with more activations than that is a block of its own."""
    latent = table.column("latent").to_numpy()
    if len(latent) == 0:
        return
    edges = np.r_[np.flatnonzero(np.r_[True, latent[1:] != latent[:-1]]), len(latent)]
    first = 0
    while first < len(edges) - 1:
        fit = int(np.searchsorted(edges, edges[first] + most_rows, side="right")) - 1
        last = max(first + 1, min(first + most_latents, fit))
        part = table.slice(edges[first], edges[last] - edges[first])
        yield Block(
            latent=latent[edges[first:last]].astype(np.int64),
            row=np.repeat(np.arange(last - first), np.diff(edges[first : last + 1])),
            context=part.column("context").to_numpy().astype(np.int64),
            position=part.column("position").to_numpy().astype(np.int64),
            activation=part.column("activation").to_numpy(),
        )
        first = last

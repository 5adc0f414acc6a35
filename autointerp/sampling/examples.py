"""The windows of a block of latents, as the columns of `examples`: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts.schemas import EXAMPLES
from autointerp.config import SampleConfig
from autointerp.sampling.corpus import SPLITS, Block, Corpus
from autointerp.sampling.draw import deciles, draw, places_in_runs
from autointerp.sampling.places import tickets
from autointerp.sampling.select import (
    beside_neighbours,
    is_apart,
    is_silent,
    random_silent,
    tile_spans,
    trigger_spans,
    window_activations,
)
from autointerp.sampling.similar import SimilarTiles

KINDS = ("activating", "random", "neighbour", "similar", "unread")
"""Kinds of windows in the order they are drawn: none overlaps an earlier one, `unread` aside."""
_CANDIDATES = 6
"""Similar tiles looked at for each one asked, before all of them are."""
_COMPARED_WHOLE = 64
"""Latents compared with all tiles at a time."""


class Stream(IntEnum):
    """Purposes of random streams."""

    ACTIVATING = 1
    RANDOM = 2
    NEIGHBOUR = 3
    UNREAD = 4
    SIMILAR_POOL = 5
    DRAWN = 8
    QUOTA = 9

    def generator(self, seed: int, split: str, latent: int = 0) -> np.random.Generator:
        """The generator keyed by (seed, latent, purpose, split)."""
        return np.random.default_rng([seed, latent, int(self), SPLITS.index(split)])


@dataclass(frozen=True, kw_only=True)
class Pools:
    """What silent windows are chosen from besides the text itself, by split."""

    places: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    """Activations of every latent, [n_latents, m] (see `sample_places`)."""
    similar: Mapping[str, SimilarTiles] = field(default_factory=dict)
    """Tiles to rank by likeness."""


def n_asked(config: SampleConfig, split: str, kind: str) -> int:
    """Windows of a kind asked for per latent."""
    name = f"n_{split}" if kind == "activating" else f"n_{split}_{kind}"
    return int(getattr(config, name, 0))


def sample_latents(
    block: Block,
    neighbours: NDArray[np.int64],
    *,
    corpus: Corpus,
    config: SampleConfig,
    seed: int,
    pools: Pools,
) -> pa.Table:
    """The windows of some latents as rows of `examples`: by latent, train before test, kinds as in `KINDS`.

    `neighbours` [len(block), k] are the latents' nearest ones, nearest first, -1 for none. Random
    streams are keyed by (seed, latent): neither sharding nor the cut into blocks changes the result.
    """
    active = _Active(block, corpus, config, seed)
    drawn = []
    for split in SPLITS:
        windows = _Windows(active, split)
        windows.draw_activating()
        windows.draw_random()
        if (places := pools.places.get(split)) is not None:
            windows.draw_neighbours(places, neighbours)
        if (tiles := pools.similar.get(split)) is not None:
            windows.draw_similar(tiles)
        windows.draw_unread()
        drawn += windows.parts
    return _table(drawn, active)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The windows of one split and kind, by row of the block."""

    split: str
    kind: str
    row: NDArray[np.int64]
    begin: NDArray[np.int64]
    decile: NDArray[np.uint8] | None = None
    source: NDArray[np.int64] | None = None


class _Active:
    """Activations of a block of latents and the windows that hold them, all latents and splits at once.

    Row r of the block has places of its own: what is code c elsewhere is r * row_size + c here.
    """

    def __init__(self, block: Block, corpus: Corpus, config: SampleConfig, seed: int) -> None:
        self.latent, self.activation = block.latent, block.activation
        self.corpus, self.config, self.seed = corpus, config, seed
        self.where = {"window": config.window_tokens, "context_size": corpus.context_size}
        self.row_size = corpus.tokens.size
        n_contexts = len(corpus.tokens)
        code = block.context * corpus.context_size + block.position
        ours = block.row * n_contexts + block.context
        self.code = block.row * self.row_size + code
        if config.placement == "tile":
            spans = tile_spans(ours, block.position, block.activation, **self.where)
        else:
            spans = trigger_spans(
                ours,
                block.position,
                block.activation,
                trigger_position=config.trigger_position,
                ticket=tickets(seed, block.latent[block.row], code, Stream.ACTIVATING),
                **self.where,
            )
        order = np.argsort(spans.context * corpus.context_size + spans.start)
        self.begin = (spans.context * corpus.context_size + spans.start)[order]
        self.row, self.context = np.divmod(spans.context[order], n_contexts)
        self.peak = spans.peak[order]

    def tokens(self, begin: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Token ids of windows, [len(begin), window]."""
        windows = np.lib.stride_tricks.sliding_window_view(
            self.corpus.tokens.reshape(-1), self.config.window_tokens
        )
        tokens: NDArray[np.uint32] = windows[begin % self.row_size]
        return tokens


class _Windows:
    """The windows of a block of latents in one split, as they are asked for."""

    def __init__(self, active: _Active, split: str) -> None:
        self.active, self.split, self.side = active, split, SPLITS.index(split)
        self.corpus, self.config, self.seed = active.corpus, active.config, active.seed
        self.where, self.row_size = active.where, active.row_size
        self.parts: list[_Part] = []
        self.taken = np.empty(0, dtype=np.int64)

    def draw_activating(self) -> None:
        """Windows in which a latent is active, by the split's strategy."""
        active = self.active
        here = np.flatnonzero(self.corpus.is_test[active.context] == bool(self.side))
        row, peak, latent = active.row[here], active.peak[here], active.latent[active.row[here]]
        fair = None
        if self.corpus.reach is not None:
            fair = self.corpus.reach.knows(latent, self.split, active.context[here])
        decile_of = np.arange(10) * 2 + self.side
        chosen = draw(
            row,
            peak,
            self._n("activating"),
            self.config.train_strategy if self.split == "train" else self.config.test_strategy,
            tickets(self.seed, latent, active.begin[here] % self.row_size, Stream.DRAWN),
            tickets(self.seed, active.latent[:, None], decile_of[None], Stream.QUOTA),
            fair,
        )
        self._add(
            "activating", row[chosen], active.begin[here[chosen]], decile=deciles(row, peak, fair)[chosen]
        )

    def draw_random(self) -> None:
        """Silent windows drawn uniformly over the contexts of the split."""
        if not self._n("random"):
            return
        latent = self.active.latent
        contexts, n_known = self.corpus.known_first(self.split, latent)
        row, begin = random_silent(
            self.active.code,
            row_size=self.row_size,
            contexts=contexts,
            n_known=n_known,
            n=self._n("random"),
            taken=self.taken,
            ticket=lambda row, i: tickets(self.seed, latent[row], i * 2 + self.side, Stream.RANDOM),
            **self.where,
        )
        self._add("random", row, begin)

    def draw_neighbours(self, places: NDArray[np.int64], neighbours: NDArray[np.int64]) -> None:
        """Silent windows around activations of the neighbours (nearest first, -1 for none)."""
        latent = self.active.latent[:, None, None]
        near = np.where((neighbours >= 0)[:, :, None], places[neighbours], -1)
        if (reach := self.corpus.reach) is not None:
            context = np.maximum(near, 0) // self.corpus.context_size
            near = np.where(reach.knows(latent, self.split, context), near, -1)
        row, begin, whose = beside_neighbours(
            self.active.code,
            row_size=self.row_size,
            places=near,
            n=self._n("neighbour"),
            trigger_position=None if self.config.placement == "tile" else self.config.trigger_position,
            taken=self.taken,
            ticket=tickets(self.seed, latent, near, Stream.NEIGHBOUR),
            **self.where,
        )
        self._add("neighbour", row, begin, source=neighbours[row, whose])

    def draw_similar(self, tiles: SimilarTiles) -> None:
        """Silent tiles that are most like the activating windows."""
        n, n_rows = self._n("similar"), len(self.active.latent)
        if n == 0:
            return
        own = self.parts[0]
        queries = tiles.queries(self.active.tokens(own.begin), own.row, n_rows)
        rows, begins = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        for row, tile, _ in tiles.nearest(queries, _CANDIDATES * n):
            chosen = self._allowed(row, tiles.code[tile], n)
            rows.append(row[chosen])
            begins.append(row[chosen] * self.row_size + tiles.code[tile[chosen]])
        row, begin = np.concatenate(rows), np.concatenate(begins)
        # Around the few latents that fire in most of what is like them, all tiles are looked at.
        lacking = np.flatnonzero((np.bincount(row, minlength=n_rows) < n) & (np.diff(queries.indptr) > 0))
        kept = ~np.isin(row, lacking)
        rows, begins = [row[kept]], [begin[kept]]
        for first in range(0, len(lacking), _COMPARED_WHOLE):
            some = lacking[first : first + _COMPARED_WHOLE]
            cosine = (queries[some] @ tiles.vectors.T).toarray()
            order = np.argsort(-cosine, axis=1, kind="stable")
            positive = np.take_along_axis(cosine, order, axis=1) > 0
            row, tile = np.repeat(some, positive.sum(axis=1)), order[positive]
            chosen = self._allowed(row, tiles.code[tile], n)
            rows.append(row[chosen])
            begins.append(row[chosen] * self.row_size + tiles.code[tile[chosen]])
        row, begin = np.concatenate(rows), np.concatenate(begins)
        order = np.argsort(row, kind="stable")
        self._add("similar", row[order], begin[order])

    def _allowed(self, row: NDArray[np.int64], code: NDArray[np.int64], n: int) -> NDArray[np.int64]:
        """Indices of the first `n` tiles of each row that are silent, apart from what is taken and known."""
        begin, window = row * self.row_size + code, self.config.window_tokens
        free = is_silent(self.active.code, begin, window) & is_apart(begin, self.taken, window)
        if (reach := self.corpus.reach) is not None:
            free &= reach.knows(self.active.latent[row], self.split, code // self.corpus.context_size)
        index = np.flatnonzero(free)
        return index[places_in_runs(row[index]) < n]

    def draw_unread(self) -> None:
        """Windows drawn uniformly without looking at anything, at distinct places."""
        if not self._n("unread"):
            return
        contexts, n_known = self.corpus.known_first(self.split, self.active.latent)
        starts = self.corpus.context_size - self.config.window_tokens + 1
        rows, begins = [], []
        for row, latent in enumerate(self.active.latent.tolist()):
            rng = Stream.UNREAD.generator(self.seed, self.split, latent)
            n = min(self._n("unread"), int(n_known[row]) * starts)
            at = rng.choice(int(n_known[row]) * starts, size=n, replace=False)
            code = contexts[at // starts] * self.corpus.context_size + at % starts
            rows.append(np.full(n, row))
            begins.append(row * self.row_size + code)
        self._add("unread", np.concatenate(rows), np.concatenate(begins))

    def _add(
        self,
        kind: str,
        row: NDArray[np.int64],
        begin: NDArray[np.int64],
        decile: NDArray[np.uint8] | None = None,
        source: NDArray[np.int64] | None = None,
    ) -> None:
        self.taken = np.sort(np.concatenate([self.taken, begin]))
        self.parts.append(
            _Part(split=self.split, kind=kind, row=row, begin=begin, decile=decile, source=source)
        )

    def _n(self, kind: str) -> int:
        return n_asked(self.config, self.split, kind)


def _table(parts: Sequence[_Part], active: _Active) -> pa.Table:
    """Parts as rows of `examples`: by latent, and as they come within one."""
    window, size = active.config.window_tokens, active.corpus.context_size
    sizes = [len(part.row) for part in parts]
    row, begin = np.concatenate([p.row for p in parts]), np.concatenate([p.begin for p in parts])
    order = np.argsort(row, kind="stable")
    row, begin = row[order], begin[order]
    kind = np.repeat([KINDS.index(part.kind) for part in parts], sizes)[order]
    split = np.repeat([SPLITS.index(part.split) for part in parts], sizes)[order]
    read = np.flatnonzero((kind == KINDS.index("activating")) | (kind == KINDS.index("unread")))
    values = np.zeros((len(row), window), dtype=np.float32)
    values[read] = window_activations(active.code, active.activation, begin[read], window)
    peak = np.zeros(len(row), dtype=np.float32)
    peak[read] = values[read].max(axis=1, initial=0.0)
    context, start = np.divmod(begin % active.row_size, size)
    offsets = pa.array(np.arange(len(row) + 1, dtype=np.int32) * window)
    columns = {
        "latent": active.latent[row],
        "example": places_in_runs(row),
        "split": _named(split, SPLITS),
        "kind": _named(kind, KINDS),
        "source_latent": _nullable([part.source for part in parts], sizes, order, pa.uint32()),
        "decile": _nullable([part.decile for part in parts], sizes, order, pa.uint8()),
        "context": context,
        "start": start,
        "tokens": pa.ListArray.from_arrays(offsets, pa.array(active.tokens(begin).reshape(-1))),
        "activations": pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1))),
        "max_activation": peak,
    }
    return pa.table(columns).cast(EXAMPLES.schema)


def _named(index: NDArray[np.int64], names: Sequence[str]) -> pa.Array:
    """Names by their index."""
    return pa.DictionaryArray.from_arrays(index, list(names)).cast(pa.string())


def _nullable(
    arrays: Sequence[NDArray[Any] | None], sizes: Sequence[int], order: NDArray[np.int64], kind: pa.DataType
) -> pa.Array:
    """Arrays one after another, in another order; null where there is none."""
    filled = [np.zeros(n, np.int64) if a is None else a for a, n in zip(arrays, sizes, strict=True)]
    absent = np.repeat([a is None for a in arrays], sizes)
    return pa.array(np.concatenate(filled)[order], mask=absent[order]).cast(kind)

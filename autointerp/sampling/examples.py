"""The windows of a block of latents, as the columns of `examples`: pure functions on arrays."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts.schemas import EXAMPLES
from autointerp.config import SampleConfig
from autointerp.sampling.places import tickets
from autointerp.sampling.select import (
    Spans,
    deciles,
    draw,
    is_apart,
    is_silent,
    neighbour_spans,
    silent_spans,
    tile_spans,
    trigger_spans,
    window_activations,
)
from autointerp.sampling.similar import SimilarTiles, best

SPLITS = ("train", "test")
KINDS = ("activating", "random", "neighbour", "similar", "unread")
"""Kinds of windows in the order they are drawn: none overlaps an earlier one, `unread` aside."""


class Stream(IntEnum):
    """Purposes of random streams."""

    ACTIVATING = 1
    RANDOM = 2
    NEIGHBOUR = 3
    UNREAD = 4
    SIMILAR_POOL = 5

    def generator(self, seed: int, split: str, latent: int = 0) -> np.random.Generator:
        """The generator keyed by (seed, latent, purpose, split)."""
        return np.random.default_rng([seed, latent, int(self), SPLITS.index(split)])


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All contexts of a run, of equal length."""

    tokens: NDArray[np.uint32]
    """Token ids, [n_contexts, context_size]."""
    is_test: NDArray[np.bool_]
    """Whether each context belongs to the test split, [n_contexts]."""
    reach: Reach | None = None
    """How far each latent's activations are known; None: everywhere."""

    @property
    def context_size(self) -> int:
        """Tokens per context."""
        return int(self.tokens.shape[1])

    def contexts_of(self, split: str) -> NDArray[np.int64]:
        """Indices of the contexts of a split."""
        return np.flatnonzero(self.is_test == (split == "test"))

    def known_contexts(self, split: str, latent: int) -> NDArray[np.int64]:
        """Indices of the contexts of a split of which it is known where the latent is active."""
        contexts = self.contexts_of(split)
        return contexts if self.reach is None else contexts[self.reach.knows(latent, split, contexts)]


@dataclass(frozen=True, kw_only=True)
class Reach:
    """In which contexts each latent's activations are known (see `autointerp.sampling.reservoir`)."""

    priority: NDArray[np.uint64]
    """Of each context, [n_contexts]."""
    through: NDArray[np.uint64]
    """Last priority known of each latent, train and test, [n_latents, 2]."""

    def knows(self, latent: int, split: str, contexts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of some contexts of a split, whether the latent's activations are known; outside them they may be
        known of its strongest contexts only."""
        known: NDArray[np.bool_] = self.priority[contexts] <= self.through[latent, SPLITS.index(split)]
        return known


@dataclass(frozen=True, kw_only=True)
class LatentActivations:
    """One latent's non-zero activations, sorted by (context, position)."""

    latent: int
    context: NDArray[np.int64]
    position: NDArray[np.int64]
    activation: NDArray[np.float32]


def latents_of(table: pa.Table) -> Iterator[LatentActivations]:
    """The latents of an `activations` table (sorted as its schema says), one after another."""
    latent = table.column("latent").to_numpy()
    context = table.column("context").to_numpy().astype(np.int64)
    position = table.column("position").to_numpy().astype(np.int64)
    activation = table.column("activation").to_numpy()
    if len(latent) == 0:
        return
    starts = np.flatnonzero(np.r_[True, latent[1:] != latent[:-1]])
    for first, last in zip(starts, [*starts[1:], len(latent)], strict=True):
        yield LatentActivations(
            latent=int(latent[first]),
            context=context[first:last],
            position=position[first:last],
            activation=activation[first:last],
        )


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
    block: Sequence[LatentActivations],
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
    drawn = {}
    activating = _Activating(block, corpus, config, seed)
    for split in SPLITS:
        latents = [_Latent(activating, row, split) for row in range(len(block))]
        tiles, places = pools.similar.get(split), pools.places.get(split)
        cosines = None if tiles is None else _cosines(latents, tiles)
        for row, latent in enumerate(latents):
            latent.draw_random()
            if places is not None:
                latent.draw_neighbours(places, neighbours[row][neighbours[row] >= 0])
            if tiles is not None and cosines is not None:
                latent.draw_similar(tiles, cosines[row])
            latent.draw_unread()
        drawn[split] = latents
    parts = [part for pair in zip(*drawn.values(), strict=True) for one in pair for part in one.parts]
    return _table(parts, corpus, config.window_tokens)


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The windows of one latent, split and kind."""

    latent: int
    split: str
    kind: str
    spans: Spans
    decile: NDArray[np.uint8] | None
    source: NDArray[np.int64] | None
    values: NDArray[np.float32]


class _Activating:
    """Activations of a block of latents and the windows that hold them, all latents and splits at once.

    Row r of the block has contexts of its own: what is context c elsewhere is r * n_contexts + c here.
    """

    def __init__(
        self, block: Sequence[LatentActivations], corpus: Corpus, config: SampleConfig, seed: int
    ) -> None:
        self.latents = [one.latent for one in block]
        self.corpus, self.config, self.seed = corpus, config, seed
        self.where = {"window": config.window_tokens, "context_size": corpus.context_size}
        row = np.repeat(np.arange(len(block)), [len(one.context) for one in block])
        context = np.concatenate([one.context for one in block])
        position = np.concatenate([one.position for one in block])
        self.activation = np.concatenate([one.activation for one in block])
        code = context * corpus.context_size + position
        ours = row * len(corpus.tokens) + context
        self.code = ours * corpus.context_size + position
        if config.placement == "tile":
            spans = tile_spans(ours, position, self.activation, **self.where)
        else:
            ticket = tickets(seed, np.repeat(self.latents, np.bincount(row)), code, Stream.ACTIVATING)
            spans = trigger_spans(
                ours,
                position,
                self.activation,
                trigger_position=config.trigger_position,
                ticket=ticket,
                **self.where,
            )
        order, self._activations = self._by_split(ours)
        self._codes = code[order]
        order, self._windows = self._by_split(spans.context)
        self._spans = spans.take(order)

    def codes(self, row: int, split: str) -> NDArray[np.int64]:
        """Codes of a latent's activations in a split, sorted."""
        codes: NDArray[np.int64] = self._codes[self._activations[2 * row + SPLITS.index(split)]]
        return codes

    def draw(self, row: int, split: str) -> tuple[Spans, NDArray[np.uint8]]:
        """Windows drawn for a latent by the split's strategy, and their deciles."""
        spans = self._spans.take(self._windows[2 * row + SPLITS.index(split)])
        strategy = self.config.train_strategy if split == "train" else self.config.test_strategy
        rng = Stream.ACTIVATING.generator(self.seed, split, self.latents[row])
        here = replace(spans, context=spans.context - row * len(self.corpus.tokens))
        fair = None
        if self.corpus.reach is not None:
            fair = self.corpus.reach.knows(self.latents[row], split, here.context)
        chosen = draw(spans.peak, n_asked(self.config, split, "activating"), strategy, rng, fair)
        return here.take(chosen), deciles(spans.peak, fair)[chosen]

    def values(self, row: int, spans: Spans) -> NDArray[np.float32]:
        """A latent's activation at each token of windows, [len(spans), window]."""
        mine = replace(spans, context=spans.context + row * len(self.corpus.tokens))
        return window_activations(self.code, self.activation, mine, **self.where)

    def _by_split(self, context: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[slice]]:
        """The order by (row, split), and the slice of each pair in that order."""
        n_contexts = len(self.corpus.tokens)
        key = context // n_contexts * 2 + self.corpus.is_test[context % n_contexts]
        order = np.argsort(key, kind="stable")
        edges = np.searchsorted(key[order], np.arange(2 * len(self.latents) + 1))
        return order, [slice(first, last) for first, last in itertools.pairwise(edges.tolist())]


class _Latent:
    """One latent in one split: its activating windows, and the others as they are asked for."""

    def __init__(self, activating: _Activating, row: int, split: str) -> None:
        self.activating, self.row = activating, row
        self.latent, self.split = activating.latents[row], split
        self.corpus, self.config, self.seed = activating.corpus, activating.config, activating.seed
        self.where = activating.where
        self.codes = activating.codes(row, split)
        self.parts: list[_Part] = []
        self.taken = np.empty(0, dtype=np.int64)
        spans, decile = activating.draw(row, split)
        self._add("activating", spans, decile=decile)

    def draw_random(self) -> None:
        """Silent windows drawn uniformly over the contexts of the split."""
        if n := self._n("random"):
            contexts = self.corpus.known_contexts(self.split, self.latent)
            self._add(
                "random",
                silent_spans(
                    self.codes,
                    contexts=contexts,
                    n=n,
                    taken=self.taken,
                    rng=self._rng(Stream.RANDOM),
                    **self.where,
                ),
            )

    def draw_neighbours(self, places: NDArray[np.int64], neighbours: NDArray[np.int64]) -> None:
        """Silent windows around activations of the neighbours (nearest first)."""
        near = places[neighbours]
        if (reach := self.corpus.reach) is not None:
            context = np.maximum(near, 0) // self.corpus.context_size
            near = np.where(reach.knows(self.latent, self.split, context), near, -1)
        spans, whose = neighbour_spans(
            self.codes,
            places=near,
            n=self._n("neighbour"),
            trigger_position=None if self.config.placement == "tile" else self.config.trigger_position,
            taken=self.taken,
            rng=self._rng(Stream.NEIGHBOUR),
            **self.where,
        )
        self._add("neighbour", spans, source=neighbours[whose])

    def draw_similar(self, tiles: SimilarTiles, cosine: NDArray[np.float32]) -> None:
        """Silent tiles with the largest `cosine` [n_tiles]."""
        window, reach = self.config.window_tokens, self.corpus.reach

        def allowed(code: NDArray[np.int64]) -> NDArray[np.bool_]:
            free = is_silent(self.codes, code, window) & is_apart(code, self.taken, window)
            if reach is None:
                return free
            return free & reach.knows(self.latent, self.split, code // self.corpus.context_size)

        chosen = best(cosine, tiles.code, self._n("similar"), allowed)
        self._add("similar", Spans.silent_at(tiles.code[chosen], self.corpus.context_size))

    def draw_unread(self) -> None:
        """Windows drawn uniformly without looking at anything, at distinct places."""
        if not self._n("unread"):
            return
        contexts = self.corpus.known_contexts(self.split, self.latent)
        starts = self.corpus.context_size - self.config.window_tokens + 1
        if n := min(self._n("unread"), len(contexts) * starts):
            at = self._rng(Stream.UNREAD).choice(len(contexts) * starts, size=n, replace=False)
            code = contexts[at // starts] * self.corpus.context_size + at % starts
            spans = Spans.silent_at(code, self.corpus.context_size)
            self._add("unread", spans)

    def _add(
        self,
        kind: str,
        spans: Spans,
        decile: NDArray[np.uint8] | None = None,
        source: NDArray[np.int64] | None = None,
    ) -> None:
        values = np.zeros((len(spans), self.config.window_tokens), dtype=np.float32)
        if kind in ("activating", "unread"):
            values = self.activating.values(self.row, spans)
        if kind == "unread":
            spans = replace(spans, peak=values.max(axis=1))
        begin = spans.context * self.corpus.context_size + spans.start
        self.taken = np.sort(np.concatenate([self.taken, begin]))
        self.parts.append(
            _Part(
                latent=self.latent,
                split=self.split,
                kind=kind,
                spans=spans,
                decile=decile,
                source=source,
                values=values,
            )
        )

    def _n(self, kind: str) -> int:
        return n_asked(self.config, self.split, kind)

    def _rng(self, stream: Stream) -> np.random.Generator:
        return stream.generator(self.seed, self.split, self.latent)


def _cosines(latents: Sequence[_Latent], tiles: SimilarTiles) -> NDArray[np.float32]:
    """Cosine of each latent's activating windows with each tile, [len(latents), n_tiles]."""
    tokens = [
        _tokens(latent.parts[0].spans, latent.corpus, latent.config.window_tokens) for latent in latents
    ]
    whose = np.repeat(np.arange(len(latents)), [len(t) for t in tokens])
    return tiles.cosines(np.concatenate(tokens), whose, len(latents))


def _tokens(spans: Spans, corpus: Corpus, window: int) -> NDArray[np.uint32]:
    """Token ids of windows, [len(spans), window]."""
    tokens: NDArray[np.uint32] = corpus.tokens[
        spans.context[:, None], spans.start[:, None] + np.arange(window)
    ]
    return tokens


def _table(parts: Sequence[_Part], corpus: Corpus, window: int) -> pa.Table:
    """Parts, sorted by latent, as rows of `examples`."""
    sizes = [len(part.spans) for part in parts]
    spans = Spans(
        context=np.concatenate([part.spans.context for part in parts]),
        start=np.concatenate([part.spans.start for part in parts]),
        peak=np.concatenate([part.spans.peak for part in parts]),
    )
    latent = np.repeat([part.latent for part in parts], sizes)
    _, first, n_windows = np.unique(latent, return_index=True, return_counts=True)
    offsets = pa.array(np.arange(len(spans) + 1, dtype=np.int32) * window)
    columns = {
        "latent": latent,
        "example": np.arange(len(spans)) - np.repeat(first, n_windows),
        "split": _repeated([part.split for part in parts], sizes),
        "kind": _repeated([part.kind for part in parts], sizes),
        "source_latent": _nullable([part.source for part in parts], sizes, pa.uint32()),
        "decile": _nullable([part.decile for part in parts], sizes, pa.uint8()),
        "context": spans.context,
        "start": spans.start,
        "tokens": pa.ListArray.from_arrays(offsets, pa.array(_tokens(spans, corpus, window).ravel())),
        "activations": pa.ListArray.from_arrays(
            offsets, pa.array(np.concatenate([part.values.ravel() for part in parts]))
        ),
        "max_activation": spans.peak,
    }
    return pa.table(columns).cast(EXAMPLES.schema)


def _repeated(texts: Sequence[str], sizes: Sequence[int]) -> pa.Array:
    """Each text as often as its size says."""
    names, index = np.unique(texts, return_inverse=True)
    return pa.DictionaryArray.from_arrays(np.repeat(index, sizes), names.tolist()).cast(pa.string())


def _nullable(arrays: Sequence[NDArray[Any] | None], sizes: Sequence[int], kind: pa.DataType) -> pa.Array:
    """Arrays one after another; null where there is none."""
    filled = [np.zeros(n, np.int64) if a is None else a for a, n in zip(arrays, sizes, strict=True)]
    absent = np.repeat([a is None for a in arrays], sizes)
    return pa.array(np.concatenate(filled), mask=absent).cast(kind)

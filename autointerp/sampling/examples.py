"""The windows of a range of latents, as the columns of `examples`: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.config import SampleConfig
from autointerp.sampling.select import (
    Spans,
    deciles,
    draw,
    silent_spans,
    tile_spans,
    trigger_spans,
    window_activations,
)

SPLITS = ("train", "test")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All contexts of a run, of equal length."""

    tokens: NDArray[np.uint32]
    """Token ids, [n_contexts, context_size]."""
    is_test: NDArray[np.bool_]
    """Whether each context belongs to the test split, [n_contexts]."""

    @property
    def context_size(self) -> int:
        """Tokens per context."""
        return int(self.tokens.shape[1])

    def contexts_of(self, split: str) -> NDArray[np.int64]:
        """Indices of the contexts of a split."""
        return np.flatnonzero(self.is_test == (split == "test"))


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


def sample_latent(acts: LatentActivations, corpus: Corpus, config: SampleConfig, seed: int) -> pa.Table:
    """The windows of one latent, train before test, activating before silent, as rows of `examples`.

    The random stream is keyed by (seed, latent): neither sharding nor order changes the result.
    """
    rng = np.random.default_rng([seed, acts.latent])
    where = {"window": config.window_tokens, "context_size": corpus.context_size}
    in_test = corpus.is_test[acts.context]
    parts: list[pa.Table] = []
    for split in SPLITS:
        train = split == "train"
        mine = in_test != train
        context, position, activation = acts.context[mine], acts.position[mine], acts.activation[mine]
        if config.placement == "tile":
            spans = tile_spans(context, position, activation, **where)
        else:
            spans = trigger_spans(
                context, position, activation, trigger_position=config.trigger_position, rng=rng, **where
            )
        strategy = config.train_strategy if train else config.test_strategy
        chosen = draw(spans.peak, config.n_train if train else config.n_test, strategy, rng)
        shown, decile = spans.take(chosen), deciles(spans.peak)[chosen]
        values = window_activations(context, position, activation, shown, **where)
        parts.append(_rows(acts.latent, split, "activating", shown, decile, values, corpus))
        silent = silent_spans(
            context,
            position,
            contexts=corpus.contexts_of(split),
            n=config.n_train_random if train else config.n_test_random,
            rng=rng,
            **where,
        )
        zeros = np.zeros((len(silent), config.window_tokens), dtype=np.float32)
        parts.append(_rows(acts.latent, split, "random", silent, None, zeros, corpus))
    table = pa.concat_tables(parts)
    return table.set_column(1, "example", pa.array(np.arange(table.num_rows, dtype=np.uint32)))


def _rows(
    latent: int,
    split: str,
    kind: str,
    spans: Spans,
    decile: NDArray[np.uint8] | None,
    values: NDArray[np.float32],
    corpus: Corpus,
) -> pa.Table:
    n, window = values.shape
    tokens = corpus.tokens[spans.context[:, None], spans.start[:, None] + np.arange(window)]
    offsets = pa.array(np.arange(n + 1, dtype=np.int32) * window)
    return pa.table(
        {
            "latent": pa.array(np.full(n, latent, dtype=np.uint32)),
            "example": pa.array(np.zeros(n, dtype=np.uint32)),
            "split": pa.array([split] * n, pa.string()),
            "kind": pa.array([kind] * n, pa.string()),
            "source_latent": pa.nulls(n, pa.uint32()),
            "decile": pa.nulls(n, pa.uint8()) if decile is None else pa.array(decile),
            "context": pa.array(spans.context.astype(np.uint32)),
            "start": pa.array(spans.start.astype(np.uint16)),
            "tokens": pa.ListArray.from_arrays(offsets, pa.array(tokens.ravel().astype(np.uint32))),
            "activations": pa.ListArray.from_arrays(offsets, pa.array(values.ravel())),
            "max_activation": pa.array(spans.peak),
        }
    )

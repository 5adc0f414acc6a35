"""Windows around the strongest tokens of an export's texts, silent ones of other latents' texts, and both as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS
from autointerp.report.exchange.neuronpedia_rows import Record

TRIGGER = 0.75
"""Place of the strongest token in its window, 0 the first token and 1 the last."""
N_TRAIN_NEGATIVES = 20
Negatives = Literal["random", "unread"]


@dataclass(frozen=True, kw_only=True)
class NeuronpediaOptions:
    """How an export is read."""

    window_tokens: int = 32
    negatives: Negatives = "random"
    """Kind of windows of other latents' texts: `random`, silent by assumption, or `unread`, for presets."""
    n_negatives: int = 50
    """Of them, per latent, for scoring; for explaining 20."""
    subject: str | None = None
    """Name of the model; by default what SAELens' registry says, else Neuronpedia's model id."""
    settings: Path | None = None
    """A run file whose scorers and models are taken over."""
    seed: int = 0


@dataclass(frozen=True)
class Window:
    """A row of `examples`."""

    latent: int
    example: int
    split: str
    kind: str
    context: int
    start: int
    tokens: NDArray[np.uint32]
    activations: NDArray[np.float32]
    decile: int | None


def examples(
    placed: Mapping[int, Mapping[int, Record]], is_test: Sequence[bool], options: NeuronpediaOptions
) -> Iterator[Window]:
    """A window around the strongest token of each of a latent's texts, and silent ones of others' texts."""
    pools = _pools(placed, is_test)
    with_texts = {c: r.tokens for mine in placed.values() for c, r in mine.items()}
    for latent, mine in placed.items():
        rng = np.random.default_rng([options.seed, latent, 60])
        example = 0
        for split in ("train", "test"):
            texts = [
                (c, r) for c, r in mine.items() if is_test[c] == (split == "test") and r.values.max() > 0
            ]
            texts.sort(key=lambda item: float(item[1].values.max()))
            for rank, (context, record) in reversed(list(enumerate(texts))):
                decile = rank * 10 // len(texts) + 1
                start, stop = _around(int(record.values.argmax()), len(record.values), options.window_tokens)
                yield Window(
                    latent, example, split, "activating", context, start, record.tokens[start:stop],
                    np.maximum(record.values[start:stop], 0), decile,
                )  # fmt: skip
                example += 1
            wanted = N_TRAIN_NEGATIVES if split == "train" else options.n_negatives
            for context in _others(pools[split], mine, wanted, rng):
                tokens = with_texts[context]
                start = int(rng.integers(0, max(len(tokens) - options.window_tokens, 0) + 1))
                part = tokens[start : start + options.window_tokens]
                yield Window(
                    latent, example, split, options.negatives, context, start, part,
                    np.zeros(len(part), np.float32), None,
                )  # fmt: skip
                example += 1


def non_zeros(placed: Mapping[int, Mapping[int, Record]]) -> pa.Table:
    """Activations listed, sorted by (latent, context, position), with their tokens."""
    parts: dict[str, list[NDArray[Any]]] = {
        k: [] for k in ("latent", "context", "position", "activation", "token")
    }
    for latent in sorted(placed):
        for context in sorted(placed[latent]):
            record = placed[latent][context]
            at = np.flatnonzero(record.values > 0)
            parts["latent"].append(np.full(len(at), latent, np.uint32))
            parts["context"].append(np.full(len(at), context, np.uint32))
            parts["position"].append(at.astype(np.uint16))
            parts["activation"].append(record.values[at])
            parts["token"].append(record.tokens[at])
    empty = {"position": np.uint16, "activation": np.float32}
    return pa.table(
        {
            name: pa.array(np.concatenate(part) if part else np.zeros(0, empty.get(name, np.uint32)))
            for name, part in parts.items()
        }
    )


def _pools(
    placed: Mapping[int, Mapping[int, Record]], is_test: Sequence[bool]
) -> dict[str, NDArray[np.int64]]:
    contexts = np.array(sorted({c for mine in placed.values() for c in mine}), dtype=np.int64)
    test = np.array([is_test[c] for c in contexts.tolist()], dtype=bool)
    return {"train": contexts[~test], "test": contexts[test]}


def _others(
    pool: NDArray[np.int64], mine: Mapping[int, Record], n: int, rng: np.random.Generator
) -> list[int]:
    """At most `n` contexts of a pool that are not among a latent's own."""
    drawn = rng.permutation(pool)[: n + len(mine)].tolist()
    return [int(c) for c in drawn if c not in mine][:n]


def _around(strongest: int, n: int, window: int) -> tuple[int, int]:
    start = min(max(strongest - int(TRIGGER * (window - 1)), 0), max(n - window, 0))
    return start, min(start + window, n)


def contexts_table(
    ids: Sequence[int], splits: Sequence[str], tokens: Sequence[NDArray[np.uint32]]
) -> pa.Table:
    """Rows of `contexts`, each a document of its own."""
    schema = DATASETS["contexts"].schema
    columns = [ids, ids, splits, _lists(tokens, np.uint32)]
    return pa.Table.from_arrays(
        [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)],
        schema=schema,
    )


def examples_table(windows: Sequence[Window]) -> pa.Table:
    """Rows of `examples`."""
    schema = DATASETS["examples"].schema
    columns = {
        **{name: [getattr(w, name) for w in windows] for name in Window.__annotations__},
        "source_latent": [None] * len(windows),
        "tokens": _lists([w.tokens for w in windows], np.uint32),
        "activations": _lists([w.activations for w in windows], np.float32),
        "max_activation": [float(w.activations.max(initial=0.0)) for w in windows],
    }
    return pa.Table.from_arrays(
        [
            column if isinstance(column := columns[field.name], pa.Array) else pa.array(column, field.type)
            for field in schema
        ],
        schema=schema,
    )


def _lists(rows: Sequence[NDArray[Any]], kind: type) -> pa.Array:
    offsets = np.r_[0, np.cumsum([len(row) for row in rows])].astype(np.int32)
    values: NDArray[Any] = np.concatenate([np.zeros(0, kind), *rows]).astype(kind)
    item = pa.field("item", pa.from_numpy_dtype(kind), nullable=kind is np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=pa.list_(item))

"""From activations in the order of the text to activations in the order of the latents, in bounded memory.

While text is read, each batch of contexts leaves one intermediate shard, sorted by (latent, context,
position) in itself. The latents are then cut into ranges that each hold about as many activations as
fit in memory, and for each range the matching row groups of every intermediate shard are read and
merged. Both steps count instead of comparing, so the work grows in proportion to the activations.
Memory is that of one range, whatever the number of tokens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts.dataset import RangeReader, read_shard
from autointerp.artifacts.schemas import ACTIVATIONS, DatasetSpec

Item = TypeVar("Item")
Result = TypeVar("Result")

INTERMEDIATE = DatasetSpec(
    name="activations-by-context",
    row="one non-zero activation, with its token, in shards by context",
    sorted_by=("latent", "context", "position"),
    rows_per_group=32_768,
    schema=ACTIVATIONS.schema.append(pa.field("token", pa.uint32(), nullable=False)),
    # Quick rather than small: a run of one latent is next to nothing for lz4, and positions are one byte
    # in four.
    compression="lz4",
    encodings={
        "latent": "PLAIN",
        "context": "DELTA_BINARY_PACKED",
        "position": "BYTE_STREAM_SPLIT",
        "activation": "PLAIN",
        "token": "PLAIN",
    },
)
"""Shards left by the first half of the cache stage; removed when the transpose is done."""


def by_latent(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Columns of `INTERMEDIATE` in (context, position) order as a table sorted by latent first."""
    order = stable_order(columns["latent"])
    return pa.table({name: columns[name][order] for name in INTERMEDIATE.schema.names})


def stable_order(keys: NDArray[np.uint32]) -> NDArray[Any]:
    """Indices that sort keys, equal ones in their order, [n]; by counting, so keys should be dense.

    The transpose of a sparse matrix with one entry per row is that order.
    """
    from scipy.sparse import csr_array

    n = len(keys)
    if n == 0:
        return np.empty(0, dtype=np.int32)
    kind = np.int32 if n < 2**31 and keys.max() < 2**31 - 1 else np.int64
    entries = (np.arange(n, dtype=kind), keys.astype(kind), np.arange(n + 1, dtype=kind))
    order: NDArray[Any] = csr_array(entries, shape=(n, int(keys.max()) + 1), copy=False).tocsc().data
    return order


def count_by_latent(
    shards: Sequence[Path], n_latents: int, spec: DatasetSpec = INTERMEDIATE
) -> NDArray[np.int64]:
    """Number of rows of each latent over intermediate shards: its activations, [n_latents]."""
    counts = np.zeros(n_latents, dtype=np.int64)

    def runs(path: Path) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        latent = read_shard(path, spec, ["latent"]).column("latent").to_numpy()
        begins = np.flatnonzero(np.r_[len(latent) > 0, latent[1:] != latent[:-1]])
        return latent[begins], np.diff(np.r_[begins, len(latent)])

    for latents, sizes in in_order(runs, shards, threads=2, ahead=2):
        counts[latents] += sizes
    return counts


def plan_ranges(counts: NDArray[np.int64], rows_per_shard: int) -> list[tuple[int, int]]:
    """Cut the latents into consecutive ranges [first, last) of at most `rows_per_shard` activations.

    A latent with more than that is a range of its own.
    """
    ranges: list[tuple[int, int]] = []
    first, held = 0, 0
    for latent, count in enumerate(counts.tolist()):
        if latent > first and held + count > rows_per_shard:
            ranges.append((first, latent))
            first, held = latent, 0
        held += count
    ranges.append((first, len(counts)))
    return ranges


def gather(shards: Sequence[RangeReader], first: int, last: int, counts: NDArray[np.int64]) -> pa.Table:
    """All activations of latents [first, last), sorted by (latent, context, position), with tokens.

    `counts` are those of `count_by_latent`, over these same shards: they say where each latent's rows
    begin, and each shard's rows are put right there.
    """
    counts = counts[first:last]
    free = np.cumsum(counts) - counts
    total = int(counts.sum())
    columns: dict[str, NDArray[Any]] = {
        field.name: np.empty(total, field.type.to_pandas_dtype())
        for field in INTERMEDIATE.schema
        if field.name != "latent"
    }
    for shard in shards:
        table = shard.read(first, last)
        latent = table.column("latent").to_numpy()
        begin, end = np.searchsorted(latent, [first, last])
        here = np.bincount(latent[begin:end].astype(np.int64) - first, minlength=last - first)
        # The k-th row of a latent in this shard goes k places after those of the shards before.
        place = np.arange(end - begin) + np.repeat(free - (np.cumsum(here) - here), here)
        for name, values in columns.items():
            values[place] = table.column(name).slice(begin, end - begin).to_numpy()
        free += here
    latents = np.repeat(np.arange(first, last, dtype=np.uint32), counts)
    return pa.table({"latent": latents, **columns})


def gather_each(
    shards: Sequence[Path], ranges: Sequence[tuple[int, int]], counts: NDArray[np.int64]
) -> Iterator[pa.Table]:
    """What `gather` gives for one range after another; the next is gathered while one is used."""
    readers = [RangeReader(path, INTERMEDIATE) for path in shards]
    yield from in_order(lambda limits: gather(readers, *limits, counts), ranges, threads=1, ahead=1)


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int, ahead: int
) -> Iterator[Result]:
    """The results for items, in their order, computed in threads; at most `ahead` wait to be asked for."""
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[Result]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) > ahead:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()

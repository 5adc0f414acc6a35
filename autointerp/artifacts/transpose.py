"""From activations in the order of the text to activations in the order of the latents, in bounded memory.

While text is read, each batch of contexts leaves one intermediate shard, sorted by (latent, context,
position) in itself. The latents are then cut into ranges that each hold about as many activations as
fit in memory, and for each range the matching row groups of every intermediate shard are read and
merged. Memory is that of one range, whatever the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.artifacts.dataset import Dataset, ShardWriter, read_row_groups_with
from autointerp.artifacts.schemas import ACTIVATIONS, DatasetSpec

INTERMEDIATE = DatasetSpec(
    name="activations-by-context",
    row="one non-zero activation, with its token, in shards by context",
    sorted_by=("latent", "context", "position"),
    rows_per_group=32_768,
    schema=ACTIVATIONS.schema.append(pa.field("token", pa.uint32(), nullable=False)),
)
"""Shards left by the first half of the cache stage; removed when the transpose is done."""


def write_intermediate(
    path: Path,
    latent: NDArray[np.uint32],
    context: NDArray[np.uint32],
    position: NDArray[np.uint16],
    activation: NDArray[np.float32],
    token: NDArray[np.uint32],
) -> None:
    """Write one intermediate shard from parallel arrays that are in (context, position) order."""
    order = np.argsort(latent, kind="stable")
    columns: dict[str, NDArray[Any]] = {
        "latent": latent,
        "context": context,
        "position": position,
        "activation": activation,
        "token": token,
    }
    with ShardWriter(path, INTERMEDIATE) as writer:
        writer.write(pa.table({name: values[order] for name, values in columns.items()}))


def count_by_latent(folder: Path, n_latents: int) -> NDArray[np.int64]:
    """Number of activations of each latent over all intermediate shards, [n_latents]."""
    counts = np.zeros(n_latents, dtype=np.int64)
    for table in Dataset(folder, INTERMEDIATE).iter_shards(columns=["latent"]):
        counts += np.bincount(table.column("latent").to_numpy(), minlength=n_latents)
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


def gather(shards: Sequence[Path], first: int, last: int) -> pa.Table:
    """All activations of latents [first, last), sorted by (latent, context, position), with tokens."""
    parts = []
    for path in shards:
        table = read_row_groups_with(path, INTERMEDIATE, first, last)
        latent = table.column("latent")
        inside = pc.and_(
            pc.greater_equal(latent, pa.scalar(first, pa.uint32())),
            pc.less(latent, pa.scalar(last, pa.uint64())),
        )
        parts.append(table.filter(inside))
    table = pa.concat_tables(parts).combine_chunks() if parts else INTERMEDIATE.schema.empty_table()
    order = np.argsort(table.column("latent").to_numpy(), kind="stable")
    return table.take(pa.array(order))

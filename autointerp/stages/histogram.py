"""How many activations of a latent had about which value: its deciles over all tokens, whatever is kept of them.

Values fall into bins by the upper bits of their single-precision form: sign, exponent and the first six bits of the
fraction, so 64 bins for every doubling. A quantile is interpolated between the middles of the bins of two
neighbouring values, and so **within 1/128 of the exact one** (of the larger of the two in magnitude, should they differ in
sign; below 1e-38 the bins are 2e-40 wide instead). Counts are added, so that the order in which
text is read, and when what was read is put together, change nothing (as in DDSketch: Masson, Rim and Lee, PVLDB
12(12), 2019). They lie on disk, sorted by latent: bounded by the number of latents and by the doublings between a
latent's weakest and strongest activation, not by tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import write_shard
from autointerp.artifacts.dataset import RangeReader
from autointerp.artifacts.schemas import DatasetSpec
from autointerp.artifacts.transpose import count_by_latent, plan_ranges
from autointerp.subject.statistics import from_ordered, interpolated, ordered

ROWS_PER_RANGE = 4_000_000
"""Rows put together at a time: sets the memory."""
_BITS = np.uint64(15)
"""Upper bits of a value that tell its bin: the sign, eight of the exponent, six of the fraction."""
_REST = np.uint64(32) - _BITS

HISTOGRAM = DatasetSpec(
    name="histogram",
    row="how many activations of one latent fall into one bin of values",
    sorted_by=("latent", "bin"),
    rows_per_group=65_536,
    schema=pa.schema(
        [
            pa.field("latent", pa.uint32(), nullable=False),
            pa.field("bin", pa.uint16(), nullable=False),
            pa.field("n", pa.int64(), nullable=False),
        ]
    ),
    compression="lz4",
    # Small numbers and small steps: about two bytes a row.
    encodings=dict.fromkeys(("latent", "bin", "n"), "DELTA_BINARY_PACKED"),
)


def counted(latent: NDArray[np.uint32], activation: NDArray[np.float32]) -> pa.Table:
    """Rows of `HISTOGRAM` for some activations (none of them NaN); the two arrays are parallel."""
    keys = (latent.astype(np.uint64) << _BITS) | (ordered(activation) >> _REST)
    keys.sort()
    begins = np.flatnonzero(np.r_[len(keys) > 0, keys[1:] != keys[:-1]])
    return _table(keys[begins], np.diff(np.r_[begins, len(keys)]))


def put_together(sources: Sequence[Path], n_latents: int, path: Callable[[int], Path]) -> int:
    """Add up files of `HISTOGRAM` into as many as are needed, `path(0)` and on; the number of rows written."""
    counts = count_by_latent(sources, n_latents, HISTOGRAM)
    readers = [RangeReader(source, HISTOGRAM) for source in sources]
    n_rows = 0
    for index, limits in enumerate(plan_ranges(counts, ROWS_PER_RANGE)):
        table = _sum([_rows(reader, *limits) for reader in readers])
        write_shard(path(index), table, HISTOGRAM)
        n_rows += table.num_rows
    return n_rows


def quantiles(sources: Sequence[RangeReader], first: int, last: int) -> NDArray[np.float32]:
    """Quantiles 0, 0.1, ..., 1 of latents [first, last), [n, 11], within 1/128; NaN where there is no activation.

    Each latent's rows stand in one of the `sources`, as `put_together` leaves them.
    """
    found = np.full((last - first, 11), np.nan, dtype=np.float32)
    for source in sources:
        keys, n = _rows(source, first, last)
        if len(keys) == 0:
            continue
        latent = (keys >> _BITS).astype(np.int64) - first
        begin = int(latent[0])
        here = _interpolated(latent - begin, keys & _mask(), n)
        there = np.isfinite(here[:, 0])
        found[begin : begin + len(here)][there] = here[there]
    return found


def _interpolated(
    latent: NDArray[np.int64], bins: NDArray[np.uint64], n: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Quantiles of latents from 0 to the last, from rows sorted by latent and bin."""
    ends, middles = np.cumsum(n), _middles(bins)

    def value_at(places: NDArray[np.int64]) -> NDArray[np.float32]:
        return middles[np.searchsorted(ends, places, side="right")]

    return interpolated(np.bincount(latent, weights=n).astype(np.int64), value_at)  # exact up to 2^53


def _rows(source: RangeReader, first: int, last: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Latent and bin in one integer, ascending, and counts, of latents [first, last)."""
    table = source.read(first, last)
    latent = table.column("latent").to_numpy()
    inside = slice(*np.searchsorted(latent, [first, last]))
    bins = table.column("bin").to_numpy()[inside].astype(np.uint64)
    return (latent[inside].astype(np.uint64) << _BITS) | bins, table.column("n").to_numpy()[inside]


def _sum(parts: Sequence[tuple[NDArray[np.uint64], NDArray[np.int64]]]) -> pa.Table:
    keys = np.concatenate([keys for keys, _ in parts])
    order = np.argsort(keys, kind="stable")  # quick where there are long ascending runs
    keys = keys[order]
    begins = np.flatnonzero(np.r_[len(keys) > 0, keys[1:] != keys[:-1]])
    n = np.concatenate([n for _, n in parts])[order]
    return _table(keys[begins], np.add.reduceat(n, begins) if len(begins) else n)


def _table(keys: NDArray[np.uint64], n: NDArray[Any]) -> pa.Table:
    latent, bins = (keys >> _BITS).astype(np.uint32), (keys & _mask()).astype(np.uint16)
    return pa.table({"latent": latent, "bin": bins, "n": n.astype(np.int64)})


def _mask() -> np.uint64:
    return (np.uint64(1) << _BITS) - np.uint64(1)


def _middles(bins: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Half way between the least and the largest number of each bin."""
    least, most = from_ordered(bins << _REST), from_ordered(((bins + np.uint64(1)) << _REST) - np.uint64(1))
    return (least / 2 + most / 2).astype(np.float32)

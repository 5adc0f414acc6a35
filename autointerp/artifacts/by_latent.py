"""A dataset read for a few latents at a time, block after block, as `explain` and `score` do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.artifacts.dataset import Dataset, open_shard, unreadable

_NO_LATENT = 2**32


class _Group(NamedTuple):
    """One row group and the latents it may hold."""

    path: Path
    number: int
    first: int
    last: int


class LatentReader:
    """Rows of some latents, asked for again and again.

    Where latents lie is looked up once, in every shard's footer, when rows are first asked for: shards written
    later are not seen. The row groups of the last call are kept, since the next call often begins in the same
    ones; so memory is that of the row groups one call needs.
    """

    def __init__(self, dataset: Dataset, columns: Sequence[str] | None = None) -> None:
        """`columns` must hold `latent`; None: all."""
        assert columns is None or "latent" in columns, columns
        self.dataset = dataset
        self.columns = None if columns is None else list(columns)
        self._groups: list[_Group] | None = None
        self._first = self._last = np.zeros(0, dtype=np.int64)
        self._held: dict[_Group, pa.Table] = {}

    def read(self, latents: Iterable[int]) -> pa.Table:
        """The rows of these latents, in the order of the dataset."""
        wanted = np.unique(np.fromiter(latents, dtype=np.int64))
        if self._groups is None:
            self._groups = [group for path in self.dataset.shards for group in self._groups_of(path)]
            limits = np.array([(group.first, group.last) for group in self._groups], dtype=np.int64)
            self._first, self._last = limits.reshape(-1, 2).T
        needed = [group for group in self._near(wanted) if _may_hold(group, wanted)]
        missing: dict[Path, list[_Group]] = {}
        for group in needed:
            if group not in self._held:
                missing.setdefault(group.path, []).append(group)
        read = {group: table for groups in missing.values() for group, table in self._read(groups)}
        self._held = {group: self._held[group] if group in self._held else read[group] for group in needed}
        parts = [_rows_of(self._held[group], wanted) for group in needed]
        if not parts:
            schema = self.dataset.spec.schema
            return (
                pa.schema([schema.field(c) for c in self.columns]) if self.columns else schema
            ).empty_table()
        return pa.concat_tables(parts)

    def _near(self, wanted: np.ndarray) -> list[_Group]:
        """The groups between the first and the last of the latents: of tens of thousands, those few."""
        if self._groups is None or len(wanted) == 0:
            return []
        near = np.flatnonzero((self._first <= wanted[-1]) & (self._last >= wanted[0]))
        return [self._groups[index] for index in near]

    def _groups_of(self, path: Path) -> list[_Group]:
        file = open_shard(path, self.dataset.spec)
        column = file.schema_arrow.get_field_index("latent")
        groups = []
        for index in range(file.metadata.num_row_groups):
            told = file.metadata.row_group(index).column(column).statistics
            first, last = (told.min, told.max) if told is not None and told.has_min_max else (0, _NO_LATENT)
            groups.append(_Group(path, index, int(first), int(last)))
        return groups

    def _read(self, groups: Sequence[_Group]) -> list[tuple[_Group, pa.Table]]:
        """Some row groups of one shard."""
        path = groups[0].path
        file = open_shard(path, self.dataset.spec)
        try:
            return [
                (g, file.read_row_group(g.number, columns=self.columns, use_threads=False)) for g in groups
            ]
        except (pa.ArrowException, OSError) as error:
            raise unreadable(path, error) from error


def _may_hold(group: _Group, wanted: np.ndarray) -> bool:
    at = int(np.searchsorted(wanted, group.first))
    return at < len(wanted) and bool(wanted[at] <= group.last)


def _rows_of(table: pa.Table, wanted: np.ndarray) -> pa.Table:
    """The rows of these latents in a row group, which is sorted by latent."""
    own = table.column("latent").to_numpy()
    begin = int(np.searchsorted(own, wanted[0], side="left"))
    end = int(np.searchsorted(own, wanted[-1], side="right"))
    table = table.slice(begin, end - begin)
    return table.filter(pc.is_in(table.column("latent"), pa.array(wanted, pa.uint32())))

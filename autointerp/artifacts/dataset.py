"""Sharded Parquet: writing a shard whole or not at all, reading a few latents out of many."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autointerp import storage
from autointerp.artifacts.finding import Limits, holding
from autointerp.artifacts.schemas import DATASETS, DatasetSpec
from autointerp.errors import CorruptArtifactError, UserError

FORMAT_VERSION = "1"
"""Version of the run directory's layout, kept in every shard and manifest."""
_FEW_SHARDS = 16
"""Shards of a folder whose footers are all read to find a latent."""
_MOST_OPEN = 64
"""Files held open at a time, of which the operating system allows some 1,000."""
_ANY = (0, 2**32 - 1)
"""Limits of a row group that says none."""
_SHARDS = "part-*.parquet"


def shard_path(folder: Path, index: int) -> Path:
    """Path of shard `index` of a dataset folder."""
    return folder / f"part-{index:05d}.parquet"


def write_shard(path: Path, table: pa.Table, spec: DatasetSpec) -> None:
    """Write one shard so that it stands under its name whole or not at all.

    The same table gives the same bytes. Raises `UserError` if the folder cannot be written or the
    disk is full; a shard that stands at `path` already is replaced only by a whole one.
    """
    with ShardWriter(path, spec) as writer:
        writer.write(table)


class ShardWriter:
    """Writes one shard in pieces; it appears under its name only when the block ends well.

    On this machine it grows under a hidden name and is renamed, on object storage it is put when it is whole.
    """

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path = path
        self.spec = spec
        self.n_rows = 0
        self._file = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        try:
            with ExitStack() as opened:
                temporary = opened.enter_context(storage.whole_file(self.path))
                self._writer = self._opened(temporary)
                self._file = opened.pop_all()
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return self

    def _opened(self, file: Path) -> pq.ParquetWriter:
        schema = self.spec.schema.with_metadata(
            {"autointerp.dataset": self.spec.name, "autointerp.format": FORMAT_VERSION}
        )
        return pq.ParquetWriter(
            file,
            schema,
            compression=self.spec.compression,
            use_dictionary=not self.spec.encodings,
            column_encoding=dict(self.spec.encodings) or None,
            sorting_columns=[pq.SortingColumn(_leaf_index(schema, name)) for name in self.spec.sorted_by],
        )

    def write(self, table: pa.Table) -> None:
        """Append rows (row groups of the dataset's own size)."""
        assert self._writer is not None
        try:
            table = table.cast(self.spec.schema).replace_schema_metadata(self._writer.schema.metadata)
            self._writer.write_table(table, row_group_size=self.spec.rows_per_group)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.n_rows += table.num_rows

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        failure = value
        try:
            self._writer.close()
        except OSError as error:
            failure = value or error
        try:
            self._file.__exit__(None if failure is None else type(failure), failure, trace)
        except OSError as error:
            failure = value or error
        if value is None and isinstance(failure, OSError):
            raise _unwritable(self.path, failure) from failure


class Dataset:
    """A dataset of a run directory, opened for reading.

    `folder` holds its shards, directly or in sub-folders. Nothing is read before it is asked for.
    """

    def __init__(self, folder: Path, spec: DatasetSpec) -> None:
        self.folder = folder
        self.spec = spec

    @property
    def shards(self) -> list[Path]:
        """Its shard files, in order."""
        return storage.files_below(self.folder, _SHARDS)

    @property
    def n_rows(self) -> int:
        """Number of rows, read from the shards' footers."""
        return sum(open_shard(path, self.spec).metadata.num_rows for path in self.shards)

    def read(self, columns: Sequence[str] | None = None, latents: Iterable[int] | None = None) -> pa.Table:
        """The rows as one table, all of them or those of some latents (only their row groups are read)."""
        batches = list(self.iter_shards(columns=columns, latents=latents))
        if not batches:
            schema = self.spec.schema
            return (pa.schema([schema.field(c) for c in columns]) if columns else schema).empty_table()
        return pa.concat_tables(batches)

    def iter_shards(
        self, columns: Sequence[str] | None = None, latents: Iterable[int] | None = None
    ) -> Iterator[pa.Table]:
        """One table per shard (shards without any of the asked latents are left out)."""
        wanted = None if latents is None else np.array(sorted(set(latents)), dtype=np.int64)
        if wanted is None:
            yield from (read_shard(path, self.spec, columns) for path in self.shards)
            return
        for path, file in self._opened_with(wanted):
            try:
                groups = _groups_with(file, self.spec, wanted)
                if not groups:
                    continue
                read_columns = None if columns is None else list(dict.fromkeys([*columns, "latent"]))
                # One row group is read sooner than a thread is found for each of its columns.
                table = file.read_row_groups(groups, columns=read_columns, use_threads=len(groups) > 1)
            except (pa.ArrowException, OSError) as error:
                raise unreadable(path, error) from error
            table = _rows_of(table, wanted)
            if table.num_rows:
                yield table if columns is None else table.select(list(columns))

    def _opened_with(self, wanted: np.ndarray) -> Iterator[tuple[Path, pq.ParquetFile]]:
        """The shards that may hold one of the latents; of each folder only as many are opened as tell which."""
        for folder, names in storage.names_below(self.folder, _SHARDS):
            files = _Files(folder, names, self.spec)
            every = len(wanted) >= len(names) > _FEW_SHARDS
            found = range(len(names)) if every else holding(len(names), files.limits, wanted, _FEW_SHARDS)
            for index in found:
                yield folder / names[index], files.opened(index)


class _Files:
    """Shards of a folder, opened as they are needed."""

    def __init__(self, folder: Path, names: Sequence[str], spec: DatasetSpec) -> None:
        self.folder, self.names, self.spec = folder, names, spec
        self._held: dict[int, pq.ParquetFile] = {}

    def limits(self, index: int) -> Limits | None:
        """Smallest and largest latent of a shard; None without rows or statistics."""
        file = self.opened(index)
        if len(self._held) < _MOST_OPEN:
            self._held[index] = file
        return _limits(file, self.spec)

    def opened(self, index: int) -> pq.ParquetFile:
        """A shard, no longer held by this object."""
        return self._held.pop(index, None) or open_shard(self.folder / self.names[index], self.spec)


def read_shard(path: Path, spec: DatasetSpec, columns: Sequence[str] | None = None) -> pa.Table:
    """One shard as a table. Raises `CorruptArtifactError` if it cannot be read."""
    try:
        return open_shard(path, spec).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error


class RangeReader:
    """A shard read by ranges of latents, again and again: the limits of its row groups are looked up once.

    Raises `CorruptArtifactError` if it cannot be read.
    """

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path, self.spec = path, spec
        file = open_shard(path, spec)
        limits = [_group_limits(file, spec, group) or _ANY for group in range(file.metadata.num_row_groups)]
        # Not the footer itself: of many shards it would need too much memory.
        self._first, self._last = np.array(limits, dtype=np.uint32).reshape(-1, 2).T

    def read(self, first: int, last: int) -> pa.Table:
        """The row groups that may hold latents [first, last), unfiltered."""
        groups = np.flatnonzero((self._first < last) & (self._last >= first))
        if len(groups) == 0:
            return self.spec.schema.empty_table()
        try:
            return open_shard(self.path, self.spec).read_row_groups(groups.tolist())
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.path, error) from error


def _groups_with(file: pq.ParquetFile, spec: DatasetSpec, wanted: np.ndarray) -> list[int]:
    """Row groups of a shard that may hold one of the latents (ascending)."""
    return holding(file.metadata.num_row_groups, lambda group: _group_limits(file, spec, group), wanted)


def _limits(file: pq.ParquetFile, spec: DatasetSpec) -> Limits | None:
    """Smallest and largest latent of a shard; None without rows or statistics."""
    n = file.metadata.num_row_groups
    first, last = (_group_limits(file, spec, group) for group in (0, n - 1)) if n else (None, None)
    return None if first is None or last is None else (first[0], last[1])


def _group_limits(file: pq.ParquetFile, spec: DatasetSpec, group: int) -> Limits | None:
    """Smallest and largest latent of a row group; None without statistics."""
    column = _leaf_index(spec.schema, "latent")
    told = file.metadata.row_group(group).column(column).statistics
    return None if told is None or not told.has_min_max else (told.min, told.max)


def _rows_of(table: pa.Table, wanted: np.ndarray) -> pa.Table:
    """Those rows that are of one of the latents (ascending)."""
    if table.num_rows == 0:
        return table
    own = table.column("latent")
    limits = pc.min_max(own).as_py()
    # Among a million latents each of a thousand shards would look for a few.
    first, last = np.searchsorted(wanted, [limits["min"], limits["max"] + 1])
    return table.filter(pc.is_in(own, _uint32(wanted[first:last])))


def _uint32(values: np.ndarray) -> pa.Array:
    """Numbers as an Arrow array. (`pa.array` would import pandas, which takes longer than a few latents do.)"""
    return pa.Array.from_buffers(pa.uint32(), len(values), [None, pa.py_buffer(values.astype(np.uint32))])


def check_shard(path: Path, spec: DatasetSpec) -> int:
    """Number of rows of a shard, read from its footer; raises `CorruptArtifactError` if damaged."""
    return int(open_shard(path, spec).metadata.num_rows)


def spec_of(name: str) -> DatasetSpec:
    """The schema of a dataset by name."""
    return DATASETS[name]


def open_shard(path: Path, spec: DatasetSpec) -> pq.ParquetFile:
    """A shard with its footer read. Raises `CorruptArtifactError` if it is damaged or of another schema."""
    try:
        with storage.as_os_error():
            file = pq.ParquetFile(storage.source_of(path), memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from error
    if file.schema_arrow.names != spec.schema.names:
        missing = sorted(set(spec.schema.names) - set(file.schema_arrow.names))
        extra = sorted(set(file.schema_arrow.names) - set(spec.schema.names))
        raise CorruptArtifactError(
            f"{path}: not a shard of {spec.name!r} of this version (missing columns {missing}, unknown {extra}); "
            "remove it and run its stage again"
        )
    return file


def _leaf_index(schema: pa.Schema, name: str) -> int:
    """Index of a flat column among the Parquet leaves (the sort columns come before nested ones)."""
    index = schema.get_field_index(name)
    assert not any(pa.types.is_nested(schema.field(i).type) for i in range(index)), name
    return int(index)


def unreadable(path: Path, error: BaseException) -> UserError:
    """What to tell the user of a shard that PyArrow or the file system could not read."""
    text = " ".join(str(error).split())
    refused = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
    if refused or isinstance(error, (PermissionError, TimeoutError, ConnectionError)):
        return UserError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or text}; mend that and run again"
        )
    if not isinstance(error, pa.ArrowException) and storage.is_remote(path):
        return UserError(f"{path}: cannot be read: {text}; run the same command again to go on")
    return CorruptArtifactError(
        f"{path}: damaged or truncated ({text}); remove this file and run its stage again: only this "
        "shard is computed anew"
    )


def _unwritable(path: Path, error: OSError) -> UserError:
    mend = "mend that" if storage.is_remote(path) else "free space or mend the permissions"
    return UserError(
        f"{path}: cannot be written: {error.strerror or storage.said(error)}; nothing already written is lost: "
        f"{mend}, and run the same command again"
    )

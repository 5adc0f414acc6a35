"""Sharded Parquet: writing a shard whole or not at all, reading a few latents out of many."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from autointerp.artifacts.schemas import DATASETS, DatasetSpec
from autointerp.errors import CorruptArtifactError, UserError

FORMAT_VERSION = "1"
"""Version of the run directory's layout, kept in every shard and manifest."""


def shard_path(folder: Path, index: int) -> Path:
    """Path of shard `index` of a dataset folder."""
    return folder / f"part-{index:05d}.parquet"


def write_shard(path: Path, table: pa.Table, spec: DatasetSpec) -> None:
    """Write one shard under a temporary name and rename it when it is whole.

    The same table gives the same bytes. Raises `UserError` if the folder cannot be written or the
    disk is full; a shard that stands at `path` already is replaced only by a whole one.
    """
    with ShardWriter(path, spec) as writer:
        writer.write(table)


class ShardWriter:
    """Writes one shard in pieces; it appears under its name only when the block ends well."""

    def __init__(self, path: Path, spec: DatasetSpec) -> None:
        self.path = path
        self.spec = spec
        self.n_rows = 0
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            schema = self.spec.schema.with_metadata(
                {"autointerp.dataset": self.spec.name, "autointerp.format": FORMAT_VERSION}
            )
            self._writer = pq.ParquetWriter(
                self._temporary,
                schema,
                compression=self.spec.compression,
                use_dictionary=not self.spec.encodings,
                column_encoding=dict(self.spec.encodings) or None,
                sorting_columns=[pq.SortingColumn(_leaf_index(schema, name)) for name in self.spec.sorted_by],
            )
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows (row groups of the dataset's own size)."""
        assert self._writer is not None
        try:
            table = table.cast(self.spec.schema).replace_schema_metadata(self._writer.schema.metadata)
            self._writer.write_table(table, row_group_size=self.spec.rows_per_group)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self.n_rows += table.num_rows

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        assert self._writer is not None
        try:
            self._writer.close()
            if kind is None:
                with open(self._temporary, "rb") as handle:
                    os.fsync(handle.fileno())
                os.replace(self._temporary, self.path)
        except OSError as error:
            if kind is None:
                raise _unwritable(self.path, error) from error
        finally:
            self._temporary.unlink(missing_ok=True)


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
        return sorted(p for p in self.folder.rglob("part-*.parquet") if not p.name.startswith("."))

    @property
    def n_rows(self) -> int:
        """Number of rows, read from the shards' footers."""
        return sum(_open(path, self.spec).metadata.num_rows for path in self.shards)

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
        wanted = None if latents is None else np.unique(np.fromiter(latents, dtype=np.int64))
        for path in self.shards:
            if wanted is None:
                yield read_shard(path, self.spec, columns)
                continue
            file = _open(path, self.spec)
            try:
                groups = _groups_with(file, wanted)
                if not groups:
                    continue
                read_columns = None if columns is None else list(dict.fromkeys([*columns, "latent"]))
                table = file.read_row_groups(groups, columns=read_columns)
            except (pa.ArrowException, OSError) as error:
                raise _corrupt(path, error) from error
            table = table.filter(pc.is_in(table.column("latent"), pa.array(wanted, pa.uint32())))
            if table.num_rows:
                yield table if columns is None else table.select(list(columns))


def read_shard(path: Path, spec: DatasetSpec, columns: Sequence[str] | None = None) -> pa.Table:
    """One shard as a table. Raises `CorruptArtifactError` if it cannot be read."""
    try:
        return _open(path, spec).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(path, error) from error


def read_row_groups_with(path: Path, spec: DatasetSpec, first: int, last: int) -> pa.Table:
    """The row groups of a shard that may hold latents [first, last), unfiltered."""
    file = _open(path, spec)
    try:
        return file.read_row_groups(_groups_with(file, np.arange(first, last)))
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(path, error) from error


def _groups_with(file: pq.ParquetFile, wanted: np.ndarray) -> list[int]:
    column = file.schema_arrow.get_field_index("latent")
    groups = []
    for group in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(group).column(column).statistics
        if statistics is None or not statistics.has_min_max:
            groups.append(group)
            continue
        first = np.searchsorted(wanted, statistics.min)
        if first < len(wanted) and wanted[first] <= statistics.max:
            groups.append(group)
    return groups


def check_shard(path: Path, spec: DatasetSpec) -> int:
    """Number of rows of a shard, read from its footer; raises `CorruptArtifactError` if damaged."""
    return int(_open(path, spec).metadata.num_rows)


def spec_of(name: str) -> DatasetSpec:
    """The schema of a dataset by name."""
    return DATASETS[name]


def _open(path: Path, spec: DatasetSpec) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowException, OSError) as error:
        raise _corrupt(path, error) from error
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


def _corrupt(path: Path, error: BaseException) -> CorruptArtifactError:
    text = " ".join(str(error).split())
    return CorruptArtifactError(
        f"{path}: damaged or truncated ({text}); remove this file and run its stage again: only this "
        "shard is computed anew"
    )


def _unwritable(path: Path, error: OSError) -> UserError:
    text = error.strerror or " ".join(str(error).split())
    return UserError(
        f"{path}: cannot be written: {text}; nothing already written is lost: free space or mend the "
        "permissions, and run the same command again"
    )

"""What describes a dataset, and the columns and types that several datasets share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One dataset: its name, what a row is, its columns, and how its shards are laid out."""

    name: str
    row: str
    """What one row is, in a phrase."""
    schema: pa.Schema
    sorted_by: tuple[str, ...]
    """Columns every shard is sorted by; shards follow one another in that order."""
    rows_per_group: int
    """Rows per Parquet row group: the least a reader of a few latents has to read."""
    folders: str = ""
    """Folders below the dataset's own, as in `SCORER/EXPLAINER`; empty where shards lie directly."""
    compression: str = "zstd"
    encodings: Mapping[str, str] = field(default_factory=dict)
    """Parquet encodings of numeric columns, all of them or none; by default dictionaries, as for text."""


def column(name: str, kind: pa.DataType, description: str, nullable: bool = False) -> pa.Field:
    """A column with its description, which the reference page shows."""
    return pa.field(name, kind, nullable=nullable, metadata={"description": description})


F32_LIST = pa.list_(pa.field("item", pa.float32(), nullable=True))
TOKENS = pa.list_(pa.field("item", pa.uint32(), nullable=False))
LATENT = column("latent", pa.uint32(), "Index of the latent in its dictionary.")

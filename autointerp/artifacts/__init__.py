"""The files of a run directory: schemas, sharded Parquet, manifests. The only code that knows Parquet."""

from autointerp.artifacts.dataset import Dataset, ShardWriter, write_shard
from autointerp.artifacts.manifest import Manifest
from autointerp.artifacts.rundir import RunDirectory
from autointerp.artifacts.schemas import DATASETS, DatasetSpec

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSpec",
    "Manifest",
    "RunDirectory",
    "ShardWriter",
    "write_shard",
]

"""A run read again and again, a few latents at a time: which files hold them is looked up once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from autointerp.artifacts import DATASETS
from autointerp.artifacts.dataset import Dataset
from autointerp.artifacts.schemas import DatasetSpec
from autointerp.run import Run
from autointerp.storage import source_of


class ServedRun(Run):
    """A run whose tables of some latents open only the shards that hold them.

    Shards written after a dataset was first asked for are not seen.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._ranges: dict[str, list[tuple[Path, int, int]]] = {}

    def table(
        self, dataset: str, *, columns: Sequence[str] | None = None, latents: Iterable[int] | None = None
    ) -> pa.Table:
        """As `Run.table`."""
        if latents is None or dataset not in DATASETS or "latent" not in DATASETS[dataset].schema.names:
            return super().table(dataset, columns=columns, latents=latents)
        if dataset not in self._ranges:
            self._ranges[dataset] = list(_ranges(self.directory.dataset(dataset)))
        wanted = sorted(latents)
        low, high = (wanted[0], wanted[-1]) if wanted else (1, 0)
        near = [path for path, first, last in self._ranges[dataset] if first <= high and last >= low]
        return _Shards(self.directory.folder(dataset), DATASETS[dataset], near).read(columns, wanted)


class _Shards(Dataset):
    """Some shards of a dataset."""

    def __init__(self, folder: Path, spec: DatasetSpec, shards: list[Path]) -> None:
        super().__init__(folder, spec)
        self._some = shards

    @property
    def shards(self) -> list[Path]:
        return self._some


def _ranges(dataset: Dataset) -> Iterable[tuple[Path, int, int]]:
    """Each shard with its smallest and largest latent; those of unknown range hold any."""
    column = dataset.spec.schema.names.index("latent")
    for path in dataset.shards:
        footer = pq.read_metadata(source_of(path))
        groups = [footer.row_group(i).column(column).statistics for i in range(footer.num_row_groups)]
        if all(s is not None and s.has_min_max for s in groups):
            if groups:
                yield path, min(s.min for s in groups), max(s.max for s in groups)
        else:
            yield path, 0, 2**63

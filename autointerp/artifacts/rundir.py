"""A run directory: where things lie, who may write, and which steps are finished."""

from __future__ import annotations

from pathlib import Path

from autointerp import storage
from autointerp.artifacts.dataset import Dataset, shard_path
from autointerp.artifacts.lock import Lock, take
from autointerp.artifacts.manifest import Manifest, read_manifest
from autointerp.artifacts.schemas import DATASETS
from autointerp.errors import unknown_name


class RunDirectory:
    """Paths, datasets and manifests of `runs/NAME/`, or of a URL on object storage as `s3://bucket/NAME`.

    Layout: `run.toml`, `manifests/STEP.json`, `replies.sqlite`, `report/`, `scratch/` (safe to
    remove when nothing runs) and one folder per dataset. Opened as part i of n, it is that of one of n
    workers that share the shards among them.
    """

    def __init__(self, root: str | Path, part: tuple[int, int] = (0, 1)) -> None:
        self.root = storage.place(root)
        self.part = part

    def takes(self, index: int) -> bool:
        """Whether shard `index` is this worker's to compute."""
        return index % self.part[1] == self.part[0]

    @property
    def scratch(self) -> Path:
        """Folder of intermediate files that every worker sees."""
        return self.root / "scratch"

    @property
    def local_scratch(self) -> Path:
        """Folder of intermediate files on this machine: `scratch`, unless the run lies on object storage."""
        return storage.local_beside(self.root) / "scratch"

    def folder(self, dataset: str, *parts: str) -> Path:
        """Folder of a dataset, or of one part of it (as `explanations`, `default`)."""
        if dataset not in DATASETS:
            raise unknown_name("dataset", dataset, DATASETS)
        return self.root.joinpath(dataset, *parts)

    def shard(self, dataset: str, *parts: str, index: int) -> Path:
        """Path of one shard."""
        return shard_path(self.folder(dataset, *parts), index)

    def dataset(self, dataset: str, *parts: str) -> Dataset:
        """A dataset, or one part of it, for reading."""
        return Dataset(self.folder(dataset, *parts), DATASETS[dataset])

    def manifest(self, step: str) -> Manifest | None:
        """The manifest of a step; None if it never started."""
        return read_manifest(self.root, step)

    def steps(self) -> list[str]:
        """Steps that have a manifest, sorted."""
        steps = []
        for name in sorted(path.stem for path in self.manifest_files()):
            manifest = read_manifest(self.root, name)
            if manifest is not None:
                steps.append(manifest.step)
        return steps

    def manifest_files(self) -> list[Path]:
        """The files of all manifests."""
        return storage.files_below(self.root / "manifests", "*.json")

    def is_complete(self, step: str) -> bool:
        """Whether a step is finished and all its shards are there."""
        manifest = self.manifest(step)
        return manifest is not None and manifest.status == "complete" and not self.missing_shards(manifest)

    def missing_shards(self, manifest: Manifest) -> list[Path]:
        """Shards a finished step wrote that are no longer there."""
        missing = []
        for folder, n_shards in manifest.n_shards.items():
            there = set(storage.files_below(self.root / folder, "part-*.parquet"))
            shards = (shard_path(self.root / folder, index) for index in range(n_shards))
            missing += [path for path in shards if path not in there]
        return missing

    def lock(self) -> Lock:
        """Take the right to write, until the returned lock is released or the process ends.

        Raises `UserError` if the directory cannot be written or another process holds it; see
        `autointerp.artifacts.lock`.
        """
        return take(self.root)

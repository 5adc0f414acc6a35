"""The cache stage with `[cache.reservoir]`: a bounded sample of each latent's contexts, on disk.

Each shard of contexts leaves those activations that may still belong to the sample, its exact tallies,
and counts of all its activations by value (see `autointerp.stages.histogram`). When the rows left since
have outgrown the sample, everything is chosen anew, range of latents by range of latents, into one
folder that replaces what it was made from: disk and memory are set by the number of latents, not of
tokens. A killed run goes on from the last such folder and the shards after it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.dataset import Dataset, RangeReader, check_shard, read_shard, shard_path
from autointerp.artifacts.schemas import DatasetSpec
from autointerp.artifacts.transpose import INTERMEDIATE, by_latent, count_by_latent, gather_each, plan_ranges
from autointerp.config import CacheConfig, ReservoirConfig
from autointerp.sampling.reservoir import LAST_PRIORITY, Bounds, Groups, choose, priorities
from autointerp.stages.histogram import HISTOGRAM, counted, put_together, quantiles

if TYPE_CHECKING:
    from autointerp.subject.statistics import StatusRule

ROWS_BEFORE_CHOOSING = 50_000_000
"""Rows left by shards before a new choice is worth its work, at least."""

TALLIES = DatasetSpec(
    name="tallies",
    row="one latent's exact counts over some contexts",
    sorted_by=("latent",),
    rows_per_group=131_072,
    schema=pa.schema(
        [
            pa.field("latent", pa.uint32(), nullable=False),
            pa.field("n_tokens", pa.int64(), nullable=False),
            pa.field("n_train", pa.int64(), nullable=False),
            pa.field("n_test", pa.int64(), nullable=False),
            pa.field("total", pa.float64(), nullable=False),
            pa.field("largest", pa.float32(), nullable=False),
        ]
    ),
)


@dataclass(frozen=True, kw_only=True)
class Tallies:
    """Exact counts over all contexts read, whatever is kept of them; arrays over latents."""

    n_tokens: NDArray[np.int64]
    n_contexts: NDArray[np.int64]
    """By side (train, test), [n_latents, 2]."""
    total: NDArray[np.float64]
    largest: NDArray[np.float32]

    @classmethod
    def zero(cls, n_latents: int) -> Tallies:
        """Nothing counted."""
        return cls(
            n_tokens=np.zeros(n_latents, np.int64),
            n_contexts=np.zeros((n_latents, 2), np.int64),
            total=np.zeros(n_latents),
            largest=np.zeros(n_latents, np.float32),
        )

    def count(self, groups: Groups) -> None:
        """Count some contexts in; in the order of `groups`, so that sums come out the same again."""
        n = len(self.n_tokens)
        self.n_tokens[:] += np.bincount(groups.latent, weights=groups.size, minlength=n).astype(np.int64)
        self.total[:] += np.bincount(groups.latent, weights=groups.total, minlength=n)
        sides = np.bincount(groups.latent * 2 + groups.side, minlength=2 * n)
        self.n_contexts[:] += sides.reshape(n, 2)
        np.maximum.at(self.largest, groups.latent, groups.peak)

    def table(self) -> pa.Table:
        """As rows of `TALLIES`, latents that were never active left out."""
        alive = np.flatnonzero(self.n_tokens)
        return pa.table(
            {
                "latent": alive.astype(np.uint32),
                "n_tokens": self.n_tokens[alive],
                "n_train": self.n_contexts[alive, 0],
                "n_test": self.n_contexts[alive, 1],
                "total": self.total[alive],
                "largest": self.largest[alive],
            }
        )

    def add(self, table: pa.Table) -> None:
        """Count rows of `TALLIES` in."""
        column = {name: table.column(name).to_numpy() for name in TALLIES.schema.names}
        latent = column["latent"].astype(np.int64)
        self.n_tokens[latent] += column["n_tokens"]
        self.n_contexts[latent] += np.stack([column["n_train"], column["n_test"]], axis=1)
        self.total[latent] += column["total"]
        self.largest[latent] = np.maximum(self.largest[latent], column["largest"])


class Everything:
    """Without a reservoir: every activation is kept."""

    def __init__(self, folder: Path, n_latents: int) -> None:
        self.folder, self.n_latents = folder, n_latents

    def holds(self, index: int) -> bool:
        """Whether shard `index` is there; raises `CorruptArtifactError` if it is damaged."""
        path = shard_path(self.folder, index)
        return path.exists() and check_shard(path, INTERMEDIATE) >= 0

    def skip(self, index: int, first_context: int, is_test: NDArray[np.bool_]) -> None:
        """Nothing is to be remembered of a shard that is there."""

    def add(
        self, index: int, columns: dict[str, NDArray[Any]], first_context: int, is_test: NDArray[np.bool_]
    ) -> None:
        """Write shard `index` from activations in (context, position) order."""
        write_shard(shard_path(self.folder, index), by_latent(columns), INTERMEDIATE)

    def choose(self, n_covered: int) -> None:
        """There is nothing to choose."""

    @property
    def shards(self) -> list[Path]:
        """All shards."""
        return Dataset(self.folder, INTERMEDIATE).shards

    @cached_property
    def n_tokens(self) -> NDArray[np.int64]:
        """Activations of each latent, [n_latents]; asked when all shards are there."""
        return count_by_latent(self.shards, self.n_latents)


class _Rows(NamedTuple):
    """Numbers of rows on disk."""

    activations: int = 0
    bins: int = 0

    def plus(self, other: _Rows) -> _Rows:
        return _Rows(self.activations + other.activations, self.bins + other.bins)

    def outgrow(self, kept: _Rows) -> bool:
        """Whether these are so many that choosing anew is worth its work."""
        return any(n > max(2 * k, ROWS_BEFORE_CHOOSING) for n, k in zip(self, kept, strict=True))


class Reservoir:
    """What is kept so far, in `folder`, and what a shard must reach to be kept."""

    def __init__(self, folder: Path, cache: CacheConfig, seed: int, n_latents: int, n_contexts: int) -> None:
        assert cache.reservoir is not None
        self.folder, self.n_latents = folder, n_latents
        self.config: ReservoirConfig = cache.reservoir
        self.rows_per_range = cache.rows_per_shard
        self.priority = priorities(seed, n_contexts)
        self.is_test = np.zeros(n_contexts, dtype=bool)
        self.bounds, self.tallies = Bounds.open(n_latents), Tallies.zero(n_latents)
        self.n_covered = 0
        """Shards of contexts whose activations are in the last choice."""
        self._left, self._kept = _Rows(), _Rows()
        """On disk: left by shards since the last choice, and in that choice."""
        self._resume()

    def holds(self, index: int) -> bool:
        """Whether shard `index` of the contexts is in the last choice, or has left its own shard."""
        if index < self.n_covered:
            return True
        if not all(path.exists() for path in self._files(index)):
            return False
        self._rows_of(index)
        return True

    def skip(self, index: int, first_context: int, is_test: NDArray[np.bool_]) -> None:
        """Take up shard `index`, which an earlier session left."""
        self.is_test[first_context : first_context + len(is_test)] = is_test
        if index >= self.n_covered:
            self.tallies.add(read_shard(self._tally_path(index), TALLIES))
            self._left = self._left.plus(self._rows_of(index))

    def add(
        self,
        index: int,
        columns: dict[str, NDArray[Any]],
        first_context: int,
        is_test: NDArray[np.bool_],
    ) -> None:
        """Count the activations of shard `index`, in (context, position) order; keep what may belong."""
        self.is_test[first_context : first_context + len(is_test)] = is_test
        table = by_latent(columns)
        groups = self._groups(table)
        tallies = Tallies.zero(self.n_latents)
        tallies.count(groups)
        tallied = tallies.table()
        histogram = counted(table.column("latent").to_numpy(), table.column("activation").to_numpy())
        kept = table.filter(pa.array(groups.rows(self.bounds.admit(groups, self.priority))))
        write_shard(self._tally_path(index), tallied, TALLIES)
        write_shard(self._histogram_path(index), histogram, HISTOGRAM)
        write_shard(shard_path(self.folder, index), kept, INTERMEDIATE)
        self.tallies.add(tallied)
        self._left = self._left.plus(_Rows(kept.num_rows, histogram.num_rows))
        if self._left.outgrow(self._kept):
            self.choose(index + 1)

    def choose(self, n_covered: int) -> None:
        """Choose among all that is held; the first `n_covered` shards of contexts are in it then."""
        since = range(self.n_covered, n_covered)
        if len(since) == 0:
            return
        shards = [*self.shards, *(shard_path(self.folder, index) for index in since)]
        target = self._chosen(n_covered)
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        counts = count_by_latent(shards, self.n_latents)
        ranges = plan_ranges(counts, self.rows_per_range)
        n_kept = 0
        for index, table in enumerate(gather_each(shards, ranges, counts)):
            groups = self._groups(table)
            chosen = choose(
                groups,
                self.priority,
                n_random=self.config.n_random,
                n_top=self.config.n_top,
                bounds=self.bounds,
            )
            kept = table.filter(pa.array(groups.rows(chosen)))
            write_shard(shard_path(partial, index), kept, INTERMEDIATE)
            n_kept += kept.num_rows
        histograms = [*self.histograms, *(self._histogram_path(index) for index in since)]
        n_bins = put_together(
            histograms, self.n_latents, lambda index: partial / f"histogram-{index:05d}.parquet"
        )
        write_shard(partial / "tallies.parquet", self.tallies.table(), TALLIES)
        np.save(partial / "priority.npy", self.bounds.priority, allow_pickle=False)
        np.save(partial / "peak.npy", self.bounds.peak, allow_pickle=False)
        partial.rename(target)
        self.n_covered = n_covered
        self._left, self._kept = _Rows(), _Rows(n_kept, n_bins)
        self._remove_what_is_covered()

    @property
    def shards(self) -> list[Path]:
        """Shards of the last choice."""
        return Dataset(self._chosen(self.n_covered), INTERMEDIATE).shards if self.n_covered else []

    @property
    def n_tokens(self) -> NDArray[np.int64]:
        """Activations of each latent, all of them, [n_latents]."""
        return self.tallies.n_tokens

    @property
    def known_through(self) -> NDArray[np.uint64]:
        """Last priority up to which every context is known, [n_latents, 2] by side."""
        everything = self.tallies.n_contexts <= self.config.n_random
        return np.where(everything, LAST_PRIORITY, self.bounds.priority)

    def sample(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which rows of a table in latent order belong to the uniform sample."""
        groups = self._groups(table)
        known = self.known_through[groups.latent, groups.side]
        return groups.rows(self.priority[groups.context] <= known)

    def exact(
        self, sampled: dict[str, pa.Array], first: int, last: int, n_positions: int, rule: StatusRule
    ) -> dict[str, pa.Array]:
        """Columns of `latents` by exact tallies, in place of those measured on the sample.

        Quantiles are within 1/128 (see `autointerp.stages.histogram`); the largest, and those of a latent whose every
        context is in the sample, are exact. Counts and sums of `top_tokens` are scaled up from the sample.
        """
        from autointerp.subject.statistics import lists_of

        chosen = slice(first, last)
        n, contexts = self.tallies.n_tokens[chosen], self.tallies.n_contexts[chosen]
        alive, density = n > 0, n / max(n_positions, 1)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (self.tallies.total[chosen] / n).astype(np.float32)
        deciles = quantiles(self._histogram_readers, first, last)
        # Every latent that was ever active has a sample: the quantiles of both are there for the same latents.
        whole = contexts.max(axis=1) <= self.config.n_random
        of_sample = sampled["quantiles"].flatten().to_numpy().reshape(-1, deciles.shape[1])
        deciles[alive & whole] = of_sample[whole[alive]]
        largest = self.tallies.largest[chosen]
        deciles = np.minimum(deciles, largest[:, None])
        deciles[:, -1] = largest
        return {
            "n_active_tokens": pa.array(n.astype(np.uint64)),
            "n_active_contexts": pa.array(contexts.sum(axis=1).astype(np.uint64)),
            "density": pa.array(density),
            "max_activation": pa.array(largest, mask=~alive),
            "mean_activation": pa.array(mean, mask=~alive),
            "quantiles": lists_of(deciles, alive),
            "top_tokens": _scaled(
                sampled["top_tokens"], contexts[:, 0] / np.clip(contexts[:, 0], 1, self.config.n_random)
            ),
            "status": rule.status(n, contexts[:, 0], contexts[:, 1], density),
        }

    def write(self, run: RunDirectory, index: int, table: pa.Table, first: int, last: int) -> None:
        """Shard `index` of the dataset `reservoir`, from the activations of latents [first, last)."""
        groups = self._groups(table)
        at = (groups.latent - first) * 2 + groups.side
        n = 2 * (last - first)
        known = self.known_through[first:last].reshape(-1)
        drawn = self.priority[groups.context] <= known[at]
        columns = {
            "latent": np.repeat(np.arange(first, last, dtype=np.uint32), 2),
            "split": pa.array(["train", "test"] * (last - first)),
            "n_contexts": self.tallies.n_contexts[first:last].reshape(-1).astype(np.uint64),
            "n_random": np.bincount(at[drawn], minlength=n).astype(np.uint64),
            "n_kept": np.bincount(at, minlength=n).astype(np.uint64),
            "known_through": pa.array(known, mask=known == LAST_PRIORITY),
        }
        write_shard(run.shard("reservoir", index=index), pa.table(columns), DATASETS["reservoir"])

    def _groups(self, table: pa.Table) -> Groups:
        latent, context, activation = (
            table.column(name).to_numpy() for name in ("latent", "context", "activation")
        )
        return Groups.of(latent, context, activation, self.is_test)

    def _resume(self) -> None:
        found = [int(p.name.removeprefix("chosen-")) for p in self.folder.glob("chosen-?????") if p.is_dir()]
        if not found:
            return
        self.n_covered = max(found)
        folder = self._chosen(self.n_covered)
        self.bounds = replace(
            self.bounds,
            priority=np.load(folder / "priority.npy", allow_pickle=False),
            peak=np.load(folder / "peak.npy", allow_pickle=False),
        )
        self.tallies.add(read_shard(folder / "tallies.parquet", TALLIES))
        self._kept = _Rows(
            sum(check_shard(path, INTERMEDIATE) for path in self.shards),
            sum(check_shard(path, HISTOGRAM) for path in self.histograms),
        )
        self._remove_what_is_covered()

    def _remove_what_is_covered(self) -> None:
        for folder in self.folder.glob("chosen-*"):
            if folder != self._chosen(self.n_covered):
                shutil.rmtree(folder, ignore_errors=True)
        for index in range(self.n_covered):
            for path in self._files(index):
                path.unlink(missing_ok=True)

    @property
    def histograms(self) -> list[Path]:
        """Counts by value of the last choice."""
        return sorted(self._chosen(self.n_covered).glob("histogram-*.parquet")) if self.n_covered else []

    @cached_property
    def _histogram_readers(self) -> list[RangeReader]:
        """Asked when all shards are in the last choice."""
        return [RangeReader(path, HISTOGRAM) for path in self.histograms]

    def _files(self, index: int) -> tuple[Path, ...]:
        """What shard `index` of the contexts leaves."""
        return self._tally_path(index), self._histogram_path(index), shard_path(self.folder, index)

    def _rows_of(self, index: int) -> _Rows:
        """Raises `CorruptArtifactError` if a file that shard `index` left is damaged."""
        return _Rows(
            check_shard(shard_path(self.folder, index), INTERMEDIATE),
            check_shard(self._histogram_path(index), HISTOGRAM),
        )

    def _chosen(self, n_covered: int) -> Path:
        return self.folder / f"chosen-{n_covered:05d}"

    def _tally_path(self, index: int) -> Path:
        return self.folder / f"tallies-{index:05d}.parquet"

    def _histogram_path(self, index: int) -> Path:
        return self.folder / f"histogram-{index:05d}.parquet"


def _scaled(top_tokens: pa.ListArray, factor: NDArray[np.float64]) -> pa.ListArray:
    """Lists as of `latents.top_tokens`, their counts and totals multiplied by each latent's factor."""
    sizes = np.diff(top_tokens.offsets.to_numpy())
    each = np.repeat(np.maximum(factor, 1.0), sizes)
    values = top_tokens.flatten()
    struct = pa.StructArray.from_arrays(
        [
            values.field("token"),
            pa.array(np.rint(values.field("n_active").to_numpy() * each).astype(np.uint64)),
            pa.array(values.field("total").to_numpy() * each),
            values.field("max"),
        ],
        names=["token", "n_active", "total", "max"],
    )
    return pa.ListArray.from_arrays(top_tokens.offsets, struct)

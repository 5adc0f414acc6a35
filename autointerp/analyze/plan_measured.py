"""What a finished run tells of one to come: bytes per row, rows per second, how often latents fire."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from autointerp import storage
from autointerp.artifacts import DATASETS, RunDirectory
from autointerp.artifacts.dataset import read_shard
from autointerp.artifacts.manifest import Manifest
from autointerp.config import ReservoirConfig, SampleConfig
from autointerp.llm.replies import StoredReplies
from autointerp.sampling.reservoir import Groups

_ROWS_LOOKED_AT = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Firing:
    """How often the latents of a run that are alive fire; each stands for equally many of another dictionary."""

    density: NDArray[np.float64]
    """Active tokens over unmasked positions, [n]."""
    per_context: NDArray[np.float64]
    """Active tokens per context in which it is active, [n]."""
    n_latents: int
    """Latents of the dictionary, dead ones too."""
    gap: float
    """Contexts of the run over contexts of a latent whose activations are in `activations`, on average."""
    where: str

    def contexts(
        self, n_positions: float, n_contexts: float, n_latents: int, l0: float
    ) -> NDArray[np.float64]:
        """Expected contexts in which each is active, [n], in a dictionary of `n_latents` with `l0` active per token.

        The shape of the distribution is taken over; its mean is made that of the other dictionary.
        """
        here = float(self.density.sum())
        density = np.minimum(self.density * (l0 / here) * (self.n_latents / n_latents), 1.0)
        return np.minimum(density * n_positions / self.per_context, n_contexts)

    def kept(
        self,
        contexts: NDArray[np.float64],
        test_fraction: float,
        reservoir: ReservoirConfig,
        n_latents: int,
        strongest: float = 1.0,
    ) -> float:
        """Activations that `[cache.reservoir]` keeps, over all latents.

        `strongest`: active tokens of a latent's strongest contexts, over those of any.
        """
        rows = np.zeros(len(contexts))
        for share in (1 - test_fraction, test_fraction):
            here = contexts * share
            # A context among the strongest is in the uniform sample as well with this chance.
            both = np.minimum(reservoir.n_random / np.maximum(here, 1e-9), 1.0)
            random = np.minimum(here, reservoir.n_random)
            top = np.minimum(here - random, reservoir.n_top * (1 - both))
            rows += (random + top * strongest) * self.per_context
        return float(rows.sum()) * n_latents / self.n_latents

    def windows(
        self, contexts: NDArray[np.float64], test_fraction: float, sample: SampleConfig, n_latents: int
    ) -> float:
        """Windows that `sample` draws, over all latents: activating ones one per context at most."""
        silent = (
            sample.n_train_random + sample.n_train_similar + sample.n_train_neighbour + sample.n_test_random
            + sample.n_test_similar + sample.n_test_neighbour + sample.n_test_unread
        )  # fmt: skip
        train = np.minimum(contexts * (1 - test_fraction), sample.n_train)
        test = np.minimum(contexts * test_fraction, sample.n_test)
        return float((train + test + silent).sum()) * n_latents / self.n_latents


class Measured:
    """A run directory whose stages `cache` and perhaps more are finished."""

    def __init__(self, run: RunDirectory, name: str) -> None:
        self.run, self.name = run, name

    @cached_property
    def cache(self) -> Manifest | None:
        """The manifest of a finished `cache`."""
        return self._finished("cache")

    @cached_property
    def sample(self) -> Manifest | None:
        """The manifest of a finished `sample`."""
        return self._finished("sample")

    @property
    def cache_tokens_per_second(self) -> float | None:
        """Tokens over the seconds of the stage, both halves."""
        cache = self.cache
        if cache is None or not cache.seconds or not cache.counts.get("n_tokens"):
            return None
        return float(cache.counts["n_tokens"] / cache.seconds)

    @property
    def sampled_rows_per_second(self) -> float | None:
        """Windows over the seconds of the stage."""
        sample = self.sample
        if sample is None or not sample.seconds or not sample.n_rows.get("examples"):
            return None
        return float(sample.n_rows["examples"] / sample.seconds)

    @property
    def n_latents(self) -> int | None:
        """Latents of the dictionary."""
        if self.cache is None or "latents" not in self.cache.n_rows:
            return None
        return int(self.cache.n_rows["latents"])

    @cached_property
    def n_alive(self) -> int | None:
        """Of them, those that are not dead."""
        if self.cache is None:
            return None
        by_status = self.cache.counts.get("latents_by_status", {})
        return int(sum(n for status, n in by_status.items() if status != "dead"))

    @cached_property
    def firing(self) -> Firing | None:
        """How often its latents fire."""
        if self.cache is None or self.n_latents is None:
            return None
        columns = ["n_active_tokens", "n_active_contexts", "density"]
        table = self.run.dataset("latents").read(columns=columns)
        tokens, contexts, density = (table.column(name).to_numpy().astype(np.float64) for name in columns)
        alive = tokens > 0
        if not alive.any() or "contexts" not in self.cache.n_rows:
            return None
        return Firing(
            density=density[alive],
            per_context=tokens[alive] / contexts[alive],
            n_latents=self.n_latents,
            gap=self.cache.n_rows["contexts"] * int(alive.sum()) / self._n_contexts_kept(contexts),
            where=self.name,
        )

    def _n_contexts_kept(self, contexts: NDArray[np.float64]) -> float:
        reservoir = self.run.dataset("reservoir")
        if not reservoir.shards:
            return float(contexts.sum())
        return float(reservoir.read(columns=["n_kept"]).column("n_kept").to_numpy().sum())

    def strongest(self, n_top: int) -> float | None:
        """Active tokens of a latent's `n_top` strongest contexts of either split, over those of any, on average.

        By the latents of the first shard that have many times as many; None where that is not to be seen.
        """
        shards = self.run.dataset("activations").shards
        if not shards or n_top == 0 or self.run.dataset("reservoir").shards:
            return None
        table = read_shard(shards[0], DATASETS["activations"], ["latent", "context", "activation"])
        columns = [column.to_numpy() for column in table.slice(0, _ROWS_LOOKED_AT).columns]
        latents, contexts, activations = columns
        no_split = np.zeros(int(contexts.max(initial=0)) + 1, dtype=bool)
        groups = Groups.of(latents, contexts, activations, no_split)
        order = np.lexsort((-groups.peak, groups.latent))
        latent, size = groups.latent[order], groups.size[order].astype(np.float64)
        begins = np.flatnonzero(np.diff(latent, prepend=-1))
        n = np.diff(np.r_[begins, len(latent)])
        rank = np.arange(len(latent)) - np.repeat(begins, n)
        n_strong = 2 * n_top
        many = n >= 2 * n_strong
        if not many.any():
            return None
        strong = np.add.reduceat(np.where(rank < n_strong, size, 0.0), begins) / n_strong
        ratio: NDArray[np.float64] = strong / (np.add.reduceat(size, begins) / n)
        return float(ratio[many].mean())

    def bytes_of(self, dataset: str, *parts: str) -> int:
        """Bytes on disk of a dataset or a part of it."""
        return sum(path.stat().st_size for path in self.run.dataset(dataset, *parts).shards)

    def bytes_per_row(self, dataset: str, *parts: str) -> float | None:
        """Bytes on disk per row; None where there are no rows."""
        n_rows = self.run.dataset(dataset, *parts).n_rows
        return self.bytes_of(dataset, *parts) / n_rows if n_rows else None

    @cached_property
    def bytes_per_reply(self) -> float | None:
        """Bytes of the reply store per reply in it."""
        stored = StoredReplies.at(storage.local_beside(self.run.root) / "replies.sqlite")
        if stored is None:
            return None
        with stored:
            n = sum(model.n_replies for model in stored.models())
            return stored.n_bytes / n if n else None

    def seconds_per_latent(self, step: str) -> float | None:
        """Seconds of a finished step per latent it wrote rows for, controls included."""
        manifest = self._finished(step)
        n = self._n_labelled(manifest)
        return manifest.seconds / n if n and manifest is not None and manifest.seconds else None

    def bytes_per_latent(self, step: str) -> float | None:
        """Bytes of the datasets of a finished step per latent it wrote rows for."""
        manifest = self._finished(step)
        n = self._n_labelled(manifest)
        if not n or manifest is None:
            return None
        return self.bytes_of_step(step) / n

    def bytes_of_step(self, step: str) -> int:
        """Bytes on disk of the datasets of a finished step."""
        manifest = self._finished(step)
        folders = () if manifest is None else manifest.n_rows
        return sum(self.bytes_of(*folder.split("/")) for folder in folders)

    def _n_labelled(self, manifest: Manifest | None) -> int:
        latents: set[int] = set()
        for folder in () if manifest is None else manifest.n_rows:
            dataset, *parts = folder.split("/")
            if dataset in ("explanations", "scores"):
                column = self.run.dataset(dataset, *parts).read(columns=["latent"]).column("latent")
                latents |= set(column.to_pylist())
        return len(latents)

    def _finished(self, step: str) -> Manifest | None:
        manifest = self.run.manifest(step)
        return manifest if manifest is not None and manifest.status == "complete" else None

"""What a comparison of dictionaries reads of each run: directions, labels and activations of its live latents."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from autointerp.errors import UserError
from autointerp.run import Run, open_run

if TYPE_CHECKING:
    from autointerp.scorers.embedder import Embedder

_PER_CHUNK = 4_096
"""Latents whose directions are read at a time."""


@dataclass(frozen=True)
class Side:
    """One run: its latents that are ever active, and what can be compared of them."""

    name: str
    run: Run = field(repr=False)
    _vectors: dict[tuple[str, ...], NDArray[np.float32]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def latents(self) -> NDArray[np.int64]:
        """Latents that are not dead, ascending. Raises `UserError` if the run has none."""
        table = self.run.table("latents", columns=["latent", "status"])
        if not self.run.directory.is_complete("cache") or not table.num_rows:
            raise UserError(
                f"similarity: {str(self.run.root)!r} has no finished cache; run `autointerp cache` there first"
            )
        alive = pc.not_equal(table.column("status"), "dead")
        ids: NDArray[np.int64] = table.filter(alive).column("latent").to_numpy().astype(np.int64)
        return ids

    @cached_property
    def statistics(self) -> dict[int, dict[str, Any]]:
        """Density and status by latent."""
        columns = ["latent", "density", "status"]
        return {row["latent"]: row for row in self.run.table("latents", columns=columns).to_pylist()}

    @cached_property
    def dictionary(self) -> Any:
        """Its dictionary, opened as the run was made."""
        from autointerp.subject.dictionary import open_dictionary

        return open_dictionary(self.run.config.dictionary, self.run.config.subject)

    @cached_property
    def decoder(self) -> NDArray[np.float32] | None:
        """Decoder directions of `latents`, [n, width]; None without a decoder."""
        return _in_chunks(self.dictionary.decoder_directions, self.latents)

    @cached_property
    def encoder(self) -> NDArray[np.float32] | None:
        """Encoder directions of `latents`, [n, width]; None where the dictionary shows none."""
        return _in_chunks(self.dictionary.encoder_directions, self.latents)

    @cached_property
    def explainers(self) -> dict[str, dict[int, str]]:
        """Labels by explainer and latent: the first of status `ok` of each, controls left out."""
        columns = ["latent", "explanation", "explainer", "control", "text", "status"]
        rows = self.run.table("explanations", columns=columns).to_pylist()
        found: dict[str, dict[int, str]] = {}
        for row in sorted(rows, key=lambda row: (row["latent"], row["explanation"])):
            if row["control"] is None and row["status"] == "ok":
                found.setdefault(row["explainer"], {}).setdefault(row["latent"], row["text"])
        order = {name: i for i, name in enumerate(self.run.config.explain.explainers)}
        return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))

    def embedded(self, texts: Sequence[str], embedder: Embedder) -> NDArray[np.float32]:
        """Embedded labels, [n, width]; kept, since a run is compared with several others."""
        key = tuple(texts)
        if key not in self._vectors:
            self._vectors[key] = embedder.embed(texts)
        return self._vectors[key]

    @cached_property
    def contexts(self) -> dict[bytes, int]:
        """The run's contexts by a hash of their tokens; of equal ones the first counts."""
        found: dict[bytes, int] = {}
        for table in self.run.directory.dataset("contexts").iter_shards(columns=["context", "tokens"]):
            tokens = table.column("tokens").combine_chunks()
            flat, offsets = tokens.values.to_numpy(), tokens.offsets.to_numpy()
            words = self._words
            for i, context in enumerate(table.column("context").to_pylist()):
                ids = flat[offsets[i] : offsets[i + 1]]
                content = ids.tobytes() if words is None else "\0".join(words[t] for t in ids).encode()
                found.setdefault(hashlib.blake2b(content, digest_size=12).digest(), context)
        return found

    @property
    def _words(self) -> list[str] | None:
        """Token texts, for runs whose token ids are their own (imported ones); None elsewhere."""
        manifest = self.run.directory.manifest("cache")
        if manifest is None or manifest.counts.get("token_ids") != "own":
            return None
        return [str(name) for name in self.run.tokens.names]

    @cached_property
    def n_positions_per_context(self) -> float:
        """Unmasked positions per context, as the cache counted them."""
        manifest = self.run.directory.manifest("cache")
        counts = manifest.counts if manifest is not None else {}
        if counts.get("n_positions") and counts.get("n_contexts"):
            return float(counts["n_positions"]) / float(counts["n_contexts"])
        return float(self.context_size)

    @cached_property
    def context_size(self) -> int:
        """Tokens of the longest context."""
        tables = self.run.directory.dataset("contexts").iter_shards(columns=["tokens"])
        return max((int(pc.max(pc.list_value_length(t.column("tokens"))).as_py()) for t in tables), default=0)

    def activations(self, place: NDArray[np.int64], size: int) -> sparse.csr_array:
        """Activations of `latents` in some contexts, [n_kept * size, n].

        `place` gives each context of the run its place among the kept ones, -1 for none.
        """
        index = np.full(int(self.latents.max(initial=0)) + 1, -1, dtype=np.int64)
        index[self.latents] = np.arange(len(self.latents))
        rows, columns, values = [], [], []
        for table in self.run.directory.dataset("activations").iter_shards():
            context = place[table.column("context").to_numpy()]
            kept = context >= 0
            position = table.column("position").to_numpy()[kept].astype(np.int64)
            rows.append(context[kept] * size + position)
            columns.append(index[table.column("latent").to_numpy()[kept]])
            values.append(table.column("activation").to_numpy()[kept])
        n_rows = (int(place.max(initial=-1)) + 1) * size
        entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return sparse.csr_array(entries, shape=(n_rows, len(self.latents)))


def open_sides(roots: Sequence[str | Path]) -> list[Side]:
    """The runs, named by their configuration, or by their folder where two have one name.

    Raises `UserError` for fewer than two runs, for one named twice, and for a folder that is no run.
    """
    runs = [open_run(root) for root in roots]
    places = [run.root.resolve() for run in runs]
    if len(runs) < 2:
        raise UserError(f"RUN_DIR: seen {len(runs)}; accepted: two or more run directories")
    for i, place in enumerate(places):
        if place in places[:i]:
            raise UserError(f"RUN_DIR: {str(runs[i].root)!r} is named twice; accepted: different runs")
    names = [run.config.name for run in runs]
    return [
        Side(name if names.count(name) == 1 else str(run.root), run)
        for name, run in zip(names, runs, strict=True)
    ]


def _in_chunks(rows_of: Any, latents: NDArray[np.int64]) -> NDArray[np.float32] | None:
    import torch

    parts = []
    for start in range(0, max(len(latents), 1), _PER_CHUNK):
        rows = rows_of(torch.from_numpy(latents[start : start + _PER_CHUNK]))
        if rows is None:
            return None
        parts.append(rows.detach().float().cpu().numpy())
    return np.concatenate(parts)

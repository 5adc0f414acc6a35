"""Rows of a Neuronpedia export as datasets of a run directory."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.schemas import table_of
from autointerp.errors import UserError
from autointerp.report.exchange.neuronpedia_rows import Record
from autointerp.report.exchange.neuronpedia_windows import (
    NeuronpediaOptions,
    contexts_table,
    examples,
    examples_table,
    non_zeros,
)
from autointerp.report.exchange.tokens import TokenNames
from autointerp.subject.statistics import StatusRule, latent_statistics
from autointerp.subject.tokenise import split_of

MAX_LATENTS = 20_000_000
TEST_FRACTION = 0.5
RARE_BELOW_CONTEXTS = 5
"""An export lists a few dozen texts per latent, half of them kept for scoring."""


class ExportWriter:
    """Writes an export file by file: a shard of each dataset per file of activations."""

    def __init__(
        self, run: RunDirectory, features: dict[int, dict[str, Any]], options: NeuronpediaOptions
    ) -> None:
        self.run, self.features, self.options = run, features, options
        self.names = TokenNames()
        for feature in features.values():
            self.names.ids([*feature["pos_str"], *feature["neg_str"]])
        self.rule = StatusRule(rare_below_contexts=RARE_BELOW_CONTEXTS, dense_above=0.2)
        self.last = -1
        self._shard = 0
        self._contexts: dict[bytes, int] = {}
        self._is_test: list[bool] = []
        self._occurrences: list[NDArray[np.int64]] = [np.zeros(0, np.int64), np.zeros(0, np.int64)]
        self._n_tokens = self._n_active = self._n_windows = self._n_negatives = 0
        self._status: dict[str, int] = defaultdict(int)

    def write(self, path: Path, latents: dict[int, list[Record]]) -> None:
        """The texts of one file's latents, which follow those of the files before."""
        if not latents:
            return
        if min(latents) <= self.last:
            raise UserError(
                f"{path}: holds latent {min(latents)}, but files before it go to {self.last}; accepted: batches in "
                "the order of their latents"
            )
        if max(latents) >= MAX_LATENTS:
            raise UserError(f"{path}: latent {max(latents):,}; accepted: below {MAX_LATENTS:,}")
        rows, placed = self._place(latents)
        write_shard(self.run.shard("contexts", index=self._shard), rows, DATASETS["contexts"])
        self._write_latents(max(latents) + 1, placed)

    def finish(self, n_latents: int) -> None:
        """The latents after the last one with texts, and the vocabulary."""
        if n_latents > MAX_LATENTS:
            raise UserError(f"FOLDER: latent {n_latents - 1:,}; accepted: below {MAX_LATENTS:,}")
        if n_latents > self.last + 1:
            self._write_latents(n_latents, {})
        counts = [np.pad(x, (0, len(self.names) - len(x))) for x in self._occurrences]
        write_shard(
            self.run.shard("vocabulary", index=0),
            self.names.table(counts[0] + counts[1], counts[0]),
            DATASETS["vocabulary"],
        )

    def _place(self, latents: dict[int, list[Record]]) -> tuple[pa.Table, dict[int, dict[int, Record]]]:
        """New contexts as rows, and each latent's records by context."""
        ids: list[int] = []
        splits: list[str] = []
        tokens: list[NDArray[np.uint32]] = []
        placed: dict[int, dict[int, Record]] = {}
        for latent in sorted(latents):
            mine: dict[int, Record] = {}
            for record in latents[latent]:
                key = record.tokens.tobytes()
                context = self._contexts.get(key)
                if context is None:
                    context = self._contexts[key] = len(self._contexts)
                    split = split_of(self.names.text(record.tokens), self.options.seed, TEST_FRACTION)
                    self._is_test.append(split == "test")
                    self._count(record.tokens, split == "test")
                    ids.append(context)
                    splits.append(split)
                    tokens.append(record.tokens)
                # A text listed twice: the same values but for rounding, so the larger ones are kept.
                known = mine.get(context)
                values = record.values if known is None else np.maximum(known.values, record.values)
                mine[context] = Record(record.tokens, values)
            placed[latent] = mine
        return contexts_table(ids, splits, tokens), placed

    def _count(self, tokens: NDArray[np.uint32], is_test: bool) -> None:
        side = int(is_test)
        short = int(tokens.max()) + 1 - len(self._occurrences[side])
        if short > 0:
            self._occurrences[side] = np.pad(self._occurrences[side], (0, short))
        ids, n = np.unique(tokens, return_counts=True)
        self._occurrences[side][ids] += n
        self._n_tokens += len(tokens)

    def _write_latents(self, end: int, placed: dict[int, dict[int, Record]]) -> None:
        """Latents up to `end`, those without texts too: activations, latents and examples of one shard."""
        first = self.last + 1
        table = non_zeros(placed)
        statistics = latent_statistics(
            table,
            first=first,
            last=end,
            n_positions=max(self._n_tokens, 1),
            is_test=np.array(self._is_test, dtype=bool),
            n_top_tokens=20,
            rule=self.rule,
        )
        rows = pa.table(statistics).to_pylist()
        for row in rows:
            self._complete(row)
        write_shard(
            self.run.shard("activations", index=self._shard),
            table.drop_columns(["token"]),
            DATASETS["activations"],
        )
        write_shard(
            self.run.shard("latents", index=self._shard), table_of("latents", rows), DATASETS["latents"]
        )
        windows = list(examples(placed, self._is_test, self.options))
        write_shard(
            self.run.shard("examples", index=self._shard), examples_table(windows), DATASETS["examples"]
        )
        n_activating = sum(w.kind == "activating" for w in windows)
        self._n_windows += n_activating
        self._n_negatives += len(windows) - n_activating
        self._n_active += table.num_rows
        self.last = end - 1
        self._shard += 1

    def _complete(self, row: dict[str, Any]) -> None:
        """What the export says of a latent beyond its listed texts."""
        feature = self.features.get(row["latent"])
        row |= {"top_logits": None, "bottom_logits": None, "neighbours": None}
        if feature is not None:
            row["neighbours"] = feature["neighbours"]
            if feature["frac_nonzero"] is not None:
                row["density"] = feature["frac_nonzero"]
                if row["status"] == "ok" and row["density"] > self.rule.dense_above:
                    row["status"] = "dense"
            for column, sign in (("top_logits", "pos"), ("bottom_logits", "neg")):
                tokens, values = feature[f"{sign}_str"], feature[f"{sign}_values"]
                if tokens and len(tokens) == len(values):
                    ids = self.names.ids(tokens).tolist()
                    row[column] = [{"token": t, "logit": v} for t, v in zip(ids, values, strict=True)]
        self._status[row["status"]] += 1

    def counts(self) -> dict[str, Any]:
        """What the manifest of `cache` says."""
        return {
            "n_contexts": len(self._is_test),
            "n_contexts_test": sum(self._is_test),
            "n_tokens": self._n_tokens,
            "n_positions": self._n_tokens,
            "token_ids": "own",
            "activations_listed": self._n_active,
            "latents_by_status": dict(self._status),
        }

    def sampled(self) -> dict[str, Any]:
        """What the manifest of `sample` says."""
        return {
            "windows": {"activating": self._n_windows, self.options.negatives: self._n_negatives},
            "silent_by": "assumption: windows of other latents' texts, in which this latent is not listed",
            "share_with_activation_expected": self.expected_share(),
        }

    def expected_share(self) -> float | None:
        """Share of assumed silent windows in which a latent of median density is active, if tokens were
        independent; None if the export says no density."""
        densities = [f["frac_nonzero"] for f in self.features.values() if f["frac_nonzero"]]
        if not densities:
            return None
        return float(1 - (1 - np.median(densities)) ** self.options.window_tokens)

    def notes(self, n_explainers: int) -> list[str]:
        """What a reader must know."""
        share = self.expected_share()
        often = (
            "" if share is None else f" (a latent of median density is active in about {share:.1%} of them)"
        )
        said = [
            f"{self.last + 1:,} latents, {len(self._is_test):,} texts, {self._n_windows:,} activating windows, "
            f"{n_explainers} kinds of labels",
            f"{self._n_negatives:,} windows of kind {self.options.negatives}: texts of other latents, silent by "
            f"assumption{often}",
            "imported labels may have been made from these very texts; for held-out scores take --labels and judge "
            "them in a run of your own",
        ]
        return said

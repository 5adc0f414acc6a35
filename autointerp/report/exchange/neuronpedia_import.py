"""A public export of Neuronpedia into a run directory.

The export of a source is a folder with `features/`, `activations/` and `explanations/`, each of
`batch-N.jsonl.gz`. It holds each latent's strongest texts and some weaker ones, not all text: what is not
listed for a latent is unknown, not silent. So windows of other latents' texts are silent by assumption, and
the manifest says how often that assumption fails for a latent of median density.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.schemas import table_of
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.report.exchange import reading
from autointerp.report.exchange.imported import Imported, Label, explainer_name, run_config, write_labels
from autointerp.report.exchange.sources import Source, release_of
from autointerp.report.exchange.tokens import TokenNames
from autointerp.subject.statistics import StatusRule, latent_statistics
from autointerp.subject.tokenise import split_of

PARTS = ("features", "activations", "explanations")
MAX_LATENTS = 20_000_000
TRIGGER = 0.75
"""Place of the strongest token in its window, 0 the first token and 1 the last."""
TEST_FRACTION = 0.5
RARE_BELOW_CONTEXTS = 5
"""An export lists a few dozen texts per latent, half of them kept for scoring."""
Negatives = Literal["random", "unread"]


@dataclass(frozen=True, kw_only=True)
class NeuronpediaOptions:
    """How an export is read."""

    window_tokens: int = 32
    negatives: Negatives = "random"
    """Kind of windows of other latents' texts: `random`, silent by assumption, or `unread`, for presets."""
    n_negatives: int = 50
    """Of them, per latent, for scoring; for explaining 20."""
    subject: str | None = None
    """Name of the model; by default what SAELens' registry says, else Neuronpedia's model id."""
    settings: Path | None = None
    """A run file whose scorers and models are taken over."""
    seed: int = 0


@dataclass
class Record:
    """One text of one latent."""

    tokens: NDArray[np.uint32]
    values: NDArray[np.float32]


@dataclass(frozen=True)
class _Window:
    latent: int
    example: int
    split: str
    kind: str
    context: int
    start: int
    tokens: NDArray[np.uint32]
    activations: NDArray[np.float32]
    decile: int | None


@dataclass
class _Latent:
    records: list[Record] = field(default_factory=list)


def find_export(folder: Path) -> Path:
    """The folder of one source's export at or below `folder`. Raises `UserError` if there is none, or several."""
    if not folder.is_dir():
        raise UserError(
            f"FOLDER: {str(folder)!r} is no folder; accepted: a Neuronpedia export, with {_listed()}"
        )
    found = sorted(
        {path.parent for part in PARTS for path in (folder, *folder.rglob("*")) if path.name == part}
        if not any(reading.batches(folder / part) for part in PARTS)
        else {folder}
    )
    found = [path for path in found if any(reading.batches(path / part) for part in PARTS)]
    if not found:
        raise UserError(f"FOLDER: no batch-N.jsonl.gz in {_listed()} at or below {str(folder)!r}")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found[:5])
        raise UserError(
            f"FOLDER: {str(folder)!r} holds {len(found)} exports; accepted: one of them, as {names}"
        )
    return found[0]


def read_labels(folder: Path) -> tuple[Source | None, dict[str, list[Label]], dict[str, dict[str, Any]]]:
    """An export's labels by explainer, and what Neuronpedia calls each: its type and model.

    Each pair of type and model is an explainer of its own, so that they are judged side by side.
    """
    labels: dict[str, list[Label]] = defaultdict(list)
    kinds: dict[str, dict[str, Any]] = {}
    source: Source | None = None
    for path in reading.batches(folder / "explanations"):
        for where, row in reading.read_rows(path):
            source = _same_source(source, row, where)
            kind = reading.text(row, "typeName", where)
            model = reading.text(row, "explanationModelName", where)
            name = explainer_name(kind or "label", model)
            kinds.setdefault(name, {"typeName": kind, "explanationModelName": model})
            extra = {
                key: row[key]
                for key in ("id", "authorId", "notes", "createdAt", "triggeredById")
                if isinstance(row.get(key), str)
            }
            labels[name].append(
                Label(
                    latent=reading.whole_number(row, "index", where),
                    text=reading.text(row, "description", where),
                    extra={**extra, **kinds[name]},
                )
            )
    return source, dict(labels), kinds


def import_neuronpedia(folder: Path, root: Path, options: NeuronpediaOptions) -> Imported:
    """Write an export's rows as datasets of a new run directory.

    Raises `UserError` for a folder or file that is no export, or that says two different things.
    """
    started = time.monotonic()
    folder = find_export(folder)
    if not reading.batches(folder / "activations"):
        raise UserError(
            f"FOLDER: {str(folder)!r} holds no activations/batch-N.jsonl.gz: no text to judge labels on; accepted: "
            "--labels FILE to take its labels alone, for the explainer `given` in a run of your own"
        )
    source, labels, kinds = read_labels(folder)
    features, source = _features(folder, source)
    writer = _Writer(RunDirectory(root), features, options)
    with Tracker("import", max(features, default=-1) + 1 or None, "latents") as tracker:
        for path in reading.batches(folder / "activations"):
            latents, source = _activations(path, source, writer.names)
            writer.write(path, latents)
            tracker.advance(writer.last + 1 - tracker.done)
    n_labelled = max((x.latent for rows in labels.values() for x in rows), default=-1)
    writer.finish(1 + max([*features, n_labelled, writer.last], default=-1))
    if source is None:
        raise UserError(f"FOLDER: {str(folder)!r} holds no row")
    counts = writer.counts()
    release = release_of(source)
    hook = next((str(f["hookName"]) for f in features.values() if f.get("hookName")), None)
    origin = {
        "from": "neuronpedia",
        "model": source.model,
        "source": source.source,
        "explainers": kinds,
    }
    write_labels(root, labels, origin)
    config = run_config(
        root,
        name=f"{source.model}-{source.source}",
        seed=options.seed,
        subject=options.subject or (release.subject if release else source.model),
        dictionary=None
        if release is None
        else {"source": "sae_lens", "release": release.release, "sae_id": release.sae_id},
        hook_point=hook,
        corpus=folder,
        cache={
            "rare_below_contexts": RARE_BELOW_CONTEXTS,
            "n_tokens": max(counts["n_tokens"], 1),
            "n_neighbours": 0,
        },
        sample={
            "window_tokens": options.window_tokens,
            "n_test_random": options.n_negatives if options.negatives == "random" else 0,
            "n_test_unread": options.n_negatives if options.negatives == "unread" else 0,
            "n_test_similar": 0,
            "n_test_neighbour": 0,
        },
        labels=sorted(labels),
        settings=options.settings,
    )
    metadata = {"neuronpedia_id": f"{source.model}/{source.source}", "model_name": source.model}
    return Imported(
        config=config,
        counts={
            "cache": {"imported": origin, "hook_point": hook, "dictionary_metadata": metadata, **counts},
            "sample": {"imported": origin, **writer.sampled()},
        },
        seconds=time.monotonic() - started,
        notes=writer.notes(len(labels)),
    )


def _features(folder: Path, source: Source | None) -> tuple[dict[int, dict[str, Any]], Source | None]:
    kept = ("pos_str", "pos_values", "neg_str", "neg_values")
    found: dict[int, dict[str, Any]] = {}
    for path in reading.batches(folder / "features"):
        for where, row in reading.read_rows(path):
            source = _same_source(source, row, where)
            index = reading.whole_number(row, "index", where)
            if index in found:
                raise UserError(f"{where}: feature {index} is there twice")
            density = reading.number(row, "frac_nonzero", where)
            if density is not None and not 0 <= density <= 1:
                raise UserError(f"{where}: frac_nonzero: seen {density!r}; accepted: a share from 0 to 1")
            found[index] = {
                "hookName": reading.text(row, "hookName", where),
                "frac_nonzero": density,
                **{key: reading.texts(row, key, where) for key in kept if key.endswith("_str")},
                **{key: reading.numbers(row, key, where) for key in kept if key.endswith("_values")},
            }
    return found, source


def _activations(
    path: Path, source: Source | None, names: TokenNames
) -> tuple[dict[int, _Latent], Source | None]:
    """A file's texts by latent; a text listed twice for a latent counts once."""
    found: dict[int, _Latent] = defaultdict(_Latent)
    for where, row in reading.read_rows(path):
        source = _same_source(source, row, where)
        index = reading.whole_number(row, "index", where)
        tokens, values = reading.texts(row, "tokens", where), reading.numbers(row, "values", where)
        if len(tokens) != len(values):
            raise UserError(f"{where}: {len(tokens)} tokens but {len(values)} values; accepted: one each")
        if len(tokens) > 2**16:
            raise UserError(f"{where}: {len(tokens):,} tokens; accepted: at most {2**16:,}")
        if tokens:
            record = Record(names.ids(tokens), np.array(values, dtype=np.float32))
            found[index].records.append(record)
    return dict(found), source


def _same_source(source: Source | None, row: dict[str, Any], where: str) -> Source:
    model, layer = reading.text(row, "modelId", where), reading.text(row, "layer", where)
    if not model or not layer:
        raise UserError(f"{where}: modelId and layer are missing; accepted: a row of a Neuronpedia export")
    seen = Source(model, layer)
    if source is not None and seen != source:
        raise UserError(
            f"{where}: is of {seen.model}/{seen.source}, rows before of {source.model}/{source.source}; accepted: an "
            "export of one source"
        )
    return seen


class _Writer:
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

    def write(self, path: Path, latents: dict[int, _Latent]) -> None:
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

    def _place(self, latents: dict[int, _Latent]) -> tuple[pa.Table, dict[int, dict[int, Record]]]:
        """New contexts as rows, and each latent's records by context."""
        ids: list[int] = []
        splits: list[str] = []
        tokens: list[NDArray[np.uint32]] = []
        placed: dict[int, dict[int, Record]] = {}
        for latent in sorted(latents):
            mine: dict[int, Record] = {}
            for record in latents[latent].records:
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
        return _contexts_table(ids, splits, tokens), placed

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
        table = _non_zeros(placed)
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
        examples = _examples_table(list(self._examples(placed)))
        write_shard(self.run.shard("examples", index=self._shard), examples, DATASETS["examples"])
        self._n_active += table.num_rows
        self.last = end - 1
        self._shard += 1

    def _complete(self, row: dict[str, Any]) -> None:
        """What the export says of a latent beyond its listed texts."""
        feature = self.features.get(row["latent"])
        row |= {"top_logits": None, "bottom_logits": None, "neighbours": None}
        if feature is not None:
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

    def _examples(self, placed: dict[int, dict[int, Record]]) -> Iterator[_Window]:
        """A window around the strongest token of each of a latent's texts, and silent ones of others' texts."""
        pools = _pools(placed, self._is_test)
        with_texts = {c: r.tokens for mine in placed.values() for c, r in mine.items()}
        for latent, mine in placed.items():
            rng = np.random.default_rng([self.options.seed, latent, 60])
            example = 0
            for split in ("train", "test"):
                texts = [
                    (c, r)
                    for c, r in mine.items()
                    if self._is_test[c] == (split == "test") and r.values.max() > 0
                ]
                texts.sort(key=lambda item: float(item[1].values.max()))
                for rank, (context, record) in reversed(list(enumerate(texts))):
                    decile = rank * 10 // len(texts) + 1
                    start, stop = _around(
                        int(record.values.argmax()), len(record.values), self.options.window_tokens
                    )
                    yield _Window(
                        latent, example, split, "activating", context, start, record.tokens[start:stop],
                        np.maximum(record.values[start:stop], 0), decile,
                    )  # fmt: skip
                    example += 1
                    self._n_windows += 1
                wanted = 20 if split == "train" else self.options.n_negatives
                for context in _others(pools[split], mine, wanted, rng):
                    tokens = with_texts[context]
                    start = int(rng.integers(0, max(len(tokens) - self.options.window_tokens, 0) + 1))
                    part = tokens[start : start + self.options.window_tokens]
                    yield _Window(
                        latent, example, split, self.options.negatives, context, start, part,
                        np.zeros(len(part), np.float32), None,
                    )  # fmt: skip
                    example += 1
                    self._n_negatives += 1

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


def _non_zeros(placed: Mapping[int, Mapping[int, Record]]) -> pa.Table:
    """Activations listed, sorted by (latent, context, position), with their tokens."""
    parts: dict[str, list[NDArray[Any]]] = {
        k: [] for k in ("latent", "context", "position", "activation", "token")
    }
    for latent in sorted(placed):
        for context in sorted(placed[latent]):
            record = placed[latent][context]
            at = np.flatnonzero(record.values > 0)
            parts["latent"].append(np.full(len(at), latent, np.uint32))
            parts["context"].append(np.full(len(at), context, np.uint32))
            parts["position"].append(at.astype(np.uint16))
            parts["activation"].append(record.values[at])
            parts["token"].append(record.tokens[at])
    empty = {"position": np.uint16, "activation": np.float32}
    return pa.table(
        {
            name: pa.array(np.concatenate(part) if part else np.zeros(0, empty.get(name, np.uint32)))
            for name, part in parts.items()
        }
    )


def _pools(
    placed: Mapping[int, Mapping[int, Record]], is_test: Sequence[bool]
) -> dict[str, NDArray[np.int64]]:
    contexts = np.array(sorted({c for mine in placed.values() for c in mine}), dtype=np.int64)
    test = np.array([is_test[c] for c in contexts.tolist()], dtype=bool)
    return {"train": contexts[~test], "test": contexts[test]}


def _others(
    pool: NDArray[np.int64], mine: Mapping[int, Record], n: int, rng: np.random.Generator
) -> list[int]:
    """At most `n` contexts of a pool that are not among a latent's own."""
    drawn = rng.permutation(pool)[: n + len(mine)].tolist()
    return [int(c) for c in drawn if c not in mine][:n]


def _around(strongest: int, n: int, window: int) -> tuple[int, int]:
    start = min(max(strongest - int(TRIGGER * (window - 1)), 0), max(n - window, 0))
    return start, min(start + window, n)


def _contexts_table(
    ids: Sequence[int], splits: Sequence[str], tokens: Sequence[NDArray[np.uint32]]
) -> pa.Table:
    """Rows of `contexts`, each a document of its own."""
    schema = DATASETS["contexts"].schema
    columns = [ids, ids, splits, _lists(tokens, np.uint32)]
    return pa.Table.from_arrays(
        [c if isinstance(c, pa.Array) else pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)],
        schema=schema,
    )


def _examples_table(windows: Sequence[_Window]) -> pa.Table:
    """Rows of `examples`."""
    schema = DATASETS["examples"].schema
    columns = {
        **{name: [getattr(w, name) for w in windows] for name in _Window.__annotations__},
        "source_latent": [None] * len(windows),
        "tokens": _lists([w.tokens for w in windows], np.uint32),
        "activations": _lists([w.activations for w in windows], np.float32),
        "max_activation": [float(w.activations.max(initial=0.0)) for w in windows],
    }
    return pa.Table.from_arrays(
        [
            column if isinstance(column := columns[field.name], pa.Array) else pa.array(column, field.type)
            for field in schema
        ],
        schema=schema,
    )


def _lists(rows: Sequence[NDArray[Any]], kind: type) -> pa.Array:
    offsets = np.r_[0, np.cumsum([len(row) for row in rows])].astype(np.int32)
    values: NDArray[Any] = np.concatenate([np.zeros(0, kind), *rows]).astype(kind)
    item = pa.field("item", pa.from_numpy_dtype(kind), nullable=kind is np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), type=pa.list_(item))


def _listed() -> str:
    return "features/, activations/ and explanations/"

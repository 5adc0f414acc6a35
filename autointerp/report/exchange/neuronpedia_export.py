"""A run as a Neuronpedia export: `v1/MODEL/SOURCE/{features,activations,explanations}/batch-N.jsonl.gz`.

1,024 latents a batch. Activations are each latent's strongest texts, and some of each tenth of its range of
activations; `binMin`, `binMax` and `binContains` are -1 for the strongest, as dashboards have them. What a run
does not know is null or empty. Scores, which public exports leave out, go into a folder of their own.
"""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.report.exchange.imported import origin_of
from autointerp.report.exchange.neuronpedia_features import (
    Opened,
    feature_rows,
    keeps_every_activation,
    short,
)
from autointerp.report.exchange.neuronpedia_rows import SCORES
from autointerp.report.exchange.neuronpedia_scores import Scores
from autointerp.report.exchange.sources import Source, source_of
from autointerp.run import Run, open_run

PER_BATCH = 1_024
N_INTERVALS = 10
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written of a run."""

    model_id: str | None = None
    source_id: str | None = None
    n_top: int = 20
    """Strongest texts per latent."""
    n_per_interval: int = 2
    """Texts per tenth of a latent's range of activations, drawn at random; 0 for none."""
    text_tokens: int = 128
    """Tokens of a text, around its strongest one; shorter contexts are whole."""
    explainers: tuple[str, ...] = ()
    """Whose labels; by default all. Controls are never exported."""
    with_subject: bool = False
    """Load dictionary and subject, for vectors and histograms of logits."""
    seed: int = 0


def export_neuronpedia(root: Path, out: Path, options: ExportOptions) -> dict[str, int]:
    """Write the export below `out`; returns rows by part. Raises `UserError` for a run without activations,
    a folder that exists already, and where no Neuronpedia id is known."""
    run = open_run(root)
    if not run.directory.is_complete("cache"):
        raise UserError(f"RUN_DIR: {str(root)!r} has no finished cache; run `autointerp cache` first")
    source = source_of(run, options.model_id, options.source_id)
    folder = out / "v1" / source.model / source.source
    if folder.exists():
        raise UserError(f"OUT: {str(folder)!r} exists already; accepted: a new folder")
    labels = _Labels(run, source, options)
    scores = Scores(run, labels.id_of, labels.explainers)
    names = ("features", "activations", "explanations", *([SCORES] if scores.known else []))
    rows = dict.fromkeys(names, 0)
    opened = Opened(run) if options.with_subject else None
    contexts = _Contexts(run)
    n_latents = run.directory.dataset("latents").n_rows
    with Tracker("export", n_latents, "latents") as tracker:
        for first in range(0, n_latents, PER_BATCH):
            batch = range(first, min(first + PER_BATCH, n_latents))
            acts = _by_latent(run, batch)
            values = {latent: mine.activation for latent, mine in acts.items()}
            parts: dict[str, Iterable[dict[str, Any]]] = {
                "features": feature_rows(run, source, batch, values, opened),
                "activations": _activations(run, source, acts, contexts, options),
                "explanations": labels.rows(batch),
            }
            if scores.known:
                parts[SCORES] = scores.rows(batch)
            for part, found in parts.items():
                with _lines(folder / part / f"batch-{first // PER_BATCH}.jsonl.gz") as handle:
                    for row in found:
                        handle.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                        rows[part] += 1
            tracker.advance(len(batch))
    return rows


class _Contexts:
    """Token texts of contexts, read shard by shard as they are asked for."""

    def __init__(self, run: Run) -> None:
        self._names = run.tokens.names
        table = run.table("contexts", columns=["context", "tokens"])
        column = table.column("tokens").combine_chunks()
        self._flat, self._offsets = column.values.to_numpy(), column.offsets.to_numpy()
        context = table.column("context").to_numpy().astype(np.int64)
        self._row = np.empty(int(context.max(initial=-1)) + 1, dtype=np.int64)
        self._row[context] = np.arange(len(context))

    def size(self, context: int) -> int:
        """Tokens of a context."""
        row = self._row[context]
        return int(self._offsets[row + 1] - self._offsets[row])

    def texts(self, context: int, start: int, stop: int) -> list[str]:
        """The texts of some of its tokens."""
        begin = self._offsets[self._row[context]]
        return [self._names[int(t)] for t in self._flat[begin + start : begin + stop]]


@dataclass(frozen=True)
class _Activations:
    """One latent's activations, sorted by context and position."""

    context: NDArray[np.int64]
    position: NDArray[np.int64]
    activation: NDArray[np.float32]


def _by_latent(run: Run, latents: range) -> dict[int, _Activations]:
    table = run.table("activations", latents=latents)
    latent = table.column("latent").to_numpy()
    columns = [table.column(c).to_numpy() for c in ("context", "position", "activation")]
    starts = np.searchsorted(latent, np.arange(latents.start, latents.stop + 1))
    return {
        i: _Activations(columns[0][a:b].astype(np.int64), columns[1][a:b].astype(np.int64), columns[2][a:b])
        for i, a, b in zip(latents, starts[:-1], starts[1:], strict=True)
    }


def _activations(
    run: Run, source: Source, acts: Mapping[int, _Activations], contexts: _Contexts, options: ExportOptions
) -> Iterator[dict[str, Any]]:
    complete, corpus = keeps_every_activation(run), _corpus(run)
    for latent, mine in acts.items():
        if not len(mine.context):
            continue
        begins = np.flatnonzero(np.r_[True, np.diff(mine.context) != 0])
        peaks = np.maximum.reduceat(mine.activation, begins)
        for place, low, high, share in _chosen(mine.activation, peaks, latent, options):
            stop = begins[place + 1] if place + 1 < len(begins) else len(mine.context)
            part = slice(begins[place], stop)
            context, position = int(mine.context[begins[place]]), mine.position[part]
            size = contexts.size(context)
            strongest = int(position[mine.activation[part].argmax()])
            start = min(max(strongest - options.text_tokens // 2, 0), max(size - options.text_tokens, 0))
            end = min(start + options.text_tokens, size)
            values = np.zeros(size, dtype=np.float32)
            values[position] = mine.activation[part]
            shown = [short(x) for x in values[start:end].tolist()]
            yield {
                "id": _cuid(source.model, source.source, latent, context, low),
                "modelId": source.model,
                "layer": source.source,
                "index": str(latent),
                "tokens": contexts.texts(context, start, end),
                "values": shown,
                "maxValue": max(shown),
                "maxValueTokenIndex": strongest - start,
                "minValue": min(shown),
                "creatorId": None,
                "dataSource": corpus,
                "dataIndex": str(context),
                "dfaValues": [],
                "dfaTargetIndex": None,
                "dfaMaxValue": None,
                "lossValues": [],
                "logitContributions": None,
                "binMin": low,
                "binMax": high,
                "binContains": share if complete or low < 0 else None,
                "qualifyingTokenIndex": strongest - start,
            }


def _corpus(run: Run) -> str | None:
    """Name of the text; of a file its name alone, and None for an import, whose text was another's."""
    if origin_of(run.root):
        return None
    name = run.config.corpus.dataset
    return Path(name).name if Path(name).suffix or name.startswith((".", "/", "~")) else name


def _chosen(
    values: NDArray[np.float32], peaks: NDArray[np.float32], latent: int, options: ExportOptions
) -> Iterator[tuple[int, float, float, float]]:
    """Places of a latent's contexts to write, each with its bin's ends and share of activations."""
    order = np.argsort(-peaks, kind="stable")
    top = order[: options.n_top]
    for place in top.tolist():
        yield place, -1.0, -1.0, -1.0
    edges = np.linspace(0.0, float(peaks.max()), N_INTERVALS + 1)
    rng = np.random.default_rng([options.seed, latent, 61])
    rest = np.setdiff1d(np.arange(len(peaks)), top)
    for low, high in reversed(list(itertools.pairwise(edges))):
        inside = rest[(peaks[rest] > low) & (peaks[rest] <= high)]
        share = float(((values > low) & (values <= high)).mean())
        for place in rng.permutation(inside)[: options.n_per_interval].tolist():
            yield place, short(low), short(high), round(share, 6)


class _Labels:
    """A run's labels as rows of `explanations`."""

    def __init__(self, run: Run, source: Source, options: ExportOptions) -> None:
        self.run, self.source = run, source
        self.explainers = set(options.explainers)
        self.origin = origin_of(run.root).get("explainers") or {}
        have = set(run.table("explanations", columns=["explainer"]).column("explainer").to_pylist())
        unknown = sorted(self.explainers - have)
        if unknown:
            from autointerp.errors import unknown_name

            raise unknown_name("--explainer", unknown[0], have)

    def id_of(self, latent: int, explanation: str) -> str:
        """The id of a label."""
        return _cuid(self.source.model, self.source.source, latent, explanation)

    def rows(self, latents: range) -> Iterator[dict[str, Any]]:
        """Labels of status `ok` of some latents."""
        for row in self.run.table("explanations", latents=latents).to_pylist():
            if row["control"] is not None or row["status"] != "ok":
                continue
            if self.explainers and row["explainer"] not in self.explainers:
                continue
            kind = self.origin.get(row["explainer"]) or {
                "typeName": f"autointerp_{row['explainer']}",
                "explanationModelName": row["model"],
            }
            yield {
                "id": self.id_of(row["latent"], row["explanation"]),
                "modelId": self.source.model,
                "layer": self.source.source,
                "index": str(row["latent"]),
                "description": row["text"],
                "authorId": None,
                "embedding": None,
                "triggeredById": None,
                "typeName": kind.get("typeName"),
                "explanationModelName": kind.get("explanationModelName"),
                "notes": None,
                "createdAt": None,
            }


@contextmanager
def _lines(path: Path) -> Iterator[gzip.GzipFile]:
    """A compressed file written whole, the same rows giving the same bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            temporary.open("wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=5, mtime=0) as handle,
        ):
            yield handle
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def _cuid(*parts: Any) -> str:
    """An id of 25 characters, `c` and 24 more, that follows from what it names."""
    value = int.from_bytes(blake2b(json.dumps(parts).encode(), digest_size=16).digest(), "big")
    digits = []
    for _ in range(24):
        value, rest = divmod(value, 36)
        digits.append(_BASE36[rest])
    return "c" + "".join(digits)

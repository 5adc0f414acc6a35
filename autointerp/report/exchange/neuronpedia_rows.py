"""The files of a Neuronpedia export: where they lie, and their rows checked and taken apart."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.errors import UserError
from autointerp.report.exchange import reading
from autointerp.report.exchange.imported import Label, explainer_name
from autointerp.report.exchange.sources import Source
from autointerp.report.exchange.tokens import TokenNames

PARTS = ("features", "activations", "explanations")
SCORES = "explanation_scores"
"""Beside them in exports of ours: what Neuronpedia keeps in its database and leaves out of its public exports."""


@dataclass
class Record:
    """One text of one latent."""

    tokens: NDArray[np.uint32]
    values: NDArray[np.float32]


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
    scores = _scores(folder)
    for path in reading.batches(folder / "explanations"):
        for where, row in reading.read_rows(path):
            source = _same_source(source, row, where)
            kind = reading.text(row, "typeName", where)
            model = reading.text(row, "explanationModelName", where)
            name = explainer_name(kind or "label", model)
            kinds.setdefault(name, {"typeName": kind, "explanationModelName": model})
            extra: dict[str, Any] = {
                key: row[key]
                for key in ("id", "authorId", "notes", "createdAt", "triggeredById")
                if isinstance(row.get(key), str)
            }
            if (said := scores.get(str(row.get("id")))) is not None:
                extra["scores"] = said
            labels[name].append(
                Label(
                    latent=reading.whole_number(row, "index", where),
                    text=reading.text(row, "description", where),
                    extra={**extra, **kinds[name]},
                )
            )
    return source, dict(labels), kinds


def _scores(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Scores by the id of their explanation, where the export has any; the public ones have none."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in reading.batches(folder / SCORES):
        for where, row in reading.read_rows(path):
            explanation = reading.text(row, "explanationId", where)
            if not explanation:
                raise UserError(f"{where}: explanationId is missing; accepted: a row of {SCORES}")
            found[explanation].append(
                {
                    "type": reading.text(row, "explanationScoreTypeName", where),
                    "model": reading.text(row, "explanationScoreModelName", where),
                    "value": reading.number(row, "value", where),
                    "details": reading.text(row, "jsonDetails", where),
                }
            )
    return dict(found)


def read_features(folder: Path, source: Source | None) -> tuple[dict[int, dict[str, Any]], Source | None]:
    """What an export says of each latent: hook point, density, logits, nearest latents."""
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
                "neighbours": _neighbours(row, index, where),
            }
    return found, source


def _neighbours(row: dict[str, Any], index: int, where: str) -> list[dict[str, Any]] | None:
    """The nearest latents by decoder cosine, nearest first, itself left out; None if none are listed."""
    latents = reading.numbers(row, "topkCosSimIndices", where)
    cosines = reading.numbers(row, "topkCosSimValues", where)
    if len(latents) != len(cosines) or any(x != int(x) or not 0 <= x < 2**32 for x in latents):
        raise UserError(
            f"{where}: topkCosSimIndices: accepted: indices of latents, one for each of topkCosSimValues"
        )
    pairs = sorted(((c, int(i)) for i, c in zip(latents, cosines, strict=True) if i != index), reverse=True)
    return [{"latent": i, "cosine": c} for c, i in pairs] or None


def read_texts(
    path: Path, source: Source | None, names: TokenNames
) -> tuple[dict[int, list[Record]], Source | None]:
    """A file's texts by latent; a text listed twice for a latent counts once."""
    found: dict[int, list[Record]] = defaultdict(list)
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
            found[index].append(record)
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


def _listed() -> str:
    return "features/, activations/ and explanations/"

"""What every import leaves: a run file, labels for the explainer `given`, and a note of what it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autointerp.artifacts.manifest import write_text_whole
from autointerp.config import RunConfig, load_config
from autointerp.errors import UserError

FOLDER = "imported"
"""Folder of a run directory for labels and notes of an import."""
NOTE = "origin.json"
_ABSENT = "autointerp.report.exchange.sources:absent"


@dataclass(frozen=True, kw_only=True)
class Label:
    """One imported label."""

    latent: int
    text: str | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the other tool records beside it, as plain JSON types."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Datasets written by an import, ready to be given manifests (`autointerp.engine.importing`)."""

    config: RunConfig
    counts: Mapping[str, Mapping[str, Any]]
    """By step whose datasets were written: what its manifest says of them."""
    seconds: float
    notes: Sequence[str] = ()
    """What a reader must know, a line each."""


def fresh_folder(root: Path) -> None:
    """Raises `UserError` unless a run directory is new or empty: an import never mixes with other results."""
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"--run-dir: {str(root)!r} exists and is not empty; accepted: a new folder")


def explainer_name(*parts: str | None) -> str:
    """A name an explainer's folder can have, from the other tool's names of method and model."""
    joined = "-".join(part for part in parts if part)
    return re.sub(r"[^A-Za-z0-9_-]+", "-", joined).strip("-")[:80] or "imported"


def write_labels(root: Path, labels: Mapping[str, Sequence[Label]], origin: Mapping[str, Any]) -> None:
    """Write `imported/EXPLAINER.jsonl` per explainer, and what it all is into `imported/origin.json`."""
    for name, rows in labels.items():
        write_text_whole(root / FOLDER / f"{name}.jsonl", "".join(label_lines(rows)))
    write_text_whole(
        root / FOLDER / NOTE, json.dumps(origin, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    )


def label_lines(labels: Sequence[Label]) -> list[str]:
    """Labels as lines that the explainer `given` reads: `latent`, `text`, and the rest."""
    ordered = sorted(labels, key=lambda label: label.latent)
    return [
        json.dumps({"latent": x.latent, "text": x.text, **x.extra}, ensure_ascii=False) + "\n"
        for x in ordered
    ]


def origin_of(root: Path) -> dict[str, Any]:
    """What an imported run directory is of; empty for a run made here."""
    try:
        found = json.loads((root / FOLDER / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def run_config(
    root: Path,
    *,
    name: str,
    seed: int,
    subject: str,
    dictionary: Mapping[str, Any] | None,
    hook_point: str | None,
    corpus: Path,
    cache: Mapping[str, Any],
    sample: Mapping[str, Any],
    labels: Sequence[str],
    settings: Path | None,
) -> RunConfig:
    """The run file of an import: the imported labels as explainers, and scorers and models of `settings`.

    `settings` is a run's TOML file; without one, scorers are the defaults and models have to be set.
    """
    table: dict[str, Any] = {}
    if settings is not None:
        given = load_config(settings).model_dump(mode="json", exclude_none=True)
        table = {key: given[key] for key in ("explain", "explainers", "score", "scorers", "models", "report")}
    if dictionary is None:
        dictionary = {"source": "object", "path": _ABSENT, "hook_point": hook_point or "unknown"}
    explain = dict(table.get("explain") or {})
    own = list(explain.get("explainers", [])) if settings is not None else []
    explain["explainers"] = [*labels, *(x for x in own if x not in labels)] or ["statistics"]
    explainers = dict(table.get("explainers") or {})
    for label in labels:
        explainers[label] = {"explainer": "given", "path": str(root / FOLDER / f"{label}.jsonl")}
    table |= {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "imported",
        "seed": seed,
        "subject": {"model": subject},
        "dictionary": dict(dictionary),
        "corpus": {"dataset": str(corpus)},
        "cache": dict(cache),
        "sample": dict(sample),
        "explain": explain,
        "explainers": explainers,
    }
    return RunConfig.model_validate(table)

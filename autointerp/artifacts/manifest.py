"""Manifests: what a step of a run computed, from what, and whether it is finished."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from autointerp import storage
from autointerp.errors import CorruptArtifactError, UserError


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The record of one step (as `cache` or `score/detection/default`), kept as JSON.

    A step is finished when `status` is `complete` and every shard counted in `n_shards` exists.
    """

    step: str
    status: str
    """`running` or `complete`."""
    fingerprint: str
    """Hash of the step's configuration, code version and inputs: equal means the same results."""
    config: dict[str, Any]
    """The values the fingerprint was made from."""
    inputs: dict[str, str]
    """Fingerprint of each step it reads."""
    n_shards: dict[str, int] = field(default_factory=dict)
    """Shards per dataset folder, known when complete."""
    n_rows: dict[str, int] = field(default_factory=dict)
    """Rows per dataset folder, known when complete."""
    seconds: float | None = None
    """Wall-clock seconds of the sessions that computed it, added up; null while running."""
    cost_usd: float | None = None
    """What its requests cost; null where unknown or not applicable."""
    counts: dict[str, Any] = field(default_factory=dict)
    """What was done, skipped and why, in numbers."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of this package and of the libraries the results depend on."""


def manifest_path(root: Path, step: str) -> Path:
    """Where the manifest of a step lies in a run directory."""
    return root / "manifests" / f"{step.replace('/', '.')}.json"


def read_manifest(root: Path, step: str) -> Manifest | None:
    """The manifest of a step, or None if it never ran. Raises `CorruptArtifactError` if unreadable."""
    path = manifest_path(root, step)
    try:
        with storage.as_os_error():
            return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or storage.said(error)}") from None
    except (OSError, ValueError, TypeError) as error:
        raise CorruptArtifactError(
            f"{path}: unreadable manifest ({error}); remove it to run the step again"
        ) from None


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write a manifest, whole or not at all."""
    path = manifest_path(root, manifest.step)
    write_text_whole(path, json.dumps(asdict(manifest), indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file, whole or not at all. Raises `UserError` if it cannot."""
    if not path.name:
        raise UserError(f"{path}: cannot be written: Is a directory")
    try:
        with storage.whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or storage.said(error)}") from None

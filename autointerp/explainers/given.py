"""Explainer `given`: labels that exist already, read from a file, to be judged beside all others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from autointerp.config import not_a_result
from autointerp.errors import UserError
from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.llm.types import Capability
from autointerp.sampling.windows import LatentRecord

_KINDS = (".jsonl", ".csv", ".parquet")


class GivenConfig(ExplainerConfig):
    """`[explainers.NAME]` with `explainer = "given"`."""

    path: str = not_a_result(...)
    """A JSONL, CSV or Parquet file with a row per label."""
    latent_column: str = "latent"
    """Column of the latent's index."""
    text_column: str = "text"
    """Column of the label. Empty or null: the latent is `undetermined`."""


@explainer("given")
class Given:
    """One row of `explanations` per row of the file; a latent without a row there is `failed`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = GivenConfig
    version: ClassVar[int] = 1
    uses_windows: ClassVar[bool] = False

    def __init__(self, config: GivenConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """Nothing: no model is asked."""
        return frozenset()

    def prompts(self) -> Mapping[str, str]:
        """The file's hash, so that results follow its content. Raises `UserError` if it cannot be read."""
        return {"file": hashlib.blake2b(self._bytes(), digest_size=16).hexdigest()}

    def check(self) -> None:
        """Read the file before any work starts. Raises `UserError` if it is of another form."""
        _ = self.labels

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """The file's labels of some latents."""
        explanations = []
        for record in records:
            texts = self.labels.get(record.latent)
            if texts is None:
                reason = f"no row for this latent in {Path(self.config.path).name}"
                explanations.append(
                    Explanation(latent=record.latent, text=None, status="failed", reason=reason)
                )
            for text in texts or []:
                told = bool(text)
                explanations.append(
                    Explanation(
                        latent=record.latent,
                        text=text or None,
                        status="ok" if told else "undetermined",
                        reason=None if told else "the file's label is empty",
                    )
                )
        return explanations

    @cached_property
    def labels(self) -> dict[int, list[str]]:
        """Labels by latent, in the order of the file; raises `UserError` for a file of another form."""
        import pandas as pd

        config, path = self.config, Path(self.config.path)
        self._bytes()
        try:
            if path.suffix == ".jsonl":
                frame = pd.read_json(path, lines=True, dtype=False, convert_dates=False)
            elif path.suffix == ".csv":
                frame = pd.read_csv(path, keep_default_na=False)
            else:
                frame = pd.read_parquet(path)
        except (ValueError, OSError) as error:
            raise UserError(f"path: cannot read {str(path)!r}: {error}") from None
        for column in (config.latent_column, config.text_column):
            if column not in frame:
                raise UserError(
                    f"path: {str(path)!r} has no column {column!r}; it has: {', '.join(map(str, frame))}"
                )
        labels: dict[int, list[str]] = {}
        rows = zip(frame[config.latent_column], frame[config.text_column], strict=True)
        for number, (latent, text) in enumerate(rows, start=1):
            labels.setdefault(_latent(latent, number, path), []).append(_text(text))
        return labels

    def _bytes(self) -> bytes:
        path = Path(self.config.path)
        if path.suffix not in _KINDS:
            raise UserError(f"path: seen {str(path)!r}; accepted: a file ending in {', '.join(_KINDS)}")
        try:
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"path: cannot read {str(path)!r}: {error.strerror}") from None


def _latent(value: Any, number: int, path: Path) -> int:
    try:
        latent = int(value)
    except (TypeError, ValueError):
        latent = -1
    if latent < 0 or str(value).strip() not in (str(latent), f"{latent}.0"):
        raise UserError(
            f"path: row {number} of {str(path)!r}: seen latent {value!r}; accepted: an index from 0"
        )
    return latent


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""

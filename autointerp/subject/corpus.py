"""The corpus: documents as text, one by one, from a hub dataset, from local files or from object storage.

Files are read as streams by their suffix and need no library but PyArrow; anything that does
not look like a local path is a name on the Hugging Face hub.
"""

from __future__ import annotations

import csv
import glob
import gzip
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from autointerp.config import CorpusConfig
from autointerp.errors import CorruptArtifactError, UserError, looked_for, nearest
from autointerp.storage import files_below, files_like, is_remote, place, reached, source_of

logger = logging.getLogger(__name__)

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".txt")
"""Kinds of local files; all but Parquet may also be gzipped (`.jsonl.gz`)."""

_ACCEPTED = (
    f"accepted: a hub name, or a {', '.join(SUFFIXES)} file, folder or glob, here or as in s3://bucket/texts"
)
_PARQUET_ROWS = 256


@dataclass
class CorpusCounts:
    """What `iter_documents` read and left out; filled while it runs."""

    n_documents: int = 0
    n_not_text: int = 0
    """Rows whose text column is missing or is not a string."""
    n_empty: int = 0
    """Rows with an empty string."""
    n_unreadable: int = 0
    """Lines of JSONL files that are not JSON objects."""

    def skipped(self) -> str:
        """One line about what was left out; empty if nothing was."""
        parts = [
            f"{n:,} {what}"
            for n, what in (
                (self.n_not_text, "rows without text"),
                (self.n_empty, "empty rows"),
                (self.n_unreadable, "unreadable lines"),
            )
            if n
        ]
        return ", ".join(parts)


def iter_documents(config: CorpusConfig, counts: CorpusCounts | None = None) -> Iterator[str]:
    """The non-empty documents of a corpus, in its own order, in constant memory.

    Rows that hold no text are skipped, counted in `counts` and told in the log at the end. A lone
    surrogate, which no tokenizer takes, becomes U+FFFD.
    Raises `UserError` for a missing file, an unknown hub dataset, subset or split, a hub that cannot
    be reached, a text column that does not exist (the message lists those that do) and a corpus
    without a single document.
    """
    counts = counts or CorpusCounts()
    files = corpus_files(config.dataset)
    rows = _hub_rows(config) if files is None else _file_rows(files, config.text_column, counts)
    for value in rows:
        if not isinstance(value, str):
            counts.n_not_text += 1
        elif not value:
            counts.n_empty += 1
        else:
            counts.n_documents += 1
            yield _clean(value)
    if not counts.n_documents:
        why = counts.skipped() or "no rows"
        raise UserError(
            f"corpus.dataset: {config.dataset!r} holds no documents in column {config.text_column!r} "
            f"({why}); accepted: at least one row with text"
        )
    if counts.skipped():
        logger.warning("corpus %s: skipped %s", config.dataset, counts.skipped())


def _clean(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower()
        return "" if suffix == ".parquet" else suffix
    return suffix


def corpus_files(dataset: str) -> list[Path] | None:
    """The files a path or URL, folder or glob stands for, sorted; None for a hub name.

    Raises `UserError` if there are none, or what is there is of no known kind.
    """
    path = place(dataset)
    if is_remote(path):
        with reached("corpus.dataset", path):
            if glob.has_magic(dataset):
                return _known(dataset, files_like(path))
            if not path.is_file():
                return _known(dataset, files_below(path, "*"))
            return _known(dataset, [path])
    path = path.expanduser()
    if path.is_file():
        if _suffix(path) not in SUFFIXES:
            raise UserError(f"corpus.dataset: {dataset!r} is of no known kind; {_ACCEPTED}")
        return [path]
    if path.is_dir():
        return _known(dataset, path.rglob("*"))
    if glob.has_magic(dataset):
        return _known(dataset, map(Path, glob.glob(str(path), recursive=True)))
    looks_local = dataset.startswith((".", "/", "~")) or _suffix(path) in SUFFIXES or dataset.count("/") > 1
    if not looks_local:
        return None
    folder = path.parent if path.parent.is_dir() else Path()
    close = nearest(path.name, [p.name for p in folder.iterdir()]) if folder.is_dir() else []
    hint = f" (did you mean {' or '.join(repr(str(path.parent / c)) for c in close)}?)" if close else ""
    raise UserError(f"corpus.dataset: no file or folder {looked_for(dataset)}{hint}; {_ACCEPTED}")


def _known(dataset: str, paths: Iterable[Path]) -> list[Path]:
    files = sorted(p for p in paths if _suffix(p) in SUFFIXES and (is_remote(p) or p.is_file()))
    if not files:
        raise UserError(f"corpus.dataset: {dataset!r} holds no {', '.join(SUFFIXES)} file; {_ACCEPTED}")
    return files


def _file_rows(files: list[Path], column: str, counts: CorpusCounts) -> Iterator[Any]:
    readers: dict[str, Callable[[Path, str, CorpusCounts], Iterator[Any]]] = {
        ".parquet": _parquet_rows,
        ".jsonl": _jsonl_rows,
        ".ndjson": _jsonl_rows,
        ".json": _json_rows,
        ".csv": _csv_rows,
        ".txt": _txt_rows,
    }
    for path in files:
        try:
            yield from readers[_suffix(path)](path, column, counts)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"corpus.dataset: cannot read {str(path)!r}: {error}") from None


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        stream: Any = path.open("rb") if is_remote(path) else path
        return gzip.open(stream, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _parquet_rows(path: Path, column: str, counts: CorpusCounts) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(source_of(path))
    except pa.ArrowInvalid as error:
        raise CorruptArtifactError(
            f"corpus.dataset: {str(path)!r} is not a whole Parquet file: {error}"
        ) from None
    with file:
        _check_column(column, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=[column]):
            yield from batch.column(0).to_pylist()


def _jsonl_rows(path: Path, column: str, counts: CorpusCounts) -> Iterator[Any]:
    with _open(path) as stream:
        seen = False
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                if not counts.n_unreadable:
                    logger.warning("corpus: %s line %d is not a JSON object: skipped", path, number)
                counts.n_unreadable += 1
                continue
            if not seen:
                _check_column(column, row, str(path))
                seen = True
            yield row.get(column)


def _json_rows(path: Path, column: str, counts: CorpusCounts) -> Iterator[Any]:
    """A JSON array of objects, one object of columns, or JSON lines under that suffix."""
    with _open(path) as stream:
        try:
            value = json.load(stream)
        except json.JSONDecodeError:
            value = None
    if isinstance(value, list):
        rows = [row for row in value if isinstance(row, dict)]
        counts.n_unreadable += len(value) - len(rows)
        if rows:
            _check_column(column, rows[0], str(path))
        yield from (row.get(column) for row in rows)
    elif isinstance(value, dict):
        _check_column(column, value, str(path))
        yield from value[column] if isinstance(value[column], list) else [value[column]]
    else:
        yield from _jsonl_rows(path, column, counts)


def _csv_rows(path: Path, column: str, counts: CorpusCounts) -> Iterator[Any]:
    csv.field_size_limit(2**31 - 1)  # documents are longer than the 128 KiB that csv allows by default
    with _open(path) as stream:
        reader = csv.DictReader(stream)
        _check_column(column, reader.fieldnames or [], str(path))
        for row in reader:
            yield row[column]


def _txt_rows(path: Path, column: str, counts: CorpusCounts) -> Iterator[Any]:
    with _open(path) as stream:
        yield stream.read()


def _check_column(column: str, columns: Iterable[str], where: str) -> None:
    names = [str(name) for name in columns]
    if column not in names:
        close = nearest(column, names)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(
            f"corpus.text_column: {where} has no column {column!r}{hint}; its columns: "
            f"{', '.join(names) or 'none'}"
        )


def _hub_rows(config: CorpusConfig) -> Iterator[Any]:
    import datasets

    where = f"{config.dataset}{f' ({config.subset})' if config.subset else ''}"
    try:
        rows = datasets.load_dataset(
            config.dataset,
            config.subset,
            split=config.split,
            revision=config.revision,
            streaming=config.streaming,
        )
    except Exception as error:  # the hub's libraries raise many unrelated kinds
        raise _hub_error(config, error) from error
    if rows.column_names:
        _check_column(config.text_column, rows.column_names, f"dataset {where}")
    iterator = iter(rows)
    first = True
    while True:
        try:
            row = next(iterator)
        except StopIteration:
            return
        except (OSError, datasets.exceptions.DatasetsError) as error:
            raise _hub_error(config, error) from error
        if first:
            _check_column(config.text_column, row, f"dataset {where}")
            first = False
        yield row.get(config.text_column)


def _hub_error(config: CorpusConfig, error: Exception) -> UserError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
    setting = "corpus.dataset"
    if "split" in said.lower() and isinstance(error, ValueError):
        setting = "corpus.split"
    elif "config" in said.lower() and isinstance(error, ValueError):
        setting = "corpus.subset"
    seen = {"corpus.dataset": config.dataset, "corpus.split": config.split, "corpus.subset": config.subset}
    return UserError(f"{setting}: cannot load {seen[setting]!r} of {config.dataset!r}: {said}; {_ACCEPTED}")

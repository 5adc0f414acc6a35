"""Reading other tools' files: JSON lines, plain or compressed, whose every mistake is one line to the user."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autointerp.errors import UserError
from autointerp.run import printable

MAX_LINE_BYTES = 64 << 20
"""Longer lines are refused: no feature or text of an export is that large."""
_BATCH = re.compile(r"batch-(\d+)\.jsonl(\.gz)?")


def batches(folder: Path) -> list[Path]:
    """The `batch-N.jsonl.gz` files (or uncompressed ones) of a folder, by number; empty if there is none."""
    found = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _BATCH.fullmatch(path.name)
        if match:
            found[int(match[1]), path.name] = path
    return [found[key] for key in sorted(found)]


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a JSONL file with where it stands, as `batch-0.jsonl.gz line 3`.

    Raises `UserError` for a file that cannot be read, a line that is no JSON object, and one too long.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
            number = 0
            while line := handle.readline(MAX_LINE_BYTES + 1):
                number += 1
                where = f"{path.name} line {number}"
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(f"{path}: line {number} is longer than {MAX_LINE_BYTES >> 20} MiB")
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{path}: line {number} is no JSON ({_said(error)})") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}: line {number}: seen {type(row).__name__}; accepted: an object")
                yield where, row
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {_said(error)}") from None


def whole_number(row: dict[str, Any], key: str, where: str) -> int:
    """A whole number from 0, written as a number or as text. Raises `UserError`."""
    value = row.get(key)
    if isinstance(value, str) and value.strip().isdecimal() and value.isascii():
        value = int(value) if len(value) < 12 else None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise UserError(f"{where}: {key}: seen {_shown(row.get(key))}; accepted: a whole number from 0")
    return value


def number(row: dict[str, Any], key: str, where: str) -> float | None:
    """A finite number, or None where it is missing or null. Raises `UserError`."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{where}: {key}: seen {_shown(value)}; accepted: a number")
    return float(value)


def numbers(row: dict[str, Any], key: str, where: str) -> list[float]:
    """A list of finite numbers; empty where it is missing or null. Raises `UserError`."""
    value = row.get(key)
    if value is None:
        return []
    good = isinstance(value, list) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in value
    )
    if not good:
        raise UserError(f"{where}: {key}: seen {_shown(value)}; accepted: a list of numbers")
    return [float(x) for x in value]


def texts(row: dict[str, Any], key: str, where: str) -> list[str]:
    """A list of texts; empty where it is missing or null. Raises `UserError`."""
    value = row.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
        raise UserError(f"{where}: {key}: seen {_shown(value)}; accepted: a list of texts")
    return [clean(x) for x in value]


def text(row: dict[str, Any], key: str, where: str) -> str | None:
    """A text, or None where it is missing or null. Raises `UserError`."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key}: seen {_shown(value)}; accepted: a text")
    return None if value is None else clean(value)


def clean(value: str) -> str:
    """Text that can be written as UTF-8: half a surrogate pair becomes a replacement character."""
    return value.encode("utf-8", "replace").decode("utf-8")


def _shown(value: Any) -> str:
    shown = printable(repr(value))
    return shown if len(shown) <= 60 else shown[:59] + "…"


def _said(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])

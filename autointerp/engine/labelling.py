"""Words with activations from a CSV file, labelled by the explainer `gradient`.

The file has a header with the columns `token` and `activation` and optionally `text`, the context the
token stands in; other columns are ignored. A positive activation means that the feature fires on the
token, 0 that it does not.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.config import parse_table
from autointerp.errors import UserError, looked_for, unknown_name

if TYPE_CHECKING:
    from autointerp.explainers.gradient import GradientConfig, TokenItem, TokenLabel

REQUIRED = ("token", "activation")
"""Columns a file must have."""
LONGEST_FIELD = 1 << 24
"""Characters of one field."""


@dataclass(frozen=True, kw_only=True)
class TokenFile:
    """The rows of a file."""

    items: list[TokenItem]
    """In the order of the file."""
    n_empty: int
    """Rows left out because their token is nothing but blanks."""


def read_tokens(path: str | Path) -> TokenFile:
    """Read a CSV of tokens. Raises `UserError`, one line, naming the file, the line and what is accepted.

    UTF-8, with or without a byte order mark. Where `text` holds the token, its place is found: rows
    of one text in the order of the text take one occurrence after another.
    """
    from autointerp.explainers.gradient import TokenItem

    path = Path(path)
    items: list[TokenItem] = []
    n_empty = 0
    cursors: dict[str, int] = {}
    for line, row in _rows(path):
        token, text = row["token"], row["text"]
        activation = _activation(path, line, row["activation"])
        if not token.strip():
            n_empty += 1
            continue
        start = None
        if text is not None:
            start = find_token(text, token, cursors.get(text, 0))
            if start is not None:
                cursors[text] = start + len(token)
        items.append(TokenItem(token=token, activation=activation, text=text, start=start))
    _check(path, items, n_empty)
    return TokenFile(items=items, n_empty=n_empty)


def find_token(text: str, token: str, after: int = 0) -> int | None:
    """Where a token stands in a text, from `after` on if it can: whole words first, None if nowhere."""
    bare = token.strip()
    before = r"(?<!\w)" if bare[:1].isalnum() else ""
    behind = r"(?!\w)" if bare[-1:].isalnum() else ""
    whole = re.compile(before + re.escape(bare) + behind)
    for begin in dict.fromkeys((after, 0)):
        if found := whole.search(text, begin):
            return found.start()
    for begin in dict.fromkeys((after, 0)):
        if (at := text.find(bare, begin)) >= 0:
            return at
    return None


def gradient_config(
    overrides: Sequence[str] = (), *, mode: str | None = None, model: str | None = None
) -> GradientConfig:
    """The explainer's settings: its defaults, `KEY=VALUE` overrides, and two that have options of their own.

    Raises `UserError` for an unknown key or an impossible value.
    """
    from autointerp.explainers.gradient import GradientConfig

    table: dict[str, Any] = dict(_setting(override) for override in overrides)
    accepted = set(GradientConfig.model_fields) - {
        "latents"
    }  # a section of a run has latents, a list of words none
    for key in table:
        if key not in accepted:
            raise unknown_name("--set", key, accepted)
    if mode is not None:
        table["mode"] = mode
    if model is not None:
        table["model"] = model
    return parse_table(GradientConfig, table, "label-tokens")


def label_items(items: Sequence[TokenItem], config: GradientConfig, seed: int) -> TokenLabel:
    """Open the discriminator of a configuration and label tokens. Raises `UserError` if it cannot be opened."""
    from autointerp.explainers.gradient import label_tokens, open_discriminator

    return label_tokens(items, config, open_discriminator(config), seed)


def as_json(label: TokenLabel) -> str:
    """One object: label, status, reason, precision, recall, chain, candidates, then more; undefined is null."""
    return json.dumps(finite(label.as_json()), ensure_ascii=False, allow_nan=False, indent=2)


def finite(value: Any) -> Any:
    """A JSON value in which numbers that JSON does not have are null."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _setting(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set: seen {override!r}; accepted: KEY=VALUE, as in restarts=4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return key.strip(), value


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and the three fields of every row that is not blank; `text` is None where empty."""
    reader = csv.reader(io.StringIO(_content(path), newline=""), strict=True)
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        header, width = _header(path, reader)
        for fields in reader:
            if not any(field.strip() for field in fields):
                continue
            if any(field.strip() for field in fields[width:]):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, and the header has {width}; "
                    'a field with a comma stands in "quotes"'
                )
            row: dict[str, Any] = {}
            for name in REQUIRED:
                if header[name] >= len(fields):
                    raise UserError(
                        f"{path}, line {reader.line_num}: no value for column {name!r}, which is "
                        f"number {header[name] + 1} in the header; the row has {len(fields)}"
                    )
                row[name] = fields[header[name]]
            at = header.get("text")
            text = fields[at] if at is not None and at < len(fields) else ""
            row["text"] = text if text.strip() else None
            yield reader.line_num, row
    except csv.Error as error:
        raise UserError(
            f"{path}, line {max(reader.line_num, 1)}: not valid CSV: {error}; a field with a comma, a quote or "
            'a line end stands in "quotes", a quote in it is doubled'
        ) from None
    finally:
        csv.field_size_limit(before)


def _content(path: Path) -> str:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"FILE: no file {looked_for(path)}; accepted: a CSV with the columns {_columns()}"
        ) from None
    except OSError as error:
        raise UserError(f"FILE: cannot read {str(path)!r}: {error.strerror or error}") from None
    if not data.strip():
        raise UserError(f"{path}: the file is empty; accepted: a CSV with the columns {_columns()}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None


def _header(path: Path, reader: Any) -> tuple[dict[str, int], int]:
    """Where the known columns stand, and how many columns there are."""
    names = [name.strip().casefold() for name in next((row for row in reader if any(row)), [])]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        hint = ""
        if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
            hint = " (columns are separated by commas)"
        seen = ", ".join(repr(name) for name in names[:8]) or "none"
        raise UserError(
            f"{path}: no column {' and no column '.join(repr(name) for name in missing)} in the header; "
            f"seen: {seen}{hint}; accepted: {_columns()}"
        )
    for name in (*REQUIRED, "text"):
        if names.count(name) > 1:
            raise UserError(f"{path}: the header has {names.count(name)} columns {name!r}; accepted: one")
    return {name: names.index(name) for name in (*REQUIRED, "text") if name in names}, len(names)


def _columns() -> str:
    return "token, activation and, if there is context, text"


def _activation(path: Path, line: int, field: str) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        seen = field if len(field) <= 40 else field[:39] + "…"
        raise UserError(
            f"{path}, line {line}: activation {seen!r}; accepted: a number of 0 or more, as 0, 1 or 3.75"
        )
    return value


def _check(path: Path, items: Sequence[TokenItem], n_empty: int) -> None:
    if not items:
        why = f"all {n_empty} tokens are blank" if n_empty else "there are no rows below the header"
        raise UserError(f"{path}: nothing to label: {why}")
    n_positive = sum(item.activation > 0 for item in items)
    if n_positive == 0:
        raise UserError(
            f"{path}: no positives: every activation of its {len(items)} tokens is 0; some must be above 0"
        )
    if n_positive == len(items):
        raise UserError(
            f"{path}: no negatives: every activation of its {len(items)} tokens is above 0; some must be 0, "
            "to tell what the feature does not fire on"
        )

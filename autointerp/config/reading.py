"""From a TOML file and overrides to a checked configuration; the first mistake becomes one line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from autointerp.config.mistakes import explain
from autointerp.config.section import Section
from autointerp.config.sections import RunConfig
from autointerp.errors import UserError
from autointerp.storage import place, reached

T = TypeVar("T", bound="Section")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's TOML file and apply overrides of the form `section.key=value`.

    Raises `UserError` for an unreadable file, bad TOML, unknown keys and impossible values.
    """
    path = place(path)
    try:
        with reached("RUN", path):
            table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [str(p) for p in sorted(Path("pipelines").glob("*.toml"))]
        raise UserError(f"RUN: no file {str(path)!r}; recipes here: {', '.join(near) or 'none'}") from None
    except IsADirectoryError:
        here = " (RUN_DIR is an option, --run-dir)" if (path / "run.toml").is_file() else ""
        raise UserError(
            f"RUN: {str(path)!r} is a folder{here}; accepted: a TOML file, as in pipelines/demo.toml"
        ) from None
    except OSError as error:
        raise UserError(f"RUN: cannot read {str(path)!r}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"RUN: cannot read {str(path)!r}: not text in UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"RUN: {path} is not valid TOML: {error}") from None
    for override in overrides:
        _apply_override(table, override)
    return parse_table(RunConfig, table)


def parse_table(cls: type[T], table: Mapping[str, Any], where: str = "") -> T:
    """Check a plain table against a `Section` class; the first mistake becomes a `UserError`.

    `where` is the dotted name of the table, used in the message.
    """
    try:
        return cls.model_validate(dict(table))
    except ValidationError as error:
        raise UserError(explain(cls, error, where)) from None


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key or not all(part for part in key.split(".")):
        raise UserError(
            f"--set: seen {override!r}; accepted: section.key=value, as in cache.n_tokens=1_000_000"
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        child = table.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(
                f"--set: {'.'.join(parents[: depth + 1])} is a value, not a section (seen {override!r})"
            )
        table = child
    table[last] = value

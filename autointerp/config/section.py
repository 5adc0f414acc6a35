"""What every configuration table is: a frozen class whose fields say what they accept."""

from __future__ import annotations

import hashlib
import json
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field


def not_a_result(default: Any, **keywords: Any) -> Any:
    """A field that changes speed or comfort but not the results: left out of fingerprints."""
    return Field(default, json_schema_extra={"affects_results": False}, **keywords)


class Section(BaseModel):
    """Base of every configuration table: frozen, keyword-only, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    def fingerprint(self) -> str:
        """Hex digest of every value that affects results."""
        return digest(self.result_values())

    def result_values(self) -> dict[str, Any]:
        """The values that affect results, as plain JSON types; unset ones are left out.

        So a setting added later, unset by default, leaves finished runs as they are.
        """
        values: dict[str, Any] = {}
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            if value is None or not _affects_results(info.json_schema_extra):
                continue
            inner = isinstance(value, Section)
            values[name] = (
                value.result_values() if inner else self.model_dump(mode="json", include={name})[name]
            )
        return values


def section_of(annotation: Any) -> type[Section] | None:
    """The section class that an annotation names, alone or beside None; else None."""
    for choice in (annotation, *get_args(annotation)):
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice
    return None


def digest(value: Any) -> str:
    """Hex digest (16 characters) of a JSON-serialisable value; key order does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _affects_results(extra: Any) -> bool:
    return not (isinstance(extra, dict) and extra.get("affects_results") is False)

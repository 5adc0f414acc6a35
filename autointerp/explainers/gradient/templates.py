"""The discriminator's prompts, cut at their markers."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Template:
    """A prompt around one place to fill: its beginning is computed once, its ending per filling."""

    beginning: str
    """Up to the marker, without the space before it."""
    after: str
    """What follows the filling."""

    def ending(self, filling: str) -> str:
        """What is computed anew for a filling."""
        return f" {filling}{self.after}"


@dataclass(frozen=True, kw_only=True)
class Aspect:
    """One question a label may answer, asked in both directions."""

    name: str
    forward: tuple[Template, ...]
    """Shown a word, the model says the label."""
    backward: Template
    """Shown a label, the model says a word."""
    listed: Template | None
    """Shown several words, the model says the label."""


@dataclass(frozen=True, kw_only=True)
class Templates:
    """All prompts of the package."""

    version: int
    aspects: dict[str, Aspect]
    generic: frozenset[str]
    """Words too empty to be a label."""
    reference: tuple[str, ...]
    """Labels of many kinds, whose mean is what a word's likelihood is compared with."""
    yes_no: dict[str, Any]
    """Parts of the question that is answered by yes or no."""
    source: str
    """The whole file: its hash is part of the results' fingerprint."""


@lru_cache(maxsize=1)
def load_templates() -> Templates:
    """The templates in `prompts/templates.toml` of this package."""
    source = files(__package__).joinpath("prompts", "templates.toml").read_text(encoding="utf-8")
    values = tomllib.loads(source)
    aspects = {
        name: Aspect(
            name=name,
            forward=tuple(cut(text, "{word}") for text in table["forward"]),
            backward=cut(table["backward"], "{label}"),
            listed=cut(table["list"], "{words}") if "list" in table else None,
        )
        for name, table in values.items()
        if isinstance(table, dict) and "forward" in table
    }
    return Templates(
        version=values["version"],
        aspects=aspects,
        generic=frozenset(values["generic"]["words"]),
        reference=tuple(values["reference"]["labels"]),
        yes_no=values["yes_no"],
        source=source,
    )


def cut(text: str, marker: str) -> Template:
    """A prompt cut at its only marker."""
    before, after = text.split(marker)
    return Template(before.removesuffix(" "), after)

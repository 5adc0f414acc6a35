"""Prompt files: text beside the code, with a version line and named parts.

A file begins with `version: N`; each part begins with a line `--- NAME`. In a chat prompt the parts
`system`, `user` and `assistant` are messages as they stand, in order, and `query` is the user
message that asks, with `{placeholders}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files
from typing import Literal, cast

from autointerp.llm.types import Message
from autointerp.sampling.windows import defuse

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_QUOTED = json.JSONEncoder(ensure_ascii=False)
MAX_EXPLANATION_CHARACTERS = 2_000
"""Longer explanations are cut before a judge sees them."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt file."""

    name: str
    version: int
    parts: tuple[tuple[str, str], ...]
    """(name, text) in the order of the file."""
    source: str
    """The whole file, for fingerprints."""

    def part(self, name: str, values: Mapping[str, str] | None = None) -> str:
        """The only part of that name, with its placeholders filled."""
        (text,) = [text for part, text in self.parts if part == name]
        return fill(text, values or {})

    def messages(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """The file as chat messages, the query last."""
        return (*self._before_query, Message(role="user", content=self.part("query", values)))

    @cached_property
    def _before_query(self) -> tuple[Message, ...]:
        return tuple(
            Message(role=cast(Literal["system", "user", "assistant"], role), content=text)
            for role, text in self.parts
            if role in ("system", "user", "assistant")
        )


@lru_cache(maxsize=32)
def load_prompt(name: str) -> Prompt:
    """The prompt file `prompts/NAME.txt` of this package."""
    source = files("autointerp.scorers").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
    head, *rest = re.split(r"^--- (\w+)\n", source, flags=re.MULTILINE)
    version = int(head.removeprefix("version:").strip())
    parts = tuple((part, text.removesuffix("\n")) for part, text in zip(rest[::2], rest[1::2], strict=True))
    return Prompt(name=name, version=version, parts=parts, source=source)


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with its `{placeholders}` replaced in one pass: braces in values stay as they are."""
    return _PLACEHOLDER.sub(lambda m: values.get(m[1], m[0]), template)


def one_line(explanation: str) -> str:
    """An explanation as prompts show it: one line, our marks broken up, of bounded length."""
    return defuse(" ".join(explanation.split()))[:MAX_EXPLANATION_CHARACTERS].rstrip()


def quoted(text: str) -> str:
    """Corpus text as a JSON string: it can end neither its line nor its quotes."""
    return _QUOTED.encode(text)

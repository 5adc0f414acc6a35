"""Prompt files of explainers: text beside the code, with a version line and named parts.

A file begins with `version: N`; each part begins with a line `--- NAME`. Placeholders stand in
braces. A worked example (part `shot`) holds excerpts, one a line, in which `<<word|7>>` is a token
with an activation of 7 out of 10, and after `=>` the answer; lines `+[...]` and `-[...]` are JSON lists of tokens promoted and demoted. It is data, put into words by the very
code that puts real windows into words, so that worked examples and queries always look alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np

from autointerp.sampling.windows import TokenTable, Window

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_PIECE = re.compile(r"<<([^|<>]+)\|(\d+)>>|(\s*[^\s<]+)")


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """One prompt file."""

    version: int
    parts: tuple[tuple[str, str], ...]
    """(name, text) in the order of the file."""
    source: str
    """The whole file: its hash is part of the results' fingerprint."""

    def part(self, name: str, values: Mapping[str, str] | None = None) -> str:
        """The only part of that name, its placeholders filled in one pass (braces in values stay)."""
        (text,) = [text for part, text in self.parts if part == name]
        filled = values or {}
        return _PLACEHOLDER.sub(lambda m: filled.get(m[1], m[0]), text)

    def shots(self) -> list[Shot]:
        """The worked examples, in order."""
        return [_shot(text) for name, text in self.parts if name == "shot"]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A worked example: windows over a vocabulary of its own, and the answer they should get."""

    table: TokenTable
    windows: tuple[Window, ...]
    """Kind `activating` where a token is active, else `random`."""
    promoted: tuple[str, ...]
    demoted: tuple[str, ...]
    answer: str


@lru_cache(maxsize=32)
def load_prompt(name: str) -> PromptFile:
    """The prompt file `prompts/NAME.txt` of this package."""
    source = files(__package__).joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
    head, *rest = re.split(r"^--- (\w+)\n", source, flags=re.MULTILINE)
    version = int(head.removeprefix("version:").strip())
    parts = tuple((part, text.strip("\n")) for part, text in zip(rest[::2], rest[1::2], strict=True))
    return PromptFile(version=version, parts=parts, source=source)


def _shot(text: str) -> Shot:
    excerpts, answer = text.rsplit("\n=>", 1)
    pieces: list[bytes] = []
    windows = []
    lists: dict[str, tuple[str, ...]] = {"+": (), "-": ()}
    for index, line in enumerate(excerpts.splitlines()):
        if line[:2] in ("+[", "-["):
            lists[line[0]] = tuple(json.loads(line[1:]))
            continue
        found = [(m[1] or m[3], float(m[2] or 0)) for m in _PIECE.finditer(line)]
        assert "".join(piece for piece, _ in found) == re.sub(r"<<([^|]*)\|\d+>>", r"\1", line), line
        tokens = np.arange(len(pieces), len(pieces) + len(found))
        pieces += [piece.encode() for piece, _ in found]
        windows.append(
            Window(
                example=index,
                split="train",
                kind="activating" if any(value for _, value in found) else "random",
                decile=None,
                context=index,
                start=0,
                tokens=tokens,
                activations=np.array([value for _, value in found], dtype=np.float32),
            )
        )
    table = TokenTable(pieces, [piece.decode() for piece in pieces])
    return Shot(
        table=table,
        windows=tuple(windows),
        promoted=lists["+"],
        demoted=lists["-"],
        answer=answer.strip(),
    )

"""Token texts as other tools write them, as a vocabulary of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts.schemas import VOCABULARY
from autointerp.subject.vocabulary import byte_alphabet, readable

_SPECIAL = re.compile(r"<\|[^<>|]{1,40}\|>|<(bos|eos|pad|unk|mask|s|/s)>", re.IGNORECASE)
_ESCAPED = re.compile(r"(\\x[0-9a-f]{2})+")
_SPELLED = 0.05
"""Share of token texts that begin with a tokenizer's own sign for a space, from which it is read as one."""


class TokenNames:
    """Texts of tokens to ids of our own, in the order in which they are first seen."""

    def __init__(self) -> None:
        self._id: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._id)

    def ids(self, texts: Sequence[str]) -> NDArray[np.uint32]:
        """An id per text."""
        known = self._id
        return np.array([known.setdefault(text, len(known)) for text in texts], dtype=np.uint32)

    def text(self, ids: NDArray[np.uint32]) -> str:
        """The texts of some ids, joined as they stand."""
        names = self._names()
        return "".join(names[i] for i in ids.tolist())

    def table(self, n_occurrences: NDArray[np.int64], n_train: NDArray[np.int64]) -> pa.Table:
        """The dataset `vocabulary`."""
        names = self._names()
        spelling = self.spelling()
        pieces = [bytes_of(name, spelling) for name in names]
        columns = [
            pa.array(range(len(names)), pa.uint32()),
            pa.array(
                [n if p is None else readable(p) for n, p in zip(names, pieces, strict=True)], pa.string()
            ),
            pa.array(pieces, pa.binary()),
            pa.array([piece is None for piece in pieces], pa.bool_()),
            pa.array(n_occurrences.astype(np.uint64)),
            pa.array(n_train.astype(np.uint64)),
        ]
        return pa.Table.from_arrays(columns, schema=VOCABULARY.schema)

    def spelling(self) -> str | None:
        """The sign that stands for a space, where the texts are a tokenizer's own spelling; None for plain text."""
        for sign in ("Ġ", "▁"):
            if len(self._id) and sum(name.startswith(sign) for name in self._id) > _SPELLED * len(self._id):
                return sign
        return None

    def _names(self) -> list[str]:
        if len(getattr(self, "_listed", ())) != len(self._id):
            self._listed = list(self._id)
        return self._listed


def bytes_of(name: str, spelling: str | None) -> bytes | None:
    """The bytes a token stands for; None for a special token."""
    if _SPECIAL.fullmatch(name):
        return None
    if _ESCAPED.fullmatch(name):
        escaped = bytes.fromhex(name.replace("\\x", ""))
        # Only what is not text by itself is written so.
        if readable(escaped) == name:
            return escaped
    if spelling == "Ġ":
        alphabet = byte_alphabet()
        if all(character in alphabet for character in name):
            return bytes(alphabet[character] for character in name)
    if spelling == "▁":
        name = name.replace("▁", " ")
    return name.encode("utf-8", "replace")

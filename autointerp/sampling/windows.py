"""Windows of text as explainers and scorers see them, and tokens as readable text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

MARK_OPEN, MARK_CLOSE = "<<", ">>"
"""Marks put around tokens in prompts. Text that holds them already is made harmless by `defuse`."""


def defuse(text: str) -> str:
    """Corpus text with our own marks broken up, so that it can never pass for marked text."""
    while MARK_OPEN in text or MARK_CLOSE in text:
        text = text.replace(MARK_OPEN, "< <").replace(MARK_CLOSE, "> >")
    return text


class TokenTable:
    """Token ids to text, exact across tokens that split a character.

    `pieces[token]` are the bytes of a token; None for special tokens, which are shown by `names`.
    """

    def __init__(self, pieces: Sequence[bytes | None], names: Sequence[str]) -> None:
        self.pieces = pieces
        self.names = names
        self._bytes = [piece or b"" for piece in pieces]

    def readable(self, token: int) -> str:
        """The readable form of one token, as in the `vocabulary` dataset."""
        return self.names[token]

    def text(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of a run of tokens; special tokens are left out."""
        return b"".join(map(self._bytes.__getitem__, _ids(tokens))).decode("utf-8", "replace")

    def texts(self, tokens: Sequence[int] | np.ndarray) -> list[str]:
        """One piece of text per token, whose concatenation is `text(tokens)`.

        A character split over several tokens belongs to the last of them; special tokens are empty.
        """
        import codecs

        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        parts = [decoder.decode(self._bytes[t]) for t in _ids(tokens)]
        if parts:
            parts[-1] += decoder.decode(b"", final=True)
        return parts

    def marked(self, tokens: Sequence[int] | np.ndarray, marks: Sequence[bool] | np.ndarray) -> str:
        """The text with `<<` and `>>` around each run of marked tokens; the corpus's own are defused.

        A space before a marked word stays outside its mark. Marked tokens without text (special
        ones, or the first bytes of a split character) hand their mark to the token that carries it.
        """
        parts = self.texts(tokens)
        flags = [bool(m) for m in marks]
        for i in range(len(parts) - 1):
            if flags[i] and not parts[i] and not self.names_special(int(tokens[i])):
                flags[i + 1] = True
        pieces: list[tuple[str, bool]] = []
        for part, flag in zip(parts, flags, strict=True):
            if not part:
                continue
            if pieces and pieces[-1][1] == flag:
                pieces[-1] = (pieces[-1][0] + part, flag)
            else:
                pieces.append((part, flag))
        out = ""
        for text, flag in pieces:
            text = defuse(text)
            # A mark of the corpus may be split over the seam of two pieces: break it there.
            if out and text and out[-1] == text[0] and out[-1] in "<>":
                out += " "
            if not flag:
                out += text
                continue
            body = text.lstrip(" ")
            lead = text[: len(text) - len(body)]
            if not body:
                out += text
                continue
            inner_open = " " if body[0] in "<>" else ""
            inner_close = " " if body[-1] in "<>" else ""
            outer = " " if out and not lead and out[-1] in "<>" and not out.endswith(MARK_CLOSE) else ""
            out += f"{lead}{outer}{MARK_OPEN}{inner_open}{body}{inner_close}{MARK_CLOSE}"
        return out

    def names_special(self, token: int) -> bool:
        """Whether a token is special (has no bytes of its own)."""
        return self.pieces[token] is None


def _ids(tokens: Sequence[int] | np.ndarray) -> list[int]:
    return tokens.tolist() if isinstance(tokens, np.ndarray) else [int(t) for t in tokens]


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of text for one latent (a row of `examples`)."""

    example: int
    split: str
    kind: str
    decile: int | None
    context: int
    start: int
    tokens: np.ndarray
    """Token ids, [n_tokens]."""
    activations: np.ndarray
    """Activation at each token, [n_tokens] float32, 0 where silent."""
    source_latent: int | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Window:
        """A row of `examples` as a window."""
        return cls(
            example=row["example"],
            split=row["split"],
            kind=row["kind"],
            decile=row["decile"],
            context=row["context"],
            start=row["start"],
            tokens=np.array(row["tokens"], dtype=np.int64),
            activations=np.array(row["activations"], dtype=np.float32),
            source_latent=row["source_latent"],
        )

    @cached_property
    def max_activation(self) -> float:
        """Largest activation in the window."""
        return float(self.activations.max(initial=0.0))

    @property
    def activating(self) -> bool:
        """Whether the latent is active in it."""
        return self.kind == "activating"


@dataclass(frozen=True, kw_only=True)
class LatentRecord:
    """All a latent's explainer or scorer may look at: statistics and windows of one split."""

    latent: int
    statistics: dict[str, Any]
    """Its row of `latents`."""
    windows: tuple[Window, ...] = field(default=())
    """Train windows for an explainer, test windows for a scorer."""

    @property
    def activating(self) -> list[Window]:
        """Windows in which it is active, strongest first."""
        return sorted((w for w in self.windows if w.activating), key=lambda w: (-w.max_activation, w.example))

    @property
    def silent(self) -> list[Window]:
        """Windows verified to hold no activation, of every kind."""
        return [w for w in self.windows if w.kind not in ("activating", "unread")]

    @property
    def unread(self) -> list[Window]:
        """Windows drawn without looking: it may be active in them."""
        return [w for w in self.windows if w.kind == "unread"]

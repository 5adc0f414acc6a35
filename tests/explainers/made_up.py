"""Made-up windows and a model that answers by a function, for the tests of explainers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from autointerp.explainers.base import ExplainContext
from autointerp.llm.types import Capability, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord, TokenTable, Window


class FakeModel:
    """A LanguageModel that answers with `function` and keeps what it was asked."""

    identity = "fake"
    capabilities = frozenset({Capability.GENERATE})

    def __init__(self, function: Callable[[Request], Reply | str]) -> None:
        self.function = function
        self.requests: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.requests += requests
        replies = [self.function(request) for request in requests]
        return [
            r if isinstance(r, Reply) else Reply(text=r, usage=Usage(prompt_tokens=10, completion_tokens=3))
            for r in replies
        ]

    def count_tokens(self, text: str) -> int:
        return len(text.split())


class Vocabulary:
    """Grows as texts are added; each piece of text is a token."""

    def __init__(self) -> None:
        self.pieces: list[bytes | None] = []

    def ids(self, pieces: Sequence[str]) -> np.ndarray:
        out = []
        for piece in pieces:
            if piece.encode() not in self.pieces:
                self.pieces.append(piece.encode())
            out.append(self.pieces.index(piece.encode()))
        return np.array(out)

    @property
    def table(self) -> TokenTable:
        return TokenTable(self.pieces, [(p or b"").decode() for p in self.pieces])


def window(
    vocabulary: Vocabulary, pieces: Sequence[tuple[str, float]], example: int = 0, decile: int | None = None
) -> Window:
    return Window(
        example=example,
        split="train",
        kind="activating" if any(a for _, a in pieces) else "random",
        decile=decile,
        context=example,
        start=0,
        tokens=vocabulary.ids([text for text, _ in pieces]),
        activations=np.array([a for _, a in pieces], dtype=np.float32),
    )


def record(windows: Sequence[Window], latent: int = 7, **statistics: Any) -> LatentRecord:
    largest = max((w.max_activation for w in windows), default=None)
    return LatentRecord(
        latent=latent,
        statistics={"status": "ok", "max_activation": largest, **statistics},
        windows=tuple(windows),
    )


def context(
    model: FakeModel | None, table: TokenTable, token_counts: np.ndarray | None = None
) -> ExplainContext:
    counts = np.ones(len(table.pieces), dtype=np.int64) if token_counts is None else token_counts
    return ExplainContext(model=model, tokens=table, token_counts=counts, seed=0)


CONCEPT = ["cat", "dog", "horse"]
_OTHERS = ["red", "blue", "seven", "eight", "ran", "slept", "tall", "under", "near", "glass", "iron", "late"]
CONCEPT_WORDS = ["<bos>", *CONCEPT, *_OTHERS, "!", "a", "thing"]
"""Vocabulary of the subject `concept_subject`."""
CONCEPT_LATENT, EMPTY_LATENT = 3, 5
"""The latent whose direction is the sum of the concept's embeddings, and one of zeros."""


class Directions:
    """A dictionary of nothing but decoder directions."""

    hook_point = hook_point_out = "blocks.1.hook_resid_post"

    def __init__(self, directions: Any) -> None:
        self.directions = directions
        self.n_latents = 0 if directions is None else len(directions)

    def decoder_directions(self, latents: Any) -> Any:
        return None if self.directions is None else self.directions[latents]


def concept_table() -> TokenTable:
    return TokenTable([None, *(f" {word}".encode() for word in CONCEPT_WORDS[1:])], CONCEPT_WORDS)

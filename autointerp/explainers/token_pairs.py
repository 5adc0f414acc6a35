"""Explainer `token-pairs`: every token of a few windows beside its activation from 0 to 10.

After `TokenActivationPairExplainer` in openai/automated-interpretability (Bills et al., "Language
models can explain neurons in language models", 2023): activations as min(10, floor(10 relu(x) / max)),
max over the windows shown; the non-zero tokens listed again where fewer than 0.2 of all are non-zero;
at most 60 tokens of reply. Its completion prefix is a request to end a sentence here, and the prompt
and its worked examples are our own. Tokens are JSON strings, so that none can end its line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from autointerp.explainers.asking import NO_WINDOWS, WINDOWS_STREAM, ChatConfig, ChatExplainer, Question
from autointerp.explainers.base import ExplainContext, ExplainerConfig, explainer
from autointerp.explainers.prompt_files import Shot
from autointerp.explainers.rendering import choose_windows, quoted, spelled_tokens
from autointerp.explainers.replies import EMPTY, Reading, read_chat
from autointerp.sampling.windows import LatentRecord, TokenTable, Window, defuse

_PREFIX = re.compile(
    r"^(?:in a text,? )?(?:(?:the|this) (?:unit|neuron) |it )?(?:mainly |mostly )?looks for\b[\s:,.…]*",
    re.IGNORECASE,
)


class TokenPairsConfig(ChatConfig):
    """`[explainers.token-pairs]`."""

    n_windows: Annotated[int, Field(ge=1)] = 5
    """Most activating windows shown."""
    windows: Literal["top", "deciles"] = "top"
    """`top`: those with the largest activation, as published; `deciles`: evenly over deciles."""
    repeat_below: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    """List the non-zero tokens again if fewer than this share of all tokens are non-zero."""
    max_tokens: Annotated[int, Field(ge=1)] = 60
    """Longest reply; raise it for models that reason first."""


@explainer("token-pairs")
class TokenPairsExplainer(ChatExplainer):
    """Explains each latent with one request; see the module and `TokenPairsConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = TokenPairsConfig
    version: ClassVar[int] = 3
    uses_windows: ClassVar[bool] = True
    prompt_name = "token_pairs"

    def __init__(self, config: TokenPairsConfig) -> None:
        self.config: TokenPairsConfig = config

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """The tables of one latent's windows."""
        if self.config.windows == "top":
            windows = record.activating[: self.config.n_windows]
        else:
            rng = context.rng(record.latent, WINDOWS_STREAM)
            windows = choose_windows(record, self.config.n_windows, rng)
        tables = rated_tokens(windows[::every], context.tokens)
        details = {"n_windows": len(tables)}
        if not tables:
            return Question(reason=NO_WINDOWS, details=details)
        return Question(request=self.ask(self._show(tables)), n_windows=len(tables), details=details)

    def show_shot(self, shot: Shot) -> str:
        """Its tables."""
        return self._show(rated_tokens(shot.windows, shot.table))

    def read(self, text: str | None, finish_reason: str | None) -> Reading:
        """A reply as an explanation, without the beginning of the sentence it had to end."""
        reading = read_chat(text, finish_reason)
        if reading.text is None:
            return reading
        rest = _PREFIX.sub("", reading.text)
        if not any(c.isalnum() for c in rest):
            return Reading(status="failed", reason=EMPTY)
        return Reading(text=rest)

    def _show(self, tables: Sequence[Sequence[tuple[str, int]]]) -> str:
        lines = []
        for number, pairs in enumerate(tables, start=1):
            lines += [f"Text {number}:", *map(_line, pairs)]
        levels = [level for pairs in tables for _, level in pairs]
        if sum(level > 0 for level in levels) / len(levels) < self.config.repeat_below:
            for number, pairs in enumerate(tables, start=1):
                lines += [f"Text {number}, without zeros:", *(_line(pair) for pair in pairs if pair[1] > 0)]
        return self.prompt.part("query", {"tables": "\n".join(lines)})


def rated_tokens(windows: Sequence[Window], table: TokenTable) -> list[list[tuple[str, int]]]:
    """The windows' tokens with activations min(10, floor(10 relu(x) / max)), max over the windows.

    Windows without text are left out; no window at all if nothing is active in any.
    """
    spelled = [tokens for window in windows if (tokens := spelled_tokens(window, table))]
    largest = max((value for tokens in spelled for _, value in tokens), default=0.0)
    if largest <= 0:
        return []
    return [[(text, rating(value, largest)) for text, value in tokens] for tokens in spelled]


def rating(activation: float, largest: float) -> int:
    """An activation as a whole number from 0 to 10, rounded down; 10 is `largest`, and above."""
    return min(10, math.floor(10 * max(activation, 0.0) / largest))


def _line(pair: tuple[str, int]) -> str:
    text, level = pair
    return f"{quoted(defuse(text))}\t{level}"

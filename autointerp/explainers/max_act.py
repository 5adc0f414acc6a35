"""Explainer `max-act`: a few words from the strongest tokens, those after them, and their surroundings.

After Neuronpedia's explainer `np_max-act`, there meant for the first two thirds of a model's layers:
the same lists in the same order and labels of one to six words, with a prompt and worked examples
of our own. There is no falling back to the top token: a reply that says nothing stays a row that
says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from autointerp.explainers.asking import NO_WINDOWS, ChatConfig, ChatExplainer, Question
from autointerp.explainers.base import ExplainContext, ExplainerConfig, explainer
from autointerp.explainers.prompt_files import Shot
from autointerp.explainers.rendering import quoted, quoted_list, spelled_tokens
from autointerp.explainers.replies import Reading, read_chat
from autointerp.sampling.windows import LatentRecord, TokenTable, Window

_NAMES_READING = re.compile(r"\b(?:reading|method)s? *#?\d", re.IGNORECASE)


class MaxActConfig(ChatConfig):
    """`[explainers.max-act]`."""

    n_windows: Annotated[int, Field(ge=1)] = 10
    """Most windows shown, those with the largest activation."""
    n_around: Annotated[int, Field(ge=0)] = 24
    """Tokens of an excerpt before and after the strongest one, as far as the window reaches."""
    max_tokens: Annotated[int, Field(ge=1)] = 200
    """Longest reply."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The strongest token of a window."""

    token: str
    after: str | None
    """The token right after it; None at the window's end."""
    excerpt: str
    """The text around, the strongest token between `<<` and `>>`."""


@explainer("max-act")
class MaxActExplainer(ChatExplainer):
    """Explains each latent with one request; see the module and `MaxActConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = MaxActConfig
    version: ClassVar[int] = 3
    uses_windows: ClassVar[bool] = True
    prompt_name = "max_act"

    def __init__(self, config: MaxActConfig) -> None:
        self.config: MaxActConfig = config

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """The lists of one latent."""
        return self.lists(record, context.tokens, every, None)

    def lists(
        self, record: LatentRecord, table: TokenTable, every: int, promoted: Sequence[str] | None
    ) -> Question:
        """The lists of one latent; with `promoted` also the tokens of its largest output logits."""
        windows = record.activating[: self.config.n_windows][::every]
        peaks = [p for w in windows if (p := peak(w, table, self.config.n_around)) is not None]
        details = {"n_windows": len(peaks)}
        if not peaks:
            return Question(reason=NO_WINDOWS, details=details)
        query = self.show(peaks, promoted)
        return Question(request=self.ask(query), n_windows=len(peaks), details=details)

    def show_shot(self, shot: Shot) -> str:
        """Its lists, without output logits."""
        return self.show(self.shot_peaks(shot), None)

    def shot_reply(self, shot: Shot) -> str:
        """The reading that fits and the label: the answer in the file begins with its number."""
        number, label = shot.answer.split(" ", 1)
        return f"READING: {number}\nEXPLANATION: {label}"

    def shot_peaks(self, shot: Shot) -> list[Peak]:
        """The strongest tokens of a worked example."""
        found = (peak(window, shot.table, self.config.n_around) for window in shot.windows)
        return [p for p in found if p is not None]

    def show(self, peaks: Sequence[Peak], promoted: Sequence[str] | None) -> str:
        """The query: strongest tokens, tokens after them, promoted tokens if any, excerpts."""
        values = {
            "tokens": quoted_list([p.token for p in peaks]),
            "after": quoted_list([p.after for p in peaks if p.after is not None]),
            "promoted": quoted_list(promoted or ()),
            "excerpts": "\n".join(f"Excerpt {i}: {quoted(p.excerpt)}" for i, p in enumerate(peaks, start=1)),
        }
        return self.prompt.part("query", values)

    def read(self, text: str | None, finish_reason: str | None) -> Reading:
        """A reply as an explanation; one that names a reading instead of a pattern is `failed`."""
        reading = read_chat(text, finish_reason)
        if reading.text is not None and _NAMES_READING.search(reading.text):
            return Reading(status="failed", reason="the explanation names a reading instead of a pattern")
        return reading


def peak(window: Window, table: TokenTable, n_around: int) -> Peak | None:
    """A window's strongest token, what comes after it, and `n_around` tokens of text on both sides.

    None if the window has no text or no activation.
    """
    tokens = spelled_tokens(window, table)
    values = np.array([activation for _, activation in tokens])
    if not values.any():
        return None
    at = int(values.argmax())
    texts = [text for text, _ in tokens]
    own = TokenTable([text.encode() for text in texts], texts)
    shown = np.arange(max(0, at - n_around), min(len(texts), at + n_around + 1))
    return Peak(
        token=texts[at],
        after=texts[at + 1] if at + 1 < len(texts) else None,
        excerpt=own.marked(shown, shown == at),
    )

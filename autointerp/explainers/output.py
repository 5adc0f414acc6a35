"""Explainer `output`: what the tokens share that a latent's decoder direction makes more likely.

The direction is read through the subject's final norm and unembedding (`top_logits` and
`bottom_logits` of `latents`; the "logit lens" of nostalgebraist, 2020, for one direction). No window
is looked at: the label says what the latent does to the output, not what it answers to. Prompt and
worked examples are our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field

from autointerp.explainers.asking import ChatConfig, ChatExplainer, Question
from autointerp.explainers.base import ExplainContext, ExplainerConfig, explainer
from autointerp.explainers.max_act_logits import NO_LOGITS, NO_READABLE_LOGITS
from autointerp.explainers.prompt_files import Shot
from autointerp.explainers.rendering import output_tokens, quoted_list
from autointerp.explainers.replies import EMPTY, Reading, read_chat
from autointerp.sampling.windows import LatentRecord

_SAID = re.compile(r"^(?:it |the unit )?(?:promotes|raises|favou?rs)\b[\s:]*", re.IGNORECASE)


class OutputConfig(ChatConfig):
    """`[explainers.output]`."""

    n_promoted: Annotated[int, Field(ge=1)] = 20
    """Most promoted tokens shown (`cache.n_top_tokens` are kept)."""
    n_demoted: Annotated[int, Field(ge=0)] = 10
    """Most demoted tokens shown."""
    max_tokens: Annotated[int, Field(ge=1)] = 300
    """Longest reply."""


@explainer("output")
class OutputExplainer(ChatExplainer):
    """Explains each latent with one request; see the module and `OutputConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = OutputConfig
    version: ClassVar[int] = 1
    uses_windows: ClassVar[bool] = False
    prompt_name = "output"

    def __init__(self, config: OutputConfig) -> None:
        self.config: OutputConfig = config

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """The two lists of one latent; nothing to ask without output logits."""
        top, bottom = record.statistics.get("top_logits"), record.statistics.get("bottom_logits")
        if top is None:
            return Question(reason=NO_LOGITS)
        promoted = output_tokens(top, context.tokens, self.config.n_promoted)
        if not promoted:
            return Question(reason=NO_READABLE_LOGITS)
        demoted = output_tokens(bottom, context.tokens, self.config.n_demoted)
        details = {"n_promoted": len(promoted), "n_demoted": len(demoted)}
        return Question(request=self.ask(self._show(promoted, demoted)), details=details)

    def show_shot(self, shot: Shot) -> str:
        """Its two lists."""
        return self._show(shot.promoted, shot.demoted[: self.config.n_demoted])

    def read(self, text: str | None, finish_reason: str | None) -> Reading:
        """A reply as an explanation that begins with "promotes", so that none is taken for what a
        latent answers to."""
        reading = read_chat(text, finish_reason)
        if reading.text is None:
            return reading
        rest = _SAID.sub("", reading.text)
        if not any(c.isalnum() for c in rest):
            return Reading(status="failed", reason=EMPTY)
        return Reading(text=f"promotes {rest}")

    def _show(self, promoted: Sequence[str], demoted: Sequence[str]) -> str:
        query = self.prompt.part("query", {"promoted": quoted_list(promoted)})
        if not demoted:
            return query
        return f"{query}\n{self.prompt.part('demoted', {'demoted': quoted_list(demoted)})}"

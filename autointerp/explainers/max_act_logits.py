"""Explainer `max-act-logits`: as `max-act`, with the tokens the latent's decoder promotes.

After Neuronpedia's explainer `np_max-act-logits`, there meant for the last third of a model's layers:
strongest tokens, tokens after them, top positive output logits, texts; labels of one to six words,
"say X" where the next token is what they share. Prompt and worked examples are our own.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from autointerp.explainers.asking import Question
from autointerp.explainers.base import ExplainContext, ExplainerConfig, explainer
from autointerp.explainers.max_act import MaxActConfig, MaxActExplainer
from autointerp.explainers.prompt_files import Shot
from autointerp.explainers.rendering import output_tokens
from autointerp.sampling.windows import LatentRecord

NO_LOGITS = "no output logits at this hook point"
NO_READABLE_LOGITS = "its output logits name no readable token"


class MaxActLogitsConfig(MaxActConfig):
    """`[explainers.max-act-logits]`."""

    n_logits: Annotated[int, Field(ge=1)] = 10
    """Most promoted tokens shown (`cache.n_top_tokens` are kept)."""


@explainer("max-act-logits")
class MaxActLogitsExplainer(MaxActExplainer):
    """Explains each latent with one request; see the module and `MaxActLogitsConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = MaxActLogitsConfig
    version: ClassVar[int] = 3
    uses_windows: ClassVar[bool] = True
    prompt_name = "max_act_logits"

    def __init__(self, config: MaxActLogitsConfig) -> None:
        self.config: MaxActLogitsConfig = config

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """The lists of one latent; nothing to ask without output logits."""
        logits = record.statistics.get("top_logits")
        if logits is None:
            return Question(reason=NO_LOGITS)
        promoted = output_tokens(logits, context.tokens, self.config.n_logits)
        if not promoted:
            return Question(reason=NO_READABLE_LOGITS)
        return self.lists(record, context.tokens, every, promoted)

    def show_shot(self, shot: Shot) -> str:
        """Its lists, output logits among them."""
        return self.show(self.shot_peaks(shot), shot.promoted)

"""Embedding: do the texts in which the latent is active lie near its explanation?

The embedding score of Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of
Features in Large Language Models" (arXiv 2410.13928, ICML 2025), and Neuronpedia's
`eleuther_embedding`: explanation and windows are embedded by a text-embedding model, and the score
is the AUROC of the cosine between the two, activating windows against windows without activation.
No language model is asked. The published tools put a retrieval instruction before the explanation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from autointerp.llm.types import Capability, Usage
from autointerp.scorers.asking import unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, ScorerConfig, scorer
from autointerp.scorers.embedder import Embedder, EmbedderConfig
from autointerp.scorers.graded import GradedConfig, graded, graded_windows
from autointerp.scorers.prompting import one_line


class EmbeddingConfig(GradedConfig, EmbedderConfig):
    """Options of the scorer `embedding`."""

    query_prefix: str | None = None
    """Put before the explanation. By default what the model was trained with: nothing for most, an
    instruction of ours for models that take instructions, else their own prompt for queries."""
    window_prefix: str | None = None
    """Put before each window's text; by default the model's own prompt for documents, mostly nothing."""


@scorer("embedding")
class Embedding:
    """AUROC of cosines between explanation and windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = EmbeddingConfig
    version: ClassVar[int] = 1

    def __init__(self, config: EmbeddingConfig) -> None:
        self.config = config
        self.embedder = Embedder(config)

    def requires(self) -> frozenset[Capability]:
        """Nothing: no judge is asked."""
        return frozenset()

    def prompts(self) -> Mapping[str, str]:
        """None: the prefixes are options, or the model's."""
        return {}

    def check(self) -> None:
        """Whether library and model are there. Raises `UserError`."""
        self.embedder.check()

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Grade the windows of every item; those of a latent are embedded once for all its explanations."""
        return [
            self._one(item, context) if item.text.strip() else unexplained(item, "auroc", 0.5)
            for item in items
        ]

    def _one(self, item: Item, context: JudgeContext) -> Judged:
        shown = graded_windows(item, self.config, context)
        query_prefix, window_prefix = self._prefixes()
        readable = [s.text for s in shown if s.text.strip()]
        windows = self.embedder.embed(readable, window_prefix)
        (explanation,) = self.embedder.embed([one_line(item.text)], query_prefix)
        cosines = iter(windows @ explanation if readable else ())
        judgements = []
        for s in shown:
            cosine = float(next(cosines)) if s.text.strip() else None
            if cosine is None:
                judgements.append(s.judgement(status="error", reason="the window holds no text"))
            elif not np.isfinite(cosine):
                judgements.append(s.judgement(status="error", reason="the cosine is not a number"))
            else:
                judgements.append(s.judgement(log_odds=cosine))
        judgements.sort(key=lambda j: (j.example, j.kind))
        details = {
            "model": self.config.model,
            "query_prefix": query_prefix,
            "window_prefix": window_prefix,
        }
        return graded(item, judgements, Usage(), details)

    def _prefixes(self) -> tuple[str, str]:
        query, window = self.config.query_prefix, self.config.window_prefix
        if query is None or window is None:
            own_query, own_window = self.embedder.prefixes()
            query, window = own_query if query is None else query, own_window if window is None else window
        return query, window

"""Detection: does the explanation say in which windows the latent is active?

The score of Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of Features in
Large Language Models" (arXiv 2410.13928, ICML 2025), section "Detection": a judge sees an
explanation and windows of text, and says for each whether the latent is active somewhere in it.
Positives are windows in which it is active, negatives windows in which it never is.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from autointerp.sampling.windows import defuse
from autointerp.scorers.answers import Shown
from autointerp.scorers.base import Item, JudgeContext, ScorerConfig, scorer
from autointerp.scorers.readouts import ReadoutConfig, ReadoutScorer, negatives_of
from autointerp.scorers.selection import Stream, some_silent, spread


class DetectionConfig(ReadoutConfig):
    """Options of the scorer `detection`."""

    n_activating: Annotated[int, Field(ge=1)] | None = None
    """At most this many activating windows, evenly spaced by strength; by default all test windows."""
    n_silent: Annotated[int, Field(ge=1)] | None = None
    """At most this many windows without activation, evenly over their kinds; by default all."""
    threshold_nats: float = 3.0
    """`likelihood` only: largest evidence of a word above which the answer is yes. Moves
    `prediction` and `probability`, never the AUROC."""


@scorer("detection")
class Detection(ReadoutScorer):
    """Balanced accuracy (`json`) or AUROC (`logprob`, `likelihood`) over activating and silent windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = DetectionConfig
    version: ClassVar[int] = 3
    prompt: ClassVar[str] = "detection"

    def __init__(self, config: DetectionConfig) -> None:
        self.config: DetectionConfig = config

    def windows(self, item: Item, context: JudgeContext) -> tuple[list[Shown], dict[str, Any]]:
        """The windows to be judged; nothing to note."""
        return self.shown(item, context), {}

    def shown(self, item: Item, context: JudgeContext) -> list[Shown]:
        """The windows to be judged, in the random order the judge sees them."""
        record, config = item.record, self.config
        silent = negatives_of(record, config.negatives)
        windows = [
            *spread(record.activating, config.n_activating),
            *some_silent(silent, config.n_silent, record.latent, context),
        ]
        order = context.rng(record.latent, Stream.DETECTION_ORDER).permutation(len(windows))
        return [
            Shown(
                window=windows[i],
                kind=windows[i].kind,
                label=windows[i].activating,
                text=defuse(context.tokens.text(windows[i].tokens)),
            )
            for i in order
        ]

    def pool(self, evidence: np.ndarray) -> float:
        """Log-odds of a window: the largest evidence of any of its words, less the threshold."""
        return float(evidence.max()) - self.config.threshold_nats

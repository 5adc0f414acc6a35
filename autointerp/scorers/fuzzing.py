"""Fuzzing: are the marked tokens the ones the explanation is about?

The score of Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of Features in
Large Language Models" (arXiv 2410.13928, ICML 2025), section "Fuzzing": a judge sees an explanation
and windows in which some tokens are marked, and says for each whether the marks are right. In a
positive the tokens on which the latent is active are marked; in a negative, tokens on which it is
silent, in other activating windows (kind `mismarked`) or in windows in which it is never active.

Negatives differ from the published tool's on purpose: each has places of its own, drawn where true
marks tend to stand, as many marks as a true window has, in runs of the same lengths, and on silent
tokens of words without an active token only. So neither count nor place of the marks gives a negative away.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from autointerp.sampling.windows import TokenTable, Window
from autointerp.scorers.answers import Shown
from autointerp.scorers.base import Item, JudgeContext, ScorerConfig, scorer
from autointerp.scorers.evidence import words_of
from autointerp.scorers.marks import active_marks, false_marks, markable, place_weights, run_lengths
from autointerp.scorers.readouts import ReadoutConfig, ReadoutScorer, negatives_of
from autointerp.scorers.selection import Stream, some_silent, spread, systematic


class FuzzingConfig(ReadoutConfig):
    """Options of the scorer `fuzzing`."""

    n_activating: Annotated[int, Field(ge=1)] | None = None
    """At most this many activating windows, evenly spaced by strength, shared between positives
    and `mismarked` negatives; by default all test windows."""
    mismarked_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the activating windows that become `mismarked` negatives; the rest are positives."""
    n_silent: Annotated[int, Field(ge=0)] = 0
    """At most this many windows without activation become negatives too, with marks of the same
    kind, evenly over the kinds of `negatives`."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """A token is truly active above this share of its window's largest activation."""
    threshold_nats: float = 2.0
    """`likelihood` only: mean evidence of the marked words above which the answer is yes. Moves
    `prediction` and `probability`, never the AUROC."""


@scorer("fuzzing")
class Fuzzing(ReadoutScorer):
    """Balanced accuracy (`json`) or AUROC (`logprob`, `likelihood`) over truly and falsely marked windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = FuzzingConfig
    version: ClassVar[int] = 3
    prompt: ClassVar[str] = "fuzzing"

    def __init__(self, config: FuzzingConfig) -> None:
        self.config: FuzzingConfig = config

    def windows(self, item: Item, context: JudgeContext) -> tuple[list[Shown], dict[str, Any]]:
        """The marked windows to be judged, and counts of those left out."""
        return self.shown(item, context)

    def shown(self, item: Item, context: JudgeContext) -> tuple[list[Shown], dict[str, Any]]:
        """The marked windows in the random order the judge sees them, and counts of those left out.

        A window is left out if its true marks would not be seen (they stand on white space), or if
        it has too few silent tokens to carry false marks.
        """
        record, table = item.record, context.tokens
        activating = spread(record.activating, self.config.n_activating)
        marks = {w.example: active_marks(w, self.config.threshold) for w in activating}
        visible = [w for w in activating if bool((marks[w.example] & markable(w.tokens, table)).any())]
        sources = systematic(
            visible, self.config.mismarked_share, context.rng(record.latent, Stream.FUZZING_SOURCES)
        )
        source_ids = {w.example for w in sources}
        runs = [run_lengths(marks[w.example]) for w in visible]
        positives = [w for w in visible if w.example not in source_ids]
        shown = [_shown(w, w.kind, True, marks[w.example], context) for w in positives]

        def add_false(window: Window, kind: str, own_runs: list[int] | None) -> None:
            rng = context.rng(record.latent, Stream.FUZZING_MARKS, window.example)
            wanted = own_runs if own_runs is not None else runs[int(rng.integers(len(runs)))]
            allowed = on_silent_words(window, table)
            weights = place_weights([marks[w.example] for w in visible], len(window.tokens))
            placed = false_marks(wanted, allowed, weights, rng)
            if placed is not None:
                shown.append(_shown(window, kind, False, placed, context))

        for window in sources:
            add_false(window, "mismarked", run_lengths(marks[window.example]))
        silent = [] if self.config.n_silent == 0 or not runs else some_silent(
            negatives_of(record, self.config.negatives), self.config.n_silent, record.latent, context
        )  # fmt: skip
        for window in silent:
            add_false(window, window.kind, None)
        left_out = {
            "n_marks_unseen": len(activating) - len(visible),
            "n_without_silent_tokens": len(sources) + len(silent) - sum(not s.label for s in shown),
        }
        order = context.rng(record.latent, Stream.FUZZING_ORDER).permutation(len(shown))
        return [shown[i] for i in order], left_out

    def pool(self, evidence: np.ndarray) -> float:
        """Log-odds of a window: mean evidence of its marked words, less the threshold."""
        return float(evidence.mean()) - self.config.threshold_nats


def on_silent_words(window: Window, table: TokenTable) -> np.ndarray:
    """Tokens that lie on words and share none with an active token, [n_tokens] bool."""
    words = words_of(table.texts(window.tokens))
    active = window.activations > 0
    touched = set(words.under(active))
    return np.array(
        [
            bool(own) and not on and touched.isdisjoint(own)
            for on, own in zip(active, words.of_token, strict=True)
        ],
        dtype=bool,
    )


def _shown(window: Window, kind: str, label: bool, marks: np.ndarray, context: JudgeContext) -> Shown:
    text = context.tokens.marked(window.tokens, marks)
    return Shown(window=window, kind=kind, label=label, text=text, marks=marks)

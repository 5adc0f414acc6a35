"""Scorers that grade every window with a number: what embedding and surprisal share.

They judge the windows that detection judges with the same options, and their score is the AUROC of
the grades. A grade stands in the column `log_odds`, where AUROC is computed from, whether or not it
is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from autointerp.llm.types import Usage
from autointerp.scorers.answers import Shown
from autointerp.scorers.asking import classified
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig
from autointerp.scorers.readouts import NegativeKind, negatives_of
from autointerp.scorers.selection import some_silent, spread


class GradedConfig(ScorerConfig):
    """Options of every scorer that grades windows."""

    n_activating: Annotated[int, Field(ge=1)] | None = None
    """At most this many activating windows, evenly spaced by strength; by default all test windows."""
    n_silent: Annotated[int, Field(ge=1)] | None = None
    """At most this many windows without activation, evenly over their kinds; by default all."""
    negatives: Annotated[list[NegativeKind], Field(min_length=1)] | None = None
    """Kinds of windows without activation that serve as negatives; by default all that were sampled."""


def graded_windows(item: Item, config: GradedConfig, context: JudgeContext) -> list[Shown]:
    """The windows to be graded, activating ones first; their text as it stands in the corpus."""
    record = item.record
    silent = negatives_of(record, config.negatives)
    windows = [
        *spread(record.activating, config.n_activating),
        *some_silent(silent, config.n_silent, record.latent, context),
    ]
    return [
        Shown(window=w, kind=w.kind, label=w.activating, text=context.tokens.text(w.tokens)) for w in windows
    ]


def graded(item: Item, judgements: Sequence[Judgement], usage: Usage, details: Mapping[str, Any]) -> Judged:
    """The `Judged` of grades: AUROC, and no accuracy where nothing is predicted."""
    return classified(item, judgements, "auroc", usage, details)

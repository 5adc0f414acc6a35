"""The trials of the intruder scorer: activating windows, one without activation, in random order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from autointerp.sampling.windows import LatentRecord, Window, defuse
from autointerp.scorers.base import JudgeContext, Judgement
from autointerp.scorers.fuzzing import on_silent_words
from autointerp.scorers.marks import active_marks, false_marks, markable, place_weights, run_lengths
from autointerp.scorers.readouts import negatives_of
from autointerp.scorers.selection import Stream, some_silent

Draw = Literal["all", "decile"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The windows of one trial in the order they are shown, one of them the intruder."""

    windows: tuple[Window, ...]
    texts: tuple[str, ...]
    """As a judge sees them: with marks if there are any, the corpus's own broken up."""
    intruder: int
    """Its place, counted from 0."""
    marks: tuple[np.ndarray, ...] = ()
    """Marked tokens of each window, [n_tokens] bool; empty if nothing is marked."""

    def judgement(self, **columns: Any) -> Judgement:
        """The row of this trial, named after its intruder."""
        window = self.windows[self.intruder]
        return Judgement(
            example=window.example,
            kind=window.kind,
            label=True,
            position_in_request=self.intruder,
            **columns,
        )


def draw_trials(
    record: LatentRecord,
    context: JudgeContext,
    *,
    n_trials: int,
    n_shown: int,
    draw: Draw,
    kinds: Sequence[str] | None,
    mark_above: float | None,
) -> tuple[list[Trial], str | None]:
    """A latent's trials, and why there are none.

    Each window without activation is the intruder of at most one trial, so there may be fewer than
    `n_trials`. With `mark_above`, tokens above that share of a window's largest activation are
    marked; windows whose marks would not be seen are not shown, nor intruders that cannot carry marks.
    """
    activating = sorted(record.activating, key=lambda w: w.example)
    marks: dict[int, np.ndarray] = {}
    if mark_above is not None:
        marks = {w.example: active_marks(w, mark_above) for w in activating}
        activating = [
            w for w in activating if bool((marks[w.example] & markable(w.tokens, context.tokens)).any())
        ]
    pools = _pools(activating, n_shown, draw)
    intruders = some_silent(negatives_of(record, kinds), n_trials, record.latent, context)
    if not pools:
        where = "in any decile" if draw == "decile" else "to show"
        return [], f"too few activating test windows {where}: {n_shown} are needed"
    if not intruders:
        return [], "no test windows without activation to serve as intruders"
    trials = []
    for intruder in intruders:
        rng = context.rng(record.latent, Stream.INTRUDER_TRIALS, intruder.example)
        pool = pools[int(rng.integers(len(pools)))]
        shown = [pool[i] for i in rng.choice(len(pool), size=n_shown, replace=False)]
        order = rng.permutation(n_shown + 1)
        if mark_above is not None:
            placed = _false_marks(intruder, [marks[w.example] for w in activating], record.latent, context)
            if placed is None:
                continue
            marks[intruder.example] = placed
        windows = [[*shown, intruder][i] for i in order]
        trials.append(
            Trial(
                windows=tuple(windows),
                texts=tuple(_text(w, marks, context) for w in windows),
                intruder=int(np.flatnonzero(order == n_shown)[0]),
                marks=tuple(marks[w.example] for w in windows) if marks else (),
            )
        )
    return trials, None if trials else "no window without activation can carry marks"


def _pools(activating: Sequence[Window], n_shown: int, draw: Draw) -> list[list[Window]]:
    """The sets of windows of which a trial's are drawn, each large enough."""
    pools = [list(activating)]
    if draw == "decile":
        deciles = sorted({w.decile for w in activating if w.decile is not None})
        pools = [[w for w in activating if w.decile == decile] for decile in deciles]
    return [pool for pool in pools if len(pool) >= n_shown]


def _false_marks(
    window: Window, true: Sequence[np.ndarray], latent: int, context: JudgeContext
) -> np.ndarray | None:
    """Marks on a window without activation, as many and placed as those of a true one."""
    rng = context.rng(latent, Stream.INTRUDER_MARKS, window.example)
    runs = run_lengths(true[int(rng.integers(len(true)))])
    weights = place_weights(true, len(window.tokens))
    return false_marks(runs, on_silent_words(window, context.tokens), weights, rng)


def _text(window: Window, marks: dict[int, np.ndarray], context: JudgeContext) -> str:
    if window.example in marks:
        return context.tokens.marked(window.tokens, marks[window.example])
    return defuse(context.tokens.text(window.tokens))

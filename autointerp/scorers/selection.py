"""Which of a latent's test windows a scorer judges.

Every choice is drawn from a stream keyed by (seed, latent, purpose): all explanations of a latent
are judged on the same windows, with the same marks, in the same order, however the work is batched.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from autointerp.sampling.windows import Window
from autointerp.scorers.base import JudgeContext


class Stream(IntEnum):
    """Purposes of random streams."""

    SILENT_WINDOWS = 1
    DETECTION_ORDER = 2
    FUZZING_ORDER = 3
    FUZZING_SOURCES = 4
    FUZZING_MARKS = 5
    SIMULATION_BOOTSTRAP = 6
    INTRUDER_TRIALS = 20
    INTRUDER_MARKS = 21
    INTERVENTION_PROMPTS = 30
    INTERVENTION_DIRECTIONS = 31
    INTERVENTION_LATENTS = 32
    INTERVENTION_GENERATION = 33
    SIMULATION_CALIBRATION = 40
    PRESET_LIST_ORDER = 50
    PRESET_SAEBENCH_WINDOWS = 51
    PRESET_SAEBENCH_ORDER = 52
    PRESET_SAEBENCH_ANSWER = 53


def spread(windows: Sequence[Window], most: int | None) -> list[Window]:
    """At most that many of the windows, evenly spaced from strongest to weakest."""
    ordered = sorted(windows, key=lambda w: (-w.max_activation, w.example))
    if most is None or len(ordered) <= most:
        return ordered
    picks = np.linspace(0, len(ordered) - 1, most).round().astype(int) if most > 1 else [0]
    return [ordered[int(i)] for i in picks]


def some_silent(
    windows: Sequence[Window], most: int | None, latent: int, context: JudgeContext
) -> list[Window]:
    """At most that many of the windows without activation, drawn evenly over their kinds."""
    ordered = sorted(windows, key=lambda w: w.example)
    if most is None or len(ordered) <= most:
        return ordered
    shuffled = [ordered[i] for i in context.rng(latent, Stream.SILENT_WINDOWS).permutation(len(ordered))]
    taken: dict[str, int] = {}
    rank = {}
    for window in shuffled:
        rank[window.example] = taken.setdefault(window.kind, 0)
        taken[window.kind] += 1
    drawn = sorted(shuffled, key=lambda w: rank[w.example])[:most]
    return sorted(drawn, key=lambda w: w.example)


def systematic(windows: Sequence[Window], share: float, rng: np.random.Generator) -> list[Window]:
    """That share of the windows, by systematic sampling: evenly over the order given, random start.

    Of windows ordered by strength, those drawn and those left have like strengths.
    """
    start = float(rng.uniform())
    steps = np.floor(np.arange(len(windows) + 1) * share + start)
    return [w for w, now, then in zip(windows, steps[1:], steps[:-1], strict=True) if now > then]

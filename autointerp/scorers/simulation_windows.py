"""Which windows a simulation is scored on, and which are set apart to calibrate it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from autointerp.sampling.windows import LatentRecord, Window
from autointerp.scorers.base import JudgeContext
from autointerp.scorers.selection import Stream, some_silent, spread

Selection = Literal["top_and_random", "random_only", "quantile"]
RandomKind = Literal["random", "unread"]

_NO_UNREAD = "no unread windows were sampled: set sample.n_test_unread"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A latent's windows for one simulation."""

    scored: tuple[Window, ...] = ()
    calibration: tuple[Window, ...] = ()
    """Windows of other contexts; empty without calibration."""
    reason: str | None = None
    """Why there are none."""

    @property
    def shown(self) -> tuple[Window, ...]:
        """All windows that are simulated."""
        return (*self.scored, *self.calibration)


def choose(
    record: LatentRecord,
    selection: Selection,
    n: int,
    random_kind: RandomKind,
    calibrated: bool,
    context: JudgeContext,
) -> Chosen:
    """The windows of a selection: `n` activating and as many random ones, or `n` unread ones.

    With `calibrated` the latent's windows are first halved by context (`halves`) and either half
    gives windows of that selection.
    """
    if (selection == "random_only" or random_kind == "unread") and not record.unread:
        return Chosen(reason=_NO_UNREAD)
    silent = [w for w in record.silent if w.kind == "random"] or record.silent
    random = record.unread if selection == "random_only" or random_kind == "unread" else silent
    activating = [] if selection == "random_only" else record.activating
    latent = record.latent
    if not calibrated:
        scored = _pick(activating, random, selection, n, latent, context)
        return Chosen(scored=scored, reason=None if scored else _missing(selection))
    first, second = halves([*activating, *random], latent, context)
    sides = [
        _pick(
            [w for w in side if w.activating],
            [w for w in side if not w.activating],
            selection,
            n,
            latent,
            context,
        )
        for side in (first, second)
    ]
    if not all(sides):
        return Chosen(reason="too few test windows to set half of their contexts apart for calibration")
    return Chosen(scored=sides[0], calibration=sides[1])


def halves(
    windows: Sequence[Window], latent: int, context: JudgeContext
) -> tuple[list[Window], list[Window]]:
    """The windows in two halves that share no context and are alike in strength.

    Contexts are ordered by their strongest window, those with activating windows and the others
    apart; of each two that follow one another a coin (keyed by the latent) sends one to either half.
    """
    strongest: dict[int, float] = {}
    active: set[int] = set()
    for window in windows:
        strongest[window.context] = max(strongest.get(window.context, 0.0), window.max_activation)
        if window.activating:
            active.add(window.context)
    rng = context.rng(latent, Stream.SIMULATION_CALIBRATION)
    set_apart: set[int] = set()
    for group in (active, strongest.keys() - active):
        ordered = sorted(group, key=lambda c: (-strongest[c], c))
        for pair in zip(ordered[::2], ordered[1::2], strict=False):
            set_apart.add(pair[int(rng.integers(2))])
    return (
        [w for w in windows if w.context not in set_apart],
        [w for w in windows if w.context in set_apart],
    )


def _pick(
    activating: Sequence[Window],
    random: Sequence[Window],
    selection: Selection,
    n: int,
    latent: int,
    context: JudgeContext,
) -> tuple[Window, ...]:
    if selection == "random_only":
        return tuple(some_silent(random, n, latent, context))
    n = min(n, len(activating), len(random))
    if n == 0:
        return ()
    chosen = spread(activating, n) if selection == "quantile" else spread(activating, None)[:n]
    return (*chosen, *some_silent(random, n, latent, context))


def _missing(selection: Selection) -> str:
    return f"no test windows to judge: {selection} needs both activating and random ones"

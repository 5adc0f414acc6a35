"""A run beside a control run of another dictionary, as one of random directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from autointerp.analyze.intervals import N_RESAMPLES, bootstrap_difference, bootstrap_mean, stream
from autointerp.analyze.parts import GROUP_COLUMNS, Group, Name, groups_of, place, read_parts
from autointerp.errors import UserError
from autointerp.run import Run


@dataclass(frozen=True, kw_only=True)
class ControlRow:
    """One explainer's real explanations under one scorer, in a run and in a control run.

    The latents of two dictionaries do not correspond, so the difference is not paired.
    """

    scorer: str
    explainer: str
    metric: str | None
    chance: float | None
    n: int
    """Latents of the run with a number."""
    mean: float | None
    low: float | None
    """Ends of the 95% interval by latent, here and below with `high`."""
    high: float | None
    control_n: int
    """Latents of the control run with a number."""
    control_mean: float | None
    control_low: float | None
    control_high: float | None
    difference: float | None
    """Mean of the run less that of the control run; None unless both are of the same `metric`."""
    difference_low: float | None
    """Ends of its interval: the latents of each run resampled by themselves."""
    difference_high: float | None
    same_settings: bool | None
    """Whether both runs scored alike (scorer, its options, version and prompts, and the judge); None
    if a run does not say. Seed and choice of latents may differ."""


def compare_with_control(
    run: Run, control: Run, *, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> list[ControlRow]:
    """A row per scorer and explainer that both runs have, in the run's own order.

    Raises `UserError` if they are the same run or have none in common.
    """
    if run.root.resolve() == control.root.resolve():
        raise UserError(f"--control: seen the run itself, {str(control.root)!r}; accepted: another run")
    mine, theirs = _real(run), _real(control)
    shared = sorted(set(mine) & set(theirs), key=lambda name: place(run, name))
    if not shared:
        raise UserError(
            f"--control: {str(control.root)!r} has scored none of the scorers and explainers of "
            f"{str(run.root)!r} ({_listed(mine)}); it has: {_listed(theirs)}"
        )
    return [_row(name, mine[name], theirs[name], (run, control), seed, n_resamples) for name in shared]


def _real(run: Run) -> dict[Name, Group]:
    return {
        name: group
        for part in read_parts(run, GROUP_COLUMNS)
        for name, group in groups_of(part).items()
        if name[2] is None
    }


def _row(
    name: Name, mine: Group, theirs: Group, runs: tuple[Run, Run], seed: int, n_resamples: int
) -> ControlRow:
    scorer, explainer, _ = name
    first, second = mine.value.values, theirs.value.values
    ours, control = (
        bootstrap_mean(x, seed=stream(seed, explainer, who, scorer), n_resamples=n_resamples)
        for who, x in ((None, first), ("run", second))
    )
    comparable = mine.metric == theirs.metric
    difference = bootstrap_difference(
        first if comparable else first[:0],
        second,
        seed=stream(seed, explainer, "runs", scorer),
        n_resamples=n_resamples,
    )
    settings = [_settings(run, f"score/{scorer}/{explainer}") for run in runs]
    return ControlRow(
        scorer=scorer,
        explainer=explainer,
        metric=mine.metric,
        chance=mine.chance,
        n=ours.n,
        mean=ours.value,
        low=ours.low,
        high=ours.high,
        control_n=control.n,
        control_mean=control.value,
        control_low=control.low,
        control_high=control.high,
        difference=difference.value,
        difference_low=difference.low,
        difference_high=difference.high,
        same_settings=None if None in settings else settings[0] == settings[1],
    )


def _settings(run: Run, step: str) -> dict[str, Any] | None:
    manifest = run.directory.manifest(step)
    if manifest is None or not manifest.config:
        return None
    return {key: manifest.config.get(key) for key in ("scorer", "model")}


def _listed(groups: dict[Name, Group]) -> str:
    return ", ".join(f"{scorer}/{explainer}" for scorer, explainer, _ in sorted(groups)) or "none"

"""Explainers two by two: paired differences, wins, ties and losses, and what they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from autointerp.analyze.compare_read import Opened, Scored
from autointerp.analyze.compare_significance import ALPHA, detectable, fewest_p, holm, paired_p, unpaired_p
from autointerp.analyze.compare_windows import same_windows
from autointerp.analyze.intervals import FEWEST, Interval, bootstrap_difference, bootstrap_mean, stream
from autointerp.analyze.parts import CONTROL, NO_EXPLAINER, ByLatent, on_both

TIE = 0.01
"""Latents whose two numbers differ by at most this are ties."""
HIGHER, LOWER, NONE_SHOWN = "higher", "lower", "no difference shown"
TOO_FEW, NOT_COMPARABLE = "too few latents", "not comparable"


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """Two explainers, or an explainer and its control, under one scorer. Undefined numbers are None."""

    question: str
    """`explainers` (of one run), `runs` (the same explainer in two runs; with all pairs, any two), or
    `control` (an explainer and its own shuffled control)."""
    scorer: str
    metric: str | None
    a_run: str
    a_explainer: str
    b_run: str
    b_explainer: str
    b_control: str | None
    """`shuffled` if b is a control."""
    pairing: str
    """`windows` (same latents, judged on the same windows), `latents` (same latents of the same
    dictionary, other windows) or `none` (two samples of latents)."""
    why: str | None
    """Why not paired by windows."""
    same_settings: bool | None
    """Whether both were scored alike (scorer, options, version, prompts, judge); None if a run does not say."""
    n: int
    """Latents compared; where not paired, the smaller side's."""
    n_same_windows: int | None
    """Of those, latents judged on the same windows; None where not paired."""
    a_n: int
    b_n: int
    a_mean: float | None
    """Mean of a over the latents compared, here and in `b_mean`."""
    b_mean: float | None
    difference: float | None
    """Mean of a less mean of b."""
    low: float | None
    """Ends of its 95% interval, by latent, here and in `high`: uncorrected. None below `FEWEST` latents."""
    high: float | None
    half_width: float | None
    """Half of that interval's width."""
    detectable: float | None
    """The true difference that would have been shown, after correction, four times in five."""
    p: float | None
    """Two-sided, of a randomisation test by latent."""
    p_holm: float | None
    """Corrected over the family: all scorers and pairs of this `question`, of one run (`explainers`,
    `control`) or of all (`runs`), so that a run's own verdicts do not depend on what else is compared."""
    n_tests: int
    """Comparisons in that family; those of fewer than `FEWEST` latents, which show nothing, are left out."""
    verdict: str
    """`higher` or `lower` (a against b, `p_holm` below .05), `no difference shown`, `too few latents`
    (so few that the test could show nothing in its family) or `not comparable`."""
    wins: int | None
    """Latents on which a is higher by more than the tie margin; None where not paired."""
    ties: int | None
    losses: int | None
    a_coverage: float | None
    """Share of latents with a number, of those asked of both (not paired: of each one's own)."""
    b_coverage: float | None
    or_chance: float | None
    """The difference over all latents asked of both, those without a number counted at chance."""
    or_chance_low: float | None
    or_chance_high: float | None


def pair_rows(
    scored: Sequence[Scored],
    runs: Sequence[Opened],
    *,
    seed: int,
    n_resamples: int,
    n_flips: int,
    tie: float = TIE,
    baseline: tuple[str | None, str | None] | None = None,
    all_pairs: bool = False,
) -> list[PairRow]:
    """Every comparison, in the order of the scorers; p-values corrected within each family.

    `baseline` (run, explainer; None for any) keeps the pairs of which one side is the baseline, and
    makes it side b.
    """
    shares = {opened.name: opened.row.shares for opened in runs}
    rows = []
    for a, b, question in _pairs(scored, baseline, all_pairs):
        rows.append(_row(a, b, question, shares, tie, seed, n_resamples, n_flips))
    for one in scored:
        if len(one.control.values):
            rows.append(_against_control(one, tie, seed, n_resamples, n_flips))
    order = {name: i for i, name in enumerate(dict.fromkeys(s.scorer for s in scored))}
    return sorted(_corrected(rows), key=lambda row: (_QUESTIONS.index(row.question), order[row.scorer]))


_QUESTIONS = ("explainers", "runs", "control")


def _pairs(
    scored: Sequence[Scored], baseline: tuple[str | None, str | None] | None, all_pairs: bool
) -> Iterator[tuple[Scored, Scored, str]]:
    for a, b in combinations(scored, 2):
        if a.scorer != b.scorer or (
            NO_EXPLAINER in (a.explainer, b.explainer) and a.explainer != b.explainer
        ):
            continue
        question = "explainers" if a.run == b.run else "runs"
        if question == "runs" and a.explainer != b.explainer and not all_pairs:
            continue
        if baseline is not None:
            is_a, is_b = (_matches(one, baseline) for one in (a, b))
            if is_a == is_b:
                continue
            if is_a:
                a, b = b, a
        yield a, b, question


def _matches(one: Scored, baseline: tuple[str | None, str | None]) -> bool:
    run, explainer = baseline
    return run in (None, one.run) and explainer in (None, one.explainer)


def _row(
    a: Scored,
    b: Scored,
    question: str,
    shares: dict[str, int],
    tie: float,
    seed: int,
    n_resamples: int,
    n_flips: int,
) -> PairRow:
    both = np.intersect1d(a.value.latents, b.value.latents, assume_unique=True)
    of_one = shares[a.run] == shares[b.run]
    paired = of_one and len(both) > 0 and a.metric == b.metric
    n_same = None
    if paired:
        n_same = (
            same_windows(a.shown, b.shown, both)
            if a.run == b.run
            else same_windows(a.shown_content, b.shown_content, both)
            if a.shown_content and b.shown_content
            else 0
        )
    pairing = "none" if n_same is None else "windows" if n_same == len(both) else "latents"
    first = numbers_of(a.value, both) if paired else a.value
    second = numbers_of(b.value, both) if paired else b.value
    numbers = _numbers(
        (a, b),
        first,
        second,
        paired,
        tie,
        (a.run, a.explainer, b.run, b.explainer, a.scorer),
        seed,
        n_resamples,
        n_flips,
    )
    return PairRow(
        question=question,
        scorer=a.scorer,
        metric=a.metric if a.metric == b.metric else None,
        a_run=a.run,
        a_explainer=a.explainer,
        b_run=b.run,
        b_explainer=b.explainer,
        b_control=None,
        pairing=pairing,
        why=_why(a, b, of_one, n_same, len(both)),
        same_settings=None if None in (a.settings, b.settings) else a.settings == b.settings,
        n_same_windows=n_same,
        **_coverage(a, b, of_one),
        **_or_chance(a, b, of_one, seed, n_resamples),
        **numbers,
    )


def _against_control(one: Scored, tie: float, seed: int, n_resamples: int, n_flips: int) -> PairRow:
    both = np.intersect1d(one.value.latents, one.control.latents, assume_unique=True)
    n_same = same_windows(one.shown, one.shown_control, both)
    numbers = _numbers(
        (one, one),
        numbers_of(one.value, both),
        numbers_of(one.control, both),
        True,
        tie,
        (one.run, one.explainer, one.run, CONTROL, one.scorer),
        seed,
        n_resamples,
        n_flips,
    )
    return PairRow(
        question="control",
        scorer=one.scorer,
        metric=one.metric,
        a_run=one.run,
        a_explainer=one.explainer,
        b_run=one.run,
        b_explainer=one.explainer,
        b_control=CONTROL,
        pairing="windows" if n_same == len(both) else "latents",
        why=None if n_same == len(both) else f"the same windows on {n_same} of {len(both)} latents",
        same_settings=True,
        n_same_windows=n_same,
        a_coverage=None,
        b_coverage=None,
        or_chance=None,
        or_chance_low=None,
        or_chance_high=None,
        **numbers,
    )


def _numbers(
    sides: tuple[Scored, Scored],
    first: ByLatent,
    second: ByLatent,
    paired: bool,
    tie: float,
    names: tuple[str, ...],
    seed: int,
    n_resamples: int,
    n_flips: int,
) -> dict[str, Any]:
    """The difference and all that is told from it; `first` and `second` are of the same latents if paired."""
    comparable = sides[0].metric == sides[1].metric
    a, b = (x.values if comparable else x.values[:0] for x in (first, second))
    key = stream(seed, "compare", *names)
    if paired:
        apart = a - b
        interval = bootstrap_mean(apart, seed=key, n_resamples=n_resamples)
        p = paired_p(apart, seed=key, n_flips=n_flips)
    else:
        interval = bootstrap_difference(a, b, seed=key, n_resamples=n_resamples)
        p = unpaired_p(a, b, seed=key, n_flips=n_flips)
    half = _half(interval)
    return {
        "n": interval.n,
        "a_n": len(first.values),
        "b_n": len(second.values),
        "a_mean": float(first.values.mean()) if len(first.values) else None,
        "b_mean": float(second.values.mean()) if len(second.values) else None,
        "difference": interval.value,
        "low": interval.low,
        "high": interval.high,
        "half_width": half,
        "detectable": None,
        "p": p,
        "p_holm": None,
        "n_tests": 0,
        "verdict": NOT_COMPARABLE if not comparable or interval.value is None else TOO_FEW,
        "wins": int((apart > tie).sum()) if paired else None,
        "ties": int((np.abs(apart) <= tie).sum()) if paired else None,
        "losses": int((apart < -tie).sum()) if paired else None,
    }


def numbers_of(found: ByLatent, latents: np.ndarray) -> ByLatent:
    """The numbers of some latents (ascending, all of which have one)."""
    place = np.searchsorted(found.latents, latents)
    return ByLatent(latents=latents, values=found.values[place])


def _corrected(rows: Sequence[PairRow]) -> list[PairRow]:
    """Rows with their corrected p-values, what they could have shown, and their verdicts."""
    families: dict[tuple[str, str], list[int]] = {}
    for i, row in enumerate(rows):
        families.setdefault((row.question, "" if row.question == "runs" else row.a_run), []).append(i)
    out = list(rows)
    for family in families.values():
        adjusted = holm([rows[i].p if rows[i].n >= FEWEST else None for i in family])
        n_tests = sum(p is not None for p in adjusted)
        for i, p in zip(family, adjusted, strict=True):
            row, verdict = rows[i], rows[i].verdict
            if verdict != NOT_COMPARABLE and p is not None and row.difference is not None:
                hopeless = row.pairing != "none" and fewest_p(row.n) * n_tests >= ALPHA
                none = TOO_FEW if hopeless else NONE_SHOWN
                verdict = none if p >= ALPHA else HIGHER if row.difference > 0 else LOWER
            least = None if verdict == TOO_FEW else detectable(row.half_width, n_tests)
            out[i] = replace(row, p_holm=p, n_tests=n_tests, detectable=least, verdict=verdict)
    return out


def _half(interval: Interval) -> float | None:
    return None if interval.low is None or interval.high is None else (interval.high - interval.low) / 2


def _why(a: Scored, b: Scored, of_one: bool, n_same: int | None, n_both: int) -> str | None:
    if a.metric != b.metric:
        return f"other metrics: {a.metric} and {b.metric}"
    if not of_one:
        return "other dictionaries, or a run that does not say which"
    if n_same is None:
        return "no latent has a number on both sides"
    return None if n_same == n_both else f"the same windows on {n_same} of {n_both} latents"


def _coverage(a: Scored, b: Scored, of_one: bool) -> dict[str, Any]:
    asked = [a.asked, b.asked]
    if of_one:
        asked = [np.intersect1d(a.asked, b.asked, assume_unique=True)] * 2
    shares = [
        float(np.isin(latents, one.value.latents, assume_unique=True).mean()) if len(latents) else None
        for one, latents in zip((a, b), asked, strict=True)
    ]
    return {"a_coverage": shares[0], "b_coverage": shares[1]}


def _or_chance(a: Scored, b: Scored, of_one: bool, seed: int, n_resamples: int) -> dict[str, Any]:
    first, second = a.or_chance(), b.or_chance()
    if a.metric != b.metric:
        first = second = ByLatent(latents=a.asked[:0], values=np.empty(0))
    key = stream(seed, "compare", "or chance", a.run, a.explainer, b.run, b.explainer, a.scorer)
    if of_one:
        one, other = on_both(first, second)
        found = bootstrap_mean(one - other, seed=key, n_resamples=n_resamples)
    else:
        found = bootstrap_difference(first.values, second.values, seed=key, n_resamples=n_resamples)
    return {"or_chance": found.value, "or_chance_low": found.low, "or_chance_high": found.high}

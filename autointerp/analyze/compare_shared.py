"""The latents that all explainers have numbers for, and which explainers make them few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autointerp.analyze.compare_read import Latents, Opened, Scored

FEW = 0.5
"""Shared latents are few below this share of those of the explainer with the most."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One explainer that makes the shared latents few."""

    run: str
    explainer: str
    n: int
    """Latents it has a number for."""
    n_without: int | None
    """Latents all others share; None where only one other is left."""


@dataclass(frozen=True, kw_only=True)
class SharedRow:
    """The shared latents of one scorer and dictionary that are few because of some explainers."""

    scorer: str
    shares: int
    """Number of the dictionary, as in `RunRow`."""
    n_asked: int
    """Latents that any of the explainers was asked for."""
    n_shared: int
    """Latents on which all of them have a number."""
    limits: list[Limit]
    """The explainers without which they are not few, those with the fewest numbers first."""
    n_without: int | None
    """Latents shared without any of `limits`; None where only one explainer is left."""


def shared_latents(scored: Sequence[Scored], runs: Sequence[Opened]) -> dict[tuple[str, int], Latents]:
    """Per scorer and dictionary, the latents on which every explainer that scored at all has a number."""
    found: dict[tuple[str, int], Latents] = {}
    for key, group in _groups(scored, runs).items():
        found[key] = group[0].value.latents
        for one in group[1:]:
            found[key] = np.intersect1d(found[key], one.value.latents, assume_unique=True)
    return found


def shared_rows(scored: Sequence[Scored], runs: Sequence[Opened]) -> list[SharedRow]:
    """A row per scorer and dictionary whose shared latents are few because of some explainers.

    They are left out one by one, each time the one without which most are shared, until no longer few.
    Where few are shared whoever is left out, as by explainers of unlike latents, there is no row.
    """
    rows = [_shared_row(scorer, shares, group) for (scorer, shares), group in _groups(scored, runs).items()]
    return [row for row in rows if row is not None]


def _groups(scored: Sequence[Scored], runs: Sequence[Opened]) -> dict[tuple[str, int], list[Scored]]:
    """Explainers with any number, by scorer and dictionary."""
    shares = {opened.name: opened.row.shares for opened in runs}
    found: dict[tuple[str, int], list[Scored]] = {}
    for one in scored:
        if len(one.value.latents):
            found.setdefault((one.scorer, shares[one.run]), []).append(one)
    return found


def _shared_row(scorer: str, shares: int, group: Sequence[Scored]) -> SharedRow | None:
    latents = np.unique(np.concatenate([one.value.latents for one in group]))
    has = np.stack([np.isin(latents, one.value.latents, assume_unique=True) for one in group])
    everyone = set(range(len(group)))
    limiting = _limiting(has)
    if not limiting:
        return None
    return SharedRow(
        scorer=scorer,
        shares=shares,
        n_asked=len(np.unique(np.concatenate([one.asked for one in group]))),
        n_shared=_shared(has, everyone),
        limits=[
            Limit(
                run=group[i].run,
                explainer=group[i].explainer,
                n=int(has[i].sum()),
                n_without=_shared(has, everyone - {i}) if len(group) > 2 else None,
            )
            for i in limiting
        ],
        n_without=_shared(has, everyone - set(limiting)) if len(group) - len(limiting) > 1 else None,
    )


def _limiting(has: NDArray[np.bool_]) -> list[int]:
    """Rows of [explainers, latents] without which the shared latents are not few; none if that cannot be."""
    counts = has.sum(axis=1)
    enough = FEW * counts.max()
    rest, left_out = set(range(len(has))), []
    while len(rest) > 1 and _shared(has, rest) < enough:
        worst = max(rest, key=lambda i: (_shared(has, rest - {i}) if len(rest) > 2 else 0, -counts[i]))
        if len(rest) == 2 and (counts[worst] >= enough or counts[list(rest)].max() < enough):
            return []  # one alone shares with nobody: the other is to blame only if its own numbers are few
        rest.remove(worst)
        left_out.append(worst)
    needed = [i for i in left_out if _shared(has, rest | {i}) < enough]
    return sorted(needed, key=lambda i: counts[i])


def _shared(has: NDArray[np.bool_], rows: set[int]) -> int:
    return int(has[sorted(rows)].all(axis=0).sum())

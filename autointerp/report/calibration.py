"""Whether a judge's probabilities mean what they say: how often it was right at each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.report.windows_view import CONTROL_ENDING
from autointerp.run import Run

N_BINS = 10
MAX_ITEMS = 2_000_000
"""Items of one scorer and explainer that are read; more would not move the curve."""
_Z = 1.959964
_COLUMNS = ["explanation", "label", "probability", "status"]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Judged items of one scorer's real explanations, in bins of the probability of yes."""

    scorer: str
    explainer: str
    counts: NDArray[np.int64]
    """Items per bin, [10]."""
    said: NDArray[np.float64]
    """Mean probability per bin, [10]; nan where empty."""
    true: NDArray[np.float64]
    """Share whose answer is yes, [10]; nan where empty."""

    @property
    def n(self) -> int:
        """Items read."""
        return int(self.counts.sum())

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of `said` and `true`, weighted by items (Naeini et al. 2015)."""
        filled = self.counts > 0
        distance = np.abs(self.said[filled] - self.true[filled])
        return float((distance * self.counts[filled]).sum() / self.n)

    def interval(self, i: int) -> tuple[float, float]:
        """Wilson's 95% interval of `true[i]`, items taken as independent."""
        n, p = float(self.counts[i]), float(self.true[i])
        middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - float(half)), min(1.0, middle + float(half))


def calibrations(run: Run, scorers: Sequence[str]) -> list[Calibration]:
    """One for each scorer and explainer whose judge gave probabilities of a known truth."""
    found = []
    folder = run.directory.folder("judgements")
    for part in sorted({path.parent for path in run.directory.dataset("judgements").shards}):
        scorer, explainer = (*part.relative_to(folder).parts, "")[:2]
        one = _calibration(run, scorer, explainer)
        if one is not None:
            found.append(one)
    explainers = run.config.explain.explainers

    def place(one: Calibration) -> tuple[int, int]:
        """As elsewhere: scorers and explainers in the order of the run's file."""
        of = [
            (names.index(name) if name in names else len(names))
            for name, names in ((one.scorer, list(scorers)), (one.explainer, explainers))
        ]
        return of[0], of[1]

    return sorted(found, key=place)


def _calibration(run: Run, scorer: str, explainer: str) -> Calibration | None:
    counts, said, true = np.zeros(N_BINS, dtype=np.int64), np.zeros(N_BINS), np.zeros(N_BINS)
    for table in run.directory.dataset("judgements", scorer, explainer).iter_shards(columns=_COLUMNS):
        control = pc.match_substring(table.column("explanation"), f"{CONTROL_ENDING}/")
        table = table.filter(pc.invert(control))
        table = table.filter(
            (pc.field("status") == "ok")
            & pc.field("label").is_valid()
            & pc.is_finite(pc.field("probability"))
        )
        p = table.column("probability").to_numpy().astype(float)
        yes = table.column("label").to_numpy().astype(float)
        bins = np.clip((p * N_BINS).astype(int), 0, N_BINS - 1)
        counts += np.bincount(bins, minlength=N_BINS)
        said += np.bincount(bins, weights=p, minlength=N_BINS)
        true += np.bincount(bins, weights=yes, minlength=N_BINS)
        if counts.sum() >= MAX_ITEMS:
            break
    if not counts.sum():
        return None
    with np.errstate(invalid="ignore"):
        return Calibration(
            scorer=scorer, explainer=explainer, counts=counts, said=said / counts, true=true / counts
        )

"""Trajectories of an optimisation, kept small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from autointerp.explainers.gradient.types import Trajectory

if TYPE_CHECKING:
    import torch

MOST_TOKENS, MOST_POINTS = 12, 60
_TOP = 5


class Recorder:
    """Keeps each step's likeliest labels; `trajectory()` at the end."""

    def __init__(self, labels: Sequence[str], restart: int) -> None:
        self.labels = labels
        self.restart = restart
        self.steps: list[int] = []
        self.rows: list[np.ndarray] = []
        self.losses: dict[str, list[float]] = {}
        self.peaks: dict[int, float] = {}

    def add(self, step: int, p: torch.Tensor, losses: Mapping[str, float]) -> None:
        """One step: probabilities [n_labels], and named losses."""
        row = p.detach().float().cpu().numpy()
        for column in np.argpartition(-row, min(_TOP, len(row) - 1))[:_TOP].tolist():
            self.peaks[column] = max(self.peaks.get(column, 0.0), float(row[column]))
        self.steps.append(step)
        self.rows.append(row.astype(np.float16))
        for name, value in losses.items():
            self.losses.setdefault(name, []).append(float(value))

    def trajectory(self) -> Trajectory:
        """At most `MOST_TOKENS` labels, those with the highest peaks, at up to `MOST_POINTS` steps."""
        kept = sorted(self.peaks, key=lambda column: -self.peaks[column])[:MOST_TOKENS]
        final = self.rows[-1] if self.rows else np.zeros(len(self.labels))
        kept.sort(key=lambda column: -float(final[column]))
        n = len(self.steps)
        points = np.unique(np.linspace(0, max(n - 1, 0), min(n, MOST_POINTS)).round().astype(int)).tolist()
        return Trajectory(
            restart=self.restart,
            steps=[self.steps[i] for i in points],
            tokens=[self.labels[column] for column in kept],
            probabilities=[[float(self.rows[i][column]) for column in kept] for i in points],
            losses={name: [values[i] for i in points] for name, values in self.losses.items()},
        )

"""Numbers from simulated activations: OpenAI's three scores, calibrated and not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from autointerp.sampling.windows import Window
from autointerp.scorers.base import Judgement
from autointerp.scorers.metrics import (
    absolute_dev_explained,
    linear_calibration,
    pearson,
    percentile_calibration,
    rsquared,
)

Calibration = Literal["none", "linear", "percentile"]


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """True and simulated activations of some windows, at the tokens whose slot could be read.

    One pair of float64 arrays per window with any such token, equally long.
    """

    true: list[np.ndarray]
    predicted: list[np.ndarray]
    n_slots: int
    """Tokens of all the windows."""

    @property
    def n_read(self) -> int:
        """Tokens with a simulated activation."""
        return sum(len(values) for values in self.predicted)

    @property
    def pooled(self) -> tuple[np.ndarray, np.ndarray]:
        """True and predicted activations of all windows together, [n_read] each."""
        empty = [np.empty(0)]
        return np.concatenate(self.true or empty), np.concatenate(self.predicted or empty)


def read_slots(windows: Sequence[Window], judgements: Sequence[Judgement]) -> Simulated:
    """The tokens whose slot was read; a null is left out, never taken as 0."""
    by_example = {j.example: j for j in judgements}
    true, predicted = [], []
    for window in windows:
        values = by_example[window.example].predicted_activations or ()
        kept = [(a, v) for a, v in zip(window.activations, values, strict=bool(values)) if v is not None]
        if kept:
            both = np.array(kept, dtype=np.float64)
            true.append(both[:, 0])
            predicted.append(both[:, 1])
    return Simulated(true=true, predicted=predicted, n_slots=sum(len(w.tokens) for w in windows))


def all_slots(windows: Sequence[Window], judgements: Sequence[Judgement]) -> Simulated | None:
    """The same by the published rule: 0 at a slot, or in a whole window, that could not be read.

    None if there is no window, or a request failed (the published code then has no score either).
    """
    by_example = {j.example: j for j in judgements}
    if not windows or any(by_example[w.example].status == "error" for w in windows):
        return None
    predicted = []
    for window in windows:
        values = by_example[window.example].predicted_activations or [None] * len(window.tokens)
        predicted.append(np.array([0.0 if v is None else v for v in values], dtype=np.float64))
    true = [window.activations.astype(np.float64) for window in windows]
    return Simulated(true=true, predicted=predicted, n_slots=sum(len(t) for t in true))


def openai_scores(true: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """`ev_correlation`, `rsquared` and `absolute_dev_explained` of OpenAI's `scoring.py`."""
    return {
        "ev_correlation": pearson(true, predicted),
        "rsquared": rsquared(true, predicted),
        "absolute_dev_explained": absolute_dev_explained(true, predicted),
    }


def calibrated(method: Calibration, fit: Simulated, scored: Simulated) -> dict[str, Any] | None:
    """OpenAI's scores after a calibration fitted on other windows; None for method `none`.

    Holds `method`, what was fitted on (`n_windows`, `n_tokens`), the line (`slope`, `intercept`,
    `linear` only) and the three scores; these are null with a `reason` if nothing can be fitted.
    """
    if method == "none":
        return None
    out: dict[str, Any] = {"method": method, "n_windows": len(fit.true), "n_tokens": fit.n_read}
    true, predicted = scored.pooled
    fit_true, fit_predicted = fit.pooled
    if method == "linear":
        line = linear_calibration(fit_predicted, fit_true)
        out |= {"slope": line[0] if line else None, "intercept": line[1] if line else None}
        values = line[0] * predicted + line[1] if line else None
        reason = "the simulated activations of the calibration windows are constant or missing"
    else:
        values = percentile_calibration(predicted, fit_predicted, fit_true)
        reason = "no slot of the calibration windows could be read"
    if values is None:
        return out | dict.fromkeys(openai_scores(true, predicted)) | {"reason": reason}
    return out | openai_scores(true, values)

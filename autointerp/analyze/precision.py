"""Precision of a label as it would be on running text, where windows that activate a latent are rare."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.run import Run

_COLUMNS = ("latent", "explanation", "explainer", "control", "scorer", "tp", "fn", "specificity_by_kind")


def precision_on_text(run: Run) -> pa.Table:
    """A row per row of `scores` that decided something: `precision` = s p / (s p + (1 - c) (1 - p)).

    `sensitivity` s is tp / (tp + fn), `specificity` c that on `random` windows, which stand for text as
    it comes, and `prevalence` p = 1 - (1 - density)^window_tokens: the share of windows in which the
    latent would be active if its activations fell independently. They come in clusters, so the true
    share, and with it the precision, is if anything lower. Undefined numbers are null.
    """
    scores = run.table("scores", columns=_COLUMNS)
    scores = scores.filter(pc.field("tp").is_valid())
    latents = run.table("latents", columns=["latent", "density"])
    density = np.full(int(pc.max(latents.column("latent")).as_py() or 0) + 1, np.nan)
    density[latents.column("latent").to_numpy()] = latents.column("density").to_numpy()
    kinds = scores.column("specificity_by_kind").combine_chunks()
    tp, fn = (_floats(scores.column(name).combine_chunks()) for name in ("tp", "fn"))
    specificity = _floats(pc.struct_field(kinds, "random"))
    prevalence = 1 - (1 - density[scores.column("latent").to_numpy()]) ** run.config.sample.window_tokens
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = tp / (tp + fn)
        found, false = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
        precision = found / (found + false)
    numbers = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "prevalence": prevalence,
        "precision": precision,
    }
    table = scores.select(["latent", "explanation", "explainer", "control", "scorer"])
    for name, values in numbers.items():
        table = table.append_column(name, pa.array(values, mask=~np.isfinite(values)))
    return table


def _floats(column: pa.Array) -> NDArray[np.float64]:
    values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values

"""Matchings of latents as rows: the numbers of two runs, their pairs, and latents left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.analyze.intervals import bootstrap_mean, stream
from autointerp.analyze.similarity_matching import Indices, Matching
from autointerp.analyze.similarity_measures import Similarities
from autointerp.analyze.similarity_sides import Side
from autointerp.analyze.similarity_types import MEASURES, LoneRow, PairRow, SimilarityRow
from autointerp.analyze.similarity_views import MeasureView


def of_smaller(matching: Matching, shape: tuple[int, int]) -> NDArray[np.float64]:
    """One similarity per latent of the smaller side, 0 for those without a partner."""
    values = np.zeros(min(shape))
    values[: len(matching.similarity)] = matching.similarity
    return values


def undefined_row(a: str, b: str, name: str, threshold: float, view: MeasureView) -> SimilarityRow:
    """A measure that two runs do not allow."""
    nothing: dict[str, Any] = dict.fromkeys(
        f
        for f in SimilarityRow.__dataclass_fields__
        if f not in ("run_a", "run_b", "measure", "status", "reason", "n_a", "n_b", "threshold")
    )
    return SimilarityRow(
        **nothing | {"n_matched": 0, "n_null": 0},
        run_a=a,
        run_b=b,
        measure=name,
        status="undefined",
        reason=view.reason,
        n_a=len(view.latents_a),
        n_b=len(view.latents_b),
        threshold=threshold,
    )


def similarity_row(
    a: str,
    b: str,
    name: str,
    threshold: float,
    view: MeasureView,
    matching: Matching,
    similarities: Similarities,
    nulls: Sequence[NDArray[np.float64]],
    seed: int,
) -> SimilarityRow:
    """The numbers of one matching beside those of its null pictures."""
    n_a, n_b = len(view.latents_a), len(view.latents_b)
    values = of_smaller(matching, (n_a, n_b))
    above = (values >= threshold).astype(np.float64)
    mean = bootstrap_mean(values, seed=stream(seed, a, b, name))
    shared = bootstrap_mean(above, seed=stream(seed, a, b, name, "shared"))
    null_means = np.array([x.mean() for x in nulls])
    null_shares = np.array([(x >= threshold).mean() for x in nulls])
    null_mean, null_low, null_high = _middle(null_means)
    null_shared, null_shared_low, null_shared_high = _middle(null_shares)
    n_shared = int(above.sum())
    return SimilarityRow(
        run_a=a,
        run_b=b,
        measure=name,
        status="ok",
        reason=None,
        exact=isinstance(similarities, np.ndarray),
        n_a=n_a,
        n_b=n_b,
        n_matched=len(matching.a),
        threshold=threshold,
        mean=mean.value,
        low=mean.low,
        high=mean.high,
        null_mean=null_mean,
        null_low=null_low,
        null_high=null_high,
        p_value=_p_value(mean.value, null_means),
        shared=shared.value,
        shared_low=shared.low,
        shared_high=shared.high,
        null_shared=null_shared,
        null_shared_low=null_shared_low,
        null_shared_high=null_shared_high,
        shared_p_value=_p_value(shared.value, null_shares),
        n_shared=n_shared,
        shared_a=n_shared / n_a,
        shared_b=n_shared / n_b,
        nearest_a=float(_nearest(similarities, 0)[1].mean()),
        nearest_b=float(_nearest(similarities, 1)[1].mean()),
        n_null=len(nulls),
    )


def _middle(values: NDArray[np.float64]) -> tuple[float | None, float | None, float | None]:
    """Mean and middle 95%; None without values."""
    if not len(values):
        return None, None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _p_value(value: float | None, nulls: NDArray[np.float64]) -> float | None:
    if value is None or not len(nulls):
        return None
    # A tie that rounding hides is a tie.
    return float((1 + (nulls >= value - 1e-9).sum()) / (1 + len(nulls)))


def _nearest(similarities: Similarities, side: int) -> tuple[Indices, NDArray[np.float64]]:
    """For each latent of a side the other side's most similar one, -1 without a candidate, and how similar."""
    if isinstance(similarities, np.ndarray):
        at = similarities.argmax(axis=1 - side)
        values = np.take_along_axis(similarities, np.expand_dims(at, 1 - side), axis=1 - side)
        return at.astype(np.int64), values.ravel().astype(np.float64)
    rows = (similarities if side == 0 else similarities.T).tocsr()
    at = np.full(rows.shape[0], -1, dtype=np.int64)
    values = np.zeros(rows.shape[0])
    for i in range(rows.shape[0]):
        part = slice(rows.indptr[i], rows.indptr[i + 1])
        if part.stop > part.start:
            best = int(rows.data[part].argmax())
            at[i], values[i] = rows.indices[part][best], rows.data[part][best]
    return at, values


def pair_rows(
    a: str,
    b: str,
    name: str,
    threshold: float,
    views: Mapping[str, MeasureView],
    matching: Matching,
    texts: tuple[Mapping[int, str], Mapping[int, str]],
) -> list[PairRow]:
    """Every matched pair, and what each measure says of it."""
    view = views[name]
    first, second = view.latents_a[matching.a], view.latents_b[matching.b]
    others = {other: _values_at(views.get(other), first, second) for other in MEASURES}
    return [
        PairRow(
            run_a=a,
            run_b=b,
            measure=name,
            latent_a=i,
            latent_b=j,
            similarity=value,
            shared=value >= threshold,
            text_a=texts[0].get(i),
            text_b=texts[1].get(j),
            **{other: values[n] for other, values in others.items()},
        )
        for n, (i, j, value) in enumerate(
            zip(first.tolist(), second.tolist(), matching.similarity.tolist(), strict=True)
        )
    ]


def _values_at(view: MeasureView | None, first: Indices, second: Indices) -> list[float | None]:
    """What a measure says of some pairs of latents; None where it does not know one of them."""
    out: list[float | None] = [None] * len(first)
    if view is None or view.measure is None:
        return out
    places = []
    for latents, wanted in ((view.latents_a, first), (view.latents_b, second)):
        at = np.minimum(np.searchsorted(latents, wanted), len(latents) - 1)
        places.append(np.where(latents[at] == wanted, at, -1))
    known = np.flatnonzero((places[0] >= 0) & (places[1] >= 0))
    values = view.measure.at(places[0][known], places[1][known])
    for n, value in zip(known.tolist(), values.tolist(), strict=True):
        out[n] = value
    return out


def lone_rows(
    sides: tuple[Side, Side],
    name: str,
    threshold: float,
    view: MeasureView,
    matching: Matching,
    similarities: Similarities,
    texts: tuple[Mapping[int, str], Mapping[int, str]],
) -> list[LoneRow]:
    """Every latent of either run without a partner from the threshold on."""
    rows = []
    for s, (mine, theirs) in enumerate([(matching.a, matching.b), (matching.b, matching.a)]):
        latents = (view.latents_a, view.latents_b)[s]
        others = (view.latents_a, view.latents_b)[1 - s]
        partner = {int(i): (int(j), v) for i, j, v in zip(mine, theirs, matching.similarity, strict=True)}
        at, values = _nearest(similarities, s)
        for i, latent in enumerate(latents.tolist()):
            taken = partner.get(i)
            if taken is not None and taken[1] >= threshold:
                continue
            rows.append(
                LoneRow(
                    run=sides[s].name,
                    other=sides[1 - s].name,
                    measure=name,
                    latent=latent,
                    partner=None if taken is None else int(others[taken[0]]),
                    similarity=None if taken is None else float(taken[1]),
                    nearest=None if at[i] < 0 else int(others[at[i]]),
                    nearest_similarity=None if at[i] < 0 else float(values[i]),
                    density=sides[s].statistics[latent]["density"],
                    text=texts[s].get(latent),
                )
            )
    return rows

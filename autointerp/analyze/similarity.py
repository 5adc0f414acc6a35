"""How alike the dictionaries of two runs are, latent by latent.

Latents are matched one to one so that the total likeness is largest, once for each measure of likeness:

* `decoder`, `encoder`: cosine of directions; `directions`: mean of the two;
* `correlation`, `jaccard`: firing at the same positions of the same text;
* `meaning`: cosine of the embedded labels.

Reported are the mean over matched pairs and the share of latents matched at or above a threshold, each
beside the same numbers of null pictures in which the second dictionary's correspondence to the first is
broken and the matching made anew: a matching looks for the best, so two unrelated dictionaries are well
above 0. Hungarian matching of latents: Paulo and Belrose 2025 (arXiv 2501.16615).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from autointerp.analyze.intervals import bootstrap_mean, stream
from autointerp.analyze.similarity_matching import Indices, Matching, match
from autointerp.analyze.similarity_measures import CoActivation, Cosine, Measure, Similarities, unit
from autointerp.analyze.similarity_sides import Side, open_sides
from autointerp.errors import UserError, unknown_name
from autointerp.progress import Tracker

THRESHOLDS = {
    "decoder": 0.7,
    "encoder": 0.7,
    "directions": 0.7,
    "correlation": 0.7,
    "jaccard": 0.5,
    "meaning": 0.7,
}
"""Similarity from which a matched pair counts as shared, by measure."""
MEASURES = tuple(THRESHOLDS)
N_NULL = 20
N_CONTEXTS = 2_000
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SimilarityOptions:
    """What is compared, and how."""

    measures: Sequence[str] = MEASURES
    threshold: float | None = None
    """For all measures; by default `THRESHOLDS`."""
    explainer: str | None = None
    """Whose labels are compared; by default the one that labelled most latents of both runs."""
    embedder: str | None = None
    """The embedding model; by default that of the `embedding` scorer."""
    n_null: int = N_NULL
    """Null pictures per measure; 0 for none."""
    n_contexts: int = N_CONTEXTS
    """Contexts on which firing is compared, drawn from those both runs have."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class SimilarityRow:
    """Two runs under one measure. Undefined numbers are None."""

    run_a: str
    run_b: str
    measure: str
    status: str
    """`ok`, or `undefined` with a reason."""
    reason: str | None
    exact: bool | None
    """Whether all pairs were compared, or nearest candidates only."""
    n_a: int
    """Latents compared: not dead, and for `meaning` labelled."""
    n_b: int
    n_matched: int
    """Pairs of the matching; the smaller side's latents without a partner count as similarity 0."""
    threshold: float
    mean: float | None
    """Mean similarity over the smaller side's latents, matched one to one."""
    low: float | None
    """Ends of the 95% interval, resampling latents; here and below with `high`."""
    high: float | None
    null_mean: float | None
    """Mean over the null pictures."""
    null_low: float | None
    """Ends of the middle 95% of the null pictures, here and below with `high`."""
    null_high: float | None
    p_value: float | None
    """(1 + null pictures with a mean at least as large) / (1 + null pictures)."""
    shared: float | None
    """Share of the smaller side's latents matched at or above the threshold."""
    shared_low: float | None
    shared_high: float | None
    null_shared: float | None
    null_shared_low: float | None
    null_shared_high: float | None
    shared_p_value: float | None
    n_shared: int | None
    """Pairs at or above the threshold."""
    shared_a: float | None
    """Those over `n_a`."""
    shared_b: float | None
    """Those over `n_b`."""
    nearest_a: float | None
    """Mean over A's latents of the similarity to the nearest of B, not one to one (MMCS for cosines)."""
    nearest_b: float | None
    n_null: int


@dataclass(frozen=True, kw_only=True)
class PairRow:
    """A matched pair, and what every other measure says of it."""

    run_a: str
    run_b: str
    measure: str
    """The measure it was matched by."""
    latent_a: int
    latent_b: int
    similarity: float
    shared: bool
    """Whether `similarity` is at or above the threshold."""
    decoder: float | None
    encoder: float | None
    directions: float | None
    correlation: float | None
    jaccard: float | None
    meaning: float | None
    text_a: str | None
    text_b: str | None


@dataclass(frozen=True, kw_only=True)
class LoneRow:
    """A latent that has no partner at or above the threshold."""

    run: str
    """The run it belongs to."""
    other: str
    measure: str
    latent: int
    partner: int | None
    """Its partner in the matching; None if it got none."""
    similarity: float | None
    nearest: int | None
    """The most similar latent of the other run, whoever else it is matched with; None without a candidate."""
    nearest_similarity: float | None
    density: float | None
    text: str | None


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Everything a comparison found."""

    runs: list[str]
    rows: list[SimilarityRow]
    pairs: list[PairRow]
    lone: list[LoneRow]

    def value(self, a: str, b: str, measure: str, number: str = "mean") -> float | None:
        """A number of `rows` for two runs in either order; None if undefined or not compared."""
        for row in self.rows:
            if {row.run_a, row.run_b} == {a, b} and row.measure == measure:
                found: float | None = getattr(row, number)
                return found
        return None


@dataclass(frozen=True, kw_only=True)
class _View:
    """A measure over some latents of either side; `measure` None if it is undefined for them."""

    latents_a: NDArray[np.int64]
    latents_b: NDArray[np.int64]
    measure: Measure | None
    reason: str | None = None
    texts: tuple[Mapping[int, str], Mapping[int, str]] = field(default=({}, {}))


def compare(roots: Sequence[str | Path], options: SimilarityOptions | None = None) -> Similarity:
    """Compare every two of some runs. Raises `UserError` for what is no run or an unknown measure."""
    options = options or SimilarityOptions()
    for measure in options.measures:
        if measure not in THRESHOLDS:
            raise unknown_name("--measure", measure, THRESHOLDS)
    sides = open_sides(roots)
    for side in sides:
        _ = side.latents
    couples = list(combinations(sides, 2))
    found = Similarity(runs=[side.name for side in sides], rows=[], pairs=[], lone=[])
    matchings = len(couples) * len(options.measures) * (1 + options.n_null)
    with Tracker("similarity", matchings, "matchings") as tracker:
        for a, b in couples:
            _compare_two(a, b, options, found, tracker)
    return found


def _compare_two(a: Side, b: Side, options: SimilarityOptions, found: Similarity, tracker: Tracker) -> None:
    views = {name: view for name in MEASURES if (view := _view(name, a, b, options)) is not None}
    texts = views["meaning"].texts if "meaning" in views else _labels(a, b, options.explainer)[0]
    for name in options.measures:
        view = views[name]
        threshold = THRESHOLDS[name] if options.threshold is None else options.threshold
        if view.measure is None:
            found.rows.append(_undefined(a.name, b.name, name, threshold, view))
            tracker.advance(1 + options.n_null)
            continue
        similarities = view.measure.similarities()
        matching = match(similarities)
        tracker.advance()
        nulls = list(_null_pictures(view.measure, options, (a.name, b.name, name), tracker))
        found.rows.append(
            _row(a.name, b.name, name, threshold, view, matching, similarities, nulls, options.seed)
        )
        found.pairs.extend(_pair_rows(a.name, b.name, name, threshold, views, matching, texts))
        found.lone.extend(_lone_rows((a, b), name, threshold, view, matching, similarities, texts))


def _null_pictures(
    measure: Measure, options: SimilarityOptions, keys: Sequence[str], tracker: Tracker
) -> Iterator[NDArray[np.float64]]:
    """The matched similarities of each null picture, one per latent of the smaller side."""
    for i in range(options.n_null):
        rng = np.random.default_rng(stream(options.seed, *keys, f"null {i}"))
        null = measure.null(rng)
        yield _of_smaller(match(null.similarities()), null.shape)
        tracker.advance()


def _of_smaller(matching: Matching, shape: tuple[int, int]) -> NDArray[np.float64]:
    """One similarity per latent of the smaller side, 0 for those without a partner."""
    values = np.zeros(min(shape))
    values[: len(matching.similarity)] = matching.similarity
    return values


def _view(name: str, a: Side, b: Side, options: SimilarityOptions) -> _View | None:
    """A measure's view of two runs; None for one that was not asked for and would be dear to make."""
    if name in ("decoder", "encoder", "directions"):
        return _directions(name, a, b)
    if name in ("correlation", "jaccard"):
        asked = set(options.measures) & {"correlation", "jaccard"}
        return _firing(name, a, b, options) if asked else None
    return _meaning(a, b, options) if "meaning" in options.measures else None


def _directions(name: str, a: Side, b: Side) -> _View:
    parts = ["decoder", "encoder"] if name == "directions" else [name]
    rows = []
    for side in (a, b):
        try:
            vectors = [getattr(side, part) for part in parts]
        except UserError as error:
            return _View(
                latents_a=a.latents, latents_b=b.latents, measure=None, reason=f"{side.name}: {error}"
            )
        if any(v is None for v in vectors):
            missing = next(part for part, v in zip(parts, vectors, strict=True) if v is None)
            return _View(
                latents_a=a.latents,
                latents_b=b.latents,
                measure=None,
                reason=f"the dictionary of {side.name} shows no {missing} directions",
            )
        rows.append([unit(v) for v in vectors])
    widths = [[v.shape[1] for v in side] for side in rows]
    if widths[0] != widths[1]:
        seen = " and ".join(" + ".join(f"{w:,}" for w in side) for side in widths)
        return _View(
            latents_a=a.latents,
            latents_b=b.latents,
            measure=None,
            reason=f"directions of different widths: {seen}",
        )
    # Unit vectors side by side: the cosine of the long ones is the mean of the cosines.
    first, second = (np.concatenate(side, axis=1) for side in rows)
    return _View(latents_a=a.latents, latents_b=b.latents, measure=Cosine(first, second))


def _firing(name: str, a: Side, b: Side, options: SimilarityOptions) -> _View:
    common = sorted(set(a.contexts) & set(b.contexts))
    if not common:
        return _View(
            latents_a=a.latents,
            latents_b=b.latents,
            measure=None,
            reason="no context in common: the runs read other text, or cut it otherwise",
        )
    if len(common) > options.n_contexts:
        rng = np.random.default_rng([options.seed, 7])
        common = [common[i] for i in np.sort(rng.choice(len(common), options.n_contexts, replace=False))]
    size = max(a.context_size, b.context_size)
    sides = []
    for side in (a, b):
        n_contexts = side.run.directory.dataset("contexts").n_rows
        place = np.full(n_contexts, -1, dtype=np.int64)
        place[[side.contexts[key] for key in common]] = np.arange(len(common))
        sides.append(_padded(side.activations(place, size), len(common) * size))
    kind: Any = name
    measure = CoActivation(
        sides[0],
        sides[1],
        kind=kind,
        n_positions=max(round(len(common) * a.n_positions_per_context), 1),
        context_size=size,
    )
    return _View(latents_a=a.latents, latents_b=b.latents, measure=measure)


def _padded(x: sparse.csr_array, n_rows: int) -> sparse.csr_array:
    x.resize((n_rows, x.shape[1]))
    return x


def _meaning(a: Side, b: Side, options: SimilarityOptions) -> _View:
    from autointerp.scorers.embedder import Embedder, EmbedderConfig

    texts, reason = _labels(a, b, options.explainer)
    latents = [
        np.array([i for i in side.latents.tolist() if i in of], dtype=np.int64)
        for side, of in zip((a, b), texts, strict=True)
    ]
    if reason is None and min(map(len, latents)) < 2:
        reason = "fewer than two labelled latents on one side"
    if reason is not None:
        return _View(latents_a=latents[0], latents_b=latents[1], measure=None, reason=reason, texts=texts)
    config = EmbedderConfig() if options.embedder is None else EmbedderConfig(model=options.embedder)
    vectors = [
        side.embedded([of[i] for i in ids.tolist()], Embedder(config))
        for side, of, ids in zip((a, b), texts, latents, strict=True)
    ]
    return _View(
        latents_a=latents[0], latents_b=latents[1], measure=Cosine(vectors[0], vectors[1]), texts=texts
    )


def _labels(
    a: Side, b: Side, explainer: str | None
) -> tuple[tuple[Mapping[int, str], Mapping[int, str]], str | None]:
    """The labels of both runs by one explainer, and why there are none.

    Raises `UserError` for an explainer that was named and that neither run has.
    """
    names = [name for name in a.explainers if name in b.explainers]
    if explainer is not None:
        have = {*a.explainers, *b.explainers}
        if explainer not in have:
            raise unknown_name("--explainer", explainer, have)
        names = [name for name in names if name == explainer]
    if not names:
        return ({}, {}), "the runs have no labels by the same explainer"
    best = max(names, key=lambda name: min(len(a.explainers[name]), len(b.explainers[name])))
    return (a.explainers[best], b.explainers[best]), None


def _undefined(a: str, b: str, name: str, threshold: float, view: _View) -> SimilarityRow:
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


def _row(
    a: str,
    b: str,
    name: str,
    threshold: float,
    view: _View,
    matching: Matching,
    similarities: Similarities,
    nulls: Sequence[NDArray[np.float64]],
    seed: int,
) -> SimilarityRow:
    n_a, n_b = len(view.latents_a), len(view.latents_b)
    values = _of_smaller(matching, (n_a, n_b))
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


def _pair_rows(
    a: str,
    b: str,
    name: str,
    threshold: float,
    views: Mapping[str, _View],
    matching: Matching,
    texts: tuple[Mapping[int, str], Mapping[int, str]],
) -> list[PairRow]:
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


def _values_at(view: _View | None, first: Indices, second: Indices) -> list[float | None]:
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


def _lone_rows(
    sides: tuple[Side, Side],
    name: str,
    threshold: float,
    view: _View,
    matching: Matching,
    similarities: Similarities,
    texts: tuple[Mapping[int, str], Mapping[int, str]],
) -> list[LoneRow]:
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

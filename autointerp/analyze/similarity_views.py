"""Each measure of likeness as two runs allow it, or why they do not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from autointerp.analyze.similarity_measures import CoActivation, Cosine, Measure, unit
from autointerp.analyze.similarity_sides import Side
from autointerp.analyze.similarity_types import SimilarityOptions
from autointerp.errors import UserError, unknown_name

_OWN_AXES = re.compile(r"\.(mlp\.hook_(pre|post|pre_linear)|attn\.hook_[zqkv])$")
"""Places whose coordinates are neurons or heads of one layer: no other layer's correspond to them."""


@dataclass(frozen=True, kw_only=True)
class MeasureView:
    """A measure over some latents of either side; `measure` None if it is undefined for them."""

    latents_a: NDArray[np.int64]
    latents_b: NDArray[np.int64]
    measure: Measure | None
    reason: str | None = None
    texts: tuple[Mapping[int, str], Mapping[int, str]] = field(default=({}, {}))


def view_of(name: str, a: Side, b: Side, options: SimilarityOptions) -> MeasureView | None:
    """A measure's view of two runs; None for one that was not asked for and would be dear to make."""
    if name in ("decoder", "encoder", "directions"):
        return _directions(name, a, b)
    if name in ("correlation", "jaccard"):
        asked = set(options.measures) & {"correlation", "jaccard"}
        return _firing(name, a, b, options) if asked else None
    return _meaning(a, b, options) if "meaning" in options.measures else None


def _directions(name: str, a: Side, b: Side) -> MeasureView:
    parts = ["decoder", "encoder"] if name == "directions" else [name]
    rows = []
    for side in (a, b):
        try:
            vectors = [getattr(side, part) for part in parts]
        except UserError as error:
            return _nothing(a, b, f"{side.name}: {error}")
        if any(v is None for v in vectors):
            missing = next(part for part, v in zip(parts, vectors, strict=True) if v is None)
            return _nothing(a, b, _why_none(side, missing))
        rows.append([unit(v) for v in vectors])
    for part in parts:
        axes = [_axes(side, part) for side in (a, b)]
        if axes[0] != axes[1]:
            places = [
                side.dictionary.hook_point_out if part == "decoder" else side.dictionary.hook_point
                for side in (a, b)
            ]
            return _nothing(a, b, f"{part} directions at {places[0]} and {places[1]} have no axes in common")
    widths = [[v.shape[1] for v in side] for side in rows]
    if widths[0] != widths[1]:
        seen = " and ".join(" + ".join(f"{w:,}" for w in side) for side in widths)
        return _nothing(a, b, f"directions of different widths: {seen}")
    # Unit vectors side by side: the cosine of the long ones is the mean of the cosines.
    first, second = (np.concatenate(side, axis=1) for side in rows)
    return MeasureView(latents_a=a.latents, latents_b=b.latents, measure=Cosine(first, second))


def _nothing(a: Side, b: Side, reason: str) -> MeasureView:
    return MeasureView(latents_a=a.latents, latents_b=b.latents, measure=None, reason=reason)


def _why_none(side: Side, part: str) -> str:
    """Why a dictionary has no directions of a kind."""
    kind = str(side.dictionary.metadata.get("architecture") or "of its kind")
    if kind == "neurons":
        return f"{side.name}: a neuron is a coordinate of its MLP and has no {part} direction"
    return f"{side.name}: its dictionary ({kind}) shows no {part} directions"


def _axes(side: Side, part: str) -> str | None:
    """The place whose coordinates a direction is in, where no other place has the same ones."""
    place = side.dictionary.hook_point if part == "encoder" else side.dictionary.hook_point_out
    return str(place) if _OWN_AXES.search(str(place)) else None


def _firing(name: str, a: Side, b: Side, options: SimilarityOptions) -> MeasureView:
    common = sorted(set(a.contexts) & set(b.contexts))
    if not common:
        return _nothing(a, b, "no context in common: the runs read other text, or cut it otherwise")
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
    return MeasureView(latents_a=a.latents, latents_b=b.latents, measure=measure)


def _padded(x: sparse.csr_array, n_rows: int) -> sparse.csr_array:
    x.resize((n_rows, x.shape[1]))
    return x


def _meaning(a: Side, b: Side, options: SimilarityOptions) -> MeasureView:
    from autointerp.scorers.embedder import Embedder, EmbedderConfig

    texts, reason = labels_of(a, b, options.explainer)
    latents = [
        np.array([i for i in side.latents.tolist() if i in of], dtype=np.int64)
        for side, of in zip((a, b), texts, strict=True)
    ]
    if reason is None and min(map(len, latents)) < 2:
        reason = "fewer than two labelled latents on one side"
    if reason is not None:
        return MeasureView(
            latents_a=latents[0], latents_b=latents[1], measure=None, reason=reason, texts=texts
        )
    config = EmbedderConfig() if options.embedder is None else EmbedderConfig(model=options.embedder)
    vectors = [
        side.embedded([of[i] for i in ids.tolist()], Embedder(config))
        for side, of, ids in zip((a, b), texts, latents, strict=True)
    ]
    return MeasureView(
        latents_a=latents[0], latents_b=latents[1], measure=Cosine(vectors[0], vectors[1]), texts=texts
    )


def labels_of(
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

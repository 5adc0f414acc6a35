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

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autointerp.analyze.intervals import stream
from autointerp.analyze.similarity_matching import match
from autointerp.analyze.similarity_measures import Measure
from autointerp.analyze.similarity_rows import lone_rows, of_smaller, pair_rows, similarity_row, undefined_row
from autointerp.analyze.similarity_sides import Side, open_sides
from autointerp.analyze.similarity_types import (
    MEASURES,
    N_CONTEXTS,
    N_NULL,
    THRESHOLDS,
    LoneRow,
    PairRow,
    Similarity,
    SimilarityOptions,
    SimilarityRow,
)
from autointerp.analyze.similarity_views import labels_of, view_of
from autointerp.errors import unknown_name
from autointerp.progress import Tracker

__all__ = [
    "MEASURES",
    "N_CONTEXTS",
    "N_NULL",
    "THRESHOLDS",
    "LoneRow",
    "PairRow",
    "Similarity",
    "SimilarityOptions",
    "SimilarityRow",
    "compare",
]


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
    views = {name: view for name in MEASURES if (view := view_of(name, a, b, options)) is not None}
    texts = views["meaning"].texts if "meaning" in views else labels_of(a, b, options.explainer)[0]
    for name in options.measures:
        view = views[name]
        threshold = THRESHOLDS[name] if options.threshold is None else options.threshold
        if view.measure is None:
            found.rows.append(undefined_row(a.name, b.name, name, threshold, view))
            tracker.advance(1 + options.n_null)
            continue
        similarities = view.measure.similarities()
        matching = match(similarities)
        tracker.advance()
        nulls = list(_null_pictures(view.measure, options, (a.name, b.name, name), tracker))
        found.rows.append(
            similarity_row(a.name, b.name, name, threshold, view, matching, similarities, nulls, options.seed)
        )
        found.pairs.extend(pair_rows(a.name, b.name, name, threshold, views, matching, texts))
        found.lone.extend(lone_rows((a, b), name, threshold, view, matching, similarities, texts))


def _null_pictures(
    measure: Measure, options: SimilarityOptions, keys: Sequence[str], tracker: Tracker
) -> Iterator[NDArray[np.float64]]:
    """The matched similarities of each null picture, one per latent of the smaller side."""
    for i in range(options.n_null):
        rng = np.random.default_rng(stream(options.seed, *keys, f"null {i}"))
        null = measure.null(rng)
        yield of_smaller(match(null.similarities()), null.shape)
        tracker.advance()

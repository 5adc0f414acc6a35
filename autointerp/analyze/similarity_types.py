"""What a comparison of dictionaries is asked, and the rows it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

"""What the stages `cache` and `sample` take: arithmetic, time, bytes on disk, memory.

Rates and bytes per row are those of a finished run, or given; what follows from neither is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from autointerp.analyze.plan_measured import Firing, Measured
from autointerp.analyze.plan_shape import Given, Shape
from autointerp.artifacts.schemas import DATASETS
from autointerp.artifacts.transpose import INTERMEDIATE
from autointerp.config import RunConfig
from autointerp.stages.reservoir import ROWS_BEFORE_CHOOSING, TALLIES
from autointerp.subject.neighbours import MOST_EXACT, approximate_bytes

_HELD_BOUNDS = 2 * (8 + 4)
"""Bytes per latent of the bounds of a reservoir: a priority and a peak for either split."""


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """The stage `cache` for a dictionary of some number of latents; None: not known."""

    n_latents: int | None
    n_tokens: int
    l0: float | None
    subject_flops: float | None
    """Operations per token, up to the hook point."""
    encoder_flops: float | None
    tokens_per_second: float | None
    """Of one worker."""
    rate: str
    """Where `tokens_per_second` comes from, in words."""
    device_hours: float | None
    """Hours of one worker."""
    n_activations: float | None
    """Rows of `activations`."""
    bytes_by_dataset: dict[str, float | None] = field(default_factory=dict)
    scratch_bytes: float | None = None
    """On disk beside them while it works, at most."""
    memory_bytes: float | None = None
    """Host memory of what grows with the settings and the dictionary, libraries not counted."""
    subject_bytes: float | None = None
    """Memory of the subject's weights, on the device."""
    dictionary_bytes: float | None = None
    """Memory of the dictionary's encoder and decoder, on the device."""
    firing: str | None = None
    """The run whose distribution of firing rates was used."""

    @property
    def bytes(self) -> float | None:
        """On disk when it is finished."""
        return total(list(self.bytes_by_dataset.values()))


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """The stage `sample`; None: not known."""

    n_latents: int | None
    n_windows: float | None
    """Rows of `examples`."""
    latents_per_second: float | None
    rate: str
    device_hours: float | None
    bytes: float | None
    memory_bytes: float | None
    """Host memory of the corpus and a shard of activations, libraries not counted."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is known beforehand of a run."""

    config: RunConfig
    shape: Shape
    given: Given
    own: Measured | None
    """The run itself, if its stage `cache` is finished."""
    like: Measured | None
    """A run of which it is said that this one will be alike."""
    like_shape: Shape | None = None

    def measured(self, read: Callable[[Measured], Any]) -> tuple[Any, str]:
        """A number of this run, else of the other, and where it comes from."""
        for source in (self.own, self.like):
            if source is not None and (value := read(source)) is not None:
                return value, f"measured in {source.name}"
        return None, "not known"


def cache_plan(sources: Sources, n_latents: int | None) -> CachePlan:
    """The stage for a dictionary of `n_latents` latents (None: of a number not known)."""
    config, shape = sources.config, sources.shape
    shape = replace(shape, n_latents=n_latents)
    n_tokens = tokens_read(sources)
    rate, source = _rate(sources, shape)
    firing, _ = sources.measured(lambda m: m.firing)
    rows = _rows(sources, shape, firing, n_tokens)
    return CachePlan(
        n_latents=n_latents,
        n_tokens=n_tokens,
        l0=shape.l0,
        subject_flops=shape.subject_flops,
        encoder_flops=shape.encoder_flops,
        tokens_per_second=rate,
        rate=source,
        device_hours=None if rate is None else n_tokens / rate / 3600,
        n_activations=rows,
        bytes_by_dataset=_bytes(sources, shape, rows, n_tokens),
        scratch_bytes=_scratch(config, shape, rows, n_tokens),
        memory_bytes=_memory(config, shape, n_tokens),
        subject_bytes=shape.subject_bytes,
        dictionary_bytes=shape.dictionary_bytes,
        firing=None if firing is None else firing.where,
    )


def cached_plan(sources: Sources, own: Measured) -> CachePlan:
    """The stage as it was: finished, its bytes counted."""
    planned = cache_plan(sources, own.n_latents)
    assert own.cache is not None
    rows = own.cache.n_rows
    return replace(
        planned,
        device_hours=0.0,
        n_activations=rows.get("activations"),
        bytes_by_dataset={name: own.bytes_of(name) for name in planned.bytes_by_dataset},
        scratch_bytes=0.0,
    )


def sample_plan(sources: Sources, n_latents: int | None, *, finished: bool = False) -> SamplePlan:
    """The stage for a dictionary of `n_latents` latents, dead ones among them."""
    config, shape = sources.config, replace(sources.shape, n_latents=n_latents)
    firing, _ = sources.measured(lambda m: m.firing)
    n_tokens = tokens_read(sources)
    contexts = _contexts(sources, shape, firing, n_tokens)
    windows = None
    if firing is not None and contexts is not None and n_latents is not None:
        windows = firing.windows(contexts, config.corpus.test_fraction, config.sample, n_latents)
    each, _ = sources.measured(_bytes_per_token_of_a_window)
    rate, source = sources.given.sampled_per_second, "given"
    if rate is None:
        per_second, source = sources.measured(lambda m: m.sampled_rows_per_second)
        rate = n_latents * per_second / windows if n_latents and per_second and windows else None
        source = "not known" if rate is None else source
    size = None if windows is None or each is None else windows * each * config.sample.window_tokens
    hours = None if rate is None or n_latents is None else n_latents / rate / 3600
    if finished and sources.own is not None:
        size, hours = float(sources.own.bytes_of("examples")), 0.0
    return SamplePlan(
        n_latents=n_latents,
        n_windows=windows,
        latents_per_second=rate,
        rate=source,
        device_hours=hours,
        bytes=size,
        memory_bytes=4.0 * n_tokens + 3.0 * INTERMEDIATE_BYTES * config.cache.rows_per_shard,
    )


_BINS_PER_LATENT, _BYTES_PER_BIN = 450, 1.4
"""Of a reservoir's counts by value: 64 bins for each of some seven doublings, and their size on disk as measured
(`benchmarks/reservoir_scale.py`)."""
INTERMEDIATE_BYTES: int = sum(field.type.bit_width // 8 for field in INTERMEDIATE.schema)
"""Bytes of an activation before it is compressed."""
_TALLY_BYTES: int = sum(field.type.bit_width // 8 for field in TALLIES.schema)


def total(parts: Sequence[float | None]) -> float | None:
    """The sum; None if a part is unknown."""
    return None if any(part is None for part in parts) else float(sum(part or 0 for part in parts))


def tokens_read(sources: Sources) -> int:
    """Tokens read: what the cache counted, else what is asked for."""
    counts = _counts(sources.own)
    if "n_tokens" in counts:
        return int(counts["n_tokens"])
    size = sources.shape.context_size or 1
    return -(-sources.config.cache.n_tokens // size) * size


def _positions(sources: Sources, n_tokens: float) -> float:
    """Tokens that are not masked."""
    counts = _counts(sources.own)
    if counts.get("n_tokens") and "n_positions" in counts:
        return float(n_tokens * counts["n_positions"] / counts["n_tokens"])
    size = sources.shape.context_size
    return n_tokens * (1 - 1 / size) if size and sources.config.cache.mask_first else float(n_tokens)


def _rate(sources: Sources, shape: Shape) -> tuple[float | None, str]:
    """Tokens per second of one worker: given, or of a device's arithmetic, or measured and scaled by arithmetic."""
    given = sources.given
    if given.cache_tokens_per_second is not None:
        return given.cache_tokens_per_second, "given"
    if given.device_tflops is not None and given.utilisation is not None:
        if shape.flops is None:
            return None, "not known: the arithmetic per token is not"
        rate = given.device_tflops * 1e12 * given.utilisation / shape.flops
        return (
            rate,
            f"{given.device_tflops:g} TFLOP/s at {given.utilisation:.0%}, over the arithmetic per token",
        )
    for measured, known in ((sources.own, sources.shape), (sources.like, sources.like_shape)):
        here = None if measured is None else measured.cache_tokens_per_second
        if measured is None or here is None:
            continue
        if measured is sources.own and shape.n_latents == measured.n_latents:
            return here, f"measured in {measured.name}"
        flops = None if known is None else replace(known, n_latents=measured.n_latents).flops
        if flops is not None and shape.flops is not None:
            return here * flops / shape.flops, (
                f"{here:,.0f} measured in {measured.name} with {flops / 1e9:,.2f} GFLOP per token, scaled by arithmetic"
            )
    return None, "not known"


def _contexts(sources: Sources, shape: Shape, firing: Firing | None, n_tokens: int) -> Any:
    """Expected contexts in which each latent of `firing` is active; None: not known."""
    if firing is None or shape.n_latents is None or shape.context_size is None or shape.l0 is None:
        return None
    n_contexts = n_tokens / shape.context_size
    return firing.contexts(_positions(sources, n_tokens), n_contexts, shape.n_latents, shape.l0)


def _rows(sources: Sources, shape: Shape, firing: Firing | None, n_tokens: int) -> float | None:
    """Rows of `activations`."""
    if shape.l0 is None:
        return None
    reservoir = sources.config.cache.reservoir
    if reservoir is None:
        return shape.l0 * _positions(sources, n_tokens)
    contexts = _contexts(sources, shape, firing, n_tokens)
    if firing is None or contexts is None or shape.n_latents is None:
        return None
    factor, _ = sources.measured(lambda m: m.strongest(reservoir.n_top))
    fraction = sources.config.corpus.test_fraction
    return firing.kept(contexts, fraction, reservoir, shape.n_latents, factor or 1.0)


def _bytes(sources: Sources, shape: Shape, rows: float | None, n_tokens: int) -> dict[str, float | None]:
    """Bytes on disk by dataset."""
    per_activation = _bytes_per_activation(sources, shape, n_tokens)
    per_token, _ = sources.measured(_bytes_per_token)
    per_latent, _ = sources.measured(lambda m: m.bytes_per_row("latents"))
    vocabulary, _ = sources.measured(lambda m: m.bytes_of("vocabulary") or None)
    n = shape.n_latents
    found: dict[str, float | None] = {
        "activations": None if rows is None or per_activation is None else rows * per_activation,
        "contexts": None if per_token is None else n_tokens * per_token,
        "latents": None if n is None or per_latent is None else n * per_latent,
        "vocabulary": vocabulary,
    }
    if sources.config.cache.reservoir is not None:
        per_row, _ = sources.measured(lambda m: m.bytes_per_row("reservoir"))
        width = sum(f.type.bit_width // 8 if f.name != "split" else 1 for f in DATASETS["reservoir"].schema)
        found["reservoir"] = None if n is None else 2.0 * n * (per_row or width)
    return found


def _bytes_per_activation(sources: Sources, shape: Shape, n_tokens: int) -> float | None:
    """Of `activations`, where a context is stored as its distance from the one before: farther apart, more bits."""
    each, _ = sources.measured(lambda m: m.bytes_per_row("activations"))
    firing, _ = sources.measured(lambda m: m.firing)
    contexts = _contexts(sources, shape, firing, n_tokens)
    if each is None or firing is None or contexts is None or shape.context_size is None:
        return None if each is None else float(each)
    here, reservoir = contexts, sources.config.cache.reservoir
    if reservoir is not None:
        test = sources.config.corpus.test_fraction
        here = sum(
            np.minimum(contexts * share, reservoir.n_random + reservoir.n_top) for share in (test, 1 - test)
        )
    gap = n_tokens / shape.context_size * len(contexts) / float(here.sum())
    return float(each + math.log2(gap / firing.gap) / 8)


def _bytes_per_token(measured: Measured) -> float | None:
    """Of `contexts`."""
    n_tokens = _counts(measured).get("n_tokens")
    return measured.bytes_of("contexts") / n_tokens if n_tokens else None


def _counts(measured: Measured | None) -> dict[str, Any]:
    """The counts of a finished `cache`; an imported run may have others."""
    return {} if measured is None or measured.cache is None else measured.cache.counts


def _bytes_per_token_of_a_window(measured: Measured) -> float | None:
    """Of `examples`."""
    sample = measured.sample
    each = None if sample is None else measured.bytes_per_row("examples")
    if sample is None or each is None:
        return None
    window = sample.config.get("sample", {}).get("window_tokens")
    return each / window if window else None


def _scratch(config: RunConfig, shape: Shape, rows: float | None, n_tokens: int) -> float | None:
    """At most: every activation by context, or what a reservoir holds between two choices, and its counts by value."""
    if rows is None:
        return None
    if config.cache.reservoir is None:
        return rows * INTERMEDIATE_BYTES
    # The last choice, what was left since, and the choice that is being made.
    chosen = (2 * rows + max(2 * rows, ROWS_BEFORE_CHOOSING)) * INTERMEDIATE_BYTES
    counts = min(n_tokens * (shape.l0 or math.inf), (shape.n_latents or math.inf) * _BINS_PER_LATENT)
    return chosen + (2 * _BYTES_PER_BIN * counts if math.isfinite(counts) else 0.0)


def _memory(config: RunConfig, shape: Shape, n_tokens: int) -> float | None:
    """Host memory: a shard of contexts read, sorted and written, or ranges of latents; and arrays over latents."""
    if shape.l0 is None or shape.n_latents is None or shape.context_size is None:
        return None
    cache, n = config.cache, shape.n_latents
    read = 3.0 * cache.contexts_per_shard * shape.context_size * shape.l0 * INTERMEDIATE_BYTES
    gathered = 3.0 * cache.rows_per_shard * INTERMEDIATE_BYTES
    held = 0.0
    if cache.reservoir is not None:
        held = n * (_HELD_BOUNDS + 2.0 * _TALLY_BYTES) + 9.0 * n_tokens / shape.context_size
    k = cache.n_neighbours
    nearest = 12.0 * n * k
    approximate = cache.neighbour_search == "approximate" or (
        cache.neighbour_search is None and n > MOST_EXACT
    )
    if k and approximate and shape.d_in is not None:
        nearest += approximate_bytes(n, shape.d_in)
    return max(read, gathered + nearest) + held

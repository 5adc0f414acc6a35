"""What the steps of a run come to: requests, tokens, cost, time and bytes on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autointerp.analyze.plan_cache import CachePlan, SamplePlan, Sources, total
from autointerp.analyze.plan_count import ASKS_NONE, PlannedModel, PlannedStep
from autointerp.analyze.plan_measured import Measured
from autointerp.llm.counting import Counts


@dataclass(frozen=True, kw_only=True)
class Amount:
    """Requests, tokens, cost and time of a step or of a whole run."""

    name: str
    role: str | None = None
    n_latents: int | None = None
    requests: int | None = None
    """None where nothing could be counted."""
    stored: int | None = None
    """Of them, those already stored, which cost nothing; None where that is not known."""
    prompt_tokens: int | None = None
    """Of requests that are to be paid; so the rest."""
    completion_tokens: int | None = None
    cost_usd: float | None = None
    """None: unknown."""
    most_usd: float | None = None
    """If every reply were as long as its request allows."""
    device_hours: float | None = None
    """Of one worker, or of one server of the model."""
    hours: float | None = None
    """On the clock, with all workers at work."""
    bytes: float | None = None
    """On disk when it is finished: its datasets, and stored replies."""
    note: str | None = None


def cache_amount(planned: CachePlan, workers: int, *, finished: bool) -> Amount:
    """The stage `cache`."""
    return _computed("cache", planned.n_latents, planned.device_hours, planned.bytes, workers, finished)


def sample_amount(planned: SamplePlan, workers: int, *, finished: bool) -> Amount:
    """The stage `sample`."""
    return _computed("sample", planned.n_latents, planned.device_hours, planned.bytes, workers, finished)


def _computed(
    name: str,
    n_latents: int | None,
    device_hours: float | None,
    size: float | None,
    workers: int,
    finished: bool,
) -> Amount:
    note = "finished" if finished else None
    return _unasked(name, n_latents, device_hours, size, workers, note)


def _unasked(
    name: str,
    n_latents: int | None,
    device_hours: float | None,
    size: float | None,
    workers: int,
    note: str | None,
) -> Amount:
    """A step that asks no model."""
    return Amount(
        name=name,
        n_latents=n_latents,
        requests=0,
        stored=0,
        prompt_tokens=0,
        completion_tokens=0,
        cost_usd=0.0,
        most_usd=0.0,
        device_hours=device_hours,
        hours=None if device_hours is None else device_hours / workers,
        bytes=size,
        note=note,
    )


def step_amounts(
    step: PlannedStep, n_latents: int | None, models: Mapping[str, PlannedModel], sources: Sources
) -> list[Amount]:
    """What a step asks of each model, for `n_latents` latents, none of them asked about before; None: as configured."""
    configured = n_latents is None
    n = step.n_latents if n_latents is None else n_latents
    size = _bytes_written(step, n, sources)
    if step.note == ASKS_NONE:
        return [_own_work(step, n, size, sources)]
    if not step.asked:
        return [Amount(name=step.name, n_latents=n, bytes=size, note=step.note)]
    factor = n / step.n_sampled if step.n_sampled else 0.0
    amounts = []
    for role, counts in step.asked.items():
        amounts.append(_asked(step, role, counts.times(factor), n, configured, models[role], sources))
    # What the step itself writes stands with its first model.
    return [replace(amounts[0], bytes=total([amounts[0].bytes, size])), *amounts[1:]]


def _own_work(step: PlannedStep, n: int, size: float | None, sources: Sources) -> Amount:
    """A step that asks no model: its time is the machine's own, as measured."""
    seconds, _ = sources.measured(lambda m: m.seconds_per_latent(step.name))
    hours = 0.0 if step.finished else None if seconds is None else n * seconds / 3600
    note = "finished" if step.finished else ASKS_NONE
    return _unasked(step.name, n, hours, size, sources.given.workers, note)


def _asked(
    step: PlannedStep,
    role: str,
    counts: Counts,
    n: int,
    configured: bool,
    model: PlannedModel,
    sources: Sources,
) -> Amount:
    """One model's part in a step. Beyond what is configured nothing counts as stored."""
    prompt, completion, most = counts.prompt_tokens, counts.completion_tokens, counts.most_completion_tokens
    requests = counts.requests
    if configured:
        prompt, completion = counts.new_prompt_tokens, counts.new_completion_tokens
        most = counts.new_most_completion_tokens
        requests -= counts.stored
    note = None
    if configured and step.finished:
        prompt = completion = most = requests = 0.0
        note = "finished"
    price, pace = model.price, model.tokens_per_second
    nothing = prompt == completion == most == 0.0
    hours = 0.0 if nothing else None if pace is None else (prompt + completion) / pace / 3600
    each, _ = sources.measured(lambda m: m.bytes_per_reply)
    return Amount(
        name=step.name,
        role=role,
        n_latents=n,
        requests=round(counts.requests),
        stored=round(counts.stored) if configured else None,
        prompt_tokens=round(prompt),
        completion_tokens=round(completion),
        cost_usd=0.0 if nothing else None if price is None else price.usd(prompt, completion),
        most_usd=0.0 if nothing else None if price is None else price.usd(prompt, most),
        device_hours=hours,
        hours=None if hours is None else hours / sources.given.workers,
        bytes=0.0 if requests == 0 else None if each is None else requests * each,
        note=note,
    )


def _bytes_written(step: PlannedStep, n: int, sources: Sources) -> float | None:
    """Of the datasets of a step: rows as counted, bytes per row as in the same part of a run, else in any part."""
    if step.finished and sources.own is not None:
        own = sources.own
        if not step.rows:
            return float(own.bytes_of_step(step.name))
        return float(sum(own.bytes_of(*folder) for folder in step.rows))
    if not step.rows:
        each, _ = sources.measured(lambda m: m.bytes_per_latent(step.name))
        return None if each is None else n * each
    parts: list[float | None] = []
    for folder, rows in step.rows.items():
        each, _ = sources.measured(_bytes_per_row(folder))
        parts.append(None if each is None else n * rows * each)
    return total(parts)


def _bytes_per_row(folder: tuple[str, ...]) -> Callable[[Measured], float | None]:
    dataset, *parts = folder
    return lambda m: m.bytes_per_row(dataset, *parts) or m.bytes_per_row(dataset)


def run_total(amounts: Sequence[Amount], n_latents: int | None) -> Amount:
    """Sum over steps; unknown if a part is unknown. What was not counted or measured is left out, and said."""
    counted = [a for a in amounts if a.requests is not None]
    timed = [a for a in counted if not (a.note == ASKS_NONE and a.hours is None)]
    said = []
    if left_out := len(amounts) - len(counted):
        said.append(f"without {left_out} not counted")
    if untimed := len(counted) - len(timed):
        said.append(f"time without {untimed} not measured")

    def summed(name: str, some: Sequence[Amount]) -> Any:
        values = [getattr(a, name) for a in some]
        return None if None in values else sum(values)

    names = ("requests", "prompt_tokens", "completion_tokens", "cost_usd", "most_usd", "bytes")
    return Amount(
        name="total",
        n_latents=n_latents,
        stored=summed("stored", counted) if n_latents is None else None,
        note="; ".join(said) or None,
        **{name: summed(name, counted) for name in names},
        **{name: summed(name, timed) for name in ("device_hours", "hours")},
    )

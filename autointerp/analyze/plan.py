"""What a run would take, before anything is paid: requests, tokens, cost, time, memory and bytes on disk.

What is asked of models is counted on a few latents and multiplied (`plan_count`); what the other stages take
follows from sizes and from rates that a finished run shows or the user gives (`plan_shape`,
`plan_measured`, `plan_cache`). A number for which there is neither is None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autointerp.analyze.plan_amounts import (
    Amount,
    cache_amount,
    run_total,
    sample_amount,
    step_amounts,
)
from autointerp.analyze.plan_cache import (
    CachePlan,
    SamplePlan,
    Sources,
    cache_plan,
    cached_plan,
    sample_plan,
)
from autointerp.analyze.plan_count import Counter, PlannedModel, PlannedStep
from autointerp.analyze.plan_measured import Measured
from autointerp.analyze.plan_shape import Given, shape_of
from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig
from autointerp.llm.replies import StoredReplies
from autointerp.stages.plugins import reply_store


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The plan for some number of latents."""

    name: str
    """`configured`, `dictionary` or `latents`."""
    n_latents: int | None
    """Latents that are explained and scored; None: as many as configured."""
    steps: Sequence[Amount]
    total: Amount
    cache: CachePlan
    sample: SamplePlan


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would ask and cost."""

    run: str
    models: Sequence[PlannedModel]
    scopes: Sequence[Scope]
    sampled_latents: int
    exact: bool
    """Whether `configured` was counted on every latent, not extrapolated."""
    windows: str | None
    """The run whose windows the prompts were built on; None if there were none."""
    sizes: Mapping[str, str]
    """Where the sizes of subject and dictionary come from, in words."""
    workers: int
    """At work at the same time."""
    alone: Sequence[str]
    """Stages that one worker carries out, however many there are."""
    is_cached: bool
    """Whether it is known which latents are alive; else all are taken to be."""

    def as_json(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def plan(
    config: RunConfig,
    run: RunDirectory,
    *,
    finished: Collection[str] = (),
    sample_latents: int = 8,
    latents: Sequence[int] = (),
    tokenizer: str | None = None,
    with_subject: bool = False,
    given: Given | None = None,
    like: RunDirectory | None = None,
    like_config: RunConfig | None = None,
    alone: Collection[str] = (),
) -> Plan:
    """What a run takes, for the latents as configured, for all that are alive, and for each number of `latents`.

    `finished` names steps whose results are up to date: they take nothing any more, and their
    explanations are used. What models are asked is counted on `sample_latents` latents per step, on the
    windows of the run or else of `like`, a finished run whose rates and bytes stand in for what this one
    does not show yet (`like_config` is its configuration). `tokenizer` counts tokens of models on servers.
    Explainers and scorers that need the subject are counted only `with_subject`, since it must be
    loaded for that. `alone` names stages that workers do not share. Nothing is written.
    """
    given = given or Given()
    own = Measured(run, str(run.root))
    other = None if like is None else Measured(like, str(like.root))
    sources = _sources(config, given, own if own.cache is not None else None, other, like_config)
    windows = next((r for r in (run, like) if r is not None and r.dataset("examples").shards), None)
    stored = StoredReplies.at(reply_store(config, run))
    habits = stored
    if habits is None and like is not None:
        habits = StoredReplies.at(reply_store(like_config or config, like))
    try:
        counter = Counter(
            config,
            run,
            windows,
            n_latents=sources.shape.n_latents,
            finished=finished,
            n_sample=sample_latents,
            tokenizer=tokenizer,
            stored=stored,
            habits=habits,
            with_subject=with_subject,
        )
        steps = counter.steps()
        models = [counter.planned_model(role, given.tokens_per_second) for role in counter.roles()]
    finally:
        for store in {id(s): s for s in (stored, habits) if s is not None}.values():
            store.close()
    by_role = {model.role: model for model in models}
    scopes = [_scope("configured", None, steps, by_role, sources, alone, finished)]
    n_alive = sources.shape.n_latents if sources.own is None else sources.own.n_alive
    if n_alive is not None:
        scopes.append(_scope("dictionary", n_alive, steps, by_role, sources, alone))
    scopes += [_scope("latents", n, steps, by_role, sources, alone) for n in latents]
    return Plan(
        run=config.name,
        models=models,
        scopes=scopes,
        sampled_latents=sample_latents,
        exact=counter.is_own and all(step.n_sampled == step.n_latents for step in steps if step.asked),
        windows=None if windows is None else str(windows.root),
        sizes=sources.shape.sources,
        workers=given.workers,
        alone=sorted(alone),
        is_cached=sources.own is not None,
    )


def _sources(
    config: RunConfig,
    given: Given,
    own: Measured | None,
    like: Measured | None,
    like_config: RunConfig | None,
) -> Sources:
    like_shape = None
    if like is not None and like_config is not None:
        like_shape = shape_of(like_config, Given(), _cached(like))
    return Sources(
        config=config,
        shape=shape_of(config, given, None if own is None else _cached(own)),
        given=given,
        own=own,
        like=like,
        like_shape=like_shape,
    )


def _cached(measured: Measured) -> dict[str, Any]:
    cache = measured.cache
    return {} if cache is None else {**cache.counts, "n_latents": measured.n_latents}


def _scope(
    name: str,
    n_latents: int | None,
    steps: Sequence[PlannedStep],
    models: Mapping[str, PlannedModel],
    sources: Sources,
    alone: Collection[str],
    finished: Collection[str] = (),
) -> Scope:
    """The plan for `n_latents` latents, nothing of it done before; None: for those configured."""
    workers, own = sources.given.workers, sources.own
    n_dictionary = sources.shape.n_latents
    if name == "latents" and n_latents is not None:
        n_dictionary = max(n_latents, n_dictionary or 0)
    is_cached = n_latents is None and "cache" in finished and own is not None
    is_sampled = n_latents is None and "sample" in finished and own is not None
    cache = cached_plan(sources, own) if is_cached and own is not None else cache_plan(sources, n_dictionary)
    sample = sample_plan(sources, n_dictionary, finished=is_sampled)
    if n_latents is not None:
        steps = [replace(step, finished=False) for step in steps]
    amounts = [
        cache_amount(cache, 1 if "cache" in alone else workers, finished=is_cached),
        sample_amount(sample, 1 if "sample" in alone else workers, finished=is_sampled),
        *(amount for step in steps for amount in step_amounts(step, n_latents, models, sources)),
    ]
    return Scope(
        name=name,
        n_latents=n_latents,
        steps=amounts,
        total=run_total(amounts, n_latents),
        cache=cache,
        sample=sample,
    )

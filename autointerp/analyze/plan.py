"""What a run would ask its models: counted on a few latents, multiplied to all of them.

The real explainers and scorers are run on a sample of latents with a model that only counts
(`autointerp.llm.counting`). Requests that several latents share are shared by more of them in a whole
run, so extrapolated numbers are upper bounds; what is counted on all latents is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig
from autointerp.explainers.base import ExplainContext
from autointerp.llm import registry
from autointerp.llm.counting import PLACEHOLDER, CountingModel, Counts
from autointerp.llm.prices import Price, price_of
from autointerp.llm.replies import StoredReplies
from autointerp.llm.unopened import unopened
from autointerp.scorers.base import Item, JudgeContext
from autointerp.stages.plugins import (
    NO_EXPLAINER,
    ExplainerInstance,
    Models,
    ScorerInstance,
    build_explainers,
    build_scorers,
    reply_store,
)
from autointerp.stages.selection import read_records, read_vocabulary, select_latents

_SAMPLE_STREAM = 6
_SUBJECT_NEEDED = "counted --with-subject only"


@dataclass(frozen=True, kw_only=True)
class PlannedModel:
    """A model of the run, as far as it is known beforehand."""

    role: str
    """`explainer` or `judge`."""
    backend: str
    model: str
    price: Price | None
    """None: cost unknown."""
    counted: str
    """How its tokens were counted, in words."""
    tokens_per_second: float | None
    """Given, or measured on stored replies; None: time unknown."""
    pace: str
    """Where `tokens_per_second` comes from, in words."""


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """What one step asks, on the sample."""

    name: str
    """As in `explain/default` or `score/detection/default`."""
    asked: Mapping[str, Counts] = field(default_factory=dict)
    """Role of a model to what it is asked about the sampled latents; empty: no model is asked."""
    n_sampled: int = 0
    n_latents: int = 0
    """Latents of the step as configured."""
    finished: bool = False
    """All its results are there."""
    note: str | None = None
    """Why nothing was counted."""


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
    hours: float | None = None
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The plan for some number of latents."""

    name: str
    """`configured`, `dictionary` or `latents`."""
    n_latents: int | None
    steps: Sequence[Amount]
    total: Amount


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would ask and cost."""

    run: str
    models: Sequence[PlannedModel]
    scopes: Sequence[Scope]
    sampled_latents: int
    exact: bool
    """Whether `configured` was counted on every latent, not extrapolated."""

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
    tokens_per_second: float | None = None,
    tokenizer: str | None = None,
    with_subject: bool = False,
) -> Plan:
    """Count on `sample_latents` latents per step what a run asks, for the latents as configured, for all
    that are alive, and for each number of `latents`.

    `finished` names steps whose results are up to date: they ask nothing any more, and their
    explanations are used. `tokenizer` counts tokens of models on servers. Explainers and scorers that
    need the subject are counted only `with_subject`, since it must be loaded for that. Nothing is written.
    """
    stored = StoredReplies.at(reply_store(config, run))
    try:
        counter = _Counter(config, run, finished, sample_latents, tokenizer, stored, with_subject)
        steps = counter.steps()
        models = [counter.planned_model(role, tokens_per_second) for role in counter.roles()]
    finally:
        if stored is not None:
            stored.close()
    by_role = {model.role: model for model in models}
    status = run.dataset("latents").read(columns=["status"]).column("status").to_pylist()
    n_alive = sum(s != "dead" for s in status)
    scopes = [_scope("configured", None, steps, by_role), _scope("dictionary", n_alive, steps, by_role)]
    scopes += [_scope("latents", n, steps, by_role) for n in latents]
    return Plan(
        run=config.name,
        models=models,
        scopes=scopes,
        sampled_latents=sample_latents,
        exact=all(step.n_sampled == step.n_latents for step in steps if step.asked),
    )


class _Counter:
    """Runs explainers and scorers on a sample of latents and counts what they ask."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        finished: Collection[str],
        n_sample: int,
        tokenizer: str | None,
        stored: StoredReplies | None,
        with_subject: bool,
    ) -> None:
        self.config, self.run, self.finished = config, run, finished
        self.n_sample, self.tokenizer, self.stored = n_sample, tokenizer, stored
        self.with_subject = with_subject
        self.tokens, self.token_counts = read_vocabulary(run)
        self.n_all = run.dataset("latents").n_rows
        self.seen: set[str] = set()
        self._unopened: dict[str, Any] = {}
        self._texts: dict[tuple[str, int], list[str]] = {}
        self._models = Models(config)

    def steps(self) -> list[PlannedStep]:
        """Every step of `explain` and `score`."""
        explainers = build_explainers(self.config)
        steps = [self._explain(instance) for instance in explainers]
        for scorer in build_scorers(self.config):
            for explainer in [None] if scorer.explanation_free else explainers:
                steps.append(self._score(scorer, explainer))
        return steps

    def roles(self) -> list[str]:
        """Roles whose models were asked."""
        return sorted(self._unopened)

    def planned_model(self, role: str, tokens_per_second: float | None) -> PlannedModel:
        options = registry.parse_model(getattr(self.config.models, role), f"models.{role}")
        model = self._unopened[role]
        pace, source = tokens_per_second, "given"
        if pace is None:
            pace = model.habits.tokens_per_second
            source = "unknown" if pace is None else "measured on its stored replies"
        return PlannedModel(
            role=role,
            backend=options.backend,
            model=options.model,
            price=price_of(options),
            counted=model.counted,
            tokens_per_second=pace,
            pace=source,
        )

    def _model(self, role: str, seen: set[str] | None = None) -> CountingModel:
        if role not in self._unopened:
            options = registry.parse_model(getattr(self.config.models, role), f"models.{role}")
            self._unopened[role] = unopened(options, tokenizer=self.tokenizer, stored=self.stored)
        return CountingModel(self._unopened[role], self.stored, self.seen if seen is None else seen)

    def _selected(self, instance: ExplainerInstance | ScorerInstance, section: str) -> list[int]:
        where = f"{section}.{instance.name}.latents"
        return select_latents(instance.latents, self.run, self.config.seed, where)

    def _sample(self, latents: Sequence[int]) -> list[int]:
        """The first few of some latents in a random order of all, sorted: samples of steps overlap."""
        order = np.random.default_rng([self.config.seed, _SAMPLE_STREAM]).permutation(self.n_all)
        rank = {latent: int(order[latent]) for latent in latents}
        return sorted(sorted(latents, key=rank.__getitem__)[: self.n_sample])

    def _explain(self, instance: ExplainerInstance) -> PlannedStep:
        name = f"explain/{instance.name}"
        selected = self._selected(instance, "explainers")
        if not instance.explainer.requires() and not instance.requires_judge:
            return PlannedStep(name=name, n_latents=len(selected), note="asks no model")
        if instance.needs_subject and not self.with_subject:
            return PlannedStep(name=name, n_latents=len(selected), note=_SUBJECT_NEEDED)
        sample = self._sample(selected)
        return PlannedStep(
            name=name,
            asked=self._run_explainer(instance, sample, self.seen),
            n_sampled=len(sample),
            n_latents=len(selected),
            finished=name in self.finished,
        )

    def _run_explainer(
        self, instance: ExplainerInstance, latents: Sequence[int], seen: set[str]
    ) -> dict[str, Counts]:
        """What an explainer asks about some latents; keeps their texts for the scorers."""
        if instance.needs_subject and not self.with_subject:
            for latent in latents:
                self._texts[instance.name, latent] = [f"{PLACEHOLDER} {latent}"]
            return {}
        model = self._model("explainer", seen) if instance.explainer.requires() else None
        judge = self._model("judge", seen) if instance.requires_judge else None
        context = ExplainContext(
            model=model,
            tokens=self.tokens,
            token_counts=self.token_counts,
            seed=self.config.seed,
            judge=judge,
            subject=self._models.steered_subject if instance.needs_subject else None,
        )
        records = read_records(self.run, latents, "train" if instance.explainer.uses_windows else None)
        alive = [r for r in records if r.statistics["status"] != "dead"]
        made = list(instance.explainer.explain(alive, context)) if alive else []
        for latent in latents:
            self._texts[instance.name, latent] = []
        for one in made:
            text = one.text
            if model is not None and (text is None or PLACEHOLDER in text):
                text = f"{PLACEHOLDER} {one.latent}"  # no two alike, so that none is asked only once
            if text is not None:
                self._texts[instance.name, one.latent].append(text)
        asked = {"explainer": model, "judge": judge}
        return {role: counting.counts for role, counting in asked.items() if counting is not None}

    def _score(self, scorer: ScorerInstance, explainer: ExplainerInstance | None) -> PlannedStep:
        name = f"score/{scorer.name}/{NO_EXPLAINER if explainer is None else explainer.name}"
        latents = self._selected(scorer, "scorers")
        if explainer is not None:
            explained = set(self._selected(explainer, "explainers"))
            latents = [latent for latent in latents if latent in explained]
        if not scorer.scorer.requires():
            return PlannedStep(name=name, n_latents=len(latents), note="asks no model")
        if scorer.needs_subject and not self.with_subject:
            return PlannedStep(name=name, n_latents=len(latents), note=_SUBJECT_NEEDED)
        sample = self._sample(latents)
        model = self._model("judge")
        subject = self._models.steered_subject if scorer.needs_subject else None
        context = JudgeContext(model=model, tokens=self.tokens, seed=self.config.seed, subject=subject)
        records = {record.latent: record for record in read_records(self.run, sample, "test")}
        items = [
            Item(explanation=explanation, text=text, record=records[latent])
            for latent, explanation, text in self._explanations(explainer, sample)
        ]
        if items:
            scorer.scorer.judge(items, context)
        return PlannedStep(
            name=name,
            asked={"judge": model.counts},
            n_sampled=len(sample),
            n_latents=len(latents),
            finished=name in self.finished,
        )

    def _explanations(
        self, explainer: ExplainerInstance | None, latents: Sequence[int]
    ) -> list[tuple[int, str, str]]:
        """(latent, id, text) of what is judged, controls included: what is there, else as it may come."""
        if explainer is None:
            return [(latent, NO_EXPLAINER, "") for latent in latents]
        folders = [explainer.name]
        if self.config.explain.shuffled_control:
            folders.append(f"{explainer.name}.shuffled")
        if all(f"explain/{folder}" in self.finished for folder in folders):
            rows = [
                row
                for folder in folders
                for row in self.run.dataset("explanations", folder).read(latents=latents).to_pylist()
                if row["status"] == "ok"
            ]
            return [(row["latent"], row["explanation"], row["text"]) for row in rows]
        missing = [latent for latent in latents if (explainer.name, latent) not in self._texts]
        if missing:
            self._run_explainer(explainer, missing, set())
        own = [
            (latent, f"{explainer.name}/{i}", text)
            for latent in latents
            for i, text in enumerate(self._texts[explainer.name, latent])
        ]
        if len(folders) == 1 or len({latent for latent, _, _ in own}) < 2:
            return own
        turned = [text for _, _, text in own[1:] + own[:1]]
        control = [
            (latent, f"{folders[1]}/{explanation.rsplit('/', 1)[1]}", text)
            for (latent, explanation, _), text in zip(own, turned, strict=True)
        ]
        return own + control


def _scope(
    name: str, n_latents: int | None, steps: Sequence[PlannedStep], models: Mapping[str, PlannedModel]
) -> Scope:
    """The plan for `n_latents` latents, none of them asked about before; None: for those configured."""
    amounts = [amount for step in steps for amount in _amounts(step, n_latents, models)]
    return Scope(name=name, n_latents=n_latents, steps=amounts, total=_total(amounts, n_latents))


def _amounts(step: PlannedStep, n_latents: int | None, models: Mapping[str, PlannedModel]) -> list[Amount]:
    n = step.n_latents if n_latents is None else n_latents
    if not step.asked:
        asks_none = step.note == "asks no model"
        zero: dict[str, Any] = (
            dict.fromkeys(("requests", "stored", "prompt_tokens", "completion_tokens"), 0)
            | dict.fromkeys(("cost_usd", "most_usd", "hours"), 0.0)
            if asks_none
            else {}
        )
        return [Amount(name=step.name, n_latents=n, note=step.note, **zero)]
    return [
        _amount(
            step,
            role,
            counts.times(n / step.n_sampled if step.n_sampled else 0.0),
            n,
            n_latents is None,
            models,
        )
        for role, counts in step.asked.items()
    ]


def _amount(
    step: PlannedStep,
    role: str,
    counts: Counts,
    n: int,
    configured: bool,
    models: Mapping[str, PlannedModel],
) -> Amount:
    """One model's part in a step. Beyond what is configured nothing counts as stored."""
    prompt, completion, most = counts.prompt_tokens, counts.completion_tokens, counts.most_completion_tokens
    if configured:
        prompt, completion = counts.new_prompt_tokens, counts.new_completion_tokens
        most = counts.new_most_completion_tokens
    note = None
    if configured and step.finished:
        prompt = completion = most = 0.0
        note = "finished"
    model = models[role]
    price, pace = model.price, model.tokens_per_second
    nothing = prompt == completion == most == 0.0
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
        hours=0.0 if nothing else None if pace is None else (prompt + completion) / pace / 3600,
        note=note,
    )


def _total(amounts: Sequence[Amount], n_latents: int | None) -> Amount:
    """Sum over steps; unknown if a part is unknown. Steps that were not counted are left out, and said."""
    counted = [a for a in amounts if a.requests is not None]
    left_out = len(amounts) - len(counted)

    def total(name: str) -> Any:
        values = [getattr(a, name) for a in counted]
        return None if None in values else sum(values)

    names = ("requests", "prompt_tokens", "completion_tokens", "cost_usd", "most_usd", "hours")
    sums = {name: total(name) for name in names}
    return Amount(
        name="total",
        n_latents=n_latents,
        stored=total("stored") if n_latents is None else None,
        note=f"without {left_out} not counted" if left_out else None,
        **sums,
    )

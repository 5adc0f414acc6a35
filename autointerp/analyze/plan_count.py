"""What the explainers and scorers of a run ask and write, counted on a few latents.

The real explainers and scorers are run on a sample of latents with a model that only counts
(`autointerp.llm.counting`). Requests that several latents share are shared by more of them in a whole
run, so extrapolated numbers are upper bounds; what is counted on all latents is exact.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autointerp.artifacts import RunDirectory
from autointerp.config import Latents, RunConfig
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
)
from autointerp.stages.selection import read_records, read_vocabulary, select_latents

ASKS_NONE = "asks no model"
NO_WINDOWS = "its prompts are counted on the windows of `sample`"
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
    rows: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    """Rows it writes for a latent, by dataset and its parts, as in `("scores", "detection", "default")`."""
    note: str | None = None
    """Why nothing was counted."""


class Counter:
    """Runs explainers and scorers on a sample of latents and counts what they ask and write.

    `windows` is the run whose sampled windows they are given: the run itself, or one that is like it; None
    if there is neither, and then nothing is counted. `n_latents` is the size of the dictionary where that is
    not the one of `windows`. `habits` are stored replies that tell of a model's tokens and pace.
    """

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        windows: RunDirectory | None,
        *,
        n_latents: int | None,
        finished: Collection[str],
        n_sample: int,
        tokenizer: str | None,
        stored: StoredReplies | None,
        habits: StoredReplies | None,
        with_subject: bool,
    ) -> None:
        self.config, self.run, self.finished = config, run, finished
        self.n_sample, self.tokenizer, self.stored, self.habits = n_sample, tokenizer, stored, habits
        self.with_subject, self.n_latents = with_subject, n_latents
        self.is_own = windows is not None and windows.root == run.root
        self.windows = windows or run
        if windows is not None:
            self.tokens, self.token_counts = read_vocabulary(windows)
            self.n_all = windows.dataset("latents").n_rows
        self.can_count = windows is not None
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
        """What is known of the model of a role; `tokens_per_second` if the user says so."""
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
            self._unopened[role] = unopened(options, tokenizer=self.tokenizer, stored=self.habits)
        return CountingModel(self._unopened[role], self.stored, self.seen if seen is None else seen)

    def _selected(self, instance: ExplainerInstance | ScorerInstance, section: str) -> tuple[list[int], int]:
        """Latents of the windows at hand that stand for those of a step, and how many those are."""
        where = f"{section}.{instance.name}.latents"
        if self.is_own:
            own = select_latents(instance.latents, self.run, self.config.seed, where)
            return own, len(own)
        n = self._n_selected(instance.latents)
        if not self.can_count:
            return [], n
        return select_latents("all", self.windows, self.config.seed, where), n

    def _n_selected(self, selection: Latents) -> int:
        """How many latents a selection means; of those that will turn out dead nothing is known."""
        n_all = self.n_latents if self.n_latents is not None else 0
        if isinstance(selection, list):
            return len(set(selection))
        return n_all if selection == "all" else min(selection, n_all or selection)

    def _sample(self, latents: Sequence[int]) -> list[int]:
        """The first few of some latents in a random order of all, sorted: samples of steps overlap."""
        order = np.random.default_rng([self.config.seed, _SAMPLE_STREAM]).permutation(self.n_all)
        rank = {latent: int(order[latent]) for latent in latents}
        return sorted(sorted(latents, key=rank.__getitem__)[: self.n_sample])

    def _explain(self, instance: ExplainerInstance) -> PlannedStep:
        name = f"explain/{instance.name}"
        selected, n = self._selected(instance, "explainers")
        folders = [instance.name]
        if self.config.explain.shuffled_control:
            folders.append(f"{instance.name}.shuffled")
        rows: dict[tuple[str, ...], float] = {("explanations", folder): 1.0 for folder in folders}
        if not instance.explainer.requires() and not instance.requires_judge:
            return PlannedStep(
                name=name, n_latents=n, finished=name in self.finished, rows=rows, note=ASKS_NONE
            )
        if not self.can_count or (instance.needs_subject and not self.with_subject):
            return PlannedStep(name=name, n_latents=n, rows=rows, note=self._why_not())
        sample = self._sample(selected)
        asked = self._run_explainer(instance, sample, self.seen)
        n_made = sum(len(self._texts[instance.name, latent]) for latent in sample)
        return PlannedStep(
            name=name,
            asked=asked,
            n_sampled=len(sample),
            n_latents=n,
            finished=name in self.finished,
            rows={folder: max(n_made / len(sample), 1.0) for folder in rows} if sample else rows,
        )

    def _why_not(self) -> str:
        return _SUBJECT_NEEDED if self.can_count else NO_WINDOWS

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
        records = read_records(self.windows, latents, "train" if instance.explainer.uses_windows else None)
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
        parts = (scorer.name, NO_EXPLAINER if explainer is None else explainer.name)
        name = f"score/{'/'.join(parts)}"
        latents, n = self._selected(scorer, "scorers")
        if explainer is not None:
            also, n_also = self._selected(explainer, "explainers")
            explained = set(also)
            latents = [latent for latent in latents if latent in explained]
            n = len(latents) if self.is_own else min(n, n_also)
        if not scorer.scorer.requires():
            return PlannedStep(name=name, n_latents=n, finished=name in self.finished, note=ASKS_NONE)
        if not self.can_count or (scorer.needs_subject and not self.with_subject):
            return PlannedStep(name=name, n_latents=n, note=self._why_not())
        sample = self._sample(latents)
        model = self._model("judge")
        subject = self._models.steered_subject if scorer.needs_subject else None
        context = JudgeContext(model=model, tokens=self.tokens, seed=self.config.seed, subject=subject)
        records = {record.latent: record for record in read_records(self.windows, sample, "test")}
        items = [
            Item(explanation=explanation, text=text, record=records[latent])
            for latent, explanation, text in self._explanations(explainer, sample)
        ]
        judged = scorer.scorer.judge(items, context) if items else []
        n_judged = sum(len(one.judgements) for one in judged)
        return PlannedStep(
            name=name,
            asked={"judge": model.counts},
            n_sampled=len(sample),
            n_latents=n,
            finished=name in self.finished,
            rows={
                ("judgements", *parts): n_judged / len(sample),
                ("scores", *parts): len(judged) / len(sample),
            }
            if sample
            else {},
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

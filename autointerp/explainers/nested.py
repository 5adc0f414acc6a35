"""Explainers and scorers inside an explainer's options, and what a choice by score needs.

For explainers that are made of others and judge their labels themselves (`best-of`, `refine`):
they build the inner ones from tables, hold train windows back that no proposer was shown, and judge
on these alone. `JudgingConfig` and `JudgingExplainer` are what they have in common.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, Field

from autointerp import explainers as explainer_room
from autointerp import scorers as scorer_room
from autointerp.config import Section, parse_table
from autointerp.errors import UserError
from autointerp.explainers.base import (
    ExplainContext,
    Explainer,
    ExplainerConfig,
    get_explainer,
    judge_needs,
    subject_needed,
)
from autointerp.llm.types import Capability, Usage
from autointerp.sampling.windows import LatentRecord, Window
from autointerp.scorers.asking import summed_usage
from autointerp.scorers.base import Item, JudgeContext, Judged, Scorer, ScorerConfig, get_scorer
from autointerp.scorers.selection import systematic

_HOLD_BACK_STREAM = 60

T = TypeVar("T")
Table = str | dict[str, Any]


def build_explainer(table: Table) -> tuple[Explainer, ExplainerConfig]:
    """The explainer of a name or of a table `{explainer = NAME, ...}`, and its parsed options.

    Raises `UserError`, the key first, for an unknown name, a wrong option, and `latents`.
    """
    explainer_room.load_all()
    name, options = _named(table, "explainer")
    cls = get_explainer(name, "explainer")
    parsed = parse_table(cls.Config, options)
    return cls(parsed), parsed


def build_scorer(table: Table) -> tuple[Scorer, ScorerConfig]:
    """The scorer of a name or of a table `{scorer = NAME, ...}`, and its parsed options.

    Raises `UserError`, the key first, as `build_explainer`, and for scorers that judge no
    explanation or run the subject.
    """
    scorer_room.load_all()
    name, options = _named(table, "scorer")
    cls = get_scorer(name, "scorer")
    for attribute, why in (
        ("explanation_free", "judges no explanation"),
        ("needs_subject", "runs the subject"),
    ):
        if getattr(cls, attribute, False):
            raise UserError(f"scorer: seen {name!r}, which {why}; accepted: a scorer that judges windows")
    parsed = parse_table(cls.Config, options)
    return cls(parsed), parsed


def told_by_key(build: Callable[[Table], T]) -> Callable[[Table], Table]:
    """A validator of a table: the builder's mistake becomes one of the key the table stands under."""

    def check(table: Table) -> Table:
        try:
            build(table)
        except UserError as error:
            raise ValueError(str(error)) from None
        return table

    return check


ExplainerTable = Annotated[Table, AfterValidator(told_by_key(build_explainer))]
"""Name of an explainer, or a table with its options."""
ScorerTable = Annotated[Table, AfterValidator(told_by_key(build_scorer))]
"""Name of a scorer, or a table with its options."""


def plugin_values(plugin: Explainer | Scorer, config: Section) -> dict[str, Any]:
    """What the results of an inner plug-in depend on, beside its prompts."""
    return {"name": plugin.name, "version": plugin.version, **config.result_values()}


class JudgingConfig(ExplainerConfig):
    """Options of every explainer that judges labels itself."""

    scorer: ScorerTable = "detection"
    """Who judges the labels: the name of a scorer, or a table `{scorer = NAME, ...}` with its options.
    Its judge is `models.judge`."""
    held_back: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the train windows kept from those who propose, on which labels are judged."""

    def result_values(self) -> dict[str, Any]:
        """As of every section, the scorer's options with their defaults and version."""
        return {**super().result_values(), "scorer": plugin_values(*build_scorer(self.scorer))}


class JudgingExplainer:
    """Base of explainers that let others propose, and judge on windows these were not shown."""

    uses_windows: ClassVar[bool] = True
    config: JudgingConfig

    def __init__(self, config: JudgingConfig, inner: Mapping[str, Explainer]) -> None:
        """`inner`: who proposes, by the name its prompts go by."""
        self.config = config
        self.inner = inner
        self.scorer, _ = build_scorer(config.scorer)

    @property
    def needs_subject(self) -> bool:
        """Whether one who proposes runs the subject."""
        return any(subject_needed(explainer) for explainer in self.inner.values())

    def requires(self) -> frozenset[Capability]:
        """What those who propose need."""
        return frozenset().union(*(explainer.requires() for explainer in self.inner.values()))

    def requires_judge(self) -> frozenset[Capability]:
        """What the scorer needs, and those who propose if they judge themselves."""
        return self.scorer.requires().union(*(judge_needs(e) for e in self.inner.values()))

    def prompts(self) -> Mapping[str, str]:
        """Those of the scorer and of those who propose, under names of their own."""
        plugins: dict[str, Explainer | Scorer] = {"scorer": self.scorer, **self.inner}
        return {
            f"{prefix}.{name}": text
            for prefix, plugin in plugins.items()
            for name, text in plugin.prompts().items()
        }

    def check(self) -> None:
        """The checks of the scorer and of those who propose. Raises `UserError`."""
        for plugin in (*self.inner.values(), self.scorer):
            if (check := getattr(plugin, "check", None)) is not None:
                check()

    def halves(
        self, records: Sequence[LatentRecord], context: ExplainContext
    ) -> list[tuple[LatentRecord, LatentRecord]]:
        """Each latent's train windows, those shown and those held back (see `hold_back`)."""
        return [hold_back(record, self.config.held_back, context) for record in records]

    def judging_details(
        self, shown: LatentRecord, fresh: LatentRecord, context: ExplainContext
    ) -> dict[str, Any]:
        """What `details` say of the judging."""
        judge = {} if context.judge is None else {"judge": context.judge.identity}
        return {
            "scorer": self.scorer.name,
            "n_windows_shown": len(shown.windows),
            "n_windows_held_back": len(fresh.windows),
            **judge,
        }


def hold_back(
    record: LatentRecord, share: float, context: ExplainContext
) -> tuple[LatentRecord, LatentRecord]:
    """The train windows cut in two: those that may be shown, and that share of them, fresh, to judge on.

    Windows of one context stay on one side. The sides get activating windows of like strengths, and
    each at least one if there are two contexts with any (a single one is shown); the kinds of silent windows are
    dealt out evenly. Which go where depends on (seed, latent) alone.
    """
    by_context: dict[int, list[Window]] = {}
    train = [w for w in record.windows if w.split == "train"]
    for window in train:
        by_context.setdefault(window.context, []).append(window)
    groups = sorted(by_context.values(), key=_rank)
    heads = [min(group, key=lambda w: (-w.max_activation, w.example)) for group in groups]
    active = [w for w in heads if w.activating]
    rng = context.rng(record.latent, _HOLD_BACK_STREAM)
    chosen = systematic(active, share, rng) if len(active) > 1 else []
    if len(active) > 1 and not chosen:
        chosen = active[-1:]
    if len(active) > 1 and len(chosen) == len(active):
        chosen = chosen[1:]
    chosen += systematic([w for w in heads if not w.activating], share, rng)
    fresh = {w.context for w in chosen}
    return (
        replace(record, windows=tuple(w for w in train if w.context not in fresh)),
        replace(record, windows=tuple(w for w in train if w.context in fresh)),
    )


def _rank(group: Sequence[Window]) -> tuple[Any, ...]:
    """Strongest first, silent groups by kind."""
    strongest = max(w.max_activation for w in group)
    return (-strongest, min(w.kind for w in group), min(w.example for w in group))


def judge_texts(
    scorer: Scorer, asked: Sequence[tuple[str, LatentRecord]], context: ExplainContext
) -> list[Judged]:
    """Judge (text, fresh windows) pairs, all at once, in their order."""
    judging = JudgeContext(model=context.judge, tokens=context.tokens, seed=context.seed)
    items = [
        Item(explanation=str(number), text=text, record=record) for number, (text, record) in enumerate(asked)
    ]
    return scorer.judge(items, judging) if items else []


def verdict(judged: Judged) -> dict[str, Any]:
    """The number a text got, as `details` show it: `score` None where undefined, with the reason."""
    score = judged.score
    found: dict[str, Any] = {"score": score.get("value"), "n": score.get("n_examples")}
    if found["score"] is None:
        reason = score.get("reason") or "no number"
        found["score_reason"] = reason if judged.item.record.windows else "no train window was held back"
    return found


def summed(usages: Iterable[Usage]) -> Usage:
    """Sum of usages. Those that say nothing asked nothing; of the others one unknown makes it unknown."""
    told = [usage for usage in usages if usage != Usage()]
    return summed_usage(lambda name: [getattr(usage, name) for usage in told])


def _named(table: Table, key: str) -> tuple[str, Mapping[str, Any]]:
    if isinstance(table, str):
        return table, {}
    options = dict(table)
    name = options.pop(key, None)
    if not isinstance(name, str):
        seen = "no such key" if name is None else json.dumps(name, default=str)
        raise UserError(
            f"{key}: seen {seen}; accepted: the name of {'an' if key[0] in 'aeiou' else 'a'} {key}"
        )
    if "latents" in options:
        raise UserError("latents: not accepted here; the latents are those of the outer section")
    return name, options

"""Explainers and scorers inside an explainer's options, and what a choice by score needs.

For explainers that are made of others and judge their labels themselves (`best-of`, `refine`):
they build the inner ones from tables, hold train windows back that no proposer was shown, and judge
on these alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

from autointerp import explainers as explainer_room
from autointerp import scorers as scorer_room
from autointerp.config import Section, parse_table
from autointerp.errors import UserError
from autointerp.explainers.base import ExplainContext, Explainer, ExplainerConfig, get_explainer
from autointerp.llm.types import Usage
from autointerp.sampling.windows import LatentRecord, Window
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


def prefixed(prefix: str, plugin: Explainer | Scorer) -> dict[str, str]:
    """The prompts of an inner plug-in under names of their own."""
    return {f"{prefix}.{name}": text for name, text in plugin.prompts().items()}


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

    def total(name: str) -> Any:
        values = [getattr(usage, name) for usage in told]
        return None if not values or None in values else sum(values)

    return Usage(
        prompt_tokens=total("prompt_tokens"),
        completion_tokens=total("completion_tokens"),
        cached_tokens=total("cached_tokens"),
        cost_usd=total("cost_usd"),
        seconds=total("seconds"),
    )


def check_all(plugins: Iterable[Explainer | Scorer]) -> None:
    """Call `check()` of those that have one. Raises `UserError`."""
    for plugin in plugins:
        if (check := getattr(plugin, "check", None)) is not None:
            check()


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

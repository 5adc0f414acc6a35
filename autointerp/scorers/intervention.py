"""Intervention: does the explanation say what the latent makes the subject write?

After Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of Features in Large
Language Models" (arXiv 2410.13928, ICML 2025), section "Intervention". Some latents are about the
output, not the input: what fires them says little of what they do. So the latent's decoder direction is
added to the activations while the subject reads text in which the latent is silent, as strongly as
moves the next-token distribution by a set divergence; and a judge that knows only the explanation
is to tell what happened then from what other directions do at the same divergence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autointerp.llm.types import Capability, Reply, Request, Usage
from autointerp.sampling.windows import TokenTable, defuse
from autointerp.scorers.answers import Shown, decision, json_plan, logprob_plan
from autointerp.scorers.asking import Plan, carry_out, classified, error_reason, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.evidence import EvidencePlan, evidence_prompts
from autointerp.scorers.intervention_effects import (
    Direction,
    Effect,
    InterventionConfig,
    LatentEffects,
    latent_effects,
    readable_tokens,
)
from autointerp.scorers.metrics import Interval, auroc_interval, balanced_accuracy, mean_interval
from autointerp.scorers.prompting import load_prompt, one_line, quoted

if TYPE_CHECKING:
    from autointerp.subject.steering import SteeredSubject

_NEEDS = {
    "json": frozenset({Capability.GENERATE}),
    "logprob": frozenset({Capability.GENERATE, Capability.TOP_LOGPROBS}),
    "likelihood": frozenset({Capability.LIKELIHOOD}),
}
_LATENTS_KEPT = 1_000
"""Effects are kept for so many latents, for the next explainer's step: the subject is slow."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One effect as it is put before a judge."""

    direction: int
    group: int
    effect: Effect
    shown: Shown


@scorer("intervention")
class Intervention:
    """AUROC (`json`: balanced accuracy) of the latent's effects against those of control directions."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = InterventionConfig
    version: ClassVar[int] = 1
    needs_subject: ClassVar[bool] = True

    def __init__(self, config: InterventionConfig) -> None:
        self.config = config
        self._effects: dict[tuple[Any, ...], LatentEffects] = {}
        self._readable: Any = None

    @property
    def metric(self) -> str:
        """The headline metric of the readout."""
        return "balanced_accuracy" if self.config.readout == "json" else "auroc"

    def requires(self) -> frozenset[Capability]:
        """What the readout needs."""
        return _NEEDS[self.config.readout]

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the effect and readout."""
        if self.config.readout == "likelihood" and self.config.effect == "next_token":
            return evidence_prompts()
        return {self._prompt: load_prompt(self._prompt).source}

    @property
    def _prompt(self) -> str:
        if self.config.readout == "likelihood":
            return "likelihood" if self.config.effect == "next_token" else "intervention_generation"
        return "intervention" if self.config.readout == "json" else "intervention_logprob"

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Steer the subject once per latent, then judge the effects for all explanations at once.

        Raises `UserError` if the dictionary has no directions that can be added to the subject.
        """
        assert context.model is not None
        asked = {i: item for i, item in enumerate(items) if item.text.strip()}
        effects = {i: self.effects(item, context) for i, item in asked.items()}
        plans = {i: self._plan(item, effects[i], context) for i, item in asked.items()}
        outcomes = dict(
            zip(plans, carry_out([plan.plan for plan in plans.values()], context.model), strict=True)
        )
        judged = []
        for i, item in enumerate(items):
            if i not in plans:
                judged.append(unexplained(item, self.metric, 0.5))
                continue
            judged.append(self._judged(item, effects[i], plans[i], *outcomes[i], context))
        return judged

    def effects(self, item: Item, context: JudgeContext) -> LatentEffects:
        """What steering with the item's latent does; computed once for all its explanations."""
        assert context.subject is not None
        key = (context.seed, item.record.latent, tuple(w.example for w in item.record.windows))
        if key not in self._effects:
            steered = context.subject()
            steered.check()
            readable = self._readable_in(context.tokens, steered)
            if len(self._effects) >= _LATENTS_KEPT:
                self._effects.pop(next(iter(self._effects)))
            self._effects[key] = latent_effects(item.record, self.config, context, steered, readable)
        return self._effects[key]

    def _readable_in(self, tokens: TokenTable, steered: SteeredSubject) -> Any:
        import torch

        if self._readable is None:
            found = torch.zeros(len(steered.subject.tokenizer), dtype=torch.bool)
            known = torch.from_numpy(readable_tokens(tokens))[: len(found)]
            found[: len(known)] = known
            self._readable = found.to(steered.subject.device)
        return self._readable

    def _plan(self, item: Item, effects: LatentEffects, context: JudgeContext) -> EffectPlan:
        cases = _cases(effects, context.tokens)
        if self.config.effect == "generation":
            return GenerationPlan(item.text, effects, cases, self.config.threshold)
        if self.config.readout == "likelihood":
            return WordsPlan(item.text, effects, cases, context.tokens, self.config.threshold)
        return AnswersPlan(item.text, effects, cases, self._prompt, self.config)

    def _judged(
        self,
        item: Item,
        effects: LatentEffects,
        plan: EffectPlan,
        judgements: list[Judgement],
        usage: Usage,
        context: JudgeContext,
    ) -> Judged:
        details = self._details(item, effects, plan, context)
        judged = classified(item, judgements, self.metric, usage, details)
        score = dict(judged.score)
        if effects.reason is not None:
            score |= {"status": "failed", "reason": effects.reason}
        elif not effects.directions[0].effects:
            score |= {
                "status": "failed",
                "reason": f"the latent's own direction: {effects.directions[0].reason}",
            }
        if score["value"] is not None:
            interval = self._interval(score, plan)
            score |= {"ci_low": interval.low, "ci_high": interval.high}
        return Judged(item=item, judgements=judgements, score=score, usage=usage, details=details)

    def _interval(self, score: Mapping[str, Any], plan: EffectPlan) -> Interval:
        """Groups are the draws of the latent's own effect, whole directions those of its controls."""
        n_own, n_controls = plan.n_drawn()
        if self.metric == "auroc":
            return auroc_interval(score["value"], n_own, n_controls)
        right = [score["tp"] / (score["tp"] + score["fn"]), score["tn"] / (score["tn"] + score["fp"])]
        low_high = balanced_accuracy(round(right[0] * n_own), n_own, round(right[1] * n_controls), n_controls)
        return Interval(score["value"], low_high.low, low_high.high)

    def _details(
        self, item: Item, effects: LatentEffects, plan: EffectPlan, context: JudgeContext
    ) -> dict[str, Any]:
        details: dict[str, Any] = {
            "effect": self.config.effect,
            "readout": self.config.readout,
            "prompt": self._prompt,
            "prompt_version": load_prompt(self._prompt).version,
            "kl": self.config.kl,
            "hook_point": None if context.subject is None else context.subject().hook_point,
            "groups": [[w.example for w in group] for group in effects.groups],
            "directions": [
                _described(direction, plan.of_direction(d), context.tokens)
                for d, direction in enumerate(effects.directions)
            ],
        }
        if effects.directions and effects.directions[0].strength is not None:
            largest = item.record.statistics.get("max_activation")
            strength = effects.directions[0].strength
            details["strength_over_max_activation"] = _rounded(strength / largest) if largest else None
        return details | plan.details(context.seed)


def _cases(effects: LatentEffects, tokens: TokenTable) -> list[Case]:
    """Every effect there is, direction by direction."""
    return [
        Case(
            direction=d,
            group=g,
            effect=effect,
            shown=Shown(
                window=effects.groups[g][0],
                kind=direction.kind,
                label=direction.own,
                text=defuse(", ".join(tokens.text([raised.token]).strip() for raised in effect.raised)),
            ),
        )
        for d, direction in enumerate(effects.directions)
        for g, effect in enumerate(direction.effects)
    ]


class EffectPlan:
    """The requests for one explanation and all effects of its latent, and what the replies say.

    If the latent's own direction has no effect, nothing is asked: there is nothing to compare.
    """

    def __init__(self, effects: LatentEffects, cases: Sequence[Case]) -> None:
        self.effects = effects
        if not (effects.directions and effects.directions[0].effects):
            cases = []
        self.cases = [case for case in cases if case.effect.raised or case.effect.texts]
        self._empty = [case for case in cases if not (case.effect.raised or case.effect.texts)]
        self.values: dict[tuple[int, int], float] = {}
        """Evidence of (direction, group), nats, once the replies are read."""
        self.judged: set[tuple[int, int]] = set()
        """What was judged, likewise."""

    @property
    def plan(self) -> Plan:
        """What is asked, and how judgements are read."""
        return Plan(requests=self.requests(), read=self._read)

    def requests(self) -> Sequence[Request]:
        """What is asked of the judge."""
        raise NotImplementedError

    def read(self, replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        """One judgement per case, in order."""
        raise NotImplementedError

    def details(self, seed: int) -> dict[str, Any]:
        """What is recorded besides, once the replies are read."""
        return {}

    def of_direction(self, direction: int) -> float | None:
        """Mean evidence of a direction over the groups that were judged; None without any."""
        values = [v for (d, _), v in self.values.items() if d == direction]
        return float(np.mean(values)) if values else None

    def n_drawn(self) -> tuple[int, int]:
        """Judged groups of the latent's own direction, and control directions with a judged group."""
        own = {g for d, g in self.judged if self.effects.directions[d].own}
        controls = {d for d, _ in self.judged if not self.effects.directions[d].own}
        return len(own), len(controls)

    def _read(self, replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = self.read(replies, keys) if self.cases else []
        for case, judgement in zip(self.cases, judgements, strict=True):
            if judgement.status == "ok":
                self.judged.add((case.direction, case.group))
            if judgement.log_odds is not None:
                self.values[case.direction, case.group] = judgement.log_odds
        nothing = {"status": "error", "reason": "no readable token is raised"}
        empty = [case.shown.judgement(**nothing) for case in self._empty]
        return [*judgements, *empty, *self._not_reached()]

    def _not_reached(self) -> list[Judgement]:
        """A row per group for every direction that could not be brought to the divergence."""
        return [
            Judgement(
                example=group[0].example,
                kind=direction.kind,
                label=direction.own,
                status="error",
                reason=direction.reason,
            )
            for direction in self.effects.directions
            if not direction.effects and (direction.own or self.effects.directions[0].effects)
            for group in self.effects.groups
        ]


class AnswersPlan(EffectPlan):
    """`json` and `logprob`: the judge says of one list at a time whether it fits the explanation.

    Lists of one direction resemble one another, so two lists in a request would give each other away.
    """

    def __init__(
        self,
        explanation: str,
        effects: LatentEffects,
        cases: Sequence[Case],
        prompt: str,
        config: InterventionConfig,
    ) -> None:
        super().__init__(effects, cases)
        shown, text = [case.shown for case in self.cases], load_prompt(prompt)
        self._asked = (
            json_plan(explanation, shown, text, 1, config.max_tokens)
            if config.readout == "json"
            else logprob_plan(explanation, shown, text)
        )

    def requests(self) -> Sequence[Request]:
        """One per list."""
        return self._asked.requests

    def read(self, replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        """As detection reads them."""
        return self._asked.read(replies, keys)


class WordsPlan(EffectPlan):
    """`likelihood` of raised tokens: how much likelier the explanation makes them."""

    def __init__(
        self,
        explanation: str,
        effects: LatentEffects,
        cases: Sequence[Case],
        tokens: TokenTable,
        threshold: float,
    ) -> None:
        super().__init__(effects, cases)
        self._threshold = threshold
        lists = [[f" {tokens.text([r.token]).strip()}" for r in case.effect.raised] for case in self.cases]
        self._evidence = EvidencePlan(explanation, lists, "words")

    def requests(self) -> Sequence[Request]:
        """One per distinct word and prefix."""
        return self._evidence.requests

    def read(self, replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        """The largest evidence of any word of a list."""
        judgements = []
        for case, told in zip(self.cases, self._evidence.read(replies), strict=True):
            if told.values is None:
                judgements.append(case.shown.judgement(status=told.status, reason=told.reason))
            else:
                best = int(np.argmax(told.values))
                judgements.append(
                    case.shown.judgement(
                        request=keys[told.requests[best]],
                        **decision(float(told.values[best]) - self._threshold),
                    )
                )
        return judgements


class GenerationPlan(EffectPlan):
    """`likelihood` of the explanation after the text the subject wrote, steered less clean."""

    def __init__(
        self, explanation: str, effects: LatentEffects, cases: Sequence[Case], threshold: float
    ) -> None:
        super().__init__(effects, cases)
        self._threshold = threshold
        self._explanation = one_line(explanation)
        self._texts = sorted(
            {text for case in self.cases for text in case.effect.texts}
            | ({text for group in effects.clean_texts for text in group} if self.cases else set())
        )
        self.drops: dict[tuple[int, int], list[float]] = {}
        """S of every prompt of a (direction, group)."""

    def requests(self) -> Sequence[Request]:
        """One per distinct text."""
        prompt = load_prompt("intervention_generation")
        return [
            Request(
                prompt=prompt.part("likelihood", {"text": quoted(defuse(text))}),
                continuation=f" {self._explanation}",
            )
            for text in self._texts
        ]

    def read(self, replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        """S of each group: mean over its prompts of log p(E | steered text) - log p(E | clean text)."""
        told = dict(zip(self._texts, zip(replies, keys, strict=True), strict=True))
        judgements = []
        for case in self.cases:
            pairs = list(zip(case.effect.texts, self.effects.clean_texts[case.group], strict=True))
            bad = next((o for pair in pairs for text in pair if (o := _failure(told[text][0]))), None)
            if bad is not None:
                judgements.append(case.shown.judgement(**bad))
                continue
            drops = [told[steered][0].logprob - told[clean][0].logprob for steered, clean in pairs]
            self.drops[case.direction, case.group] = drops
            key = told[pairs[0][0]][1]
            judgements.append(
                case.shown.judgement(request=key, **decision(float(np.mean(drops)) - self._threshold))
            )
        return judgements

    def details(self, seed: int) -> dict[str, Any]:
        """S of the latent's own direction and of its controls, nats, with intervals over prompts."""
        own = {g: drops for (d, g), drops in self.drops.items() if self.effects.directions[d].own}
        controls: dict[int, list[list[float]]] = {}
        for (d, g), drops in self.drops.items():
            if not self.effects.directions[d].own:
                controls.setdefault(g, []).append(drops)
        mean = {g: np.mean(lists, axis=0) for g, lists in controls.items()}
        s = mean_interval([x for drops in own.values() for x in drops], seed)
        others = mean_interval([float(x) for drops in mean.values() for x in drops], seed)
        difference = mean_interval(
            [float(a - b) for g in own if g in mean for a, b in zip(own[g], mean[g], strict=True)], seed
        )
        named = {"surprisal_drop": s, "surprisal_drop_of_controls": others, "difference": difference}
        texts = [
            {"clean": clean, "steered": steered}
            for effect, group in zip(
                self.effects.directions[0].effects if self.effects.directions else (),
                self.effects.clean_texts,
                strict=False,
            )
            for clean, steered in [(group[0], effect.texts[0])]
        ]
        return {
            **{name: [_rounded(x) for x in interval] for name, interval in named.items()},
            "texts": texts,
        }


def _failure(reply: Reply) -> dict[str, Any] | None:
    """Status and reason of a reply that gives no log-probability of the explanation."""
    if not reply.ok:
        return {"status": "error", "reason": error_reason(reply)}
    if not reply.tokens or any(token.logprob is None for token in reply.tokens):
        return {"status": "unparsed", "reason": "the reply has no log-probabilities"}
    return None


def _described(direction: Direction, evidence: float | None, tokens: TokenTable) -> dict[str, Any]:
    """A direction as `details` shows it."""
    shown: dict[str, Any] = {
        "kind": direction.kind,
        "source_latent": direction.source_latent,
        "strength": _rounded(direction.strength),
        "kl": _rounded(direction.kl),
        "n_passes": direction.n_passes,
        "status": direction.status,
        "reason": direction.reason,
        "evidence": _rounded(evidence),
    }
    if direction.overall.raised:
        shown["raised"] = [
            [tokens.readable(r.token), _rounded(r.gain), _rounded(r.change)] for r in direction.overall.raised
        ]
    return shown


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), 4)

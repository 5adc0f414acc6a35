"""Intervention: does the explanation say what the latent makes the subject write?

After Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of Features in Large
Language Models" (arXiv 2410.13928, ICML 2025), section "Intervention". Some latents are about the
output, not the input: what fires them says little of what they do. So the latent's decoder direction is
added to the activations while the subject reads text in which the latent is silent, as strongly as
moves the next-token distribution by a set divergence; and a judge that knows only the explanation
is to tell what happened then from what other directions do at the same divergence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from autointerp.llm.types import Capability, Usage
from autointerp.sampling.windows import TokenTable
from autointerp.scorers.asking import Plan, ask_about, classified, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.evidence import evidence_prompts
from autointerp.scorers.intervention_effects import (
    Direction,
    InterventionConfig,
    LatentEffects,
    latent_effects,
    readable_tokens,
)
from autointerp.scorers.intervention_plans import (
    AnswersPlan,
    EffectPlan,
    GenerationPlan,
    WordsPlan,
    cases_of,
    rounded,
)
from autointerp.scorers.metrics import Interval, auroc_interval, balanced_accuracy
from autointerp.scorers.prompting import load_prompt

if TYPE_CHECKING:
    from autointerp.subject.steering import SteeredSubject

_NEEDS = {
    "json": frozenset({Capability.GENERATE}),
    "logprob": frozenset({Capability.GENERATE, Capability.TOP_LOGPROBS}),
    "likelihood": frozenset({Capability.LIKELIHOOD}),
}
_LATENTS_KEPT = 1_000
"""Effects are kept for so many latents, for the next explainer's step: the subject is slow."""


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

        def prepare(item: Item) -> tuple[Plan, EffectPlan]:
            plan = self._plan(item, self.effects(item, context), context)
            return plan.plan, plan

        def finish(item: Item, plan: EffectPlan, judgements: list[Judgement], usage: Usage) -> Judged:
            return self._judged(item, plan.effects, plan, judgements, usage, context)

        def blank(item: Item) -> Judged:
            return unexplained(item, self.metric, 0.5)

        return ask_about(items, context.model, prepare, finish, blank)

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
        cases = cases_of(effects, context.tokens)
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
            details["strength_over_max_activation"] = rounded(strength / largest) if largest else None
        return details | plan.details(context.seed)


def _described(direction: Direction, evidence: float | None, tokens: TokenTable) -> dict[str, Any]:
    """A direction as `details` shows it."""
    shown: dict[str, Any] = {
        "kind": direction.kind,
        "source_latent": direction.source_latent,
        "strength": rounded(direction.strength),
        "kl": rounded(direction.kl),
        "n_passes": direction.n_passes,
        "status": direction.status,
        "reason": direction.reason,
        "evidence": rounded(evidence),
    }
    if direction.overall.raised:
        shown["raised"] = [
            [tokens.readable(r.token), rounded(r.gain), rounded(r.change)] for r in direction.overall.raised
        ]
    return shown

"""What a judge is asked about the effects of an intervention, for each effect and readout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autointerp.llm.types import Reply, Request
from autointerp.sampling.windows import TokenTable, defuse
from autointerp.scorers.answers import Shown, decision, json_plan, logprob_plan
from autointerp.scorers.asking import Plan, error_reason
from autointerp.scorers.base import Judgement
from autointerp.scorers.evidence import EvidencePlan
from autointerp.scorers.intervention_effects import Effect, InterventionConfig, LatentEffects
from autointerp.scorers.metrics import mean_interval
from autointerp.scorers.prompting import load_prompt, one_line, quoted


@dataclass(frozen=True, kw_only=True)
class Case:
    """One effect as it is put before a judge."""

    direction: int
    group: int
    effect: Effect
    shown: Shown


def cases_of(effects: LatentEffects, tokens: TokenTable) -> list[Case]:
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
            **{name: [rounded(x) for x in interval] for name, interval in named.items()},
            "texts": texts,
        }


def _failure(reply: Reply) -> dict[str, Any] | None:
    """Status and reason of a reply that gives no log-probability of the explanation."""
    if not reply.ok:
        return {"status": "error", "reason": error_reason(reply)}
    if not reply.tokens or any(token.logprob is None for token in reply.tokens):
        return {"status": "unparsed", "reason": "the reply has no log-probabilities"}
    return None


def rounded(value: float | None) -> float | None:
    """To four places; None for what is not finite."""
    return None if value is None or not math.isfinite(value) else round(float(value), 4)

"""Simulation: can the latent's activation be foretold from the explanation, token by token?

The score of Bills et al., "Language models can explain neurons in language models" (OpenAI, 2023),
uncalibrated, from prompt log-probabilities (`ExplanationNeuronSimulator` of
`neuron_explainer/explanations/simulator.py` and `scoring.py`): every token of a window stands
before the slot "unknown"; at that slot the judge's alternatives that are exactly a number v from 0
to 10 are renormalised, and the expected value sum(v p(v)) is the simulated activation (0 where no
number is among them). The score is the Pearson correlation of true and simulated activations over
all tokens of all windows together. A judge whose tokenizer splits "10" is asked for 0 to 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from autointerp.llm.types import Capability, Reply, Request
from autointerp.sampling.windows import TokenTable, Window
from autointerp.scorers.asking import Plan, carry_out, error_reason, failure, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.evidence import EvidenceKind, EvidencePlan, evidence_prompts
from autointerp.scorers.metrics import pearson, pooled_pearson, rsquared
from autointerp.scorers.prompting import load_prompt
from autointerp.scorers.selection import Stream, some_silent, spread
from autointerp.scorers.simulator import activation_scale, simulation_prompt, slot_values


class SimulationConfig(ScorerConfig):
    """Options of the scorer `simulation`."""

    readout: Literal["prompt_logprobs", "likelihood"] = "prompt_logprobs"
    """`prompt_logprobs`: OpenAI's definition, all tokens of a window at once. `likelihood`: another
    definition, which any causal model can serve: by how much the explanation raises the token's
    log-probability."""
    evidence: EvidenceKind = "words"
    """`likelihood` only: log-probabilities of each word alone, or of each token in its context."""
    n_windows: Annotated[int, Field(ge=1)] = 10
    """Activating windows, and as many windows without activation."""
    selection: Literal["top", "spread"] = "top"
    """Which activating test windows: the strongest (OpenAI's "top and random") or evenly spaced
    from strongest to weakest."""
    n_alternatives: Annotated[int, Field(ge=1)] = 15
    """Alternatives read at each slot; OpenAI's servers gave 15. Not used by `likelihood`."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Below this share of slots with a number among the alternatives, the score is `failed`."""


@scorer("simulation")
class Simulation:
    """Correlation of simulated and true activations over top-and-random windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = SimulationConfig
    version: ClassVar[int] = 2

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """`PROMPT_LOGPROBS` or `LIKELIHOOD`, by readout."""
        if self.config.readout == "likelihood":
            return frozenset({Capability.LIKELIHOOD})
        return frozenset({Capability.PROMPT_LOGPROBS})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file, or the templates of the likelihood readout."""
        if self.config.readout == "likelihood":
            return evidence_prompts()
        return {"simulation": load_prompt("simulation").source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Simulate the windows of every item."""
        assert context.model is not None
        scale = None if self.config.readout == "likelihood" else activation_scale(context.model)
        asked = [item for item in items if item.text.strip()]
        windows = [self._windows(item, context) for item in asked]
        plans = [self._plan(item, shown, scale, context) for item, shown in zip(asked, windows, strict=True)]
        outcomes = iter(zip(windows, carry_out(plans, context.model), strict=True))
        judged = []
        for item in items:
            if not item.text.strip():
                judged.append(unexplained(item, "ev_correlation", 0.0))
                continue
            shown, (judgements, usage) = next(outcomes)
            score, details = self._score(item, shown, judgements, scale, context)
            judged.append(Judged(item=item, judgements=judgements, score=score, usage=usage, details=details))
        return judged

    def _windows(self, item: Item, context: JudgeContext) -> list[Window]:
        """Equally many activating windows and windows without activation (kind `random` if any)."""
        activating, silent = item.record.activating, item.record.silent
        silent = [w for w in silent if w.kind == "random"] or silent
        n = min(self.config.n_windows, len(activating), len(silent))
        chosen = activating[:n] if self.config.selection == "top" else spread(activating, n)
        return [*chosen, *some_silent(silent, n, item.record.latent, context)] if n else []

    def _plan(self, item: Item, shown: Sequence[Window], scale: int | None, context: JudgeContext) -> Plan:
        if scale is None:
            return _likelihood_plan(item, shown, self.config.evidence, context)
        return _prompt_plan(item, shown, scale, self.config.n_alternatives, context.tokens)

    def _score(
        self,
        item: Item,
        shown: Sequence[Window],
        judgements: Sequence[Judgement],
        scale: int | None,
        context: JudgeContext,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        by_example = {window.example: window for window in shown}
        replied = [j for j in judgements if j.status != "error" and j.predicted_activations is not None]
        true = [by_example[j.example].activations.astype(np.float64) for j in replied]
        predicted = [
            np.array([0.0 if v is None else v for v in j.predicted_activations or ()], dtype=np.float64)
            for j in replied
        ]
        interval = pooled_pearson(
            true, predicted, context.rng(item.record.latent, Stream.SIMULATION_BOOTSTRAP)
        )
        n_slots = sum(len(w.tokens) for w in shown)
        n_read = sum(v is not None for j in replied for v in j.predicted_activations or ())
        coverage = n_read / n_slots if n_slots else None
        reason = None
        if coverage is None:
            reason = "no test windows to judge: activating and random ones are both needed"
        elif not any(j.status == "ok" for j in judgements):
            reason = failure(judgements, "ev_correlation")
        elif coverage < self.config.min_coverage:
            reason = (
                f"only {coverage:.0%} of the slots could be read (at least {self.config.min_coverage:.0%})"
            )
        elif interval.value is None:
            reason = "true or simulated activations are constant"
        score = {
            "metric": "ev_correlation",
            "value": None if reason else interval.value,
            "ci_low": None if reason else interval.low,
            "ci_high": None if reason else interval.high,
            "chance": 0.0,
            "status": "failed" if reason else "ok",
            "reason": reason,
            "n_examples": len(judgements),
            "coverage": coverage,
            "n_unparsed": sum(j.status == "unparsed" for j in judgements),
            "n_error": sum(j.status == "error" for j in judgements),
            "ev_correlation": interval.value,
            "activation_scale": scale,
            "n_tokens": sum(len(t) for t in true),
        }
        per_window = [r for t, p in zip(true, predicted, strict=True) if (r := pearson(t, p)) is not None]
        details: dict[str, Any] = {
            "readout": self.config.readout,
            "windows": f"{self.config.selection}-and-random",
            "n_activating": sum(w.activating for w in shown),
            "n_silent": sum(not w.activating for w in shown),
            "n_slots": n_slots,
            "n_slots_unread": n_slots - n_read,
            "mean_window_correlation": float(np.mean(per_window)) if per_window else None,
            "n_windows_correlated": len(per_window),
            "rsquared_uncentred": rsquared(np.concatenate(true), np.concatenate(predicted)) if true else None,
        }
        if scale is not None:
            details["prompt_version"] = load_prompt("simulation").version
            details["logprob_source"] = f"top{self.config.n_alternatives}"
        return score, details


def _prompt_plan(
    item: Item, shown: Sequence[Window], scale: int, n_alternatives: int, table: TokenTable
) -> Plan:
    asked = [simulation_prompt(item.text, window.tokens, table, scale) for window in shown]
    requests = [Request(prompt=prompt, prompt_top_logprobs=n_alternatives) for prompt, _ in asked]

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for window, (prompt, offsets), reply, key in zip(shown, asked, replies, keys, strict=True):
            values = slot_values(reply.tokens, prompt, offsets, scale) if reply.ok else None
            columns: dict[str, Any] = {"predicted_activations": values}
            if not reply.ok:
                columns |= {"status": "error", "reason": error_reason(reply)}
            elif values is None:
                columns |= {"status": "unparsed", "reason": "the reply's tokens do not spell the prompt"}
            elif all(v is None for v in values):
                columns |= {"status": "unparsed", "reason": "no number among the alternatives at any slot"}
            judgements.append(_judgement(window, key, columns))
        return judgements

    return Plan(requests=requests, read=read)


def _likelihood_plan(
    item: Item, shown: Sequence[Window], evidence: EvidenceKind, context: JudgeContext
) -> Plan:
    texts = [context.tokens.texts(window.tokens) for window in shown]
    plan = EvidencePlan(item.text, texts, evidence)

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for i, (window, told) in enumerate(zip(shown, plan.read(replies), strict=True)):
            if told.values is None:
                columns: dict[str, Any] = {"status": told.status, "reason": told.reason}
                judgements.append(_judgement(window, None, columns))
                continue
            values = [float(v) for v in np.maximum(plan.on_tokens(i, told.values), 0.0)]
            key = keys[told.requests[int(np.argmax(told.values))]]
            judgements.append(_judgement(window, key, {"predicted_activations": values}))
        return judgements

    return Plan(requests=plan.requests, read=read)


def _judgement(window: Window, key: str | None, columns: Mapping[str, Any]) -> Judgement:
    return Judgement(
        example=window.example,
        kind=window.kind,
        decile=window.decile,
        request=key,
        position_in_request=0,
        **columns,
    )

"""Simulation: can the latent's activation be foretold from the explanation, token by token?

The score of Bills et al., "Language models can explain neurons in language models" (OpenAI, 2023;
`neuron_explainer/explanations/simulator.py`, `scoring.py` and `calibrated_simulator.py` of
automated-interpretability): a judge that sees the explanation says for every token of a window how
active the latent is, from 0 to 10, and the score is the Pearson correlation of true and simulated
activations over all tokens of all windows together, uncalibrated. Where the judge's answers are
probabilities, the simulated activation is the expected value sum(v p(v)) over the alternatives that
are exactly a number v, renormalised. A judge whose tokenizer splits "10" is asked for 0 to 9.

One departure: a token without a readable number is left out and lowers `coverage`, where the
published code takes it as 0. That number stands beside ours in `details`, and the scorer `openai`
is the published score in every setting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from autointerp.llm.types import Capability, Usage
from autointerp.scorers.asking import Plan, ask_about, failure, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.evidence import EvidenceKind, evidence_prompts
from autointerp.scorers.metrics import Interval, pearson, pooled_pearson
from autointerp.scorers.prompting import load_prompt
from autointerp.scorers.selection import Stream
from autointerp.scorers.simulation_readouts import json_plan, likelihood_plan, prompt_plan, token_plan
from autointerp.scorers.simulation_replies import SCALE
from autointerp.scorers.simulation_scores import (
    Calibration,
    all_slots,
    calibrated,
    openai_scores,
    read_slots,
)
from autointerp.scorers.simulation_windows import Chosen, RandomKind, Selection, choose
from autointerp.scorers.simulator import Style, activation_scale

Readout = Literal["prompt_logprobs", "token_by_token", "json", "likelihood"]

_PROMPTS = {
    "prompt_logprobs": "simulation",
    "token_by_token": "simulation_token",
    "json": "simulation_json",
}

_FEWEST_ACTIVE_FOR_INTERVAL = 5
"""With fewer windows in which the latent is active, a bootstrap over windows is far too narrow."""


class SimulationConfig(ScorerConfig):
    """Options of the scorer `simulation`."""

    readout: Readout = "prompt_logprobs"
    """`prompt_logprobs`: OpenAI's all-at-once simulator, a request per window that generates nothing.
    `token_by_token`: OpenAI's other one, a request per token. `json`: the judge writes the numbers
    down, a request per window; needs no log-probabilities. `likelihood`: another definition, which
    any causal model can serve: by how much the explanation raises the token's log-probability."""
    style: Style = "chat"
    """`token_by_token` only: ask in a conversation, or with a text to be completed, as base models
    need."""
    evidence: EvidenceKind = "words"
    """`likelihood` only: log-probabilities of each word alone, or of each token in its context."""
    n_windows: Annotated[int, Field(ge=1)] = 10
    """Activating windows, and as many random ones; with `random_only` windows in all."""
    selection: Selection = "top_and_random"
    """Which test windows: the strongest of the activating ones and random ones (OpenAI's code);
    activating ones evenly spaced from strongest to weakest (`quantile`) and random ones; or only
    windows drawn without looking (`random_only`, needs `sample.n_test_unread`)."""
    random_kind: RandomKind = "random"
    """What the random windows beside activating ones are: known to hold no activation (`random`), or
    drawn without looking, as OpenAI's are (`unread`, needs `sample.n_test_unread`)."""
    calibration: Calibration = "none"
    """Also report OpenAI's scores after a calibration, by a line or by matching percentiles. Half of
    the latent's test contexts are then set apart to fit it, and the other half is scored."""
    scale: Literal["auto", 9, 10] = "auto"
    """Largest number the judge may say. `auto`: 10 if its tokenizer is known to hold "10" as one
    token, else 9. Say 10 for a hosted judge that does. `json` always has 10."""
    n_alternatives: Annotated[int, Field(ge=1)] = 15
    """`prompt_logprobs` and `token_by_token`: alternatives read; OpenAI's servers gave 15."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """`json` only: most tokens of a reply; by default what the answer needs. Raise it for judges
    that reason before they answer."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Below this share of tokens with a readable number, the score is `failed`."""


@scorer("simulation")
class Simulation:
    """Correlation of simulated and true activations over the tokens of a latent's windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = SimulationConfig
    version: ClassVar[int] = 3

    def __init__(self, config: SimulationConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """What the readout needs; `json` uses `JSON_SCHEMA` where the judge has it."""
        needs = {
            "prompt_logprobs": {Capability.PROMPT_LOGPROBS},
            "token_by_token": {Capability.GENERATE, Capability.TOP_LOGPROBS},
            "json": {Capability.GENERATE},
            "likelihood": {Capability.LIKELIHOOD},
        }
        return frozenset(needs[self.config.readout])

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the readout."""
        if self.config.readout == "likelihood":
            return evidence_prompts()
        name = _PROMPTS[self.config.readout]
        return {name: load_prompt(name).source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Simulate the windows of every item, all requests of all items at once."""
        return [judged for judged, _ in self.simulate(items, context)]

    def simulate(self, items: Sequence[Item], context: JudgeContext) -> list[tuple[Judged, Chosen]]:
        """What `judge` returns, each with the windows it is about."""
        assert context.model is not None
        scale = self._scale(context)

        def prepare(item: Item) -> tuple[Plan, Chosen]:
            chosen = self._windows(item, context)
            return self._plan(item, chosen, scale, context), chosen

        def finish(
            item: Item, chosen: Chosen, judgements: list[Judgement], usage: Usage
        ) -> tuple[Judged, Chosen]:
            score, details = self._score(item, chosen, judgements, scale, context)
            one = Judged(item=item, judgements=judgements, score=score, usage=usage, details=details)
            return one, chosen

        def blank(item: Item) -> tuple[Judged, Chosen]:
            return unexplained(item, "ev_correlation", 0.0), Chosen()

        return ask_about(items, context.model, prepare, finish, blank)

    def _scale(self, context: JudgeContext) -> int | None:
        assert context.model is not None
        if self.config.readout == "likelihood":
            return None
        if self.config.readout == "json":
            return SCALE
        return activation_scale(context.model, self.config.scale)

    def _windows(self, item: Item, context: JudgeContext) -> Chosen:
        config = self.config
        return choose(
            item.record,
            config.selection,
            config.n_windows,
            config.random_kind,
            config.calibration != "none",
            context,
        )

    def _plan(self, item: Item, chosen: Chosen, scale: int | None, context: JudgeContext) -> Plan:
        config, table = self.config, context.tokens
        if config.readout == "likelihood" or scale is None:
            return likelihood_plan(item.text, chosen.shown, table, config.evidence)
        if config.readout == "json":
            return json_plan(item.text, chosen.shown, table, config.max_tokens)
        if config.readout == "token_by_token":
            return token_plan(item.text, chosen.shown, table, scale, config.n_alternatives, config.style)
        return prompt_plan(item.text, chosen.shown, table, scale, config.n_alternatives)

    def _score(
        self,
        item: Item,
        chosen: Chosen,
        judgements: Sequence[Judgement],
        scale: int | None,
        context: JudgeContext,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        scored = read_slots(chosen.scored, judgements)
        interval = pooled_pearson(
            scored.true, scored.predicted, context.rng(item.record.latent, Stream.SIMULATION_BOOTSTRAP)
        )
        if sum(bool(true.any()) for true in scored.true) < _FEWEST_ACTIVE_FOR_INTERVAL:
            interval = Interval(interval.value)
        coverage = scored.n_read / scored.n_slots if scored.n_slots else None
        reason = chosen.reason or self._failure(chosen, judgements, coverage, interval.value)
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
            "n_tokens": scored.n_read,
        }
        true, predicted = scored.pooled
        per_window = [
            r for t, p in zip(scored.true, scored.predicted, strict=True) if (r := pearson(t, p)) is not None
        ]
        published = all_slots(chosen.scored, judgements)
        uncalibrated = openai_scores(true, predicted)
        details: dict[str, Any] = {
            **self._setting(),
            "n_activating": sum(w.activating for w in chosen.scored),
            "n_random": sum(not w.activating for w in chosen.scored),
            "n_slots": scored.n_slots,
            "n_slots_unread": scored.n_slots - scored.n_read,
            "ev_correlation_unread_as_zero": pearson(*published.pooled) if published else None,
            "rsquared": uncalibrated["rsquared"],
            "absolute_dev_explained": uncalibrated["absolute_dev_explained"],
            "mean_window_correlation": float(np.mean(per_window)) if per_window else None,
            "n_windows_correlated": len(per_window),
        }
        if self.config.calibration != "none":
            fit = read_slots(chosen.calibration, judgements)
            details["calibration"] = calibrated(self.config.calibration, fit, scored)
            details["calibration_examples"] = sorted(w.example for w in chosen.calibration)
        return score, details

    def _failure(
        self, chosen: Chosen, judgements: Sequence[Judgement], coverage: float | None, value: float | None
    ) -> str | None:
        """Why there is no headline number; None if there is one."""
        examples = {window.example for window in chosen.scored}
        own = [j for j in judgements if j.example in examples]
        if not coverage:
            return failure(own, "ev_correlation")
        if coverage < self.config.min_coverage:
            return f"only {coverage:.0%} of the slots could be read (at least {self.config.min_coverage:.0%})"
        return "true or simulated activations are constant" if value is None else None

    def _setting(self) -> dict[str, Any]:
        """What is recorded beside the numbers of how they were made."""
        config = self.config
        setting: dict[str, Any] = {"readout": config.readout, "split": config.selection}
        if config.selection != "random_only":
            setting["random_kind"] = config.random_kind
        if config.readout == "likelihood":
            return setting | {"evidence": config.evidence}
        setting["prompt_version"] = load_prompt(_PROMPTS[config.readout]).version
        if config.readout == "json":
            return setting | {"logprob_source": "none", "n_windows_per_request": 1}
        if config.readout == "token_by_token":
            setting["style"] = config.style
        return setting | {"logprob_source": f"top{config.n_alternatives}"}

"""Detection: does the explanation say in which windows the latent is active?

The score of Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of Features in
Large Language Models" (arXiv 2410.13928, ICML 2025), section "Detection": a judge sees an
explanation and windows of text, and says for each whether the latent is active somewhere in it.
Positives are windows in which it is active, negatives windows in which it never is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from autointerp.llm.types import Capability
from autointerp.sampling.windows import defuse
from autointerp.scorers.answers import Shown, json_plan, logprob_plan
from autointerp.scorers.asking import Plan, carry_out, classified, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, ScorerConfig, scorer
from autointerp.scorers.evidence import EvidenceKind, evidence_prompts
from autointerp.scorers.likelihoods import likelihood_plan
from autointerp.scorers.prompting import load_prompt
from autointerp.scorers.selection import Stream, some_silent, spread

Readout = Literal["json", "logprob", "likelihood"]


class DetectionConfig(ScorerConfig):
    """Options of the scorer `detection`."""

    readout: Readout = "json"
    """`json`: the judge answers 0 or 1 for several windows at a time. `logprob`: one window at a
    time, by the probability of Yes. `likelihood`: by how much likelier the explanation makes the
    words of the window; for models that cannot answer questions."""
    examples_per_request: Annotated[int, Field(ge=1, le=100)] = 5
    """`json` only: windows per request. More cost fewer tokens; weaker judges lose count."""
    n_activating: Annotated[int, Field(ge=1)] | None = None
    """At most this many activating windows, evenly spaced by strength; by default all test windows."""
    n_silent: Annotated[int, Field(ge=1)] | None = None
    """At most this many windows without activation, evenly over their kinds; by default all."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """`json` only: most tokens of a reply; by default what the answer needs. Raise it for judges
    that reason before they answer."""
    evidence: EvidenceKind = "words"
    """`likelihood` only: log-probabilities of each word alone, or of each token in its context."""
    threshold_nats: float = 3.0
    """`likelihood` only: largest evidence of a word above which the answer is yes. Moves
    `prediction` and `probability`, never the AUROC."""


@scorer("detection")
class Detection:
    """Balanced accuracy (`json`) or AUROC (`logprob`, `likelihood`) over activating and silent windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = DetectionConfig
    version: ClassVar[int] = 2

    def __init__(self, config: DetectionConfig) -> None:
        self.config = config

    @property
    def metric(self) -> str:
        """The headline metric of the readout."""
        return "balanced_accuracy" if self.config.readout == "json" else "auroc"

    def requires(self) -> frozenset[Capability]:
        """What the readout needs; `json` uses `JSON_SCHEMA` where the judge has it."""
        return required(self.config.readout)

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the readout."""
        return readout_prompts("detection", self.config.readout)

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Judge the windows of every item, all requests of all items at once."""
        assert context.model is not None
        asked = [item for item in items if item.text.strip()]
        plans = [self._plan(item, self.shown(item, context), context) for item in asked]
        outcomes = iter(carry_out(plans, context.model))
        judged = []
        for item in items:
            if not item.text.strip():
                judged.append(unexplained(item, self.metric, 0.5))
                continue
            judgements, usage = next(outcomes)
            details = readout_details("detection", self.config.readout, self.config.evidence)
            judged.append(classified(item, judgements, self.metric, usage, details))
        return judged

    def shown(self, item: Item, context: JudgeContext) -> list[Shown]:
        """The windows to be judged, in the random order the judge sees them."""
        record = item.record
        windows = [
            *spread(record.activating, self.config.n_activating),
            *some_silent(record.silent, self.config.n_silent, record.latent, context),
        ]
        order = context.rng(record.latent, Stream.DETECTION_ORDER).permutation(len(windows))
        return [
            Shown(
                window=windows[i],
                kind=windows[i].kind,
                label=windows[i].activating,
                text=defuse(context.tokens.text(windows[i].tokens)),
            )
            for i in order
        ]

    def _plan(self, item: Item, shown: Sequence[Shown], context: JudgeContext) -> Plan:
        config = self.config
        if config.readout == "likelihood":
            return likelihood_plan(item.text, shown, config.evidence, self._pool, context.tokens)
        if config.readout == "logprob":
            return logprob_plan(item.text, shown, load_prompt("detection_logprob"))
        prompt = load_prompt("detection")
        return json_plan(item.text, shown, prompt, config.examples_per_request, config.max_tokens)

    def _pool(self, evidence: np.ndarray) -> float:
        """Log-odds of a window: the largest evidence of any of its words, less the threshold."""
        return float(evidence.max()) - self.config.threshold_nats


def required(readout: Readout) -> frozenset[Capability]:
    """What a judge must be able to do for a readout."""
    needs = {
        "json": {Capability.GENERATE},
        "logprob": {Capability.GENERATE, Capability.TOP_LOGPROBS},
        "likelihood": {Capability.LIKELIHOOD},
    }
    return frozenset(needs[readout])


def readout_prompts(scorer_name: str, readout: Readout) -> dict[str, str]:
    """The prompt text of a scorer's readout, by name."""
    if readout == "likelihood":
        return evidence_prompts()
    name = scorer_name if readout == "json" else f"{scorer_name}_{readout}"
    return {name: load_prompt(name).source}


def readout_details(scorer_name: str, readout: Readout, evidence: EvidenceKind) -> dict[str, Any]:
    """What is recorded beside the numbers: readout and prompt version."""
    (name,) = readout_prompts(scorer_name, readout)
    details: dict[str, Any] = {
        "readout": readout,
        "prompt": name,
        "prompt_version": load_prompt(name).version,
    }
    return details | ({"evidence": evidence} if readout == "likelihood" else {})

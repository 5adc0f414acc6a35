"""Scorers that say yes or no of each window, by any readout: what detection and fuzzing share.

A readout is a way to get an answer out of a judge: `json` and `logprob` ask it in words
(`answers.py`), `likelihood` reads its log-probabilities (`likelihoods.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from autointerp.llm.types import Capability, Usage
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.answers import Shown, json_plan, logprob_plan
from autointerp.scorers.asking import Plan, ask_about, classified, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig
from autointerp.scorers.evidence import EvidenceKind, evidence_prompts
from autointerp.scorers.likelihoods import Pool, likelihood_plan
from autointerp.scorers.prompting import load_prompt

Readout = Literal["json", "logprob", "likelihood"]
NegativeKind = Literal["random", "similar", "neighbour"]

_NEEDS: Mapping[Readout, frozenset[Capability]] = {
    "json": frozenset({Capability.GENERATE}),
    "logprob": frozenset({Capability.GENERATE, Capability.TOP_LOGPROBS}),
    "likelihood": frozenset({Capability.LIKELIHOOD}),
}


class ReadoutConfig(ScorerConfig):
    """Options of every scorer with readouts."""

    readout: Readout = "json"
    """`json`: the judge answers 0 or 1 for several windows at a time. `logprob`: one window at a
    time, by the probability of Yes. `likelihood`: by how much likelier the explanation makes the
    words of the window (of fuzzing: the marked ones); for models that cannot answer questions."""
    examples_per_request: Annotated[int, Field(ge=1, le=100)] = 5
    """`json` only: windows per request. More cost fewer tokens; weaker judges lose count."""
    negatives: Annotated[list[NegativeKind], Field(min_length=1)] | None = None
    """Kinds of windows without activation that serve as negatives; by default all that were sampled."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """`json` only: most tokens of a reply; by default what the answer needs. Raise it for judges
    that reason before they answer."""
    evidence: EvidenceKind = "words"
    """`likelihood` only: log-probabilities of each word alone, or of each token in its context."""
    threshold_nats: float = 3.0
    """`likelihood` only: evidence above which the answer is yes. Moves `prediction` and
    `probability`, never the AUROC."""


class ReadoutScorer:
    """Balanced accuracy (`json`) or AUROC (`logprob`, `likelihood`) over windows with a known answer.

    A subclass chooses the windows (`windows`) and says how evidence makes an answer (`pool`).
    """

    prompt: ClassVar[str]
    """Name of the prompt file of the `json` readout; that of `logprob` ends in `_logprob`."""
    config: ReadoutConfig

    @property
    def metric(self) -> str:
        """The headline metric of the readout."""
        return "balanced_accuracy" if self.config.readout == "json" else "auroc"

    def requires(self) -> frozenset[Capability]:
        """What the readout needs; `json` uses `JSON_SCHEMA` where the judge has it."""
        return _NEEDS[self.config.readout]

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the readout."""
        if self.config.readout == "likelihood":
            return evidence_prompts()
        return {self._prompt: load_prompt(self._prompt).source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Judge the windows of every item, all requests of all items at once."""
        assert context.model is not None

        last: tuple[LatentRecord, tuple[list[Shown], dict[str, Any]]] | None = None

        def windows(item: Item) -> tuple[list[Shown], dict[str, Any]]:
            # Every explanation of a latent is judged on the same windows, and they come one after the other.
            nonlocal last
            if last is None or last[0] is not item.record:
                last = item.record, self.windows(item, context)
            return last[1]

        def prepare(item: Item) -> tuple[Plan, dict[str, Any]]:
            shown, notes = windows(item)
            plan = readout_plan(self.config, self._prompt, item.text, shown, self.pool, context.tokens)
            return plan, notes

        def finish(item: Item, notes: dict[str, Any], judgements: list[Judgement], usage: Usage) -> Judged:
            return classified(item, judgements, self.metric, usage, self._details() | notes)

        def blank(item: Item) -> Judged:
            return unexplained(item, self.metric, 0.5)

        return ask_about(items, context.model, prepare, finish, blank)

    def windows(self, item: Item, context: JudgeContext) -> tuple[list[Shown], dict[str, Any]]:
        """The windows to be judged, in the order the judge sees them, and what `details` say of them.

        They depend on the latent, never on the explanation.
        """
        raise NotImplementedError

    def pool(self, evidence: np.ndarray) -> float:
        """`likelihood`: evidence of the units that count, [n_units] nats, to the window's log-odds."""
        raise NotImplementedError

    @property
    def _prompt(self) -> str:
        names = {"json": self.prompt, "logprob": f"{self.prompt}_logprob", "likelihood": "likelihood"}
        return names[self.config.readout]

    def _details(self) -> dict[str, Any]:
        """What is recorded beside the numbers: readout and prompt version."""
        details: dict[str, Any] = {
            "readout": self.config.readout,
            "prompt": self._prompt,
            "prompt_version": load_prompt(self._prompt).version,
        }
        return details | ({"evidence": self.config.evidence} if self.config.readout == "likelihood" else {})


def readout_plan(
    config: ReadoutConfig,
    prompt: str,
    explanation: str,
    shown: Sequence[Shown],
    pool: Pool,
    table: TokenTable,
) -> Plan:
    """What the readout of `config` asks about some windows; `prompt` is the name of its file."""
    if config.readout == "likelihood":
        return likelihood_plan(explanation, shown, config.evidence, pool, table)
    if config.readout == "logprob":
        return logprob_plan(explanation, shown, load_prompt(prompt))
    return json_plan(explanation, shown, load_prompt(prompt), config.examples_per_request, config.max_tokens)


def negatives_of(record: LatentRecord, kinds: Sequence[str] | None) -> list[Window]:
    """The latent's windows without activation, of the given kinds; of all if None."""
    return [w for w in record.silent if kinds is None or w.kind in kinds]

"""Surprisal: does the explanation make the texts likelier in which the latent is active?

The surprisal score of Paulo, Mallen, Juang & Belrose, "Automatically Interpreting Millions of
Features in Large Language Models" (arXiv 2410.13928, ICML 2025): a window's grade is by how much its
log-likelihood under a language model rises when the explanation stands before it in place of a
neutral one, and the score is the AUROC of that over activating windows and windows without
activation:

    s(w; E) = log p(w | prompt with E) - log p(w | prompt with a neutral explanation)

The published tool asks a base model with demonstrations before it, and its neutral explanation is
"Various unrelated sentences."; both wordings here are our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from autointerp.llm.types import Capability, Reply, Request, Usage
from autointerp.scorers.answers import Shown
from autointerp.scorers.asking import Plan, ask_about, error_reason, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.graded import GradedConfig, graded, graded_windows
from autointerp.scorers.prompting import load_prompt, one_line


class SurprisalConfig(GradedConfig):
    """Options of the scorer `surprisal`."""

    prompt: Literal["few_shot", "plain"] = "few_shot"
    """What stands before a window: two worked lists and the explanation, or the explanation alone."""
    normalise: Literal["mean", "sum"] = "mean"
    """Nats per token of the judge's, or of the whole window; the order of windows of one length is the
    same."""


@scorer("surprisal")
class Surprisal:
    """AUROC of what the explanation adds to the log-likelihood of windows."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = SurprisalConfig
    version: ClassVar[int] = 1

    def __init__(self, config: SurprisalConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """Log-probabilities of given text."""
        return frozenset({Capability.LIKELIHOOD})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file."""
        return {"surprisal": load_prompt("surprisal").source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Grade the windows of every item; the neutral requests are shared by a latent's explanations."""
        assert context.model is not None
        details = {
            "prompt": self.config.prompt,
            "prompt_version": load_prompt("surprisal").version,
            "normalise": self.config.normalise,
        }

        def prepare(item: Item) -> tuple[Plan, None]:
            return self._plan(item, graded_windows(item, self.config, context)), None

        def finish(item: Item, _: None, judgements: list[Judgement], usage: Usage) -> Judged:
            return graded(item, judgements, usage, details)

        def blank(item: Item) -> Judged:
            return unexplained(item, "auroc", 0.5)

        return ask_about(items, context.model, prepare, finish, blank)

    def _plan(self, item: Item, shown: Sequence[Shown]) -> Plan:
        readable = [s for s in shown if s.text]
        blank = [s for s in shown if not s.text]
        told, neutral = prefixes(item.text, self.config.prompt)
        requests = [
            Request(prompt=prefix, continuation=s.text) for prefix in (told, neutral) for s in readable
        ]

        def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
            n = len(readable)
            judgements = [s.judgement(status="error", reason="the window holds no text") for s in blank]
            for i, s in enumerate(readable):
                columns = self._grade(replies[i], replies[n + i])
                judgements.append(s.judgement(request=keys[i], position_in_request=0, **columns))
            return judgements

        return Plan(requests=requests, read=read)

    def _grade(self, told: Reply, neutral: Reply) -> dict[str, Any]:
        """The columns of one window; it counts as predicted active if the explanation makes it likelier."""
        for reply in (told, neutral):
            if not reply.ok:
                return {"status": "error", "reason": error_reason(reply)}
            if not reply.tokens or any(token.logprob is None for token in reply.tokens):
                return {"status": "unparsed", "reason": "the reply has no log-probabilities"}
        grade = told.logprob - neutral.logprob
        if not math.isfinite(grade):
            return {"status": "unparsed", "reason": "a log-probability of the reply is not finite"}
        if self.config.normalise == "mean":
            grade /= len(neutral.tokens)
        return {"log_odds": grade, "prediction": grade > 0}


def prefixes(explanation: str, prompt: str) -> tuple[str, str]:
    """What stands before a window: with the explanation, and with the neutral one."""
    file = load_prompt("surprisal")
    told = file.part(prompt, {"explanation": one_line(explanation)})
    return told, file.part(prompt, {"explanation": file.part("neutral")})

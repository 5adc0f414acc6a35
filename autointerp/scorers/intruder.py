"""Intruder: do the texts in which the latent is active have anything in common at all?

A measure of the latent that needs no explanation, after the intruder scorer of EleutherAI's Delphi
(`delphi/scorers/classifier/intruder.py`): a judge sees some windows in which the latent is active and
one in which it never is, in random order, and says which does not belong. The score is the share of
trials in which the intruder is found; guessing finds 1 in `n_shown` + 1.

A latent that scores high and whose explanations score low waits for a better explanation; one that
scores at chance has, to this judge, nothing to explain in its windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from autointerp.llm.types import Capability, Usage
from autointerp.scorers.asking import Plan, carry_out, failure
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.embedder import Embedder, EmbedderConfig
from autointerp.scorers.intruder_readouts import (
    embedding_judgements,
    json_plan,
    likelihood_plan,
    logprob_plan,
)
from autointerp.scorers.intruder_trials import Draw, Trial, draw_trials
from autointerp.scorers.intruder_words import words_plan
from autointerp.scorers.metrics import wilson
from autointerp.scorers.prompting import load_prompt
from autointerp.scorers.readouts import NegativeKind

Readout = Literal["json", "logprob", "likelihood", "embedding"]

_NEEDS: Mapping[Readout, frozenset[Capability]] = {
    "json": frozenset({Capability.GENERATE}),
    "logprob": frozenset({Capability.GENERATE, Capability.TOP_LOGPROBS}),
    "likelihood": frozenset({Capability.LIKELIHOOD}),
    "embedding": frozenset(),
}


class IntruderConfig(ScorerConfig):
    """Options of the scorer `intruder`."""

    readout: Readout = "json"
    """`json`: the judge names the intruder. `logprob`: by the probabilities of the numbers as its first
    word. `likelihood`, for models that cannot answer questions: the window to whose log-likelihood the
    others add least or, if `marked`, whose marked words those of the others make least likely. `embedding`: the window whose embedding lies farthest from the others'; no judge."""
    n_trials: Annotated[int, Field(ge=1)] = 20
    """At most this many trials per latent, each with an intruder of its own."""
    n_shown: Annotated[int, Field(ge=2, le=8)] = 4
    """Activating windows per trial."""
    draw: Draw = "all"
    """`all`: the activating windows of a trial are drawn from all test windows; `decile`: from one
    decile of strength, drawn anew for each trial."""
    intruder_kinds: Annotated[list[NegativeKind], Field(min_length=1)] | None = None
    """Kinds of windows without activation that serve as intruders, in equal parts; by default all
    that were sampled."""
    marked: bool = False
    """Mark the active tokens, and in the intruder silent ones, drawn as fuzzing's negatives are; not
    for `embedding`."""
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """`marked` only: a token is active above this share of its window's largest activation."""
    max_tokens: Annotated[int, Field(ge=1)] = 16
    """`json` only: most tokens of a reply. Raise it for judges that reason before they answer."""
    embedder: EmbedderConfig = EmbedderConfig()
    """`embedding` only: the text-embedding model and how it is run."""

    @model_validator(mode="after")
    def _readable(self) -> IntruderConfig:
        if self.marked and self.readout == "embedding":
            raise ValueError("marked is for the other readouts: readout 'embedding' sees no marks")
        return self


@scorer("intruder")
class Intruder:
    """Share of trials in which the window without activation is found among activating ones."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = IntruderConfig
    version: ClassVar[int] = 1
    explanation_free: ClassVar[bool] = True

    def __init__(self, config: IntruderConfig) -> None:
        self.config = config
        self.embedder = Embedder(config.embedder)

    def requires(self) -> frozenset[Capability]:
        """What the readout needs; `json` uses `JSON_SCHEMA` where the judge has it."""
        return _NEEDS[self.config.readout]

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the readout; none for `embedding`."""
        return {} if self._prompt is None else {self._prompt: load_prompt(self._prompt).source}

    def check(self) -> None:
        """`embedding`: whether library and model are there. Raises `UserError`."""
        if self.config.readout == "embedding":
            self.embedder.check()

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Put the trials of every item's latent before the judge, all requests at once."""
        drawn = [
            draw_trials(
                item.record,
                context,
                n_trials=self.config.n_trials,
                n_shown=self.config.n_shown,
                draw=self.config.draw,
                kinds=self.config.intruder_kinds,
                mark_above=self.config.threshold if self.config.marked else None,
            )
            for item in items
        ]
        outcomes: list[tuple[list[Judgement], Usage]]
        if self.config.readout == "embedding":
            outcomes = [
                (embedding_judgements(trials, self.embedder, context.tokens), Usage()) for trials, _ in drawn
            ]
        else:
            assert context.model is not None
            outcomes = carry_out([self._plan(trials, context) for trials, _ in drawn], context.model)
        return [
            self._judged(item, judgements, usage, missing)
            for item, (judgements, usage), (_, missing) in zip(items, outcomes, drawn, strict=True)
        ]

    def _plan(self, trials: Sequence[Trial], context: JudgeContext) -> Plan:
        assert self._prompt is not None
        prompt = load_prompt(self._prompt)
        if self.config.readout == "likelihood" and self.config.marked:
            return words_plan(trials, context.tokens)
        if self.config.readout == "likelihood":
            return likelihood_plan(trials, prompt, context.tokens)
        if self.config.readout == "logprob":
            return logprob_plan(trials, prompt)
        return json_plan(trials, prompt, self.config.max_tokens)

    @property
    def _prompt(self) -> str | None:
        """Name of the prompt file of the readout."""
        if self.config.readout == "embedding":
            return None
        if self.config.readout == "likelihood":
            return "likelihood" if self.config.marked else "intruder_likelihood"
        name = "intruder_marked" if self.config.marked else "intruder"
        return name if self.config.readout == "json" else f"{name}_logprob"

    def _judged(
        self, item: Item, judgements: Sequence[Judgement], usage: Usage, missing: str | None
    ) -> Judged:
        read = [j for j in judgements if j.status == "ok"]
        found = sum(bool(j.prediction) for j in read)
        accuracy = wilson(found, len(read))
        reason = None
        if accuracy.value is None:
            reason = missing if missing is not None and not judgements else failure(judgements, "accuracy")
        score = {
            "metric": "accuracy",
            "value": accuracy.value,
            "ci_low": accuracy.low,
            "ci_high": accuracy.high,
            "chance": 1 / (self.config.n_shown + 1),
            "status": "ok" if reason is None else "failed",
            "reason": reason,
            "n_examples": len(judgements),
            "coverage": len(read) / len(judgements) if judgements else None,
            "n_unparsed": sum(j.status == "unparsed" for j in judgements),
            "n_error": sum(j.status == "error" for j in judgements),
            "accuracy": accuracy.value,
            "worst_case_accuracy": found / len(judgements) if judgements else None,
        }
        return Judged(item=item, judgements=judgements, score=score, usage=usage, details=self._details(read))

    def _details(self, read: Sequence[Judgement]) -> dict[str, Any]:
        by_kind: dict[str, list[bool]] = {}
        for j in read:
            by_kind.setdefault(j.kind, []).append(bool(j.prediction))
        details: dict[str, Any] = {
            "readout": self.config.readout,
            "n_shown": self.config.n_shown,
            "draw": self.config.draw,
            "marked": self.config.marked,
            "accuracy_by_kind": {kind: sum(hits) / len(hits) for kind, hits in sorted(by_kind.items())},
        }
        if self._prompt is None:
            return details | {"model": self.config.embedder.model}
        return details | {"prompt": self._prompt, "prompt_version": load_prompt(self._prompt).version}

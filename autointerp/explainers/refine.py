"""Explainer `refine`: propose, judge on fresh train windows, show what went wrong, propose again.

Feeding a judge's mistakes back to the explainer follows the revision step of Bills et al.,
"Language models can explain neurons in language models" (2023), which also asked again with
counter-examples; rounds, choice and prompt are ours. See docs/explainers/refine.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import Field

from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.explainers.mending import FORM, Question, answer, ask_mended, in_form
from autointerp.explainers.nested import (
    ExplainerTable,
    JudgingConfig,
    JudgingExplainer,
    build_explainer,
    judge_texts,
    plugin_values,
    summed,
    verdict,
)
from autointerp.explainers.prompt_files import PromptFile, load_prompt
from autointerp.explainers.rendering import choose_windows, quoted, show_windows
from autointerp.explainers.replies import Reading, read_chat
from autointerp.llm.types import Capability, Message, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.asking import error_reason
from autointerp.scorers.base import Judged, Judgement
from autointerp.scorers.prompting import one_line

_REMINDERS_STREAM = 62


class RefineConfig(JudgingConfig):
    """`[explainers.refine]`."""

    propose: ExplainerTable = "default"
    """Who proposes the first label: the name of an explainer, or a table `{explainer = NAME, ...}`
    with its options."""
    max_rounds: Annotated[int, Field(ge=1)] = 3
    """Most revisions after the first label."""
    min_gain: Annotated[float, Field(ge=0.0)] = 0.02
    """A revision must raise the best score by at least this much for another to be asked for."""
    n_shown: Annotated[int, Field(ge=0)] = 8
    """Most activating windows shown beside the counter-examples, of those the first proposer saw."""
    n_missed: Annotated[int, Field(ge=0)] = 6
    """Most activating windows shown that the label missed, the worst first."""
    n_accepted: Annotated[int, Field(ge=0)] = 6
    """Most silent windows shown that the label took for activating ones, the worst first."""
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """A token is marked if its activation is above this share of its window's largest."""
    max_tokens: Annotated[int, Field(ge=1)] = 500
    """Longest reply."""
    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    """Sampling temperature of the revisions."""

    def result_values(self) -> dict[str, Any]:
        """As of every section, the inner options with their defaults and versions."""
        return {**super().result_values(), "propose": plugin_values(*build_explainer(self.propose))}


@dataclass(frozen=True, kw_only=True)
class CounterExamples:
    """Fresh windows a label got wrong, the worst first."""

    missed: Sequence[Window]
    accepted: Sequence[Window]

    def __bool__(self) -> bool:
        return bool(self.missed or self.accepted)


@dataclass(kw_only=True)
class Work:
    """One latent on its way through the rounds."""

    shown: LatentRecord
    fresh: LatentRecord
    first: Explanation
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Text, score and number of windows of each round, as `details` list them."""
    usages: list[Usage] = field(default_factory=list)
    best: int = 0
    """The round kept so far."""
    text: str | None = None
    """The label of the current round, not judged yet."""
    wrong: CounterExamples = CounterExamples(missed=(), accepted=())
    """What the best label so far got wrong."""
    stopped: str | None = None
    """Why there are no more rounds; None while there are."""
    author: str | None = None
    """Which model wrote the current label."""
    model: str | None = None
    """Which model wrote the label kept."""


@explainer("refine")
class Refine(JudgingExplainer):
    """Revises a label as long as its score on held-back windows rises; see the module and `RefineConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = RefineConfig
    version: ClassVar[int] = 2
    config: RefineConfig

    def __init__(self, config: RefineConfig) -> None:
        self.proposer, _ = build_explainer(config.propose)
        self._prompt: PromptFile = load_prompt("refine")
        super().__init__(config, {"propose": self.proposer})

    def requires(self) -> frozenset[Capability]:
        """Generation of text, and what the first proposer needs."""
        return super().requires() | {Capability.GENERATE}

    def prompts(self) -> Mapping[str, str]:
        """The prompts of revisions, those of the first proposer and of the scorer."""
        return {"refine": self._prompt.source, FORM: load_prompt(FORM).source, **super().prompts()}

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order; all latents go through each round together.

        A latent whose revision or judgement fails keeps its best label so far, with the reason in
        `details.stopped`. Of a proposer that gives several labels the first one with a text is taken.
        """
        assert context.model is not None, "explainer `refine` needs a model"
        works = self._propose(records, context)
        for number in range(self.config.max_rounds + 1):
            going = [work for work in works if work.stopped is None]
            if number:
                self._revise(going, context)
                going = [work for work in going if work.stopped is None]
            self._judge(going, context)
        return [self._explanation(work, context) for work in works]

    def _propose(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Work]:
        halves = self.halves(records, context)
        told: dict[int, list[Explanation]] = {record.latent: [] for record in records}
        for explanation in self.proposer.explain([shown for shown, _ in halves], context):
            told[explanation.latent].append(explanation)
        works = []
        for shown, fresh in halves:
            own = told[shown.latent]
            first = next((e for e in own if e.text is not None), own[0])
            work = Work(shown=shown, fresh=fresh, first=first, text=first.text, author=first.model)
            work.usages = [e.usage for e in own]
            if first.text is None:
                work.stopped = f"nothing proposed: {first.reason}"
            works.append(work)
        return works

    def _judge(self, works: Sequence[Work], context: ExplainContext) -> None:
        """Judge the current label of each; keep it or what was best before; decide who goes on."""
        asked = [(work.text, work.fresh) for work in works if work.text is not None]
        for work, judged in zip(works, judge_texts(self.scorer, asked, context), strict=True):
            work.usages.append(judged.usage)
            found = verdict(judged)
            wrong = counter_examples(judged, work.fresh)
            work.rounds.append(
                {
                    "text": work.text,
                    **found,
                    "n_missed": len(wrong.missed),
                    "n_accepted": len(wrong.accepted),
                }
            )
            score, before = found["score"], work.rounds[work.best]["score"]
            newest = len(work.rounds) - 1
            if newest == 0:
                work.model = work.author
            if score is None:
                work.stopped = f"not judged: {found['score_reason']}"
                continue
            gain = score - before if newest else None
            if newest == 0 or score > before:
                work.best, work.wrong = newest, wrong
                work.model = work.author
            if gain is not None and (gain <= 0 or gain < self.config.min_gain):
                work.stopped = "no gain"
            elif all(judgement.label is None for judgement in judged.judgements):
                work.stopped = "no counter-examples: the scorer does not say yes or no of windows"
            elif not work.wrong:
                work.stopped = "nothing wrong"
            elif newest == self.config.max_rounds:
                work.stopped = "max_rounds"

    def _revise(self, works: Sequence[Work], context: ExplainContext) -> None:
        """Ask for a better label of each, all at once; who gets none, or an old one, stops."""
        assert context.model is not None
        requests = [self.request(work, context) for work in works]
        questions = [Question(request=request) for request in requests]
        replies = ask_mended(questions, [in_form(read_chat, context.model.capabilities)], context.model)
        for i, work in enumerate(works):
            work.usages += [reply.usage for reply in replies[i]]
            reply = answer(replies[i])
            reading = _reading(reply)
            work.text, work.author = reading.text, reply.model or context.model.identity
            if reading.text is None:
                work.stopped = f"no revision: {reading.reason}"
            elif reading.text in [one["text"] for one in work.rounds]:
                work.stopped = "repeated"

    def request(self, work: Work, context: ExplainContext) -> Request:
        """What is asked about one latent: its best label so far and what that got wrong."""
        config, table = self.config, context.tokens
        reminders = choose_windows(
            work.shown, config.n_shown, context.rng(work.shown.latent, _REMINDERS_STREAM)
        )
        values = {
            "explanation": quoted(one_line(work.rounds[work.best]["text"])),
            "shown": self._excerpts(reminders, table),
            "missed": self._excerpts(work.wrong.missed[: config.n_missed], table),
            "accepted": self._excerpts(work.wrong.accepted[: config.n_accepted], table),
        }
        return Request(
            messages=(
                Message(role="system", content=self._prompt.part("system")),
                Message(role="user", content=self._prompt.part("query", values)),
            ),
            max_tokens=config.max_tokens,
            temperature=config.temperature,
        )

    def _excerpts(self, windows: Sequence[Window], table: TokenTable) -> str:
        if not windows:
            return self._prompt.part("none")
        return show_windows(windows, table, threshold=self.config.threshold, largest=None)

    def _explanation(self, work: Work, context: ExplainContext) -> Explanation:
        details: dict[str, Any] = {
            "rounds": work.rounds,
            "chosen": work.best if work.rounds else None,
            "stopped": work.stopped,
            "proposer": self.proposer.name,
            "proposed": work.first.details,
            **self.judging_details(work.shown, work.fresh, context),
        }
        return Explanation(
            latent=work.shown.latent,
            text=work.rounds[work.best]["text"] if work.rounds else None,
            status=work.first.status,
            reason=work.first.reason,
            model=work.model,
            usage=summed(work.usages),
            details=details,
        )


def counter_examples(judged: Judged, fresh: LatentRecord) -> CounterExamples:
    """The windows a label got wrong, activating and silent ones apart, the worst first.

    With evidence (`log_odds`) a window is wrong by the share of the other class that is ranked on its
    wrong side or level with it, so that none is left exactly where the AUROC is 1; else by the yes or
    no. Marked copies of activating windows (`mismarked`) are no silent windows and are left out.
    """
    windows = {window.example: window for window in fresh.windows}
    read = [
        j for j in judged.judgements if j.status == "ok" and j.label is not None and j.kind != "mismarked"
    ]
    wrong = {
        label: sorted(
            ((badness, j.example) for j in read if j.label is label and (badness := _badness(j, read)) > 0),
            key=lambda pair: (-pair[0], pair[1]),
        )
        for label in (True, False)
    }
    return CounterExamples(
        missed=[windows[example] for _, example in wrong[True]],
        accepted=[windows[example] for _, example in wrong[False]],
    )


def _badness(judgement: Judgement, read: Sequence[Judgement]) -> float:
    """How wrong a judgement is, 0 (right) to 1."""
    own = judgement.log_odds
    if own is None:
        return float(judgement.prediction is not None and judgement.prediction is not judgement.label)
    other = [j.log_odds for j in read if j.label is not judgement.label and j.log_odds is not None]
    beyond = [value >= own if judgement.label else value <= own for value in other]
    return sum(beyond) / len(beyond) if beyond else 0.0


def _reading(reply: Reply) -> Reading:
    if reply.ok:
        return read_chat(reply.text, reply.finish_reason)
    return Reading(status="failed", reason=error_reason(reply))

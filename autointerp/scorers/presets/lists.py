"""Judging in batches answered by a list of 0 and 1, as Delphi and Neuronpedia's fork of it do.

What both share: prompts of one system message, three worked examples and a query of five numbered
texts; a reply `[1,0,0,1,0]`; how texts are mixed, and, for fuzzing, two sets of texts: the tool's,
and one whose negatives are marked like positives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from autointerp.llm.types import Capability, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord, Window, defuse
from autointerp.scorers.answers import Shown
from autointerp.scorers.asking import Plan, ask_about, error_reason, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig
from autointerp.scorers.fuzzing import Fuzzing, FuzzingConfig
from autointerp.scorers.presets.marks import n_false_marks, peer_true_marks
from autointerp.scorers.presets.numbers import Counts, PeerJudgement, side_by_side
from autointerp.scorers.presets.replies import PeerPrediction, first_list, list_answers
from autointerp.scorers.prompting import load_prompt, one_line, quoted
from autointerp.scorers.selection import Stream, some_silent

EXAMPLES_PER_REQUEST = 5


class ListPresetConfig(ScorerConfig):
    """Options of presets answered by lists. The defaults are the published numbers."""

    n_activating: Annotated[int, Field(ge=1)] = 50
    """At most this many activating windows."""
    n_random: Annotated[int, Field(ge=1)] = 50
    """At most this many windows of kind `random`."""
    max_tokens: Annotated[int, Field(ge=1)] = 500
    """Most tokens of a reply."""


class FuzzPresetConfig(ListPresetConfig):
    """Options of fuzzing presets answered by lists."""

    corrected: bool = True
    """Also judge a second set, the same windows with false marks that look like true ones: `value`
    and the rows are of that set. It doubles the cost. Without it both numbers are of the tool's own set."""


class ListPreset:
    """Detection by lists of 0 and 1: the tool's number beside ours.

    A subclass says which windows are positives, what the tool makes of a value in the list, and its formula.
    """

    preset: ClassVar[str]
    prompt: ClassVar[str]
    peer_metric: ClassVar[str]
    published: ClassVar[tuple[int, int]]
    """How many activating and random windows the tool judges."""
    config: ListPresetConfig

    def requires(self) -> frozenset[Capability]:
        """A judge that answers in words."""
        return frozenset({Capability.GENERATE})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file."""
        return {self.prompt: load_prompt(self.prompt).source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Judge the windows of every item, all requests of all items at once."""
        assert context.model is not None

        def prepare(item: Item) -> tuple[Plan, tuple[bool, dict[str, Any]]]:
            return self._plan(item, context)

        def finish(
            item: Item, noted: tuple[bool, dict[str, Any]], judgements: list[Judgement], usage: Usage
        ) -> Judged:
            as_published, notes = noted
            details = {
                "preset": self.preset,
                "prompt": self.prompt,
                "prompt_version": load_prompt(self.prompt).version,
                **notes,
            }
            return side_by_side(
                item, judgements, "balanced_accuracy", usage, details,
                peer_metric=self.peer_metric, peer_number=self.peer_number, as_published=as_published,
            )  # fmt: skip

        def blank(item: Item) -> Judged:
            return unexplained(item, "balanced_accuracy", 0.5)

        return ask_about(items, context.model, prepare, finish, blank)

    def positives(self, record: LatentRecord) -> list[Window]:
        """The activating windows the tool judges."""
        raise NotImplementedError

    def peer_prediction(self, value: Any, label: bool) -> bool | None:
        """What the tool counts for one value of the list; None if it drops the item."""
        raise NotImplementedError

    def peer_number(self, counts: Counts) -> float | None:
        """The tool's number."""
        raise NotImplementedError

    def shown(self, item: Item, context: JudgeContext) -> list[Shown]:
        """The tool's own texts, in random order."""
        positives, negatives = self.windows(item, context)
        shown = [
            Shown(window=w, kind=w.kind, label=w.activating, text=defuse(context.tokens.text(w.tokens)))
            for w in (*positives, *negatives)
        ]
        return self._mixed(item, shown, context)

    def windows(self, item: Item, context: JudgeContext) -> tuple[list[Window], list[Window]]:
        """Positives and negatives: activating windows, and silent ones of kind `random`."""
        silent = [w for w in item.record.silent if w.kind == "random"]
        return (
            self.positives(item.record),
            some_silent(silent, self.config.n_random, item.record.latent, context),
        )

    def sets(
        self, item: Item, context: JudgeContext
    ) -> tuple[list[Shown], list[Shown] | None, dict[str, Any]]:
        """The tool's texts, ours where they are others, and what `details` say of ours."""
        return self.shown(item, context), None, {}

    def _mixed(self, item: Item, shown: Sequence[Shown], context: JudgeContext) -> list[Shown]:
        marked = any(s.marks is not None for s in shown)
        rng = context.rng(item.record.latent, Stream.PRESET_LIST_ORDER, int(marked))
        return [shown[i] for i in rng.permutation(len(shown))]

    def _plan(self, item: Item, context: JudgeContext) -> tuple[Plan, tuple[bool, dict[str, Any]]]:
        theirs, ours, notes = self.sets(item, context)
        n_positive = sum(s.label for s in theirs)
        plan = self._list_plan(item, theirs, for_peer=True, for_us=ours is None)
        if ours is not None:
            plan = _both(plan, self._list_plan(item, ours, for_peer=False, for_us=True))
        return plan, ((n_positive, len(theirs) - n_positive) == self.published, notes)

    def _list_plan(self, item: Item, shown: Sequence[Shown], *, for_peer: bool, for_us: bool) -> Plan:
        prompt = load_prompt(self.prompt)
        batches = [shown[i : i + EXAMPLES_PER_REQUEST] for i in range(0, len(shown), EXAMPLES_PER_REQUEST)]
        requests = []
        for batch in batches:
            texts = "\n".join(f"Example {i}: {quoted(s.text)}" for i, s in enumerate(batch))
            values = {"explanation": one_line(item.text), "texts": texts}
            requests.append(Request(messages=prompt.messages(values), max_tokens=self.config.max_tokens))

        def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
            return [
                replace(judgement, for_peer=for_peer, for_us=for_us)
                for batch, reply, key in zip(batches, replies, keys, strict=True)
                for judgement in read_list(batch, reply, key, self.peer_prediction)
            ]

        return Plan(requests=requests, read=read)


class FuzzPreset(ListPreset):
    """Fuzzing by lists of 0 and 1: the tool's number beside ours."""

    config: FuzzPresetConfig

    def false_marks(self, window: Window, n_marks: int) -> np.ndarray:
        """The tool's false marks on a window, [n_tokens] bool."""
        raise NotImplementedError

    def shown(self, item: Item, context: JudgeContext) -> list[Shown]:
        """The tool's own marked texts, in random order; none without positives, which say how many marks."""
        positives, negatives = self.windows(item, context)
        if not positives:
            return []
        n_marks = n_false_marks(positives)
        marked = [
            *((w, peer_true_marks(w)) for w in positives),
            *((w, self.false_marks(w, n_marks)) for w in negatives),
        ]
        shown = [
            Shown(
                window=w,
                kind=w.kind,
                label=w.activating,
                text=context.tokens.marked(w.tokens, marks),
                marks=marks,
            )
            for w, marks in marked
        ]
        return self._mixed(item, shown, context)

    def sets(
        self, item: Item, context: JudgeContext
    ) -> tuple[list[Shown], list[Shown] | None, dict[str, Any]]:
        """The tool's texts, and the same windows marked as the scorer `fuzzing` marks them."""
        notes = {"corrected": self.config.corrected}
        if not self.config.corrected:
            return self.shown(item, context), None, notes
        positives, negatives = self.windows(item, context)
        fuzzing = Fuzzing(FuzzingConfig(mismarked_share=0.0, n_silent=len(negatives)))
        record = replace(item.record, windows=(*positives, *negatives))
        ours, left_out = fuzzing.shown(replace(item, record=record), context)
        return self.shown(item, context), ours, notes | left_out


def read_list(
    batch: Sequence[Shown], reply: Reply, key: str, peer_prediction: PeerPrediction
) -> list[PeerJudgement]:
    """The judgements of one batch, by the tool's rule and by ours.

    The tool asks for as many values as a full batch has, so that a shorter last batch is unreadable to it.
    """
    peer = first_list(reply.text or "", EXAMPLES_PER_REQUEST) if reply.ok else None
    parsed = list_answers(reply.text or "", len(batch)) if reply.ok else None
    cut = " (the reply was cut off)" if reply.finish_reason == "length" else ""
    judgements = []
    for i, s in enumerate(batch):
        if parsed is None:
            outcome: dict[str, Any] = {"status": "error", "reason": error_reason(reply)}
        elif i + 1 in parsed.answers:
            outcome = {"prediction": parsed.answers[i + 1]}
        else:
            reason = parsed.reason or f"no readable answer for text {i}"
            outcome = {"status": "unparsed", "reason": reason + cut}
        judgements.append(
            PeerJudgement(
                example=s.window.example,
                kind=s.kind,
                decile=s.window.decile if s.kind == "activating" else None,
                label=s.label,
                request=key,
                position_in_request=i,
                peer_label=s.label,
                peer_prediction=None if peer is None else peer_prediction(peer[i], s.label),
                **outcome,
            )
        )
    return judgements


def _both(first: Plan, second: Plan) -> Plan:
    """Two plans of one item as one, so that their cost is summed."""
    n = len(first.requests)

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        return [*first.read(replies[:n], keys[:n]), *second.read(replies[n:], keys[n:])]

    return Plan(requests=[*first.requests, *second.requests], read=read)

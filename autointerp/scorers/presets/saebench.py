"""Preset `saebench`: the score of SAEBench's autointerp evaluation, beside the one with true labels.

Source: https://github.com/adamkarvonen/SAEBench, `sae_bench/evals/autointerp/main.py` and
`eval_config.py`. One request shows 14 texts: 2 of the strongest windows, 2 drawn in proportion to the square
of their activation, and 10 drawn without looking, all of 21 tokens; the judge names those on which the latent
fires. The tool's score is (TP + TN) / 14, with every window drawn without looking counted as silent. Ours
looks: `value` is a balanced accuracy over the true labels. The structure of the prompt is SAEBench's, the words are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from autointerp.llm.types import Capability, Message, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord, Window, defuse
from autointerp.scorers.asking import Plan, ask_about, error_reason, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.presets.numbers import PeerJudgement, plain_accuracy, side_by_side
from autointerp.scorers.presets.replies import numbered_answers, saebench_numbers
from autointerp.scorers.prompting import load_prompt, one_line, quoted
from autointerp.scorers.selection import Stream, some_silent

PROMPT = "preset_saebench"
METRIC = "balanced_accuracy"
_NO_UNREAD = "no unread windows to judge: set sample.n_test_unread"


class SAEBenchConfig(ScorerConfig):
    """Options of the scorer `saebench`. The defaults are the published numbers."""

    n_top: Annotated[int, Field(ge=0)] = 2
    """The strongest activating windows."""
    n_importance: Annotated[int, Field(ge=0)] = 2
    """Of the other activating windows so many, drawn in proportion to the square of their activation."""
    n_unread: Annotated[int, Field(ge=1)] = 10
    """Windows drawn without looking (`sample.n_test_unread`)."""
    act_threshold_frac: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """A window is active if a token exceeds this share of the latent's largest activation. 0: any activation."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """Sampling temperature. The tool sets none, and 1 is what its server then takes."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of the reply; by default 2 per text and 5, as published. Raise it for judges that reason."""


@scorer("saebench")
class SAEBench:
    """SAEBench's autointerp score: `peer_value` with unread windows taken for silent, `value` with true labels."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = SAEBenchConfig
    version: ClassVar[int] = 1

    def __init__(self, config: SAEBenchConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """A judge that answers in words."""
        return frozenset({Capability.GENERATE})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file."""
        return {PROMPT: load_prompt(PROMPT).source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Judge every item with one request each."""
        assert context.model is not None

        def prepare(item: Item) -> tuple[Plan, list[Window]]:
            shown = self.windows(item.record, context)
            return self._plan(item, shown, context), shown

        def finish(item: Item, shown: list[Window], judgements: list[Judgement], usage: Usage) -> Judged:
            one = side_by_side(
                item, judgements, METRIC, usage, self._details(item.record, shown),
                peer_metric="autointerp_score", peer_number=plain_accuracy, as_published=self._is_whole(shown),
            )  # fmt: skip
            return one if shown else replace(one, score={**one.score, "reason": _NO_UNREAD})

        def blank(item: Item) -> Judged:
            return unexplained(item, METRIC, 0.5)

        return ask_about(items, context.model, prepare, finish, blank)

    def windows(self, record: LatentRecord, context: JudgeContext) -> list[Window]:
        """The windows in the order of their numbers; none if no window was drawn without looking."""
        unread = some_silent(record.unread, self.config.n_unread, record.latent, context)
        if not unread:
            return []
        shown = [*self._activating(record, context), *unread]
        order = context.rng(record.latent, Stream.PRESET_SAEBENCH_ORDER).permutation(len(shown))
        return [shown[i] for i in order]

    def _activating(self, record: LatentRecord, context: JudgeContext) -> list[Window]:
        """The strongest windows, and some of the rest with weights of their squared activation."""
        ordered = record.activating
        top, rest = ordered[: self.config.n_top], ordered[self.config.n_top :]
        n = min(self.config.n_importance, len(rest))
        weights = [w.max_activation**2 for w in rest]
        if not n or not sum(weights):
            return top
        rng = context.rng(record.latent, Stream.PRESET_SAEBENCH_WINDOWS)
        drawn = rng.choice(len(rest), size=n, replace=False, p=[w / sum(weights) for w in weights])
        return [*top, *(rest[int(i)] for i in sorted(drawn))]

    def _threshold(self, record: LatentRecord) -> float:
        """Activation above which a window counts as active; the largest is the latent's or that of its windows."""
        largest = max(
            record.statistics.get("max_activation") or 0.0,
            max((w.max_activation for w in record.windows), default=0.0),
        )
        return self.config.act_threshold_frac * largest

    def _plan(self, item: Item, shown: Sequence[Window], context: JudgeContext) -> Plan:
        if not shown:
            return Plan(requests=[], read=lambda replies, keys: [])
        threshold = self._threshold(item.record)
        texts = [defuse(context.tokens.text(w.tokens).replace("�", "")) for w in shown]
        values = {
            "n": str(len(shown)),
            "answer": _example_answer(len(shown), item.record.latent, context),
            "explanation": one_line(item.text),
            "texts": "\n".join(f"{i}. {quoted(text)}" for i, text in enumerate(texts, start=1)),
        }
        prompt = load_prompt(PROMPT)
        request = Request(
            messages=(
                Message(role="system", content=prompt.part("system", values)),
                Message(role="user", content=prompt.part("query", values)),
            ),
            max_tokens=self.config.max_tokens or 2 * len(shown) + 5,
            temperature=self.config.temperature,
        )

        def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
            return list(read_numbers(shown, replies[0], keys[0], threshold))

        return Plan(requests=[request], read=read)

    def _is_whole(self, shown: Sequence[Window]) -> bool:
        return (sum(w.activating for w in shown), len(shown)) == (4, 14)

    def _details(self, record: LatentRecord, shown: Sequence[Window]) -> dict[str, Any]:
        threshold = self._threshold(record)
        active = sum(w.max_activation > threshold for w in shown)
        taken = sum(w.activating and w.max_activation > threshold for w in shown)
        details: dict[str, Any] = {
            "preset": "saebench",
            "prompt": PROMPT,
            "prompt_version": load_prompt(PROMPT).version,
            "n_unread": sum(not w.activating for w in shown),
            "n_unread_active": active - taken,
            "act_threshold": threshold,
            "peer_value_of_none": (len(shown) - taken) / len(shown) if shown else None,
            "accuracy_of_none": (len(shown) - active) / len(shown) if shown else None,
        }
        return details


def read_numbers(shown: Sequence[Window], reply: Reply, key: str, threshold: float) -> list[PeerJudgement]:
    """The judgements of one reply: by the tool's rule and labels, and by ours.

    The label of the tool is what it could see: windows drawn without looking are silent to it. By both, a
    window is active if a token exceeds the threshold, so the two differ in what was looked at and in nothing else.
    """
    peer = saebench_numbers(reply.text or "") if reply.ok else None
    parsed = numbered_answers(reply.text or "", len(shown)) if reply.ok else None
    cut = " (the reply was cut off)" if reply.finish_reason == "length" else ""
    judgements = []
    for i, window in enumerate(shown, start=1):
        if parsed is None:
            outcome: dict[str, Any] = {"status": "error", "reason": error_reason(reply)}
        elif parsed.answers:
            outcome = {"prediction": parsed.answers[i]}
        else:
            outcome = {"status": "unparsed", "reason": f"{parsed.reason}{cut}"}
        active = window.max_activation > threshold
        judgements.append(
            PeerJudgement(
                example=window.example,
                kind=window.kind,
                decile=window.decile,
                label=active,
                request=key,
                position_in_request=i - 1,
                peer_label=active and window.activating,
                peer_prediction=None if peer is None else i in peer,
                **outcome,
            )
        )
    return judgements


def _example_answer(n_texts: int, latent: int, context: JudgeContext) -> str:
    """Four numbers of texts drawn at random, the answer the prompt gives as an example."""
    rng = context.rng(latent, Stream.PRESET_SAEBENCH_ANSWER)
    drawn = rng.choice(n_texts, size=min(4, n_texts), replace=False) + 1
    return ", ".join(str(int(i)) for i in sorted(drawn))

"""Preset `neuronpedia-recall`: Neuronpedia's score `recall_alt`, beside ours.

Source: https://github.com/hijohnnylin/neuronpedia, `apps/webapp/lib/external/autointerp-scorer-recall-json.ts`.
One request per text: at most the 20 strongest windows, 5 windows without activation and 5 fixed decoys of
other subjects with made-up activations. The judge sees every token with its activation, and says whether the
explanation matches. The tool's score is the share of right answers, a failed or unreadable one being no match;
ours is the same share of the answers that could be read. The structure of the prompt is Neuronpedia's; the
words, worked examples and decoys are ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import Field

from autointerp.llm.types import Capability, Reply, Request, Usage
from autointerp.sampling.windows import TokenTable, Window, defuse
from autointerp.scorers.asking import Plan, ask_about, error_reason, unexplained
from autointerp.scorers.base import Item, JudgeContext, Judged, Judgement, ScorerConfig, scorer
from autointerp.scorers.presets.numbers import Counts, PeerJudgement, plain_accuracy, side_by_side
from autointerp.scorers.presets.replies import match_answer, neuronpedia_match
from autointerp.scorers.prompting import load_prompt, one_line
from autointerp.scorers.selection import some_silent

PROMPT = "preset_recall"
METRIC = "accuracy"
FIRST_DECOY = 4_294_967_290
"""`example` of the first decoy: a number far above those of windows."""
MATCH_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"match": {"type": "boolean"}, "reason": {"type": "string"}},
    "required": ["match", "reason"],
    "additionalProperties": False,
}


class NeuronpediaRecallConfig(ScorerConfig):
    """Options of the scorer `neuronpedia-recall`. The numbers of texts are the published ones."""

    n_activating: Annotated[int, Field(ge=1)] = 20
    """At most this many activating windows, the strongest."""
    n_random: Annotated[int, Field(ge=0)] = 5
    """At most this many windows of kind `random`."""
    max_tokens: Annotated[int, Field(ge=1)] = 500
    """Most tokens of a reply. The tool allows 5,000, for judges that reason."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """One text as the judge sees it, with the truth."""

    example: int
    kind: str
    label: bool
    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    decile: int | None = None

    def query(self, explanation: str) -> str:
        """The question: tokens with activations, and the explanation, as one JSON object."""
        pairs = [
            {"token": defuse(token), "activation": round(value, 3)}
            for token, value in zip(self.tokens, self.activations, strict=True)
        ]
        return json.dumps({"activations": pairs, "explanation": one_line(explanation)}, ensure_ascii=False)


@scorer("neuronpedia-recall")
class NeuronpediaRecall:
    """Neuronpedia's `recall_alt`: `peer_value` with failures as no match, `value` without them."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = NeuronpediaRecallConfig
    version: ClassVar[int] = 1

    def __init__(self, config: NeuronpediaRecallConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """A judge that answers in words; `JSON_SCHEMA` is used where the judge has it."""
        return frozenset({Capability.GENERATE})

    def prompts(self) -> Mapping[str, str]:
        """The prompt file."""
        return {PROMPT: load_prompt(PROMPT).source}

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Judge every item, one request per text."""
        assert context.model is not None

        def prepare(item: Item) -> tuple[Plan, list[Text]]:
            texts = self.texts(item, context)
            return self._plan(item, texts), texts

        def finish(item: Item, texts: list[Text], judgements: list[Judgement], usage: Usage) -> Judged:
            one = side_by_side(
                item, judgements, METRIC, usage, _details(texts),
                peer_metric="recall_alt", peer_number=_recall_alt(judgements), as_published=_is_whole(texts),
            )  # fmt: skip
            return replace(one, score={**one.score, "chance": _of_one_answer(texts)})

        def blank(item: Item) -> Judged:
            return unexplained(item, METRIC, None)

        return ask_about(items, context.model, prepare, finish, blank)

    def texts(self, item: Item, context: JudgeContext) -> list[Text]:
        """The texts to be judged: none, decoys included, if the latent has no activating window."""
        record, config = item.record, self.config
        positives = record.activating[: config.n_activating]
        if not positives:
            return []
        silent = [w for w in record.silent if w.kind == "random"]
        negatives = some_silent(silent, config.n_random, record.latent, context) if config.n_random else []
        return [*(_window_text(w, context.tokens) for w in (*positives, *negatives)), *decoys()]

    def _plan(self, item: Item, texts: Sequence[Text]) -> Plan:
        prompt = load_prompt(PROMPT)
        requests = [
            Request(
                messages=prompt.messages({"query": text.query(item.text)}),
                max_tokens=self.config.max_tokens,
                json_schema=MATCH_SCHEMA,
            )
            for text in texts
        ]

        def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
            return [read_match(t, r, k) for t, r, k in zip(texts, replies, keys, strict=True)]

        return Plan(requests=requests, read=read)


def read_match(text: Text, reply: Reply, key: str) -> PeerJudgement:
    """The judgement of one text: by the tool's rule, under which a failure is no match, and by ours."""
    if not reply.ok:
        outcome: dict[str, Any] = {"status": "error", "reason": error_reason(reply)}
    else:
        answer = match_answer(reply.text or "")
        cut = " (the reply was cut off)" if reply.finish_reason == "length" else ""
        if answer.match is None:
            outcome = {"status": "unparsed", "reason": f"{answer.reason}{cut}"}
        else:
            outcome = {"prediction": answer.match}
    return PeerJudgement(
        example=text.example,
        kind=text.kind,
        decile=text.decile,
        label=text.label,
        request=key,
        position_in_request=0,
        peer_label=text.label,
        peer_prediction=reply.ok and neuronpedia_match(reply.text or ""),
        **outcome,
    )


@lru_cache(maxsize=1)
def decoys() -> tuple[Text, ...]:
    """The five decoys of the prompt file: a line of tokens each, parted by `|`, the active ones with `=N`."""
    lines = load_prompt(PROMPT).part("decoys").split("\n")
    texts = []
    for i, line in enumerate(lines):
        pieces = [piece.partition("=") for piece in line.split("|")]
        texts.append(
            Text(
                example=FIRST_DECOY + i,
                kind="decoy",
                label=False,
                tokens=tuple(token for token, _, _ in pieces),
                activations=tuple(float(value or 0) for _, _, value in pieces),
            )
        )
    return tuple(texts)


def _window_text(window: Window, table: TokenTable) -> Text:
    return Text(
        example=window.example,
        kind=window.kind,
        label=window.activating,
        tokens=tuple(table.texts(window.tokens)),
        activations=tuple(float(a) for a in window.activations),
        decile=window.decile,
    )


def _recall_alt(judgements: Sequence[Judgement]) -> Any:
    """The tool's formula; none if every request about an activating window failed: then the tool gives up."""

    def number(counts: Counts) -> float | None:
        positives = [j for j in judgements if j.label]
        if all(j.status == "error" for j in positives):
            return None
        return plain_accuracy(counts)

    return number


def _is_whole(texts: Sequence[Text]) -> bool:
    kinds = [text.kind for text in texts]
    return [kinds.count(kind) for kind in ("activating", "random", "decoy")] == [20, 5, 5]


def _of_one_answer(texts: Sequence[Text]) -> float | None:
    """What a judge gets who always gives the same, better one of the two answers."""
    if not texts:
        return None
    share = sum(text.label for text in texts) / len(texts)
    return max(share, 1 - share)


def _details(texts: Sequence[Text]) -> dict[str, Any]:
    kinds = [text.kind for text in texts]
    return {
        "preset": "neuronpedia",
        "prompt": PROMPT,
        "prompt_version": load_prompt(PROMPT).version,
        "n_texts": {kind: kinds.count(kind) for kind in ("activating", "random", "decoy")},
    }

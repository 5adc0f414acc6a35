"""The readouts that ask a judge for yes or no: `json` and `logprob`, shared by detection and fuzzing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from autointerp.llm.types import Reply, Request, TokenLogprob
from autointerp.sampling.windows import Window
from autointerp.scorers.asking import Plan, error_reason
from autointerp.scorers.base import Judgement
from autointerp.scorers.parsing import parse_answers, without_reasoning
from autointerp.scorers.prompting import Prompt, one_line, quoted

TOP_LOGPROBS = 20
"""Alternatives asked for by the `logprob` readout: the most that OpenAI-compatible servers give."""

_YES = frozenset({"yes", "y", "true", "1"})
_NO = frozenset({"no", "n", "false", "0"})


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One window as it is put before a judge, with the truth."""

    window: Window
    kind: str
    """Kind of the judged item: that of the window, or `mismarked`."""
    label: bool
    text: str
    """As the `json` and `logprob` readouts show it: with marks, if the scorer marks."""
    marks: np.ndarray | None = None
    """Marked tokens, [n_tokens] bool; None if nothing is marked."""

    def judgement(self, **columns: Any) -> Judgement:
        """A judgement of this window."""
        return Judgement(
            example=self.window.example,
            kind=self.kind,
            decile=self.window.decile if self.kind == "activating" else None,
            label=self.label,
            **columns,
        )


@lru_cache(maxsize=128)
def answer_schema(n_examples: int) -> dict[str, Any]:
    """JSON schema of `{"1": 0 or 1, ..., "n": 0 or 1}`, in the subset strict servers take; not to be changed."""
    keys = [str(i) for i in range(1, n_examples + 1)]
    return {
        "type": "object",
        "properties": {key: {"type": "integer", "enum": [0, 1]} for key in keys},
        "required": keys,
        "additionalProperties": False,
    }


def json_plan(
    explanation: str, shown: Sequence[Shown], prompt: Prompt, per_request: int, max_tokens: int | None
) -> Plan:
    """Ask about several texts at a time; the reply is an object keyed by the number of the text.

    Every batch, the last too, has a schema of its own size. `max_tokens` None: enough for the
    answer alone.
    """
    batches = [shown[i : i + per_request] for i in range(0, len(shown), per_request)]
    description = one_line(explanation)
    requests = []
    for batch in batches:
        texts = "\n".join(f"{i}: {quoted(s.text)}" for i, s in enumerate(batch, start=1))
        requests.append(
            Request(
                messages=prompt.messages({"explanation": description, "texts": texts}),
                max_tokens=16 + 10 * len(batch) if max_tokens is None else max_tokens,
                json_schema=answer_schema(len(batch)),
            )
        )

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        return [
            judgement
            for batch, reply, key in zip(batches, replies, keys, strict=True)
            for judgement in _read_json(batch, reply, key)
        ]

    return Plan(requests=requests, read=read)


def _read_json(batch: Sequence[Shown], reply: Reply, key: str) -> list[Judgement]:
    if not reply.ok:
        outcome: Mapping[str, Any] = {"status": "error", "reason": error_reason(reply)}
        return [s.judgement(request=key, position_in_request=i, **outcome) for i, s in enumerate(batch)]
    parsed = parse_answers(reply.text or "", len(batch))
    cut = " (the reply was cut off)" if reply.finish_reason == "length" else ""
    judgements = []
    for i, s in enumerate(batch):
        if i + 1 in parsed.answers:
            outcome = {"prediction": parsed.answers[i + 1]}
        else:
            reason = (parsed.reason or f"no readable answer for text {i + 1}") + cut
            outcome = {"status": "unparsed", "reason": reason}
        judgements.append(s.judgement(request=key, position_in_request=i, **outcome))
    return judgements


def logprob_plan(explanation: str, shown: Sequence[Shown], prompt: Prompt) -> Plan:
    """Ask about one text at a time; read the log-probabilities of Yes and No as first word."""
    requests = [
        Request(
            messages=prompt.messages({"explanation": one_line(explanation), "text": quoted(s.text)}),
            max_tokens=1,
            top_logprobs=TOP_LOGPROBS,
        )
        for s in shown
    ]

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for s, reply, key in zip(shown, replies, keys, strict=True):
            columns: dict[str, Any] = {"request": key, "position_in_request": 0}
            log_odds = yes_log_odds(reply.tokens) if reply.ok else None
            if not reply.ok:
                columns |= {"status": "error", "reason": error_reason(reply)}
            elif log_odds is None:
                columns |= {"status": "unparsed", "reason": _no_answer(reply)}
            else:
                columns |= decision(log_odds)
            judgements.append(s.judgement(**columns))
        return judgements

    return Plan(requests=requests, read=read)


def _no_answer(reply: Reply) -> str:
    if not reply.tokens:
        return "the reply has no log-probabilities"
    seen = without_reasoning(reply.tokens[0].text)[:20]
    return f"neither yes nor no among the alternatives of the first token ({seen!r} came)"


def yes_log_odds(tokens: Sequence[TokenLogprob]) -> float | None:
    """log p(yes) - log p(no) of the first generated token; None if neither is an alternative.

    Spellings of yes and of no (case, space, 1/0, true/false) are summed. When only one is among
    the alternatives, the other is taken to be as likely as the least likely alternative: an upper
    bound of its probability, so the log-odds are a bound too and never infinite.
    """
    if not tokens:
        return None
    top = dict(tokens[0].top)
    if tokens[0].logprob is not None:
        top.setdefault(tokens[0].text, tokens[0].logprob)
    yes = [v for text, v in top.items() if text.strip().lower() in _YES]
    no = [v for text, v in top.items() if text.strip().lower() in _NO]
    if not yes and not no:
        return None
    least = min(top.values())
    return float(np.logaddexp.reduce(yes or [least]) - np.logaddexp.reduce(no or [least]))


def decision(log_odds: float) -> dict[str, Any]:
    """The columns `log_odds`, `probability` (its logistic) and `prediction` (above 0)."""
    if log_odds >= 0:
        probability = 1 / (1 + math.exp(-log_odds))
    else:
        probability = math.exp(log_odds) / (1 + math.exp(log_odds))
    return {"log_odds": log_odds, "probability": probability, "prediction": log_odds > 0}

"""The intruder scorer for marked windows and judges that answer no questions: words against words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from autointerp.llm.types import Reply
from autointerp.sampling.windows import TokenTable
from autointerp.scorers.asking import Plan
from autointerp.scorers.base import Judgement
from autointerp.scorers.evidence import EvidencePlan, words_of
from autointerp.scorers.intruder_trials import Trial

MOST_WORDS = 12
"""Most words of the other windows that are named."""


def words_plan(trials: Sequence[Trial], table: TokenTable) -> Plan:
    """The intruder is the window whose marked words the marked words of the others make least likely.

    a(i) = mean over the distinct marked words w of window i of e(w; E), in nats, where E is a list of
    the other windows' marked words in the order shown and e the evidence of the `likelihood` readout
    (`autointerp.scorers.evidence`). Nothing has to be answered.
    """
    asked = [_questions(trial, table) for trial in trials]
    requests = [request for plans in asked for plan in plans or () for request in plan.requests]

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements, start = [], 0
        for trial, plans in zip(trials, asked, strict=True):
            if plans is None:
                reason = "a window has no marked words"
                judgements.append(trial.judgement(status="error", reason=reason))
                continue
            ends = np.cumsum([start, *(len(plan.requests) for plan in plans)])
            told = [replies[a:b] for a, b in pairwise(ends)]
            key = keys[int(ends[trial.intruder])]
            judgements.append(trial.judgement(request=key, **_least_like(plans, told, trial.intruder)))
            start = int(ends[-1])
        return judgements

    return Plan(requests=requests, read=read)


def _questions(trial: Trial, table: TokenTable) -> list[EvidencePlan] | None:
    """For each window, its marked words asked for after those of the others; None if one has none."""
    words: list[list[str]] = []
    for window, marks in zip(trial.windows, trial.marks, strict=True):
        found = words_of(table.texts(window.tokens))
        words.append(list(dict.fromkeys(found.words[i] for i in found.under(marks))))
    if not all(words):
        return None
    plans = []
    for place, own in enumerate(words):
        others = [word for i, more in enumerate(words) if i != place for word in more]
        named = ", ".join(list(dict.fromkeys(others))[:MOST_WORDS])
        plans.append(EvidencePlan(named, [[f" {word}" for word in own]], "words"))
    return plans


def _least_like(
    plans: Sequence[EvidencePlan], told: Sequence[Sequence[Reply]], intruder: int
) -> dict[str, Any]:
    """The columns of one trial from the replies about each of its windows."""
    values = []
    for plan, replies in zip(plans, told, strict=True):
        (evidence,) = plan.read(replies)
        if evidence.values is None:
            return {"status": evidence.status, "reason": evidence.reason}
        values.append(float(evidence.values.mean()))
    if not bool(np.isfinite(values).all()):
        return {"status": "unparsed", "reason": "a log-probability of the reply is not finite"}
    return {"prediction": int(np.argmin(values)) == intruder}

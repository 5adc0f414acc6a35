"""The `likelihood` readout of scorers that say yes or no: evidence pooled over a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from autointerp.llm.types import Reply
from autointerp.sampling.windows import TokenTable
from autointerp.scorers.answers import Shown, decision
from autointerp.scorers.asking import Plan
from autointerp.scorers.base import Judgement
from autointerp.scorers.evidence import EvidenceKind, EvidencePlan

Pool = Callable[[np.ndarray], float]
"""Evidence at the units that count, [n_units], to the log-odds of the window."""


def likelihood_plan(
    explanation: str, shown: Sequence[Shown], kind: EvidenceKind, pool: Pool, table: TokenTable
) -> Plan:
    """Judge each window by the evidence of its units: the marked ones, or all if none is marked."""
    evidence = EvidencePlan(explanation, [table.texts(s.window.tokens) for s in shown], kind)

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for i, (s, told) in enumerate(zip(shown, evidence.read(replies), strict=True)):
            if told.values is None:
                judgements.append(s.judgement(status=told.status, reason=told.reason))
                continue
            units = list(range(len(told.values))) if s.marks is None else evidence.units_under(i, s.marks)
            if not units:
                judgements.append(s.judgement(status="error", reason="the marks stand on no word"))
                continue
            key = keys[told.requests[units[int(np.argmax(told.values[units]))]]]
            judgements.append(s.judgement(request=key, **decision(pool(told.values[units]))))
        return judgements

    return Plan(requests=evidence.requests, read=read)

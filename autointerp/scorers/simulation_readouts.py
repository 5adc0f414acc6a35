"""What each readout of simulation asks about a latent's windows, and activations from its replies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from autointerp.llm.types import Reply, Request
from autointerp.sampling.windows import TokenTable, Window
from autointerp.scorers.asking import Plan, error_reason
from autointerp.scorers.base import Judgement
from autointerp.scorers.evidence import EvidenceKind, EvidencePlan
from autointerp.scorers.prompting import load_prompt, one_line, quoted
from autointerp.scorers.simulation_replies import activation_schema, read_activations
from autointerp.scorers.simulator import (
    Style,
    generated_value,
    shown_tokens,
    simulation_prompt,
    slot_values,
    token_requests,
)


def prompt_plan(
    explanation: str, shown: Sequence[Window], table: TokenTable, scale: int, n_alternatives: int
) -> Plan:
    """All tokens of a window at once, from alternatives at the slots of one prompt."""
    asked = [simulation_prompt(explanation, window.tokens, table, scale) for window in shown]
    requests = [Request(prompt=prompt, prompt_top_logprobs=n_alternatives) for prompt, _ in asked]

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for window, (prompt, offsets), reply, key in zip(shown, asked, replies, keys, strict=True):
            values = slot_values(reply.tokens, prompt, offsets, scale) if reply.ok else None
            columns: dict[str, Any] = {"predicted_activations": values}
            if not reply.ok:
                columns |= {"status": "error", "reason": error_reason(reply)}
            elif values is None:
                columns |= {"status": "unparsed", "reason": "the reply's tokens do not spell the prompt"}
            elif all(v is None for v in values):
                columns |= {"status": "unparsed", "reason": "no number among the alternatives at any slot"}
            judgements.append(_judgement(window, key, columns))
        return judgements

    return Plan(requests=requests, read=read)


def token_plan(
    explanation: str,
    shown: Sequence[Window],
    table: TokenTable,
    scale: int,
    n_alternatives: int,
    style: Style,
) -> Plan:
    """A request per token, from the alternatives of the one token it generates.

    A window some of whose requests failed has status `error` and keeps the values of the others.
    """
    asked = [
        token_requests(explanation, window.tokens, table, scale, n_alternatives, style) for window in shown
    ]
    starts = list(accumulate((len(requests) for requests in asked), initial=0))

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for window, start in zip(shown, starts, strict=False):
            own = replies[start : start + len(window.tokens)]
            values = [generated_value(r.tokens, scale, style) if r.ok else None for r in own]
            failed = [reply for reply in own if not reply.ok]
            columns: dict[str, Any] = {"predicted_activations": values}
            if failed:
                reason = f"{len(failed)} of {len(own)} requests failed; first: {error_reason(failed[0])}"
                columns |= {"status": "error", "reason": reason}
                if len(failed) == len(own):
                    columns |= {"predicted_activations": None}
            elif all(v is None for v in values):
                columns |= {"status": "unparsed", "reason": "no number among the alternatives at any token"}
            judgements.append(_judgement(window, keys[start], columns))
        return judgements

    return Plan(requests=[request for requests in asked for request in requests], read=read)


def json_plan(explanation: str, shown: Sequence[Window], table: TokenTable, max_tokens: int | None) -> Plan:
    """A request per window; the judge writes down an activation for each numbered token.

    `max_tokens` None: enough for the answer alone.
    """
    requests = []
    for window in shown:
        tokens = "\n".join(
            f"{i}: {quoted(token)}" for i, token in enumerate(shown_tokens(window.tokens, table), start=1)
        )
        values = {"explanation": one_line(explanation), "tokens": tokens}
        n = len(window.tokens)
        requests.append(
            Request(
                messages=load_prompt("simulation_json").messages(values),
                max_tokens=16 + 10 * n if max_tokens is None else max_tokens,
                json_schema=activation_schema(n),
            )
        )

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for window, reply, key in zip(shown, replies, keys, strict=True):
            columns: dict[str, Any] = {}
            if not reply.ok:
                columns = {"status": "error", "reason": error_reason(reply)}
            else:
                values = read_activations(reply.text or "", len(window.tokens))
                columns = {"predicted_activations": values}
                if values is None:
                    cut = " (the reply was cut off)" if reply.finish_reason == "length" else ""
                    reason = f"no object from token numbers to activations in the reply{cut}"
                    columns |= {"status": "unparsed", "reason": reason}
            judgements.append(_judgement(window, key, columns))
        return judgements

    return Plan(requests=requests, read=read)


def likelihood_plan(
    explanation: str, shown: Sequence[Window], table: TokenTable, evidence: EvidenceKind
) -> Plan:
    """Evidence for the explanation at each token; below 0 it is 0."""
    texts = [table.texts(window.tokens) for window in shown]
    plan = EvidencePlan(explanation, texts, evidence)

    def read(replies: Sequence[Reply], keys: Sequence[str]) -> list[Judgement]:
        judgements = []
        for i, (window, told) in enumerate(zip(shown, plan.read(replies), strict=True)):
            if told.values is None:
                columns: dict[str, Any] = {"status": told.status, "reason": told.reason}
                judgements.append(_judgement(window, None, columns))
                continue
            values = [float(v) for v in np.maximum(plan.on_tokens(i, told.values), 0.0)]
            key = keys[told.requests[int(np.argmax(told.values))]]
            judgements.append(_judgement(window, key, {"predicted_activations": values}))
        return judgements

    return Plan(requests=plan.requests, read=read)


def _judgement(window: Window, key: str | None, columns: Mapping[str, Any]) -> Judgement:
    return Judgement(
        example=window.example,
        kind=window.kind,
        decile=window.decile,
        request=key,
        position_in_request=0,
        **columns,
    )

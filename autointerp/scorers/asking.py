"""From requests to judged items: one call of the judge for a whole batch of explanations."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar, overload

from autointerp.llm.types import LanguageModel, Reply, Request, Usage
from autointerp.scorers.base import Item, Judged, Judgement
from autointerp.scorers.metrics import classification, headline

_MAX_REASON_CHARACTERS = 200
_BESIDE_SCHEMA = [f.name for f in fields(Request) if f.name != "json_schema"]
N = TypeVar("N")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be asked about one item, and how its judgements are read from the replies."""

    requests: Sequence[Request]
    read: Callable[[Sequence[Reply], Sequence[str]], list[Judgement]]
    """From replies and hashes of the requests, in their order."""


def carry_out(plans: Sequence[Plan], model: LanguageModel) -> list[tuple[list[Judgement], Usage]]:
    """Ask everything at once, equal requests once, and read each plan's judgements.

    The usage of a plan is that of all its own requests, shared or stored ones included: what the
    item would cost alone. A request that several items share is counted for each of them.
    """
    schemas: dict[int, str] = {}
    numbers: dict[Hashable, int] = {}
    distinct: list[Request] = []
    places: list[list[int]] = []
    for plan in plans:
        places.append([])
        for request in plan.requests:
            number = numbers.setdefault(_name(request, schemas), len(numbers))
            if number == len(distinct):
                distinct.append(request)
            places[-1].append(number)
    replies = model.complete(distinct)
    results = []
    for plan, own in zip(plans, places, strict=True):
        judgements = plan.read([replies[i] for i in own], Keys([distinct[i] for i in own], model.identity))
        usage = total_usage([replies[i] for i in dict.fromkeys(own)])
        results.append((sorted(judgements, key=lambda j: (j.example, j.kind)), usage))
    return results


def _name(request: Request, schemas: dict[int, str]) -> Hashable:
    """Equal for equal requests, and much cheaper than their hash; `schemas` holds those met as text."""
    schema = request.json_schema
    if schema is None:
        return request
    text = schemas.get(id(schema))
    if text is None:
        text = schemas[id(schema)] = json.dumps(schema, sort_keys=True, default=dict)
    return (text, *(getattr(request, name) for name in _BESIDE_SCHEMA))


class Keys(Sequence[str]):
    """Hashes of requests, each made when it is read: a window of words needs one of a hundred."""

    def __init__(self, requests: Sequence[Request], identity: str) -> None:
        self._requests, self._identity = requests, identity

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return Keys(self._requests[index], self._identity)
        return self._requests[index].key(self._identity)

    def __len__(self) -> int:
        return len(self._requests)


def total_usage(replies: Sequence[Reply]) -> Usage:
    """Sum over replies; a field that an answered request leaves unknown is unknown in the sum."""

    def values(name: str) -> list[Any]:
        told = [getattr(reply.usage, name) for reply in replies if reply.ok]
        return told + [v for r in replies if not r.ok and (v := getattr(r.usage, name)) is not None]

    return summed_usage(values)


def summed_usage(values: Callable[[str], Sequence[Any]]) -> Usage:
    """The sums of `values(field)` for each field; unknown (None) without values or with an unknown one."""

    def total(name: str) -> Any:
        told = values(name)
        return None if not told or None in told else sum(told)

    return Usage(**{field.name: total(field.name) for field in fields(Usage)})


def error_reason(reply: Reply) -> str:
    """Why a request got no answer, short enough for a column."""
    message = " ".join((reply.error_message or "").split())
    return f"{reply.error}: {message}".rstrip(": ")[:_MAX_REASON_CHARACTERS]


def failure(judgements: Sequence[Judgement], metric: str) -> str:
    """Why a headline number is undefined, from the judgements it was to be computed from."""
    if not judgements:
        return "no test windows to judge"
    if not any(j.status == "ok" for j in judgements):
        first = next((j.reason for j in judgements if j.reason), "no reason given")
        return f"no item was judged; first: {first}"
    return f"{metric} undefined: the judged items are of one class only"


def classified(
    item: Item,
    judgements: Sequence[Judgement],
    metric: str,
    usage: Usage,
    details: Mapping[str, Any],
) -> Judged:
    """The `Judged` of a scorer that says yes or no."""
    interval = headline(metric, judgements)
    status = {"status": "ok"} if interval.value is not None else {
        "status": "failed",
        "reason": failure(judgements, metric),
    }  # fmt: skip
    score = {
        "metric": metric,
        "value": interval.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "chance": 0.5,
        **status,
        **classification(judgements),
    }
    return Judged(item=item, judgements=judgements, score=score, usage=usage, details=details)


def ask_about(
    items: Sequence[Item],
    model: LanguageModel,
    prepare: Callable[[Item], tuple[Plan, N]],
    finish: Callable[[Item, N, list[Judgement], Usage], T],
    blank: Callable[[Item], T],
) -> list[T]:
    """One result per item, in order: `finish` of what was asked about it, all items at once.

    `prepare` gives an item's plan and whatever else `finish` needs. Of an item without a text nothing
    is asked: its result is `blank`.
    """
    prepared = {i: prepare(item) for i, item in enumerate(items) if item.text.strip()}
    outcomes = dict(zip(prepared, carry_out([plan for plan, _ in prepared.values()], model), strict=True))
    return [
        finish(item, prepared[i][1], *outcomes[i]) if i in prepared else blank(item)
        for i, item in enumerate(items)
    ]


def unexplained(item: Item, metric: str, chance: float | None) -> Judged:
    """The `Judged` of an item whose explanation is empty: nothing is asked."""
    score = {
        "metric": metric,
        "value": None,
        "chance": chance,
        "status": "unexplained",
        "reason": "the explanation is empty",
        "n_examples": 0,
        "n_unparsed": 0,
        "n_error": 0,
    }
    return Judged(item=item, judgements=(), score=score)

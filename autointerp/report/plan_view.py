"""The tables of `autointerp plan` and `autointerp replies`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from autointerp.analyze.plan import Amount, Plan, Scope
from autointerp.llm.replies import ModelReplies, Use
from autointerp.report import numbers
from autointerp.report.views import View

_COLUMNS = ("", "latents", "requests", "stored", "prompt tokens", "reply tokens", "cost", "at most", "time")


def plan_views(plan: Plan) -> list[View]:
    """The models, and a table per scope."""
    return [_models(plan), *(_scope(scope, plan) for scope in plan.scopes)]


def _models(plan: Plan) -> View:
    rows, notes = [], []
    for model in plan.models:
        price = model.price
        rows.append(
            [
                f"{model.role}: {model.model} ({model.backend})",
                numbers.DASH if price is None else _price(price.prompt),
                numbers.DASH if price is None else _price(price.completion),
                numbers.count(model.tokens_per_second),
            ]
        )
        source = "unknown, so its cost is unknown" if price is None else price.source
        notes.append(f"{model.role}: price {source}; tokens {model.counted}; tokens/s {model.pace}")
    columns = ("", "prompt $/M", "reply $/M", "tokens/s")
    return View(title="Models", columns=columns, rows=rows, note="\n".join(notes))


def _scope(scope: Scope, plan: Plan) -> View:
    if scope.name == "configured":
        title = "As configured"
        if plan.exact:
            note = "counted on every latent; tokens, cost and time are of what is not stored yet"
        else:
            note = (
                f"extrapolated from {plan.sampled_latents} latents per step; tokens, cost and time are of what is "
                "not stored yet"
            )
    else:
        whole = scope.name == "dictionary"
        title = f"{'All latents that are alive' if whole else 'Latents asked for'}: {scope.n_latents:,}"
        note = (
            "every explainer and scorer on every latent, nothing stored before; an upper bound where latents "
            "share requests"
        )
    rows = [_row(amount) for amount in scope.steps] + [_row(scope.total)]
    return View(title=title, columns=_COLUMNS, rows=rows, note=note)


def _row(amount: Amount) -> list[str]:
    name = amount.name
    if amount.role == "judge" and name.startswith("explain/"):
        name += " (judge)"
    note = f"  ({amount.note})" if amount.note else ""
    return [
        name + note,
        numbers.count(amount.n_latents),
        numbers.count(amount.requests),
        numbers.count(amount.stored),
        numbers.count(amount.prompt_tokens),
        numbers.count(amount.completion_tokens),
        numbers.usd(amount.cost_usd),
        numbers.usd(amount.most_usd),
        numbers.DASH if amount.hours is None else _hours(amount.hours),
    ]


def _price(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else numbers.usd(usd)


def _hours(hours: float) -> str:
    return f"{hours / 24:,.1f} days" if hours >= 48 else numbers.duration(hours * 3600)


def replies_views(models: Sequence[ModelReplies], uses: Sequence[Use]) -> list[View]:
    """What a store holds per model, and its last uses."""
    rows = [
        [
            m.model,
            numbers.count(m.n_replies),
            numbers.count(m.prompt_tokens),
            numbers.count(m.completion_tokens),
            numbers.usd(m.cost_usd),
            numbers.count(m.n_unpriced),
        ]
        for m in models
    ]
    columns = ("model", "replies", "prompt tokens", "reply tokens", "cost", "cost unknown")
    views = [View(title="Stored replies", columns=columns, rows=rows, note="errors are never stored")]
    if uses:
        shown = [
            [
                time.strftime("%Y-%m-%d %H:%M", time.localtime(use.ended)),
                use.model,
                numbers.count(use.requests),
                numbers.count(use.stored),
                numbers.share(use.stored / use.requests if use.requests else None),
                numbers.count(use.sent),
                numbers.count(use.errors),
                numbers.usd(use.cost_usd),
            ]
            for use in uses
        ]
        names = ("ended", "model", "asked", "from the store", "hits", "sent", "failed", "cost")
        views.append(View(title="Last uses, one per step", columns=names, rows=shown))
    return views

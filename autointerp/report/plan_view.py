"""The tables of `autointerp plan` and `autointerp replies`."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Sequence

from autointerp.analyze.plan import Plan, Scope
from autointerp.analyze.plan_amounts import Amount
from autointerp.analyze.plan_count import ASKS_NONE, NO_WINDOWS
from autointerp.llm.replies import ModelReplies, Use
from autointerp.report import numbers
from autointerp.report.views import View


def plan_views(plan: Plan) -> list[View]:
    """What the stages take for each scope, where that comes from, and the models."""
    scopes = [view for scope in plan.scopes for view in _scope(scope, plan)]
    return [*scopes, _machine(plan), *_models(plan)]


def _models(plan: Plan) -> list[View]:
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
        notes += [
            f"{model.role}: price {source}; tokens/s {model.pace};",
            f"  tokens {model.counted}",
        ]
    columns = ("Models", "prompt $/M", "reply $/M", "tokens/s")
    return [View(title=None, columns=columns, rows=rows, note=_wrapped(notes))] if rows else []


def _scope(scope: Scope, plan: Plan) -> list[View]:
    if scope.name == "configured":
        title = "As configured"
        if plan.windows is None:
            note = "prompts are counted once `autointerp cache` and `autointerp sample` are done (they ask no model), or --like"
        elif plan.exact:
            note = "counted on every latent; tokens, cost and time are of what is not stored yet"
        else:
            note = f"counted on {plan.sampled_latents} latents per step; tokens, cost and time are of what is not stored yet"
    else:
        whole = scope.name == "dictionary"
        all_ = "All latents that are alive" if plan.is_cached else "All latents"
        title = f"{all_ if whole else 'Latents asked for'}: {scope.n_latents:,}"
        note = "every explainer and scorer on every latent, nothing stored; an upper bound if they share requests"
    has_stored = any(amount.stored for amount in scope.steps)
    columns = ["", "latents", "requests", *["stored"] * has_stored, "tokens in", "out", "cost", "at most"]
    n_asked = len(columns)
    columns += [*["1 worker"] * (plan.workers > 1), "time", "disk"]
    rows: list[list[str]] = []
    shown = ""
    for amount in scope.steps:
        stage, slash, rest = amount.name.partition("/")
        if slash and stage != shown:
            rows.append([stage, *[""] * (len(columns) - 1)])
        shown = stage if slash else ""
        rows.append(_row(amount, f"  {rest}" if slash else stage, plan, has_stored))
    rows.append(_row(scope.total, "total", plan, has_stored))
    notes = [note]
    if scope.total.note:
        notes.append(f"total: {scope.total.note}")
    if plan.workers > 1 and "cache" in plan.alone:
        notes.append("cache: a reservoir is kept by one worker, however many there are")
    notes += _marks(scope.steps)
    at_most = n_asked - 1
    if all(row[at_most] == row[at_most - 1] for row in rows):
        columns, *rows = [[*row[:at_most], *row[n_asked:]] for row in (columns, *rows)]
        n_asked = at_most
    return _fitted(title, columns, rows, _wrapped(notes), n_asked)


def _fitted(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str, n_first: int
) -> list[View]:
    """One table; where that is too wide, its first `n_first` columns and below them the others."""
    wide = [columns, *(row for row in rows if any(row[1:]))]
    width = sum(2 + max(map(len, cells)) for cells in zip(*wide, strict=True)) - 2
    if width <= _MOST_WIDE:
        return [View(title=title, columns=columns, rows=rows, note=note)]
    others = [[row[0], *row[n_first:]] for row in (columns, *rows)]
    return [
        View(title=title, columns=columns[:n_first], rows=[row[:n_first] for row in rows]),
        View(title=None, columns=others[0], rows=others[1:], note=note),
    ]


_MOST_WIDE = 100
"""Characters of a line."""
_MARKS = {"finished": "*", ASKS_NONE: "°"}


def _marks(steps: Sequence[Amount]) -> list[str]:
    """What the signs behind names mean, and why steps were not counted."""
    said = {"*": "* finished", "°": "° asks no model; its time is this machine's"}
    used = {_MARKS.get(amount.note or "") for amount in steps}
    lines = ["   ".join(text for mark, text in said.items() if mark in used)]
    lines += sorted(
        {f"not counted: {a.name}: {a.note}" for a in steps if a.requests is None and a.note != NO_WINDOWS}
    )
    return [line for line in lines if line]


def _row(amount: Amount, name: str, plan: Plan, has_stored: bool) -> list[str]:
    if amount.role == "judge" and amount.name.startswith("explain/"):
        name += " (judge)"
    mark = _MARKS.get(amount.note or "", "")
    return [
        name + mark,
        _few(amount.n_latents),
        _few(amount.requests),
        *[_few(amount.stored)] * has_stored,
        _few(amount.prompt_tokens),
        _few(amount.completion_tokens),
        _usd(amount.cost_usd),
        _usd(amount.most_usd),
        *[_hours(amount.device_hours)] * (plan.workers > 1),
        _hours(amount.hours),
        _size(amount.bytes),
    ]


def _machine(plan: Plan) -> View:
    """What the numbers of `cache` and `sample` follow from, a column per scope."""
    scopes = _distinct(plan.scopes)
    names = [_few(scope.cache.n_latents) for scope in scopes]

    def row(name: str, read: Callable[[Scope], str]) -> list[str]:
        return [name, *(read(scope) for scope in scopes)]

    rows = [
        row("tokens read", lambda s: _few(s.cache.n_tokens)),
        row("active latents per token", lambda s: numbers.measure(s.cache.l0)),
        row("GFLOP per token, to the hook point", lambda s: _giga(s.cache.subject_flops)),
        row("GFLOP per token, encoder", lambda s: _giga(s.cache.encoder_flops)),
        row("tokens/s of one worker", lambda s: _few(s.cache.tokens_per_second)),
        row("activations kept", lambda s: _few(s.cache.n_activations)),
        *(
            [f"  disk: {name}", *(_size(scope.cache.bytes_by_dataset[name]) for scope in scopes)]
            for name in scopes[0].cache.bytes_by_dataset
        ),
        row("  disk while it works, besides", lambda s: _size(s.cache.scratch_bytes)),
        row("  memory, beside libraries", lambda s: _size(s.cache.memory_bytes)),
        row("  device: subject", lambda s: _size(s.cache.subject_bytes)),
        row("  device: dictionary", lambda s: _size(s.cache.dictionary_bytes)),
        row("windows", lambda s: _few(s.sample.n_windows)),
        row("latents/s of one worker", lambda s: _few(s.sample.latents_per_second)),
        row("  memory, beside libraries", lambda s: _size(s.sample.memory_bytes)),
    ]
    last = scopes[-1]
    notes = [f"tokens/s: {last.cache.rate}", f"latents/s: {last.sample.rate}"]
    if last.cache.firing is not None:
        notes.append(f"how unequally latents fire, and bytes per row: as in {last.cache.firing}")
    if plan.windows is not None:
        notes.append(f"prompts: built on windows of {plan.windows}")
    notes.append("sizes: " + ", ".join(f"{name} {source}" for name, source in plan.sizes.items()))
    columns = ["Cache and sample of a dictionary of", *names]
    return View(title=None, columns=columns, rows=rows, note=_wrapped(notes))


def _distinct(scopes: Sequence[Scope]) -> list[Scope]:
    """One scope per size of the dictionary."""
    found: dict[int | None, Scope] = {}
    for scope in scopes:
        found.setdefault(scope.cache.n_latents, scope)
    return list(found.values())


def _wrapped(lines: Sequence[str]) -> str:
    wrapper = textwrap.TextWrapper(_MOST_WIDE, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(part for line in lines for part in wrapper.wrap(line))


def _few(value: float | None) -> str:
    """A number in a narrow column: whole below 100,000, then with a unit."""
    if value is None:
        return numbers.DASH
    for size, unit in ((1e12, "tn"), (1e9, "bn"), (1e6, "M"), (1e5, "k")):
        if value >= size * (0.9995 if size != 1e5 else 1):
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return numbers.count(round(value))


def _giga(value: float | None) -> str:
    return numbers.measure(None if value is None else value / 1e9)


def _size(value: float | None) -> str:
    """Bytes, with a decimal unit."""
    if value is None:
        return numbers.DASH
    for size, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1e3 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} B"


def _usd(value: float | None) -> str:
    return f"${value:,.0f}" if value is not None and value >= 10_000 else numbers.usd(value)


def _price(usd: float) -> str:
    return f"${usd:,.2f}" if usd >= 0.1 or usd == 0 else numbers.usd(usd)


def _hours(hours: float | None) -> str:
    if hours is None:
        return numbers.DASH
    for size, unit in ((24.0, "d"), (1.0, "h"), (1 / 60, "min")):
        if hours >= size * (2 if unit == "d" else 1):
            return f"{hours / size:,.1f} {unit}"
    return f"{hours * 3600:.1f} s"


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

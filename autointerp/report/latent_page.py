"""One latent as its page shows it: everything read, chosen and put into words, ready to lay out."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.report import numbers
from autointerp.report.labels_view import LabelTable, Score, label_table, labels_of, score_of
from autointerp.report.replies_view import DISK, Asked, Exchanges, Limits, requests_in_order
from autointerp.report.svg_latent import activation_histogram
from autointerp.report.windows_view import (
    DecileGroup,
    Judged,
    Shader,
    Simulated,
    by_decile,
    judged_windows,
    simulated_windows,
)
from autointerp.run import Run, printable
from autointerp.sampling.windows import TokenTable, Window

LATENTS_AT_ONCE = 50
N_TOKENS = 12
"""Tokens and logits listed."""
N_FIRES = 4
"""Tokens listed of a similar latent that has no label."""
_COLUMNS: dict[str, list[str] | None] = {
    "latents": None,
    "examples": None,
    "explanations": None,
    "scores": [
        "latent",
        "explanation",
        "scorer",
        "value",
        "ci_low",
        "ci_high",
        "chance",
        "status",
        "reason",
        "tp",
        "fp",
        "tn",
        "fn",
        "n_unparsed",
        "n_error",
    ],
    "judgements": [
        "latent",
        "explanation",
        "scorer",
        "example",
        "kind",
        "request",
        "label",
        "prediction",
        "probability",
        "log_odds",
        "predicted_activations",
        "status",
        "reason",
    ],
}


@dataclass(frozen=True, kw_only=True)
class TokenLine:
    """A token with a number and the length of its bar in percent."""

    text: str
    value: str
    bar: int
    tip: str
    """What it is, where its text does not say; else empty."""


@dataclass(frozen=True, kw_only=True)
class Similar:
    """A latent whose decoder direction is near."""

    latent: int
    cosine: str
    title: str | None
    fires: str
    """The tokens it fires on most; empty if it is dead, or has a title."""


@dataclass(frozen=True, kw_only=True)
class LatentPage:
    """A latent's page."""

    latent: int
    status: str
    title: str | None
    title_explainer: str | None
    problem: str | None
    facts: list[tuple[str, str]]
    histogram: Markup | None
    every_token: bool
    """Whether the histogram is of every token it is active on (else of its deciles)."""
    top_tokens: list[TokenLine]
    top_logits: list[TokenLine]
    bottom_logits: list[TokenLine]
    similar: list[Similar]
    labels: LabelTable
    own_scores: list[tuple[str, Score]]
    """Numbers of the latent itself, judged without a label, under their scorer's name."""
    deciles: list[DecileGroup]
    n_windows: int
    """Activating windows there are."""
    judged: Judged
    simulated: list[Simulated]
    asked: Exchanges
    """The requests behind `judged` and `simulated`, with their replies."""

    @property
    def shows_windows(self) -> int:
        """Activating windows shown."""
        return sum(len(group.windows) for group in self.deciles)


def latent_pages(
    run: Run, latents: Sequence[int], scorers: Sequence[str], n_windows: int, limits: Limits = DISK
) -> Iterator[LatentPage]:
    """The pages of some latents, in their order; reads a few dozen latents at a time.

    A latent the run does not have is left out. `limits` are those of requests and replies on a page.
    """
    with Asked(run, limits) as asked:
        yield from _pages(run, latents, scorers, n_windows, asked)


def _pages(
    run: Run, latents: Sequence[int], scorers: Sequence[str], n_windows: int, asked: Asked
) -> Iterator[LatentPage]:
    for first in range(0, len(latents), LATENTS_AT_ONCE):
        some = latents[first : first + LATENTS_AT_ONCE]
        rows = {
            name: _by_latent(run.table(name, latents=some, columns=columns))
            for name, columns in _COLUMNS.items()
        }
        near = [row["latent"] for found in rows["latents"].values() for row in found[0]["neighbours"] or []]
        titles = _titles(run, near)
        fires = _fires(run, sorted(set(near) - set(titles)))
        values = _activations(run, some)
        for latent in some:
            if latent in rows["latents"]:
                mine = {name: found.get(latent, []) for name, found in rows.items()}
                yield _latent_page(run, mine, scorers, n_windows, values.get(latent), titles, fires, asked)


def _by_latent(table: pa.Table) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["latent"], []).append(row)
    return found


def _activations(run: Run, latents: Sequence[int]) -> dict[int, np.ndarray]:
    table = run.table("activations", columns=["latent", "activation"], latents=latents)
    ids = table.column("latent").to_numpy()
    values = table.column("activation").to_numpy()
    order = np.argsort(ids, kind="stable")
    found, starts = np.unique(ids[order], return_index=True)
    return dict(zip(found.tolist(), np.split(values[order], starts[1:]), strict=True)) if len(ids) else {}


def _titles(run: Run, latents: Sequence[int]) -> dict[int, str]:
    """The first real label of each latent that has one."""
    if not latents:
        return {}
    table = run.table(
        "explanations",
        latents=latents,
        columns=["latent", "explanation", "explainer", "control", "text", "status"],
    )
    table = table.filter((pc.field("status") == "ok") & pc.field("control").is_null())
    found: dict[int, tuple[tuple[int, str], str]] = {}
    order = run.config.explain.explainers
    for row in table.to_pylist():
        place = order.index(row["explainer"]) if row["explainer"] in order else len(order)
        key = (place, row["explanation"])
        if row["latent"] not in found or key < found[row["latent"]][0]:
            found[row["latent"]] = (key, printable(row["text"]))
    return {latent: text for latent, (_, text) in found.items()}


def _fires(run: Run, latents: Sequence[int]) -> dict[int, str]:
    """The tokens some latents fire on most."""
    if not latents:
        return {}
    rows = run.table("latents", latents=latents, columns=["latent", "top_tokens"]).to_pylist()
    return {
        row["latent"]: "  ".join(
            token_text(run.tokens, top["token"]) for top in (row["top_tokens"] or [])[:N_FIRES]
        )
        for row in rows
    }


def _latent_page(
    run: Run,
    rows: Mapping[str, list[dict[str, Any]]],
    scorers: Sequence[str],
    n_windows: int,
    values: np.ndarray | None,
    titles: Mapping[int, str],
    fires: Mapping[int, str],
    asked: Asked,
) -> LatentPage:
    (s,) = rows["latents"]
    windows = [Window.from_row(row) for row in rows["examples"]]
    labels = labels_of(rows["explanations"], rows["scores"], run.config.explain.explainers, scorers)
    own = {row["scorer"]: row for row in rows["scores"] if row["explanation"] == NO_EXPLAINER}
    own_scores = [(scorer, score) for scorer in scorers if (score := score_of(own.get(scorer)))]
    peak = s["max_activation"] or 0.0
    shade = Shader(run.tokens, peak)
    titled = next((label for label in labels if label.text and not label.control), None)
    failed = next((label for label in labels if label.problem), None)
    quantiles = s["quantiles"] or []
    # A cache with a reservoir keeps some contexts only, the strongest among them: no fair sample.
    every = values if values is not None and len(values) == s["n_active_tokens"] else None
    judged = judged_windows(rows["judgements"], windows, shade, scorers)
    simulated = simulated_windows(rows["judgements"], windows, shade, scorers, n_windows)
    requests = [*judged.requests(), *((False, x.request) for some in simulated for x in some.expected)]
    return LatentPage(
        latent=s["latent"],
        status=s["status"],
        title=titled.text if titled else None,
        title_explainer=titled.explainer if titled else None,
        problem=None if titled else failed.problem if failed else None,
        facts=_facts(s),
        histogram=activation_histogram(every, quantiles) if len(quantiles) == 11 and peak > 0 else None,
        every_token=every is not None,
        top_tokens=_top_tokens(run.tokens, s["top_tokens"] or []),
        top_logits=_logits(run.tokens, s["top_logits"]),
        bottom_logits=_logits(run.tokens, s["bottom_logits"]),
        similar=[
            Similar(
                latent=row["latent"],
                cosine=numbers.rate(row["cosine"]),
                title=titles.get(row["latent"]),
                fires=fires.get(row["latent"], ""),
            )
            for row in s["neighbours"] or []
        ],
        labels=label_table(labels, scorers),
        own_scores=own_scores,
        deciles=by_decile(windows, shade, n_windows),
        n_windows=sum(w.activating for w in windows),
        judged=judged,
        simulated=simulated,
        asked=asked.exchanges(requests_in_order(requests)),
    )


def _facts(s: dict[str, Any]) -> list[tuple[str, str]]:
    quantiles = s["quantiles"] or []
    facts = [
        ("active tokens", numbers.count(s["n_active_tokens"])),
        ("contexts", numbers.count(s["n_active_contexts"])),
        ("density", numbers.measure(s["density"])),
        ("largest", numbers.measure(s["max_activation"])),
        ("mean", numbers.measure(s["mean_activation"])),
    ]
    if len(quantiles) == 11:
        facts.append(("median", numbers.measure(quantiles[5])))
    return facts


def _top_tokens(tokens: TokenTable, rows: Sequence[dict[str, Any]]) -> list[TokenLine]:
    return [
        TokenLine(
            text=token_text(tokens, row["token"]),
            value=f"{numbers.count(row['n_active'])}×",
            bar=round(100 * row["total"] / rows[0]["total"]),
            tip=part_of_character(tokens, row["token"]),
        )
        for row in rows[:N_TOKENS]
    ]


def _logits(tokens: TokenTable, rows: Sequence[dict[str, Any]] | None) -> list[TokenLine]:
    rows = (rows or [])[:N_TOKENS]
    largest = max((abs(row["logit"]) for row in rows), default=0.0) or 1.0
    return [
        TokenLine(
            text=token_text(tokens, row["token"]),
            value=numbers.measure(row["logit"]),
            bar=round(100 * abs(row["logit"]) / largest),
            tip=part_of_character(tokens, row["token"]),
        )
        for row in rows
    ]


def part_of_character(tokens: TokenTable, token: int) -> str:
    """What a token is whose bytes are no whole characters; empty for all others."""
    piece = tokens.pieces[token]
    try:
        (piece or b"").decode("utf-8")
    except UnicodeDecodeError:
        assert piece is not None
        return f"part of a character: {'byte' if len(piece) == 1 else 'bytes'} {piece.hex(' ')}"
    return ""


def token_text(tokens: TokenTable, token: int) -> str:
    """A token with its spaces made visible; by its code points if nothing of it can be seen."""
    text = printable(tokens.readable(token))
    if text.strip(" ") and all(c.isspace() or unicodedata.category(c)[0] in "MC" for c in text):
        return "".join(f"\\u{ord(c):04x}" for c in text)
    return text.replace(" ", "␣")

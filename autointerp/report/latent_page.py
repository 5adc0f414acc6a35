"""One latent as a report shows it: everything read, chosen and put into words, ready to lay out."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import pyarrow as pa

from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.report import numbers
from autointerp.report.selection import spread_over_deciles
from autointerp.run import Run, printable
from autointerp.sampling.windows import TokenTable, Window

N_LEVELS = 10
"""Shades of activation."""
LATENTS_AT_ONCE = 50
_COLUMNS: dict[str, list[str] | None] = {
    "latents": None,
    "examples": None,
    "explanations": [
        "latent",
        "explanation",
        "explainer",
        "control",
        "source_latent",
        "text",
        "status",
        "reason",
    ],
    "scores": None,
    "judgements": ["latent", "explanation", "scorer", "example", "kind", "label", "prediction", "status"],
}


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A run of window text: silent (level 0) or one active token, with its activation in words."""

    text: str
    level: int
    value: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one explanation, and what stands behind it."""

    value: float | None
    shown: str
    interval: str
    note: str
    """Counts of right and unreadable judgements, or why there is no number."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """One explanation with its scores, in the order of the page's scorers (None: not judged)."""

    explanation: str
    explainer: str
    control: str | None
    source_latent: int | None
    text: str | None
    problem: str | None
    scores: list[Score | None]


@dataclass(frozen=True, kw_only=True)
class ShownWindow:
    """A window as pieces, and the judges' decisions on it in the order of `LatentPage.judges`."""

    split: str
    kind: str
    decile: int | None
    peak: str
    pieces: list[Piece]
    decisions: list[tuple[str, str]]
    """(class, word): class is `right`, `wrong`, `bad`, `done` or `none`."""


@dataclass(frozen=True, kw_only=True)
class LatentPage:
    """A latent's section of the page."""

    latent: int
    status: str
    title: str | None
    title_explainer: str | None
    problem: str | None
    facts: list[tuple[str, str]]
    density: float
    top_tokens: list[tuple[str, str, int]]
    """(token, how often it is active on it, summed activation in percent of the first's)."""
    top_logits: list[tuple[str, str]]
    bottom_logits: list[tuple[str, str]]
    labels: list[Label]
    windows: list[ShownWindow]
    judges: list[str]
    judged: list[ShownWindow]
    search: str
    """Lower-case text the search box looks through."""

    own_scores: list[Score | None]
    """In the order of the page's scorers: numbers of the latent itself, judged without a label."""

    @property
    def headline(self) -> list[Score | None]:
        """Scores of the first label that has a text, and the latent's own."""
        titled = next((label.scores for label in self.labels if label.text and not label.control), [])
        return [own or score for own, score in zip_longest(self.own_scores, titled)]


def latent_pages(
    run: Run, latents: Sequence[int], scorers: Sequence[str], n_windows: int
) -> Iterator[LatentPage]:
    """The sections of some latents, in their order; reads a few dozen latents at a time."""
    for first in range(0, len(latents), LATENTS_AT_ONCE):
        some = latents[first : first + LATENTS_AT_ONCE]
        rows = {
            name: _by_latent(run.table(name, latents=some, columns=columns))
            for name, columns in _COLUMNS.items()
        }
        for latent in some:
            mine = {name: found.get(latent, []) for name, found in rows.items()}
            yield _latent_page(run, mine, scorers, n_windows)


def _by_latent(table: pa.Table) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        found.setdefault(row["latent"], []).append(row)
    return found


def _latent_page(
    run: Run, rows: Mapping[str, list[dict[str, Any]]], scorers: Sequence[str], n_windows: int
) -> LatentPage:
    (s,) = rows["latents"]
    latent = s["latent"]
    windows = [Window.from_row(row) for row in rows["examples"]]
    labels = _labels(rows["explanations"], rows["scores"], run.config.explain.explainers, scorers)
    judges, decisions = _decisions(rows["judgements"], scorers, {w.example: w.kind for w in windows})
    own = [row for row in rows["scores"] if row["explanation"] == NO_EXPLAINER]
    own_scores = [_score(next((r for r in own if r["scorer"] == scorer), None)) for scorer in scorers]
    peak = s["max_activation"] or 0.0
    test = [w for w in windows if w.split == "test"]
    judged = spread_over_deciles([w for w in test if w.activating], (n_windows + 1) // 2)
    judged += sorted((w for w in test if not w.activating), key=lambda w: w.example)[: n_windows // 2]
    titled = next((label for label in labels if label.text and not label.control), None)
    failed = next((label for label in labels if label.problem), None)
    top = (s["top_tokens"] or [])[:12]
    tokens = [
        (
            _token(run.tokens, row["token"]),
            f"{numbers.count(row['n_active'])}×",
            round(100 * row["total"] / top[0]["total"]),
        )
        for row in top
    ]
    texts = [label.text for label in labels if label.text and not label.control]
    return LatentPage(
        latent=latent,
        status=s["status"],
        title=titled.text if titled else None,
        title_explainer=titled.explainer if titled else None,
        problem=None if titled else failed.problem if failed else None,
        facts=[*_facts(s), *[(scorers[i], own.shown) for i, own in enumerate(own_scores) if own]],
        density=s["density"],
        top_tokens=tokens,
        top_logits=_logits(run.tokens, s["top_logits"]),
        bottom_logits=_logits(run.tokens, s["bottom_logits"]),
        labels=labels,
        windows=[
            _shown(w, run.tokens, peak, [])
            for w in spread_over_deciles([w for w in windows if w.activating], n_windows)
        ],
        own_scores=own_scores,
        judges=judges,
        judged=[
            _shown(w, run.tokens, peak, [found.get(w.example, ("none", numbers.DASH)) for found in decisions])
            for w in judged
        ]
        if judges
        else [],
        search=" ".join([str(latent), s["status"], *texts, *(t for t, _, _ in tokens)]).casefold(),
    )


def pieces_of(window: Window, tokens: TokenTable, peak: float) -> list[Piece]:
    """A window's text in runs; each active token is a run of its own with a level from 1 to 10.

    The space before an active word stays outside its run.
    """
    out: list[Piece] = []
    for text, activation in zip(tokens.texts(window.tokens), window.activations.tolist(), strict=True):
        text = printable(text)
        if activation > 0 and text.startswith(" ") and text.strip():
            text = text[1:]
            _add_silent(out, " ")
        if not text:
            continue
        if activation > 0:
            shade = max(1, min(N_LEVELS, math.ceil(N_LEVELS * activation / peak))) if peak > 0 else 1
            out.append(Piece(text=text, level=shade, value=numbers.measure(activation)))
        else:
            _add_silent(out, text)
    return out


def _add_silent(pieces: list[Piece], text: str) -> None:
    if pieces and pieces[-1].level == 0:
        pieces[-1] = Piece(text=pieces[-1].text + text, level=0, value="")
    else:
        pieces.append(Piece(text=text, level=0, value=""))


def _shown(window: Window, tokens: TokenTable, peak: float, decisions: list[tuple[str, str]]) -> ShownWindow:
    return ShownWindow(
        split=window.split,
        kind=window.kind,
        decile=window.decile,
        peak=numbers.measure(window.max_activation) if window.activating else numbers.DASH,
        pieces=pieces_of(window, tokens, peak),
        decisions=decisions,
    )


def _labels(
    explanations: list[dict[str, Any]],
    score_rows: list[dict[str, Any]],
    order: Sequence[str],
    scorers: Sequence[str],
) -> list[Label]:
    scores = {(row["explanation"], row["scorer"]): row for row in score_rows}
    rows = sorted(
        explanations,
        key=lambda r: (
            order.index(r["explainer"]) if r["explainer"] in order else len(order),
            r["explainer"],
            r["control"] is not None,
            r["explanation"],
        ),
    )
    return [
        Label(
            explanation=row["explanation"],
            explainer=row["explainer"],
            control=row["control"],
            source_latent=row["source_latent"],
            text=None if row["text"] is None else printable(row["text"]),
            problem=None if row["status"] == "ok" else f"{row['status']}: {printable(row['reason'] or '')}",
            scores=[_score(scores.get((row["explanation"], scorer))) for scorer in scorers],
        )
        for row in rows
    ]


def _score(row: dict[str, Any] | None) -> Score | None:
    if row is None or row["status"] == "unexplained":
        return None
    notes = []
    if row["tp"] is not None:
        decided = row["tp"] + row["fp"] + row["tn"] + row["fn"]
        notes.append(f"{row['tp'] + row['tn']} of {decided} right")
    if row["n_unparsed"]:
        notes.append(f"{row['n_unparsed']} unparsed")
    if row["n_error"]:
        notes.append(f"{row['n_error']} without reply")
    if row["status"] != "ok":
        notes.insert(0, printable(row["reason"] or row["status"]))
    return Score(
        value=row["value"],
        shown=numbers.score(row["value"]),
        interval=numbers.interval(row["ci_low"], row["ci_high"]),
        note=", ".join(notes),
    )


def _decisions(
    judgements: list[dict[str, Any]], scorers: Sequence[str], kinds: Mapping[int, str]
) -> tuple[list[str], list[dict[int, tuple[str, str]]]]:
    """Names of the judges of real explanations, and for each its decision by window.

    `kinds` are the windows' kinds. A scorer whose items are not the windows themselves (it judges what
    an intervention does, say) is left out.
    """
    elsewhere = {
        row["scorer"]
        for row in judgements
        if row["kind"] not in ("mismarked", kinds.get(row["example"], row["kind"]))
    }
    judgements = [row for row in judgements if row["scorer"] not in elsewhere]
    found: dict[tuple[int, str, str], dict[int, tuple[str, str]]] = {}
    for row in judgements:
        explainer = row["explanation"].rsplit("/", 1)[0]
        if explainer.endswith(".shuffled") or row["kind"] == "mismarked":
            continue
        place = scorers.index(row["scorer"]) if row["scorer"] in scorers else len(scorers)
        by_window = found.setdefault((place, row["scorer"], row["explanation"]), {})
        by_window.setdefault(row["example"], _decision(row))
    keys = sorted(found)
    names = [
        scorer if explanation == NO_EXPLAINER else f"{scorer} · {explanation.removesuffix('/0')}"
        for _, scorer, explanation in keys
    ]
    return names, [found[key] for key in keys]


def _decision(row: dict[str, Any]) -> tuple[str, str]:
    if row["status"] != "ok":
        return ("bad", row["status"])
    if row["prediction"] is None:
        return ("done", "judged")
    word = "yes" if row["prediction"] else "no"
    if row["label"] is None:
        return ("done", word)
    return ("right" if row["prediction"] == row["label"] else "wrong", word)


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


def _logits(tokens: TokenTable, rows: list[dict[str, Any]] | None) -> list[tuple[str, str]]:
    return [(_token(tokens, row["token"]), numbers.measure(row["logit"])) for row in (rows or [])[:12]]


def _token(tokens: TokenTable, token: int) -> str:
    """A token with its spaces made visible; by its code points if nothing of it can be seen."""
    text = printable(tokens.readable(token))
    if text.strip(" ") and all(c.isspace() or unicodedata.category(c)[0] in "MC" for c in text):
        return "".join(f"\\u{ord(c):04x}" for c in text)
    return text.replace(" ", "␣")

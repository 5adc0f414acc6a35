"""The explanations of a latent with their scores, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from autointerp.report import numbers
from autointerp.report.svg import domain_of, drawing
from autointerp.report.trajectories import Searches, searches_of
from autointerp.run import printable


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one explanation, and what stands behind it."""

    value: float | None
    low: float | None
    high: float | None
    chance: float | None
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
    facts: list[tuple[str, str]]
    """Model, tokens, cost and time, where known."""
    details: str
    """What the explainer recorded, as indented JSON; empty if nothing."""
    searches: Searches | None
    """What a gradient explainer recorded of its searches; None if nothing."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One scorer on one explanation and on its control."""

    real: Score | None
    control: Score | None
    drawing: Markup | None


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One scorer on every explanation, in the order of `LabelTable.labels`."""

    scorer: str
    cells: list[Cell]


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The real explanations side by side, under each its scores."""

    labels: list[Label]
    controls: list[Label | None]
    """The control of each."""
    lines: list[ScoreLine]


def label_table(labels: Sequence[Label], scorers: Sequence[str]) -> LabelTable:
    """Explanations as columns, scorers that judged any of them as lines."""
    real = [label for label in labels if label.control is None]
    by_name = {(label.explainer, _number(label)): label for label in labels if label.control is not None}
    controls = [by_name.get((label.explainer, _number(label))) for label in real]
    lines = []
    for i, scorer in enumerate(scorers):
        pairs = [(a.scores[i], b.scores[i] if b else None) for a, b in zip(real, controls, strict=True)]
        if any(score is not None for pair in pairs for score in pair):
            domain = domain_of([x for pair in pairs for score in pair for x in _ends(score)])
            cells = [
                Cell(real=a, control=b, drawing=score_bar(a, b, domain) if a or b else None) for a, b in pairs
            ]
            lines.append(ScoreLine(scorer=scorer, cells=cells))
    return LabelTable(labels=real, controls=controls, lines=lines)


def _number(label: Label) -> str:
    """The part of an explanation's id behind its explainer."""
    return label.explanation.rsplit("/", 1)[-1]


def _ends(score: Score | None) -> list[float]:
    known = (score.value, score.low, score.high, score.chance) if score else ()
    return [x for x in known if x is not None]


def score_bar(real: Score | None, control: Score | None, domain: tuple[float, float]) -> Markup:
    """A score and its interval above those of its control, on one axis with the chance level."""
    width, height, left = 170, 26, 6
    low, high = domain

    def at(value: float) -> str:
        return f"{left + (min(max(value, low), high) - low) / (high - low) * (width - 2 * left):.1f}"

    parts = [f'<line class="axis" x1="{left}" x2="{width - left}" y1="13" y2="13"/>']
    chance = next((s.chance for s in (real, control) if s and s.chance is not None), None)
    if chance is not None:
        parts.append(f'<line class="chance" x1="{at(chance)}" x2="{at(chance)}" y1="1" y2="25"/>')
    for name, y, score in (("control", 19, control), ("real", 7, real)):
        if score is None or score.value is None:
            continue
        if score.low is not None and score.high is not None:
            ends = f'x1="{at(score.low)}" x2="{at(score.high)}"'
            parts.append(f'<line class="{name} bar" {ends} y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="{name}" cx="{at(score.value)}" cy="{y}" r="3.5"/>')
    said = [f"{name} {s.shown} {s.interval}" for name, s in (("score", real), ("control", control)) if s]
    return drawing(width, height, "intervals", ", ".join(said), parts)


def labels_of(
    explanations: Sequence[Mapping[str, Any]],
    score_rows: Sequence[Mapping[str, Any]],
    order: Sequence[str],
    scorers: Sequence[str],
) -> list[Label]:
    """Rows of `explanations` and `scores` of one latent as labels; explainers in the given order."""
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
        _label(row, [score_of(scores.get((row["explanation"], scorer))) for scorer in scorers])
        for row in rows
    ]


def _label(row: Mapping[str, Any], scores: list[Score | None]) -> Label:
    details = _details(row["details"])
    shown = {key: value for key, value in details.items() if key != "trajectories"}
    return Label(
        explanation=row["explanation"],
        explainer=row["explainer"],
        control=row["control"],
        source_latent=row["source_latent"],
        text=None if row["text"] is None else printable(row["text"]),
        problem=None if row["status"] == "ok" else f"{row['status']}: {printable(row['reason'] or '')}",
        scores=scores,
        facts=_facts(row),
        details=_indented(shown) if shown else "",
        searches=searches_of(details, row["text"]),
    )


def score_of(row: Mapping[str, Any] | None) -> Score | None:
    """A row of `scores` as shown; None if there was nothing to judge."""
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
        low=row["ci_low"],
        high=row["ci_high"],
        chance=row["chance"],
        shown=numbers.score(row["value"]),
        interval=numbers.ends(row["value"], row["ci_low"], row["ci_high"]),
        note=", ".join(notes),
    )


def _facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("model", None if row["model"] is None else printable(row["model"])),
        ("tokens sent", row["prompt_tokens"] and numbers.count(row["prompt_tokens"])),
        ("tokens generated", row["completion_tokens"] and numbers.count(row["completion_tokens"])),
        ("cost", None if row["cost_usd"] is None else numbers.usd(row["cost_usd"])),
        ("time", None if row["seconds"] is None else numbers.duration(row["seconds"])),
    ]
    return [(name, value) for name, value in facts if value]


def _details(text: str) -> dict[str, Any]:
    """The recorded JSON; what is no object of JSON is shown as it is."""
    try:
        found = json.loads(text)
    except ValueError:
        found = text
    return found if isinstance(found, dict) else {"details": found}


def _indented(details: Mapping[str, Any]) -> str:
    lines = json.dumps(details, indent=2, ensure_ascii=False, sort_keys=True).split("\n")
    return "\n".join(printable(line) for line in lines)

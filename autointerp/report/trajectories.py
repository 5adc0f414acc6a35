"""Drawings of a gradient explainer's search, where it recorded that, and what the search has to do with the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from autointerp.report.trajectory_svg import is_label, trajectory_svg
from autointerp.run import printable

_BY = "gradient"
"""Source of a candidate that a search proposed."""


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One recorded search: its drawing, or why there is none."""

    drawing: Markup | None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Searches:
    """The recorded searches of one label."""

    trajectories: list[Trajectory]
    led: bool
    """Whether a search proposed the label."""
    note: str
    """Where the label is from, if no search proposed it; else empty."""
    thick: bool
    """Whether the label is drawn thick in a chart."""


def searches_of(details: Mapping[str, Any], label: str | None) -> Searches | None:
    """Key `trajectories` of an explanation's details as drawings; a record that cannot be drawn says so.

    None if nothing is recorded. A label is led to by a search if the explainer says so (`answered_by`, and
    the `sources` of its candidates); where it does not say, if the label is among the tokens of a chart.
    """
    recorded = details.get("trajectories")
    rows = recorded if isinstance(recorded, list) else [] if recorded is None else [recorded]
    if not rows:
        return None
    trajectories = [_trajectory(row, label) for row in rows]
    drawn = [row for row, made in zip(rows, trajectories, strict=True) if made.drawing is not None]
    thick = label is not None and any(is_label(str(token), label) for row in drawn for token in row["tokens"])
    note = _not_led(details, label, thick)
    return Searches(trajectories=trajectories, led=not note, note=note, thick=thick)


def _not_led(details: Mapping[str, Any], label: str | None, charted: bool) -> str:
    """Why no search led to the label; empty if one did."""
    answered_by = details.get("answered_by")
    if label is None:
        return "It led to no label."
    if answered_by == "words":
        return "The label was not found by it: it was taken from the words themselves."
    if answered_by is not None:
        return f"The label was not found by it: it was answered by {printable(str(answered_by))}."
    sources = _sources(details.get("candidates"), label)
    if sources and _BY not in sources:
        return f"The label was not proposed by it, but by: {', '.join(map(printable, sources))}."
    if not sources and not charted:
        return "The label is in none of its charts."
    return ""


def _sources(candidates: object, label: str) -> list[str]:
    """Who proposed the label, of the candidates an explainer recorded; empty if it is not told."""
    if not isinstance(candidates, Sequence) or isinstance(candidates, str):
        return []
    mine = [one for one in candidates if isinstance(one, Mapping) and is_label(str(one.get("label")), label)]
    return [str(source) for one in mine[:1] for source in one.get("sources") or []]


def _trajectory(row: object, label: str | None) -> Trajectory:
    try:
        drawing = trajectory_svg(row, label) if isinstance(row, Mapping) else Markup("")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return Trajectory(
            drawing=None, problem=f"a search is recorded that cannot be drawn ({type(error).__name__})"
        )
    if not drawing:
        return Trajectory(drawing=None, problem="a search is recorded that cannot be drawn")
    return Trajectory(drawing=drawing)

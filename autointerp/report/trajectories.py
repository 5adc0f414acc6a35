"""Drawings of how a gradient explainer came to its label, where it recorded that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from autointerp.report.trajectory_svg import trajectory_svg


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One recorded search: its drawing, or why there is none."""

    drawing: Markup | None
    problem: str | None = None


def trajectories_of(recorded: object, label: str | None) -> list[Trajectory]:
    """Key `trajectories` of an explanation's details as drawings; a record that cannot be drawn says so."""
    if recorded is None:
        return []
    rows = recorded if isinstance(recorded, list) else [recorded]
    return [_trajectory(row, label) for row in rows]


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

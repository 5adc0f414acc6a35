"""Small charts as inline SVG: no library, no script; colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup, escape

from autointerp.analyze.summary import SummaryRow
from autointerp.report import numbers

N_BINS = 24


def domain_of(values: Sequence[float]) -> tuple[float, float]:
    """The axis for some scores: 0 to 1 or -1 to 1 where they fit, else their range a little widened."""
    if not len(values):
        return (0.0, 1.0)
    low, high = float(min(values)), float(max(values))
    if low >= 0 and high <= 1:
        return (0.0, 1.0)
    if low >= -1 and high <= 1:
        return (-1.0, 1.0)
    pad = 0.05 * (high - low) or 1.0
    return (low - pad, high + pad)


def histogram(
    real: Sequence[float],
    control: Sequence[float],
    domain: tuple[float, float],
    chance: float | None,
    label: str,
) -> Markup:
    """Scores of the real explanations as bars, those of the control as an outline over them.

    Both are shares of their own number, so that they compare when the numbers differ.
    """
    width, height, floor, left = 300, 132, 108, 6
    span = width - 2 * left
    bars, outline = (_shares(values, domain) for values in (real, control))
    top = max(float(bars.max(initial=0)), float(outline.max(initial=0)), 1e-9)
    step = span / N_BINS
    parts = []
    for i, value in enumerate(bars.tolist()):
        if value > 0:
            tall = value / top * (floor - 14)
            parts.append(
                f'<rect class="real" x="{left + i * step + 0.75:.2f}" y="{floor - tall:.2f}" '
                f'width="{step - 1.5:.2f}" height="{tall:.2f}" rx="1"/>'
            )
    if len(control):
        points = [(float(left), float(floor))]
        for i, value in enumerate(outline.tolist()):
            y = floor - value / top * (floor - 14)
            points += [(left + i * step, y), (left + (i + 1) * step, y)]
        points.append((left + span, float(floor)))
        parts.append(
            f'<polyline class="control" points="{" ".join(f"{x:.2f},{y:.2f}" for x, y in points)}"/>'
        )
    parts.append(f'<line class="axis" x1="{left}" x2="{left + span}" y1="{floor}" y2="{floor}"/>')
    low, high = domain
    if chance is not None and low <= chance <= high:
        x = left + (chance - low) / (high - low) * span
        parts.append(f'<line class="chance" x1="{x:.2f}" x2="{x:.2f}" y1="8" y2="{floor}"/>')
    for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        text = escape(numbers.measure(low + at * (high - low)))
        parts.append(
            f'<text x="{left + at * span:.1f}" y="{floor + 16}" text-anchor="{anchor}">{text}</text>'
        )
    return drawing(width, height, "histogram", label, parts)


def intervals(row: SummaryRow, domain: tuple[float, float]) -> Markup:
    """Mean and interval of a summary row (above) and of its control (below) on one axis."""
    width, height, left = 220, 30, 6
    low, high = domain

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (width - 2 * left)

    parts = [f'<line class="axis" x1="{left}" x2="{width - left}" y1="15" y2="15"/>']
    if row.chance is not None:
        x = at(row.chance)
        parts.append(f'<line class="chance" x1="{x:.1f}" x2="{x:.1f}" y1="2" y2="28"/>')
    series = (
        ("control", 21.5, row.control_mean, row.control_low, row.control_high),
        ("real", 8.5, row.mean, row.low, row.high),
    )
    for name, y, mean, lower, upper in series:
        if lower is not None and upper is not None:
            parts.append(
                f'<line class="{name} bar" x1="{at(lower):.1f}" x2="{at(upper):.1f}" y1="{y}" y2="{y}"/>'
            )
        if mean is not None:
            parts.append(f'<circle class="{name}" cx="{at(mean):.1f}" cy="{y}" r="4"/>')
    label = (
        f"mean {numbers.score(row.mean)} {numbers.interval(row.low, row.high)}, "
        f"control {numbers.score(row.control_mean)} {numbers.interval(row.control_low, row.control_high)}"
    )
    return drawing(width, height, "intervals", label, parts)


def _shares(values: Sequence[float], domain: tuple[float, float]) -> np.ndarray:
    counts, _ = np.histogram(np.clip(np.asarray(values, dtype=float), *domain), bins=N_BINS, range=domain)
    return counts / max(1, len(values))


def drawing(width: int, height: int, name: str, label: str, parts: Sequence[str]) -> Markup:
    """A chart of finished parts, which hold numbers, fixed words and escaped text only; `label` is escaped."""
    body = Markup("").join(Markup(part) for part in parts)
    return Markup(
        '<svg class="{}" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">{}</svg>'
    ).format(name, width, height, width, height, label, body)

"""Charts of what stands behind the scores: correlations, sensitivity by decile, specificity by kind."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from autointerp.analyze.correlations import CorrelationRow
from autointerp.analyze.rates import DECILES, RateRow
from autointerp.report import numbers
from autointerp.report.svg import drawing

_CELL, _LINE = 46, 30
_STRONGEST = 0.5
"""Opacity of a correlation of 1: text over it stays readable in both colour schemes."""


def heat_map(rows: Sequence[CorrelationRow], scorers: Sequence[str], label: str) -> Markup:
    """Spearman's correlations below the diagonal, numbers of explanations above it."""
    left = 24 + round(6.3 * max(len(name) for name in scorers))
    by_pair = {frozenset((row.scorer_a, row.scorer_b)): row for row in rows}
    parts = []
    for i, name in enumerate(scorers):
        y = 20 + i * _LINE
        parts.append(f'<text class="name" x="0" y="{y + 19}">{i + 1} {escape(name)}</text>')
        parts.append(f'<text x="{left + (i + 0.5) * _CELL}" y="12" text-anchor="middle">{i + 1}</text>')
        for j, other in enumerate(scorers):
            row = by_pair.get(frozenset((name, other)))
            if i != j and row is not None:
                parts += _cell(row, left + j * _CELL, y, j < i)
    return drawing(left + len(scorers) * _CELL, 24 + len(scorers) * _LINE, "heat", label, parts)


def _cell(row: CorrelationRow, x: float, y: float, value: bool) -> list[str]:
    at = f'x="{x + _CELL / 2}" y="{y + 19}" text-anchor="middle"'
    if not value:
        return [f'<text class="n" {at}>{numbers.count(row.n)}</text>']
    r = row.spearman
    sign = "empty" if r is None else "plus" if r >= 0 else "minus"
    opacity = 0.0 if r is None else _STRONGEST * abs(r)
    tip = f"{numbers.brief(r, row.spearman_low, row.spearman_high)}, {numbers.count(row.n)} explanations"
    return [
        f'<g><title>{tip}</title><rect class="{sign}" x="{x + 1}" y="{y + 1}" width="{_CELL - 2}" '
        f'height="{_LINE - 2}" rx="3" fill-opacity="{opacity:.3f}"/>'
        f'<text class="value" {at}>{numbers.rate(r)}</text></g>'
    ]


def by_decile(real: Sequence[RateRow], control: Sequence[RateRow], label: str) -> Markup:
    """Sensitivity over activation deciles, weakest to strongest, with 95% bands; the control's dashed."""
    width, height, left, top, floor = 300, 150, 30, 8, 122
    step = (width - left - 10) / (len(DECILES) - 1)

    def at(row: RateRow, value: float) -> str:
        return f"{left + step * (int(row.group) - 1):.1f},{floor - value * (floor - top):.1f}"

    parts = []
    for value in (0.0, 0.5, 1.0):
        y = floor - value * (floor - top)
        parts.append(f'<line class="axis" x1="{left}" x2="{width - 10}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:.1f}</text>')
    for i in range(len(DECILES)):
        parts.append(f'<text x="{left + step * i:.1f}" y="{floor + 17}" text-anchor="middle">{i + 1}</text>')
    for name, rows in (("control", control), ("real", real)):
        banded = [row for row in rows if row.low is not None and row.high is not None]
        outline = [at(row, row.high or 0.0) for row in banded]
        outline += [at(row, row.low or 0.0) for row in reversed(banded)]
        if outline:
            parts.append(f'<polygon class="{name} band" points="{" ".join(outline)}"/>')
        parts.append(f'<polyline class="{name}" points="{" ".join(at(row, row.mean) for row in rows)}"/>')
        if len(rows) == 1:
            cx, cy = at(rows[0], rows[0].mean).split(",")
            parts.append(f'<circle class="{name}" cx="{cx}" cy="{cy}" r="4"/>')
    return drawing(width, height, "plot", label, parts)


def by_kind(real: Sequence[RateRow], control: Sequence[RateRow], label: str) -> Markup:
    """Specificity per kind of window with 95% intervals: the real explanations above, the control below."""
    kinds = list(dict.fromkeys(row.group for row in (*real, *control)))
    width, left, line = 300, 78, 28
    span = width - left - 12
    floor = 6 + line * len(kinds)
    parts = []
    for value in (0.0, 0.5, 1.0):
        x = left + value * span
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="4" y2="{floor}"/>')
        parts.append(f'<text x="{x}" y="{floor + 16}" text-anchor="middle">{value:.1f}</text>')
    for i, kind in enumerate(kinds):
        y = 6 + line * (i + 0.5)
        parts.append(f'<text x="{left - 10}" y="{y + 4}" text-anchor="end">{escape(kind)}</text>')
        for name, rows, shift in (("control", control, 5), ("real", real, -5)):
            for row in rows:
                if row.group == kind:
                    parts += _dot(name, row, y + shift, left, span)
    return drawing(width, floor + 22, "plot", label, parts)


def _dot(name: str, row: RateRow, y: float, left: float, span: float) -> list[str]:
    parts = []
    if row.low is not None and row.high is not None:
        ends = f'x1="{left + row.low * span:.1f}" x2="{left + row.high * span:.1f}"'
        parts.append(f'<line class="{name} bar" {ends} y1="{y}" y2="{y}"/>')
    parts.append(f'<circle class="{name}" cx="{left + row.mean * span:.1f}" cy="{y}" r="4"/>')
    return parts

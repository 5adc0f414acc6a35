"""Charts of a whole run: calibration of its judges, densities of its latents."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from autointerp.report import numbers
from autointerp.report.calibration import N_BINS, Calibration
from autointerp.report.svg import drawing


def reliability(found: Calibration) -> Markup:
    """Share of yes against the probability said, with 95% intervals; below it how many items were read."""
    width, height, left, top, span = 300, 232, 34, 8, 160
    floor = top + span
    wide = width - left - 12
    parts = []
    for value in (0.0, 0.5, 1.0):
        y = floor - value * span
        parts.append(f'<line class="axis" x1="{left}" x2="{left + wide}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{value:.1f}</text>')
    parts.append(f'<line class="chance" x1="{left}" x2="{left + wide}" y1="{floor}" y2="{top}"/>')
    points = []
    for i in np.flatnonzero(found.counts).tolist():
        x, y = left + found.said[i] * wide, floor - found.true[i] * span
        low, high = found.interval(i)
        points.append(f"{x:.1f},{y:.1f}")
        tip = f"said {numbers.rate(found.said[i])}, true of {numbers.rate(found.true[i])}, {numbers.count(found.counts[i])} items"
        parts.append(
            f'<line class="real bar" x1="{x:.1f}" x2="{x:.1f}" y1="{floor - low * span:.1f}" y2="{floor - high * span:.1f}"/>'
            f'<circle class="real" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{tip}</title></circle>'
        )
    parts.append(f'<polyline class="real" points="{" ".join(points)}"/>')
    tallest, bottom = max(1, int(found.counts.max())), height - 18
    for i, n in enumerate(found.counts.tolist()):
        tall = n / tallest * 32
        parts.append(
            f'<rect class="real" x="{left + i * wide / N_BINS + 1:.1f}" y="{bottom - tall:.1f}" '
            f'width="{wide / N_BINS - 2:.1f}" height="{tall:.1f}"/>'
        )
    for value, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(
            f'<text x="{left + value * wide}" y="{height - 3}" text-anchor="{anchor}">{value:.1f}</text>'
        )
    label = f"calibration of {found.scorer} of {found.explainer}: error {numbers.score(found.error)} over {found.n} items"
    return drawing(width, height, "plot", label, parts)


def densities(groups: Sequence[tuple[str, np.ndarray]]) -> Markup | None:
    """Latents by density on a logarithmic axis, the groups (status, densities above 0) stacked."""
    every = np.concatenate([values for _, values in groups]) if groups else np.zeros(0)
    if not len(every):
        return None
    width, height, left, floor, bins = 900, 180, 8, 146, 60
    low, high = np.floor(np.log10(every.min())), min(0.0, np.ceil(np.log10(every.max())))
    high = max(high, low + 1)
    step = (width - 2 * left) / bins
    counts = [np.histogram(np.log10(values), bins=bins, range=(low, high))[0] for _, values in groups]
    tallest = max(1, int(sum(counts).max()))  # type: ignore[union-attr]
    parts, base = [], np.zeros(bins)
    for (name, _), some in zip(groups, counts, strict=True):
        for i, n in enumerate(some.tolist()):
            if n:
                tall = n / tallest * (floor - 10)
                y = floor - base[i] - tall
                parts.append(
                    f'<rect class="is-{name}" x="{left + i * step + 0.5:.1f}" y="{y:.1f}" width="{step - 1:.1f}" '
                    f'height="{tall:.1f}"><title>{name}: {numbers.count(n)}</title></rect>'
                )
                base[i] += tall
    parts.append(f'<line class="axis" x1="{left}" x2="{width - left}" y1="{floor}" y2="{floor}"/>')
    for power in range(int(low), int(high) + 1):
        x = left + (power - low) / (high - low) * (width - 2 * left)
        anchor = "start" if power == low else "end" if power == high else "middle"
        name = numbers.measure(10.0**power)
        parts.append(f'<text x="{x:.1f}" y="{floor + 18}" text-anchor="{anchor}">{name}</text>')
    said = ", ".join(f"{len(values)} {name}" for name, values in groups)
    return drawing(width, height, "plot wide", f"latents by density: {said}", parts)

"""Charts of one latent: how strongly it fires."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from autointerp.report import numbers
from autointerp.report.svg import drawing
from autointerp.report.windows_view import N_LEVELS

_N_BINS = 60
_WIDTH, _HEIGHT, _LEFT, _FLOOR = 900, 160, 8, 128


def activation_histogram(values: np.ndarray | None, quantiles: Sequence[float]) -> Markup:
    """Active tokens by activation, shaded as the text is, with ticks at the deciles.

    `values` are all its non-zero activations; if None, the chart is drawn from its deciles
    (`quantiles`, 11 numbers), each holding a tenth of the tokens.
    """
    top = float(quantiles[-1])
    span = _WIDTH - 2 * _LEFT
    if values is not None and len(values):
        counts, edges = np.histogram(values, bins=_N_BINS, range=(0.0, top))
        heights = counts.astype(float)
        tips = [
            f"{numbers.measure(a)} to {numbers.measure(b)}: {numbers.count(n)} tokens"
            for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
        ]
        label = f"activations of {len(values)} tokens, largest {numbers.measure(top)}"
    else:
        edges = np.asarray(quantiles, dtype=float)
        widths = np.maximum(np.diff(edges), top / 200)
        heights = 1 / widths
        tips = [
            f"{numbers.measure(a)} to {numbers.measure(b)}: a tenth of its tokens"
            for a, b in pairwise(edges.tolist())
        ]
        label = f"activations by decile, largest {numbers.measure(top)}"
    tallest = max(float(heights.max()), 1e-9)
    parts = []
    for a, b, height, tip in zip(edges[:-1], edges[1:], heights, tips, strict=True):
        if height <= 0 or b <= a:
            continue
        tall = max(1.0, height / tallest * (_FLOOR - 10))
        level = max(1, min(N_LEVELS, int(np.ceil(N_LEVELS * (a + b) / 2 / top))))
        parts.append(
            f'<rect class="f{level}" x="{_LEFT + a / top * span:.1f}" y="{_FLOOR - tall:.1f}" '
            f'width="{max(1.0, (b - a) / top * span - 1):.1f}" height="{tall:.1f}" rx="1"><title>{tip}</title></rect>'
        )
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{_FLOOR}" y2="{_FLOOR}"/>')
    for i, value in enumerate(quantiles[1:-1], start=1):
        x = _LEFT + value / top * span
        parts.append(
            f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{_FLOOR}" y2="{_FLOOR + (9 if i == 5 else 6)}">'
            f"<title>decile {i}: {numbers.measure(value)}</title></line>"
        )
    for at, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        parts.append(
            f'<text x="{_LEFT + at * span:.1f}" y="{_FLOOR + 24}" text-anchor="{anchor}">{numbers.measure(at * top)}</text>'
        )
    return drawing(_WIDTH, _HEIGHT, "plot activations", label, parts)

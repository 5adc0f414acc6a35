"""The search for a label as inline SVG: probability of tokens over steps, no library, no script.

Readable on light and dark pages alike: text and axes take the colour of the text around them, lines
have colours of middle brightness and different dashes, and every line carries its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from markupsafe import Markup, escape

from autointerp.report import numbers
from autointerp.report.svg import drawing
from autointerp.run import printable

_CHOSEN = "#2f86a8"
_COLOURS = ("#c2611f", "#2b8f6d", "#a9609c", "#8f7a12", "#7c74cc", "#78828b")
_DASHES = ("", "6 3", "2 2", "8 3 2 3")
_MAX_TOKENS, _MAX_CHARACTERS = 7, 16
_WIDTH, _LEFT, _RIGHT, _TOP, _FLOOR = 430, 34, 124, 8, 132
_LOSS_TOP, _LOSS_FLOOR = 150, 196


_Arrays: TypeAlias = tuple[np.ndarray, list[str], np.ndarray, dict[str, np.ndarray]]
_NOTHING: _Arrays = (np.zeros(0), [], np.zeros((0, 0)), {})


class _Name(NamedTuple):
    y: float
    """Height of the end of its line."""
    text: str
    colour: str
    dash: str
    thick: bool


def trajectory_svg(trajectory: Mapping[str, Any], label: str | None = None) -> Markup:
    """A trajectory of the explainer `gradient` as a chart, its chosen `label` drawn thick.

    `trajectory` holds `steps` [n_steps], `tokens` [n_tokens], `probabilities` [n_steps][n_tokens] and
    `losses` {name: [n_steps]}, as read from `details`. All text is escaped. What cannot be drawn, as a
    trajectory without steps or of another shape, gives an empty string; a value that is not finite is a gap.
    """
    steps, tokens, probabilities, losses = _arrays(trajectory)
    if not len(steps) or not tokens:
        return Markup("")
    peaks = np.nan_to_num(probabilities, nan=-1.0).max(axis=0)
    chosen = [i for i, token in enumerate(tokens) if label is not None and is_label(token, label)]
    order = sorted(range(len(tokens)), key=lambda i: (i not in chosen, -peaks[i]))[:_MAX_TOKENS]
    xs = _across(steps)
    parts = _frame(steps, losses)
    ends = []
    for rank, i in reversed(list(enumerate(order))):
        thick = i in chosen
        colour = _CHOSEN if thick else _COLOURS[rank % len(_COLOURS)]
        dash = "" if thick else _DASHES[rank % len(_DASHES)]
        values = probabilities[:, i]
        ys = _FLOOR - np.clip(values, 0, 1) * (_FLOOR - _TOP)
        name = _shown(tokens[i])
        tip = f"{name}: at most {numbers.rate(float(peaks[i]))}"
        parts += _line(xs, ys, colour, dash, 2.6 if thick else 1.3, tip)
        known = ys[np.isfinite(ys)]
        ends.append(_Name(float(known[-1]) if len(known) else float(_FLOOR), name, colour, dash, thick))
    parts += _names(ends, _TOP + 4, _FLOOR)
    parts += _losses(xs, losses)
    height = _LOSS_FLOOR + 20 if losses else _FLOOR + 20
    last = probabilities[-1]
    best = int(np.nan_to_num(last, nan=-1.0).argmax())
    about = (
        f"Probability of {len(tokens)} tokens over {numbers.count(int(steps[-1]))} steps; "
        f"last the most probable: {_shown(tokens[best])}, {numbers.rate(float(last[best]))}"
    )
    return drawing(_WIDTH, height, "trajectory", about, parts)


def is_label(token: str, label: str) -> bool:
    """Whether a token is the label, whatever its case and the space around it."""
    return token.strip().casefold() == label.strip().casefold()


def _arrays(
    trajectory: Mapping[str, Any],
) -> _Arrays:
    """Steps, tokens, probabilities [n_steps, n_tokens] and losses [n_steps], or nothing if they do not fit."""
    try:
        steps = np.asarray(list(trajectory["steps"]), dtype=float)
        tokens = [str(token) for token in trajectory["tokens"]]
        probabilities = np.asarray(list(trajectory["probabilities"]), dtype=float)
        given = {
            str(name): np.asarray(list(values), dtype=float)
            for name, values in dict(trajectory.get("losses") or {}).items()
        }
    except (KeyError, TypeError, ValueError):
        return _NOTHING
    if probabilities.shape != (len(steps), len(tokens)) or not np.isfinite(steps).all():
        return _NOTHING
    losses = {
        name: values
        for name, values in given.items()
        if values.shape == steps.shape and np.isfinite(values).any()
    }
    return steps, tokens, np.where(np.isfinite(probabilities), probabilities, np.nan), losses


def _across(steps: np.ndarray) -> np.ndarray:
    low, high = steps[0], steps[-1]
    span = _WIDTH - _LEFT - _RIGHT
    return np.asarray(_LEFT + (steps - low) / max(high - low, 1e-9) * span)


def _frame(steps: np.ndarray, losses: Mapping[str, np.ndarray]) -> list[str]:
    right = _WIDTH - _RIGHT
    parts = []
    for value in (0.0, 0.5, 1.0):
        y = _FLOOR - value * (_FLOOR - _TOP)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
            f'stroke-opacity="{0.45 if value == 0 else 0.15}"/>'
            + _text(_LEFT - 5, y + 3.5, numbers.rate(value), "end")
        )
    floor = _LOSS_FLOOR if losses else _FLOOR
    parts.append(_text(_LEFT, floor + 15, numbers.count(int(steps[0])), "start"))
    parts.append(_text(right, floor + 15, f"{numbers.count(int(steps[-1]))} steps", "end"))
    return parts


def _line(xs: np.ndarray, ys: np.ndarray, colour: str, dash: str, wide: float, tip: str) -> list[str]:
    """A line with gaps where a value is missing; a lone point is a dot."""
    keep = np.isfinite(ys)
    if not keep.any():
        return []
    pieces = np.split(np.flatnonzero(keep), np.flatnonzero(np.diff(np.flatnonzero(keep)) > 1) + 1)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    body = "".join(
        f'<circle cx="{xs[at[0]]:.1f}" cy="{ys[at[0]]:.1f}" r="{wide}" fill="{colour}" stroke="none"/>'
        if len(at) == 1
        else '<polyline points="' + " ".join(f"{xs[i]:.1f},{ys[i]:.1f}" for i in at) + '"/>'
        for at in pieces
    )
    look = f'fill="none" stroke="{colour}" stroke-width="{wide}" stroke-linejoin="round"'
    return [f"<g {look}{dashes}><title>{escape(tip)}</title>{body}</g>"]


def _names(names: Sequence[_Name], top: float, floor: float) -> list[str]:
    """Names to the right of the lines' ends, each after a piece of its line, none on another."""
    gap = 12.5
    names = sorted(names, key=lambda name: name.y)
    heights: list[float] = []
    for name in names:
        heights.append(max(name.y, heights[-1] + gap if heights else top))
    limit = floor
    for i in range(len(heights) - 1, -1, -1):
        heights[i] = min(heights[i], limit)
        limit = heights[i] - gap
    x = _WIDTH - _RIGHT + 6
    parts = []
    for name, y in zip(names, heights, strict=True):
        dashes = f' stroke-dasharray="{name.dash}"' if name.dash else ""
        parts.append(
            f'<line x1="{x}" x2="{x + 14}" y1="{y:.1f}" y2="{y:.1f}" stroke="{name.colour}" '
            f'stroke-width="{2.6 if name.thick else 1.4}"{dashes}/>'
            + _text(x + 18, y + 3.5, name.text, "start", bold=name.thick)
        )
    return parts


def _losses(xs: np.ndarray, losses: Mapping[str, np.ndarray]) -> list[str]:
    if not losses:
        return []
    finite = np.concatenate([values[np.isfinite(values)] for values in losses.values()])
    low, high = float(min(finite.min(), 0.0)), float(finite.max())
    span = max(high - low, 1e-9)
    right = _WIDTH - _RIGHT
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{_LOSS_FLOOR}" y2="{_LOSS_FLOOR}" '
        'stroke="currentColor" stroke-opacity="0.45"/>',
        _text(_LEFT - 5, _LOSS_TOP + 6, numbers.measure(high), "end"),
        _text(_LEFT - 5, _LOSS_FLOOR + 3.5, numbers.measure(low), "end"),
    ]
    ends = []
    for i, (name, values) in enumerate(list(losses.items())[:4]):
        ys = _LOSS_FLOOR - (values - low) / span * (_LOSS_FLOOR - _LOSS_TOP)
        name, dash = _shown(name), _DASHES[i % len(_DASHES)]
        parts += _line(xs, ys, "currentColor", dash, 1.1, f"{name} (nats)")
        known = ys[np.isfinite(ys)]
        ends.append(_Name(float(known[-1]), f"{name} loss", "currentColor", dash, False))
    return parts + _names(ends, _LOSS_TOP - 6, _LOSS_FLOOR)


def _shown(token: str) -> str:
    text = printable(" ".join(token.split())) or repr(token)
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" fill="currentColor"{weight}>'
        f"{escape(text)}</text>"
    )

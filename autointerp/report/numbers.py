"""Numbers as text, the same in the terminal and on the page. An undefined number is a dash."""

from __future__ import annotations

DECIMALS = 3
"""Of scores."""
DIGITS = 3
"""Significant ones, of activations and densities."""
DASH = "–"
MINUS = "−"


def score(value: float | None) -> str:
    """Three decimals, as `0.812`."""
    return DASH if value is None else f"{value:z.{DECIMALS}f}".replace("-", MINUS)


def interval(low: float | None, high: float | None) -> str:
    """`[0.780, 0.845]`."""
    return DASH if low is None or high is None else f"[{score(low)}, {score(high)}]"


def ends(value: float | None, low: float | None, high: float | None) -> str:
    """What stands under or beside a number: its interval, that there is none, or nothing where there is no number."""
    if value is None:
        return ""
    return "no interval" if low is None or high is None else interval(low, high)


def brief(value: float | None, low: float | None, high: float | None, *, sign: bool = False) -> str:
    """A number and its interval in a narrow column: `.812 [.780, .845]`, with `sign` `+.312 [.280, .345]`."""
    if value is None:
        return DASH
    shown = _no_zero(value)
    if sign and not shown.startswith(MINUS):
        shown = f"+{shown}"
    if low is None or high is None:
        return shown
    return f"{shown} [{_no_zero(low)}, {_no_zero(high)}]"


def chance(value: float | None) -> str:
    """Two decimals: chance levels are known, not measured."""
    return DASH if value is None else f"{value:z.2f}"


def rate(value: float | None) -> str:
    """Two decimals without the zero before the point: `.81`, `1.00`."""
    return DASH if value is None else _no_zero(value, 2)


def _no_zero(value: float, decimals: int = DECIMALS) -> str:
    shown = f"{value:z.{decimals}f}".replace("-", MINUS)
    return shown.replace("0.", ".", 1) if shown.removeprefix(MINUS).startswith("0.") else shown


def signed(value: float | None) -> str:
    """Three decimals with the sign always shown."""
    if value is None:
        return DASH
    shown = score(value)
    return shown if shown.startswith(MINUS) else f"+{shown}"


def share(value: float | None) -> str:
    """A percentage: whole, but never 0% or 100% for what is not."""
    if value is None:
        return DASH
    if 0 < value < 0.005:
        return "<1%"
    if 0.995 <= value < 1:
        return ">99%"
    return f"{value:.0%}"


def count(value: float | None) -> str:
    """A whole number with thousands separated."""
    return DASH if value is None else f"{int(value):,}"


def measure(value: float | None) -> str:
    """Three significant digits, as activations and densities have no fixed scale."""
    if value is None:
        return DASH
    return (f"{value:.{DIGITS}g}" if abs(value) < 1000 else f"{value:,.0f}").replace("-", MINUS)


def usd(value: float | None) -> str:
    """US dollars, to the cent above one and to three significant digits below."""
    if value is None:
        return DASH
    return f"${value:,.2f}" if value >= 1 or value == 0 else f"${value:.3g}"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 05 s`, `2 h 10 min`."""
    if seconds is None:
        return DASH
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

"""The one look of every figure: colours safe for colour-blind readers, sizes, labelled axes, files.

    figure, (axes,) = look.figure()
    axes.plot(steps, values, color=look.COLOURS[0])
    look.label(axes, x="step", y="loss (nats)")
    look.save(figure, "docs/images/losses")

No global state of matplotlib is changed, and the same figure gives the same bytes.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import UserError
from autointerp.run import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#7b5aa6", "#7a7a7a")
"""For lines and bars, in this order: the palette of Okabe and Ito without its yellow, a violet and a grey added."""
REAL, CONTROL, CHANCE = COLOURS[0], "#a0552f", "#7a7a7a"
"""A real result, its control, and the floor it is held against, as in the HTML report."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
"""Line styles, for those who cannot tell the colours."""
WIDTH, HEIGHT = 6.4, 3.8
"""Inches of one panel's figure."""
DOTS = 160
"""Dots per inch of a PNG."""

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": "#5d666f",
    "axes.labelcolor": "#1d2125",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#e3e5e4",
    "grid.linewidth": 0.8,
    "xtick.color": "#5d666f",
    "ytick.color": "#5d666f",
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": "#1d2125",
    "text.parse_math": False,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "autointerp",
}


def figure(
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = WIDTH,
    height: float = HEIGHT,
    height_ratios: Sequence[float] | None = None,
    share_x: bool = False,
    share_y: bool = False,
    title: str | None = None,
) -> tuple[Figure, list[Axes]]:
    """An empty figure and its panels, row by row.

    `width` and `height` are inches of the whole figure. Text of a title or a label is plain text,
    never formulas. Raises `UserError` if matplotlib is missing.
    """
    with style():
        from matplotlib.figure import Figure

        made = Figure(figsize=(width, height), layout="constrained")
        panels = made.subplots(
            rows,
            columns,
            squeeze=False,
            sharex="col" if share_x else False,
            sharey="row" if share_y else False,
            height_ratios=height_ratios,
        )
        if title:
            made.suptitle(plain(title), x=0.01, ha="left", fontsize=12, fontweight="bold")
    return made, list(panels.flat)


def label(axes: Axes, *, x: str | None = None, y: str | None = None, title: str | None = None) -> None:
    """Name the axes of a panel, with units, and the panel itself."""
    with style():
        if x is not None:
            axes.set_xlabel(plain(x))
        if y is not None:
            axes.set_ylabel(plain(y))
        if title is not None:
            axes.set_title(plain(title))


def save(made: Figure, stem: str | Path) -> list[Path]:
    """Write STEM.png and STEM.svg; returns their paths. Raises `UserError` if they cannot be written."""
    stem = Path(stem)
    paths = [stem.with_name(stem.name + ending) for ending in (".png", ".svg")]
    quiet = logging.getLogger("matplotlib.font_manager")
    level = quiet.level
    try:
        quiet.setLevel(logging.ERROR)
        with style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            stem.parent.mkdir(parents=True, exist_ok=True)
            made.savefig(paths[0], dpi=DOTS, metadata={"Software": None})
            made.savefig(paths[1], metadata={"Date": None, "Creator": None})
    except OSError as error:
        raise UserError(f"plot: cannot write {paths[0]}: {error.strerror or error}") from None
    finally:
        quiet.setLevel(level)
    return paths


@contextmanager
def style() -> Iterator[None]:
    """The look, while text or panels are added by hand. Raises `UserError` if matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "plots need matplotlib, which is not installed: pip install 'autointerp[plots]'"
        ) from None
    settings: Any = {**_STYLE, "font.sans-serif": _fonts()}
    with matplotlib.rc_context(settings):
        yield


def plain(text: str, length: int = 80) -> str:
    """Text of a model or a corpus, fit for a figure: one line, no control characters, not too long.

    Add it by `label` or under `style`, where `$` does not begin a formula.
    """
    text = printable(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def _fonts() -> list[str]:
    """DejaVu Sans, then installed fonts that have what it lacks, as Chinese."""
    from matplotlib import font_manager

    wanted = (
        "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "WenQuanYi Zen Hei", "Droid Sans Fallback",
        "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "Arial Unicode MS",
    )  # fmt: skip
    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in wanted if name in installed)]

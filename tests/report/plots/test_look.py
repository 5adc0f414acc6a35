from __future__ import annotations

import matplotlib
import pytest

from autointerp.errors import UserError
from autointerp.report.plots import look


def drawn():
    figure, panels = look.figure(1, 2, width=5, height=3, share_y=True, title="two panels, $5 & <b>")
    for axes in panels:
        axes.plot([0, 1, 2], [0.1, 0.5, 0.9], color=look.REAL)
        look.label(axes, x="step", y="loss (nats)", title="cost: $a$")
    return figure


def test_both_files_are_written_and_do_not_change(tmp_path):
    first = look.save(drawn(), tmp_path / "new" / "figure.v1")
    second = look.save(drawn(), tmp_path / "other")
    assert [path.name for path in first] == ["figure.v1.png", "figure.v1.svg"]
    assert first[0].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"<svg" in first[1].read_bytes()
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_nothing_global_changes(tmp_path):
    before = dict(matplotlib.rcParams)
    look.save(drawn(), tmp_path / "figure")
    assert dict(matplotlib.rcParams) == before


def test_panels_have_named_axes():
    figure = drawn()
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "step"]
    assert figure.axes[0].get_ylabel() == "loss (nats)"
    assert figure.axes[0].get_title(loc="left") == "cost: $a$"
    assert not figure.axes[0]._left_title.get_parse_math()


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        look.save(drawn(), tmp_path / "file" / "figure")


def test_text_of_others_is_made_plain():
    assert look.plain("a\nb\x1b[31m") == "a b\\u001b[31m"
    assert len(look.plain("x" * 500)) == 80


def test_colours_are_far_apart_for_colour_blind_readers():
    """Every pair differs in a simulation of the two common kinds (Viénot 1999, linear RGB)."""
    import numpy as np

    def linear(colour):
        return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]) ** 2.2

    protan = np.array([[0.112, 0.888, 0], [0.112, 0.888, 0], [0.004, -0.004, 1]])
    deutan = np.array([[0.293, 0.707, 0], [0.293, 0.707, 0], [-0.021, 0.021, 1]])
    for matrix in (protan, deutan):
        seen = [np.clip(matrix @ linear(c), 0, 1) ** (1 / 2.2) for c in look.COLOURS[:6]]
        gaps = [np.abs(a - b).max() for i, a in enumerate(seen) for b in seen[:i]]
        assert min(gaps) > 0.08

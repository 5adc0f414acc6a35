"""What the plots of a comparison show is what its tables say."""

from __future__ import annotations

import pytest

from autointerp.analyze.compare import compare
from autointerp.report.plots import look
from autointerp.report.plots.compare import (
    breakdown_plot,
    coverage_plot,
    differences_plot,
    scores_plot,
)
from autointerp.report.plots.pareto import pareto_plot
from tests.analyze.test_compare import FAST, make


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    roots = [
        make(folder / "good", scorers=("detection", "fuzzing"), n_latents=20, skill=0.95),
        make(folder / "bad $x_1$", "sae:2", ("detection",), n_latents=20, seed=1, skill=0.55),
    ]
    return compare(roots, **FAST)


def points(axes):
    """Positions of the round markers of a panel, and whether they are filled."""
    return [
        (float(line.get_xdata()[0]), line.get_markerfacecolor() != "white")
        for line in axes.get_lines()
        if line.get_marker() == "o"
    ]


def test_a_point_is_filled_if_the_difference_was_shown(found):
    for question in ("explainers", "runs", "control"):
        made = differences_plot(found, question)
        rows = [row for row in found.pairs if row.question == question]
        drawn = [point for axes in made.axes for point in points(axes)]
        assert drawn == [(pytest.approx(row.difference), row.verdict in ("higher", "lower")) for row in rows]
    verdicts = {row.verdict for row in found.pairs}
    assert {"higher", "no difference shown"} <= verdicts


def test_every_panel_names_its_axes(found):
    made = [
        scores_plot(found),
        coverage_plot(found),
        pareto_plot(found),
        *[differences_plot(found, question) for question in ("explainers", "runs", "control")],
        *[breakdown_plot(found, by) for by in ("density", "decile", "kind")],
    ]
    for figure in made:
        assert figure.get_suptitle()
        for axes in figure.axes:
            assert axes.get_xlabel() or not axes.get_visible()


def test_names_are_no_formulas(found, tmp_path):
    for path in look.save(scores_plot(found), tmp_path / "scores"):
        assert path.stat().st_size > 1_000


def test_nothing_to_show_is_no_figure(found, tmp_path):
    alone = compare([make(tmp_path / "alone", scorers=("detection",))], explainers=["default"], **FAST)
    assert differences_plot(alone, "explainers") is None
    assert differences_plot(alone, "runs") is None
    assert pareto_plot(alone) is None
    assert breakdown_plot(alone, "layer") is None
    assert breakdown_plot(found, "layer") is None

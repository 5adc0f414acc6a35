from __future__ import annotations

import warnings
from itertools import pairwise

import pytest

from autointerp.report.plots import look
from autointerp.report.plots.trajectory import MAX_NAMED, MAX_PANELS, plot_trajectories, write_trajectories
from tests.report.trajectories import trajectory


def texts(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_chosen_label_is_thick_and_named():
    figure = plot_trajectories([trajectory(0)], label="Mammal", title="mammals")
    above, below = figure.axes
    thick = [line for line in above.lines if line.get_linewidth() > 2]
    assert len(thick) == 1
    assert thick[0].get_color() == look.REAL
    assert thick[0].get_ydata()[-1] == trajectory(0)["probabilities"][-1][1]
    assert "mammal" in texts(figure)
    assert len(texts(figure)) == MAX_NAMED
    assert above.get_ylabel() == "probability"
    assert below.get_xlabel() == "step"
    assert below.get_ylabel() == "loss (nats)"


def test_one_column_per_restart_with_the_same_colours():
    figure = plot_trajectories([trajectory(seed) for seed in range(6)], label=None)
    assert len(figure.axes) == 2 * MAX_PANELS
    colours: dict[str, set[str]] = {}
    for axes in figure.axes:
        for text in axes.texts:
            colours.setdefault(text.get_text(), set()).add(text.get_color())
    assert colours["mammal"]
    assert all(len(seen) == 1 for seen in colours.values())


def test_names_do_not_lie_on_each_other():
    figure = plot_trajectories([trajectory(0)], label=None)
    heights = sorted(text.xyann[1] for text in figure.axes[0].texts)
    assert all(b - a > 0.07 for a, b in pairwise(heights))
    assert heights[-1] <= 1.0


def test_hostile_tokens_and_missing_glyphs_are_drawn_in_silence(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = write_trajectories([trajectory(0)], tmp_path / "run", label=" $x$", title="$\\frac{$")
    assert all(path.stat().st_size > 1000 for path in paths)


def test_a_single_step_and_no_losses_can_be_drawn(tmp_path):
    short = {"restart": 0, "steps": [0], "tokens": ["a"], "probabilities": [[1.0]], "losses": {}}
    write_trajectories([short], tmp_path / "short", label="a")


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no trajectory"):
        plot_trajectories([], label=None)

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.report.trajectory_svg import trajectory_svg
from tests.report.trajectories import trajectory


def test_every_line_is_named_and_all_text_is_escaped():
    svg = str(trajectory_svg(trajectory(), "mammal"))
    ET.fromstring(svg)
    assert "<script" not in svg
    assert "\u202e" not in svg
    assert "&lt;script&gt;" in svg
    assert 'font-weight="600">mammal<' in svg
    assert 'stroke-width="2.6"' in svg
    assert "style=" not in svg, "a page's content policy may forbid inline styles"
    assert "total loss" in svg


def test_no_line_is_thick_without_a_chosen_label():
    assert 'stroke-width="2.6"' not in trajectory_svg(trajectory(), None)
    assert 'stroke-width="2.6"' not in trajectory_svg(trajectory(), "zebra")


def test_points_follow_the_probabilities():
    svg = trajectory_svg(
        {"steps": [0, 10], "tokens": ["a"], "probabilities": [[0.0], [1.0]], "losses": {}}, "a"
    )
    points = ET.fromstring(svg).find(".//polyline").get("points").split()
    (x0, y0), (x1, y1) = ([float(v) for v in point.split(",")] for point in points)
    assert x0 < x1
    assert y0 > y1


def test_gaps_where_a_value_is_missing():
    values = [[0.1], [0.2], [math.nan], [0.4], [0.5], [math.nan], [0.7]]
    svg = trajectory_svg(
        {"steps": list(range(7)), "tokens": ["a"], "probabilities": values, "losses": {"l": [math.nan] * 7}}
    )
    root = ET.fromstring(svg)
    assert len(root.findall(".//polyline")) == 2
    assert len(root.findall(".//circle")) == 1
    assert "nan" not in svg


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"steps": [], "tokens": [], "probabilities": [], "losses": {}},
        {"steps": [0, 1], "tokens": ["a"], "probabilities": [[0.1]], "losses": {}},
        {"steps": ["x"], "tokens": ["a"], "probabilities": [[0.1]], "losses": {}},
        {"steps": [math.inf], "tokens": ["a"], "probabilities": [[0.1]], "losses": {}},
        {"steps": [0], "tokens": ["a"], "probabilities": [[None, 1], [2]], "losses": None},
        {"steps": None, "tokens": None, "probabilities": None},
    ],
)
def test_what_cannot_be_drawn_is_left_out(broken):
    assert trajectory_svg(broken, "a") == ""


@given(
    tokens=st.lists(st.text(max_size=30), min_size=1, max_size=12),
    label=st.none() | st.text(max_size=30),
    data=st.data(),
)
def test_any_tokens_give_well_formed_svg(tokens, label, data):
    n = data.draw(st.integers(1, 4))
    number = st.floats(allow_nan=True, allow_infinity=True, width=32)
    probabilities = data.draw(
        st.lists(st.lists(number, min_size=len(tokens), max_size=len(tokens)), min_size=n, max_size=n)
    )
    losses = {"total": data.draw(st.lists(number, min_size=n, max_size=n))}
    svg = trajectory_svg(
        {"steps": list(range(n)), "tokens": tokens, "probabilities": probabilities, "losses": losses}, label
    )
    ET.fromstring(svg)

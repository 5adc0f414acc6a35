"""What a latent's page says of the searches a gradient explainer recorded: whether they led to the label."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from autointerp.artifacts import DATASETS, write_shard
from autointerp.report.site import write_site
from autointerp.report.trajectories import searches_of
from autointerp.run import open_run
from tests.report.pages import parse
from tests.report.trajectories import trajectory
from tests.synthetic import make_run

RECORDED = [trajectory()]


def candidates(*sources: str):
    return [{"label": "mammal", "sources": list(sources)}, {"label": "noun", "sources": ["gradient"]}]


@pytest.mark.parametrize(
    ("details", "label", "led", "thick", "said"),
    [
        ({"candidates": candidates("gradient", "lists")}, "Mammal", True, True, ""),
        ({"candidates": candidates("contrastive", "lists")}, "mammal", False, True, "contrastive, lists"),
        ({}, "mammal", True, True, ""),
        ({}, "musical instrument", False, False, "in none of its charts"),
        ({"answered_by": "words"}, 'the word "Because"', False, False, "from the words themselves"),
        ({"answered_by": "an oracle"}, "mammal", False, True, "answered by an oracle"),
        ({"candidates": candidates("gradient")}, None, False, False, "no label"),
        ({"candidates": "odd"}, "mammal", True, True, ""),
    ],
)
def test_a_search_is_credited_with_the_label_only_if_it_found_it(details, label, led, thick, said):
    found = searches_of({"trajectories": RECORDED, **details}, label)
    assert (found.led, found.thick) == (led, thick)
    assert said in found.note
    assert bool(found.note) != led


@pytest.mark.parametrize("details", [{}, {"trajectories": []}, {"trajectories": None}])
def test_nothing_recorded_has_no_heading(details):
    assert searches_of(details, "mammal") is None


@pytest.mark.parametrize(
    ("details", "heading", "said"),
    [
        ({"answered_by": "words"}, "What the optimisation of default found", "the words themselves"),
        ({"candidates": [{"label": "LABEL", "sources": ["gradient"]}]}, "How default came to its label", ""),
    ],
)
def test_the_heading_says_it(tmp_path, details, heading, said):
    root = make_run(tmp_path / "run")
    table = open_run(root).directory.dataset("explanations", "default").read()
    label = table.column("text").to_pylist()[5]
    text = json.dumps({**details, "trajectories": RECORDED}).replace("LABEL", label)
    column = [text if i == 5 else old for i, old in enumerate(table.column("details").to_pylist())]
    table = table.set_column(table.column_names.index("details"), "details", pa.array(column))
    write_shard(root / "explanations" / "default" / "part-00000.parquet", table, DATASETS["explanations"])
    write_site(open_run(root), tmp_path / "report")
    page = parse((tmp_path / "report" / "latents" / "5.html").read_text(encoding="utf-8"))
    titles = [h for h in page.all("h3") if h.text == heading]
    assert [code.text for code in titles[0].all("code")] == ["default"]
    (note,) = [p.text for p in page.all("p", class_="sub") if "over the steps of a search" in p.text]
    assert said in note
    # No token of these searches is the label.
    assert "drawn thick" not in note

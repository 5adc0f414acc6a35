"""`autointerp compare` and `autointerp plots` as users meet them."""

from __future__ import annotations

import io
import json
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from autointerp.analyze.compare import LATENT_SCHEMA
from autointerp.analyze.compare_board import BoardRow, ExplainerRow
from autointerp.analyze.compare_breakdown import BreakdownPairRow, BreakdownRow
from autointerp.analyze.compare_pairs import PairRow
from autointerp.analyze.compare_read import RunRow
from autointerp.analyze.compare_shared import Limit, SharedRow
from autointerp.cli import app
from autointerp.errors import UserError
from autointerp.report.compare_files import default_folder
from autointerp.report.compare_view import p_value, shared_few
from tests.analyze.test_compare import change, make

GUIDE = Path(__file__).parent.parent.parent / "docs" / "guides" / "compare.md"
TABLES = ["runs", "explainers", "board", "pairs", "breakdown", "breakdown_pairs", "latents"]


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        make(folder / "good", n_latents=14),
        make(folder / "bad", "sae:2", n_latents=12, seed=1, skill=0.6),
    ]


def invoke(*arguments):
    result = CliRunner().invoke(app, [*map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_one_run(roots, tmp_path):
    shown = invoke("compare", roots[0], "--out", tmp_path / "out")
    assert "Explainers, two by two" in shown
    assert "Against the shuffled control" in shown
    assert "no difference shown" in shown
    assert "Runs, two by two" not in shown
    assert "default − statistics" in shown
    for name in TABLES:
        assert pq.read_table(tmp_path / "out" / f"{name}.parquet").num_rows > 0
    frame = pd.read_csv(tmp_path / "out" / "pairs.csv")
    assert len(frame) == pq.read_table(tmp_path / "out" / "pairs.parquet").num_rows
    plots = sorted(path.name for path in (tmp_path / "out" / "plots").iterdir())
    assert "differences-explainers.png" in plots
    assert "pareto.svg" in plots
    assert all(path.stat().st_size > 5_000 for path in (tmp_path / "out" / "plots").iterdir())


def test_two_runs(roots, tmp_path):
    shown = invoke("compare", *roots, "--out", tmp_path / "out", "--no-plots", "--scorer", "detection")
    assert "Runs, two by two" in shown
    assert "good: default − bad: default" in shown
    assert "not paired" in shown
    assert not (tmp_path / "out" / "plots").exists()
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert "# Comparison" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_who_makes_the_shared_latents_few_is_said(tmp_path):
    root = make(tmp_path / "run", n_latents=14)
    for path in (root / "scores").glob("*/statistics/*.parquet"):
        latents = pq.read_table(path).column("latent").to_pylist()
        change(
            path, "value", lambda column, at=latents: [v if i in (5, 6, 7) else None for i, v in zip(at, column, strict=True)]
        )  # fmt: skip
        change(
            path, "status", lambda column, at=latents: [s if i in (5, 6, 7) else "failed" for i, s in zip(at, column, strict=True)]
        )  # fmt: skip
    arguments = ["compare", root, "--scorer", "detection", "--no-plots", "--out", tmp_path / "out"]
    why = "detection: shared by all: 3 of 14 latents, because statistics has numbers for 3."
    shown = invoke(*arguments)
    assert why in shown
    assert "No interval over fewer than 6 latents." in shown
    assert why in (tmp_path / "out" / "comparison.md").read_text()
    found = json.loads(invoke(*arguments, "--format", "json"))
    assert [one["explainer"] for one in found["shared"][0]["limits"]] == ["statistics"]
    (row,) = [row for row in found["board"] if row["explainer"] == "statistics"]
    assert (row["n_scored"], row["low"], row["shared_low"]) == (3, None, None)
    assert row["mean"] is not None
    line = next(line for line in shown.splitlines() if line.startswith("  statistics "))
    assert "[" not in line.split("3/14")[1].split("3")[0]


def test_several_limits_are_one_sentence():
    limits = [
        Limit(run="run", explainer="self", n=3, n_without=4),
        Limit(run="run", explainer="gradient", n=6, n_without=2),
    ]
    rows = [
        SharedRow(scorer=scorer, shares=1, n_asked=100, n_shared=2, limits=limits, n_without=84)
        for scorer in ("detection", "fuzzing")
    ]
    found: Any = SimpleNamespace(shared=rows, several_runs=False)
    assert shared_few(found) == [
        "detection, fuzzing: shared by all: 2 of 100 latents, because self has numbers for 3 (without it 4) "
        "and gradient for 6 (without it 2); without them 84.",
        "To compare without an explainer, name the others with --explainer.",
    ]


def test_printed_for_other_programs(roots, tmp_path):
    arguments = [
        "compare",
        roots[0],
        "--scorer",
        "detection",
        "--out",
        tmp_path / "out",
        "--no-plots",
        "--format",
    ]
    found = json.loads(invoke(*arguments, "json"))
    assert list(found) == ["findings", *TABLES[:-1], "shared"]
    assert found["pairs"][0]["verdict"] == "no difference shown"
    assert any("no difference shown between default and statistics" in line for line in found["findings"])
    assert any("half-width" in line for line in found["findings"])
    for table in TABLES:
        frame = pd.read_csv(io.StringIO(invoke(*arguments, "csv", "--table", table)))
        assert len(frame) > 0
    assert invoke(*arguments, "markdown") == (tmp_path / "out" / "comparison.md").read_text()


def test_files_are_the_same_again(roots, tmp_path):
    for name in ("a", "b"):
        invoke(
            "compare", roots[0], "--out", tmp_path / name, "--scorer", "detection", "--explainer", "default"
        )
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) > 15
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path


def test_plots_of_a_run(roots, tmp_path):
    shown = invoke("plots", roots[0], "--out", tmp_path / "plots")
    names = {Path(line).name for line in shown.splitlines()}
    assert {"distributions.png", "correlations.svg", "calibration.png", "by-decile.png"} <= names
    assert {path.name for path in (tmp_path / "plots").iterdir()} == names
    svg = (tmp_path / "plots" / "scores.svg").read_text()
    assert "<script" not in svg


def test_folders(tmp_path):
    assert default_folder([tmp_path / "demo"]) == tmp_path / "demo" / "comparison"
    assert default_folder([tmp_path / "a", tmp_path / "b"]) == tmp_path / "comparison-a-b"
    many = [tmp_path / name for name in "abcdef"]
    assert default_folder(many) == tmp_path / "comparison-a-5-others"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--format", "xml"], "--format"), (["--format", "csv", "--table", "skores"], "--table")],
)
def test_mistakes_are_one_line(roots, tmp_path, arguments, word):
    with pytest.raises(UserError, match=word) as caught:
        invoke("compare", roots[0], "--no-plots", "--out", tmp_path / "out", *arguments)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_p_values_are_short():
    assert [p_value(p) for p in (None, 0.00009, 0.0123, 0.05, 0.31, 1.0)] == [
        "–", "<.001", ".012", ".050", ".31", "1.00",
    ]  # fmt: skip


@pytest.mark.parametrize("cls", [RunRow, ExplainerRow, BoardRow, PairRow, BreakdownRow, BreakdownPairRow])
def test_the_guide_names_every_column(cls):
    named = set(re.findall(r"`([a-z0-9_]+)`", GUIDE.read_text(encoding="utf-8")))
    columns = {field.name for field in fields(cls)}
    ends = {c for c in columns if c.endswith(("_low", "_high")) or c in ("low", "high")}
    assert columns - ends <= named, columns - ends - named
    assert set(LATENT_SCHEMA.names) <= named

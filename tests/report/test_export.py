from __future__ import annotations

import io
import json
import re
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from autointerp.analyze.control import ControlRow
from autointerp.analyze.correlations import CorrelationRow
from autointerp.analyze.rates import RateRow
from autointerp.analyze.statistics import statistics
from autointerp.analyze.summary import SummaryRow
from autointerp.cli import app
from autointerp.errors import UserError
from autointerp.report.export import as_markdown, write_statistics
from autointerp.report.views import View, markdown
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, make_run

GUIDE = Path(__file__).parent.parent.parent / "docs" / "guides" / "statistics.md"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run", scorers=ALL_SCORERS)


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "random", seed=1, skill=0.6, scorers=ALL_SCORERS)


def summary(*arguments):
    result = CliRunner().invoke(app, ["summary", *map(str, arguments)])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_files_hold_every_number(root):
    found = statistics(open_run(root))
    paths = write_statistics(root, found)
    assert [path.name for path in paths] == ["scores.parquet", "rates.parquet", "correlations.parquet"]
    for path, rows in zip(paths, (found.scores, found.rates, found.correlations), strict=True):
        table = pq.read_table(path)
        assert table.num_rows == len(rows) > 0
        first = rows[0]
        assert table.slice(0, 1).to_pylist()[0] == {f.name: getattr(first, f.name) for f in fields(first)}
    again = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in write_statistics(root, found)] == again


def test_files_of_an_unscored_run_are_empty(tmp_path):
    run = open_run(make_run(tmp_path / "run", scored=False))
    paths = write_statistics(run.root, statistics(run))
    assert [pq.read_table(path).num_rows for path in paths] == [0, 0, 0]


def test_json_holds_the_same_rows(root, control):
    found = json.loads(summary(root, "--format", "json"))
    assert list(found) == ["scores", "rates", "correlations"]
    assert len(found["scores"]) == 13
    assert found["scores"][0]["peer_metric"] is None
    beside = json.loads(summary(root, "--control", control, "--format", "json"))
    assert len(beside["control"]) == 7
    assert beside["scores"] == found["scores"]


@pytest.mark.parametrize("table", ["scores", "rates", "correlations", "control"])
def test_csv_is_read_back(root, control, table):
    frame = pd.read_csv(io.StringIO(summary(root, "--control", control, "--format", "csv", "--table", table)))
    assert len(frame) > 0
    assert "scorer" in "".join(frame.columns)


def test_text_and_markdown(root, control):
    text = summary(root, "--control", control)
    assert "Beside the control run" in text
    shown = summary(root, "--format", "markdown")
    assert "## Pairs of scorers" in shown
    assert "Beside the control run" not in shown
    for block in re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert "\\<accuracy\\>" in as_markdown(statistics(open_run(root)))


def test_markdown_is_escaped():
    shown = markdown(View(columns=["", "n"], rows=[["  a|b<i>", "1\n2"]]))
    assert shown.splitlines()[2] == "| &nbsp;&nbsp;a\\|b\\<i\\> | 1↵2 |"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--format", "xml"], "--format"),
        (["--format", "csv", "--table", "skores"], "--table"),
        (["--format", "csv", "--table", "control"], "--table"),
        (["--control", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(root, arguments, word):
    with pytest.raises(UserError, match=word) as caught:
        summary(root, *arguments)
    assert "\n" not in str(caught.value)


def test_an_unscored_run_is_one_line(tmp_path):
    with pytest.raises(UserError, match="holds no scores"):
        summary(make_run(tmp_path / "run", scored=False))


@pytest.mark.parametrize("cls", [SummaryRow, RateRow, CorrelationRow, ControlRow])
def test_the_guide_names_every_column(cls):
    named = set(re.findall(r"`([a-z0-9_]+)`", GUIDE.read_text(encoding="utf-8")))
    columns = {field.name for field in fields(cls)}
    ends = {c for c in columns if c.endswith(("_low", "_high")) or c in ("low", "high")}
    assert columns - ends <= named, columns - ends - named

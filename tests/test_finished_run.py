"""A finished run as others read it: the Python API, DuckDB, Polars, pandas, the summary, the HTML page."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import autointerp
from autointerp.analyze.summary import summarise
from autointerp.cli import app as cli
from autointerp.errors import UserError
from autointerp.report.finish import finish
from tests.synthetic import HOSTILE, make_run
from tests.test_planted import finished, planted  # noqa: F401

# ruff: noqa: F811

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("synthetic") / "run")


def test_importing_the_package_is_light():
    code = "import autointerp, sys; print([m for m in ('torch', 'pandas', 'pyarrow', 'vllm', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_frames_and_views(finished):
    run = autointerp.open_run(finished[0].root)
    assert run.table("scores").num_rows == len(run.frame("scores")) == 8
    assert run.table("activations", latents=[2]).column("latent").unique().to_pylist() == [2]
    view = run.latent(0)
    assert view.statistics["status"] == "ok"
    windows = view.windows(split="test", kind="activating")
    assert len(windows) == 10
    for window in windows:
        marked = set(" ".join(re.findall("<<(.*?)>>", view.text(window))).split())
        assert marked
        assert marked <= {"cat", "dog", "horse", "mouse"}
    assert view.explanations["text"].notna().all()
    assert "latent 0" in repr(view).lower()


def test_a_folder_that_is_no_run_is_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError) as caught:
            autointerp.open_run(path)
        assert "\n" not in str(caught.value)


def guide_code(language: str) -> str:
    (code,) = re.findall(
        rf"```{language}\n(.*?)```", (ROOT / "docs/guides/reading.md").read_text(), re.DOTALL
    )
    return code


def test_duckdb_reads_the_files_as_the_guide_says(finished):
    import duckdb

    rows = duckdb.sql(guide_code("sql").replace("runs/demo", str(finished[0].root))).fetchall()
    assert {(row[1], row[3]) for row in rows} == {("shuffled", 4), (None, 4)}
    real = next(row for row in rows if row[1] is None)
    assert real[4] == 1.0


@pytest.mark.parametrize("tool", ["polars", "pandas"])
def test_polars_and_pandas_read_the_files_as_the_guide_says(finished, tool):
    text = (ROOT / "docs/guides/reading.md").read_text()
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if f"import {tool}" in c]
    exec(code.replace("runs/demo", str(finished[0].root)), {})


def test_the_python_of_the_guide_runs(finished, capsys):
    text = (ROOT / "docs/guides/reading.md").read_text()
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import autointerp" in c]
    exec(code.replace("17", "0").replace("42", "1").replace("runs/demo", str(finished[0].root)), {})
    assert "<<" in capsys.readouterr().out


def test_the_summary_is_the_mean_of_the_scores(finished):
    run = autointerp.open_run(finished[0].root)
    frame = run.frame("scores")
    rows = {row.control: row for row in summarise(run)}
    control = frame[frame.control == "shuffled"].value
    real = rows[None]
    assert real.mean == 1.0
    assert (real.low, real.high) == (None, None)  # of four latents, too few for an interval
    assert real.control_mean == pytest.approx(control.mean())
    assert real.difference == pytest.approx(1 - control.mean())
    assert (real.control_low, real.control_high) == (None, None)
    assert real.latent_coverage == real.item_coverage == 1.0


def test_the_summary_command_on_a_run_the_stages_made(finished):
    import json

    shown = CliRunner().invoke(cli, ["summary", str(finished[0].root), "--format", "json"]).stdout
    found = json.loads(shown)
    real, control = found["scores"]
    assert (real["mean"], real["worst_case"], real["weighted_mean"]) == (1.0, 1.0, 1.0)
    assert (real["control"], control["control"]) == (None, "shuffled")
    assert real["weighted_n"] > 1
    rates = [row for row in found["rates"] if row["control"] is None]
    assert {row["rate"] for row in rates} == {"sensitivity", "specificity"}
    assert {row["mean"] for row in rates} == {1.0}
    assert found["correlations"] == []


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    from autointerp.analyze.intervals import bootstrap_mean

    rng = np.random.default_rng(0)
    hits = 0
    for i in range(200):
        interval = bootstrap_mean(rng.normal(0.3, 0.1, size=60), seed=i, n_resamples=500)
        hits += interval.low <= 0.3 <= interval.high
    assert 0.88 <= hits / 200 <= 0.99


class Page(HTMLParser):
    """What a browser would make of a page: its tags, resources and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.resources: list[str] = []
        self.handlers: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "action") and value and not value.startswith("#"):
                self.resources.append(value)
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data):
        self.words += data


def test_hostile_text_cannot_break_out_of_the_page(synthetic):
    index = finish(synthetic)
    words = ""
    for path in index.parent.rglob("*.html"):
        page = Page(path.read_text(encoding="utf-8"))
        assert page.tags.count("script") == 1
        assert not {"style", "img", "iframe"} & set(page.tags)
        assert not page.handlers
        assert all((path.parent / r.split("?")[0]).is_file() for r in page.resources)
        words += page.words
    assert any("<script>" in text and text in words for text in HOSTILE)


def test_the_page_forbids_the_network(synthetic):
    text = finish(synthetic).read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy"\s+content="([^"]*)"', text)
    assert "default-src 'none'" in policy.replace("&#39;", "'")


@pytest.mark.parametrize("options", [{"explained": False}, {"scored": False}])
def test_a_run_without_labels_or_scores_is_shown_too(tmp_path, options, capsys):
    root = make_run(tmp_path / "run", **options)
    assert finish(root).stat().st_size > 4_000
    assert str(root) in capsys.readouterr().out.replace("\n", "")

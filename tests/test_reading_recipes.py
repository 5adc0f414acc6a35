"""The snippets of the guide on reading a run work as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.synthetic import make_run

GUIDE = (Path(__file__).parent.parent / "docs" / "guides" / "reading.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "run")


def snippet(title: str, root: Path) -> str:
    (code,) = re.findall(rf'```\w+ title="{title}"\n(.*?)```', GUIDE, re.DOTALL)
    return code.replace("runs/demo", str(root))


def test_best_labels_are_the_same_in_pandas_and_polars(root):
    tables = []
    for tool in ("pandas", "Polars"):
        names: dict = {}
        code = snippet(f"best labels, {tool}", root)
        if tool == "pandas":
            code = code.replace('best.nlargest(10, "value")', 'best = best.nlargest(10, "value")')
        exec(code, names)
        best = names["best"]
        values = sorted((best["value"].to_list()), reverse=True)
        tables.append(values)
        assert len(values) == 10
    assert tables[0] == pytest.approx(tables[1])


def test_labels_against_their_control(root):
    import duckdb

    from autointerp.analyze.summary import summarise
    from autointerp.run import open_run

    rows = duckdb.sql(snippet("labels against their own control, DuckDB", root)).fetchall()
    found = {(scorer, explainer): (n, difference) for scorer, explainer, n, difference in rows}
    expected = {
        (row.scorer, row.explainer): (row.n_paired, pytest.approx(row.difference))
        for row in summarise(open_run(root))
        if row.control is None
    }
    assert found == expected


def test_mistakes_of_the_judge(root, capsys):
    exec(snippet("mistakes of the judge", root), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 5
    assert any("default/0" in line or "shuffled/0" in line for line in lines)

"""The notebooks of the documentation run from beginning to end, and draw what they say."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.planted import WORD_SETS
from tests.synthetic import make_run
from tests.test_planted import finished, planted  # noqa: F401

# ruff: noqa: F811

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"


def execute(root, monkeypatch):
    notebook = nbformat.read(NOTEBOOKS / "read_a_run.ipynb", as_version=4)
    monkeypatch.setenv("AUTOINTERP_RUN", str(root))
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}
    ).execute()
    return notebook


def shown(notebook) -> list[dict]:
    return [out.get("data", {}) for cell in notebook.cells for out in cell.get("outputs", [])]


def test_it_reads_a_planted_run(finished, monkeypatch):
    notebook = execute(finished[0].root, monkeypatch)
    assert sum("image/png" in data for data in shown(notebook)) == 3
    text = "".join(data.get("text/plain", "") for data in shown(notebook))
    assert "statistics/0" in text
    assert any(word in text for words in WORD_SETS.values() for word in words)


def test_it_reads_a_run_with_failures_and_hostile_text(tmp_path, monkeypatch):
    notebook = execute(make_run(tmp_path / "run"), monkeypatch)
    assert sum("image/png" in data for data in shown(notebook)) == 3


def test_it_is_kept_as_it_ran():
    notebook = nbformat.read(NOTEBOOKS / "read_a_run.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in data for data in shown(notebook)) == 3
    outputs = [out for cell in code for out in cell.outputs]
    assert not [out for out in outputs if out.output_type == "error" or out.get("name") == "stderr"]

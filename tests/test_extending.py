"""The examples of the guides, run as they stand there: an explainer and a scorer of one's own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from autointerp import explainers, scorers
from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.engine.pipeline import run_stages
from autointerp.explainers.base import EXPLAINERS
from autointerp.scorers.base import SCORERS
from tests.planted import WORD_SETS
from tests.test_planted import finished, planted  # noqa: F401

GUIDES = Path(__file__).parent.parent / "docs" / "guides"


def code_of(guide: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)
    return code


@pytest.fixture
def registered():
    """Registers the guides' classes for one test; removes them afterwards."""
    explainers.load_all()
    scorers.load_all()
    before = dict(EXPLAINERS), dict(SCORERS)
    for guide in ("add-an-explainer.md", "add-a-scorer.md"):
        exec(compile(code_of(guide), guide, "exec"), {})
    yield
    for registry, old in zip((EXPLAINERS, SCORERS), before, strict=True):
        for name in set(registry) - set(old):
            del registry[name]


def test_the_examples_are_short():
    for guide in ("add-an-explainer.md", "add-a-scorer.md"):
        lines = [line for line in code_of(guide).splitlines() if line.strip()]
        imports = [line for line in lines if line.startswith(("from ", "import "))]
        assert len(lines) - len(imports) <= 30, guide


def test_they_work_in_a_run(registered, planted, finished, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PLANTED_MODEL", str(planted.parent / "model"))
    root = tmp_path / "run"
    shutil.copytree(finished[0].root, root)
    overrides = [
        "explain.explainers=['strongest', 'statistics']",
        "score.scorers=['quoted-words']",
        "scorers={}",
    ]
    config = load_config(planted, overrides)
    run = RunDirectory(root)
    run_stages(config, run, ["explain", "score"])
    labels = {
        row["latent"]: row["text"] for row in run.dataset("explanations", "strongest").read().to_pylist()
    }
    for latent, words in enumerate(WORD_SETS.values()):
        assert labels[latent] == f'"{words[0]}"'
    scores = run.dataset("scores", "quoted-words").read().to_pylist()
    whole = [r["value"] for r in scores if r["explainer"] == "statistics" and r["control"] is None]
    one_word = [r["value"] for r in scores if r["explainer"] == "strongest" and r["control"] is None]
    assert set(whole) == {1.0}
    assert all(0.5 < value < 1.0 for value in one_word)

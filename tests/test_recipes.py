"""Every recipe in pipelines/ is valid: settings, plug-ins and what they need of their models."""

from __future__ import annotations

from pathlib import Path

import pytest

from autointerp.config import load_config
from autointerp.engine.pipeline import all_steps
from autointerp.stages.plugins import Models

RECIPES = sorted((Path(__file__).parent.parent / "pipelines").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path, monkeypatch):
    monkeypatch.chdir(path.parent.parent)
    config = load_config(path)
    names = [step.name for step in all_steps(config, Models(config))]
    assert names[:2] == ["cache", "sample"]
    assert any(name.startswith("score/") for name in names)


def test_names_are_distinct():
    names = [load_config(path).name for path in RECIPES]
    assert len(set(names)) == len(names) >= 4

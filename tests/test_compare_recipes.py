"""The recipes of the published comparisons: valid, and the commands at their top do what they say."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from autointerp.config import load_config
from autointerp.engine.pipeline import all_steps
from autointerp.stages.plugins import Models

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "pipelines" / "compare").glob("*.toml"))


def commands(path: Path) -> list[list[str]]:
    """The commands in the comment at the top of a recipe."""
    head = path.read_text(encoding="utf-8").split("\nname =")[0]
    return [shlex.split(line) for line in re.findall(r"^#\s+autointerp (.*)$", head, re.MULTILINE)]


def config_of(command: list[str]):
    overrides = [value for flag, value in pairwise(command) if flag == "--set"]
    return load_config(command[1], overrides)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_command_is_valid_and_the_runs_compared_are_made(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(path)
    assert found[0] == ["run", str(path.relative_to(ROOT))]
    assert found[-1][0] == "compare"
    made = []
    for command in found[:-1]:
        config = config_of(command)
        names = [step.name for step in all_steps(config, Models(config))]
        assert names[:2] == ["cache", "sample"]
        assert any(name.startswith("score/") for name in names)
        made.append(config)
    runs = [part for part in found[-1][1:] if part.startswith("runs/")]
    assert sorted(runs) == sorted(f"runs/{config.name}" for config in made)
    assert len({config.model_dump_json(exclude={"name"}) for config in made}) == len(made)
    chosen = [value for flag, value in pairwise(found[-1]) if flag == "--explainer"]
    for config in made:
        assert set(chosen) <= set(config.explain.explainers)


def test_runs_of_one_comparison_differ_in_what_they_compare_only(monkeypatch):
    monkeypatch.chdir(ROOT)
    of = {path.stem: [config_of(c) for c in commands(path)[:-1]] for path in RECIPES}
    for name, part in (
        ("examples-strategy", "sample"), ("window-length", "sample"), ("width", "dictionary"),
        ("residual-against-mlp", "dictionary"),
    ):  # fmt: skip
        first, *others = (config.model_dump(exclude={"name", part}) for config in of[name])
        assert others
        assert all(other == first for other in others)


def test_names_are_distinct(monkeypatch):
    monkeypatch.chdir(ROOT)
    names = [load_config(path).name for path in [*RECIPES, *(ROOT / "pipelines").glob("*.toml")]]
    assert len(set(names)) == len(names)


def test_the_guide_names_every_recipe():
    text = (ROOT / "docs" / "guides" / "compare.md").read_text(encoding="utf-8")
    assert {path.name for path in RECIPES} <= set(re.findall(r"`([\w-]+\.toml)`", text))

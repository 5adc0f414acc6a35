"""Every recipe in pipelines/ is valid: settings, plug-ins and what they need of their models."""

from __future__ import annotations

from pathlib import Path

import pytest

from autointerp.config import load_config
from autointerp.engine.pipeline import all_steps
from autointerp.errors import UserError
from autointerp.stages import plugins
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


def test_a_judge_too_small_for_questions_is_told_at_start(monkeypatch):
    monkeypatch.chdir(RECIPES[0].parent.parent)
    # Not by caplog: libraries of other tests may have silenced logging by then.
    told: list[str] = []
    monkeypatch.setattr(plugins.log, "warning", lambda text, *args: told.append(text % args))
    for readout, said in (("json", True), ("likelihood", False)):
        told.clear()
        overrides = ['score.scorers=["detection"]', f'scorers={{detection={{readout="{readout}"}}}}']
        config = load_config("pipelines/demo.toml", overrides)
        all_steps(config, Models(config))
        assert any("has 135 million parameters" in text for text in told) is said


def test_an_error_stands_alone(monkeypatch):
    """The judge of these options is too small, which is not said before the error about another section."""
    monkeypatch.chdir(RECIPES[0].parent.parent)
    told: list[str] = []
    monkeypatch.setattr(plugins.log, "warning", lambda text, *args: told.append(text % args))
    overrides = [
        'explain.explainers=["best-of"]',
        "explainers={}",
        'score.scorers=["detection"]',
        'scorers={detection={readout="json"}, detecton={readout="json"}}',
    ]
    config = load_config("pipelines/demo.toml", overrides)
    with pytest.raises(UserError, match=r"\[scorers.detecton\].*did you mean 'detection'"):
        all_steps(config, Models(config))
    assert told == []


def test_an_explainer_cannot_take_the_name_of_none(monkeypatch):
    monkeypatch.chdir(RECIPES[0].parent.parent)
    config = load_config("pipelines/demo.toml", ['explain.explainers=["none"]'])
    with pytest.raises(UserError, match="accepted: any other name"):
        all_steps(config, Models(config))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ['explain.explainers=["mine"]', "explainers.mine.path='none.csv'"],
            r"^explainers\.mine\.explainer: missing, and 'mine' is itself no explainer; accepted: explainer = one of best-of,",
        ),
        (
            ['explain.explainers=["mine"]', "explainers.mine={explainer='given', path='none.csv'}"],
            r"^explainers\.mine: path: cannot read 'none\.csv'",
        ),
        (
            ['explain.explainers=["gradient"]', "explainers.gradient.model='package:nopkg/x.gguf'"],
            r"^explainers\.gradient: model 'package:nopkg/x\.gguf': the Python package nopkg is not installed; accepted: ",
        ),
        (['explainers=["statistics"]'], r"^explainers: seen .* \(the list of names is explain\.explainers\)"),
        (['explain.explainers=["statistcs"]'], r"did you mean 'statistics'\?"),
    ],
)
def test_mistakes_in_a_plug_ins_table_name_that_table(monkeypatch, overrides, said):
    monkeypatch.chdir(RECIPES[0].parent.parent)

    def check() -> None:
        config = load_config("pipelines/demo.toml", overrides)
        all_steps(config, Models(config))

    with pytest.raises(UserError, match=said):
        check()


def test_a_scorer_left_out_may_keep_its_section(monkeypatch):
    monkeypatch.chdir(RECIPES[0].parent.parent)
    told: list[str] = []
    monkeypatch.setattr(plugins.log, "info", lambda text, *args: told.append(text % args))
    config = load_config("pipelines/demo-scorers.toml", ['score.scorers=["embedding"]'])
    assert [step.name for step in all_steps(config, Models(config)) if step.name.startswith("score/")]
    assert any(text.startswith("not used: [scorers.") for text in told)

"""One TOML per run: overrides, defaults, and one clear line for each mistake."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import Field

from autointerp.config import Latents, RunConfig, describe_type, load_config, parse_table
from autointerp.errors import UserError

MINIMAL = """
[subject]
model = "some/model"
[dictionary]
path = "saes/x"
[corpus]
dataset = "text.parquet"
"""


def load(tmp_path, text=MINIMAL, *overrides):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return load_config(path, overrides)


def test_defaults_and_overrides(tmp_path):
    config = load(
        tmp_path, MINIMAL, "cache.n_tokens=1_000_000", "name=other", "sample.trigger_position=[0.1, 0.2]"
    )
    assert config.cache.n_tokens == 1_000_000
    assert config.name == "other"
    assert config.sample.trigger_position == (0.1, 0.2)
    assert config.sample.n_train == 40


def test_resolved_toml_reads_back_the_same(tmp_path):
    config = load(tmp_path, MINIMAL, "explain.latents=[3, 5]", "explainers.default={threshold = 0.5}")
    path = tmp_path / "again.toml"
    path.write_text(config.to_toml())
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("cache.n_token=5", ["cache.n_token", "seen 5", "did you mean 'n_tokens'"]),
        ("cach.n_tokens=5", ["cach", "did you mean 'cache'"]),
        ("cache.n_tokens=many", ["cache.n_tokens", "seen 'many'", "a whole number >= 1"]),
        ("cache.n_tokens=0", ["cache.n_tokens", "seen 0", ">= 1"]),
        ("cache.n_tokens=1.5", ["cache.n_tokens", "seen 1.5"]),
        ("sample.train_strategy=best", ["sample.train_strategy", "seen 'best'", "'quantiles'"]),
        ("sample.trigger_position=[0.5, 2]", ["sample.trigger_position", "seen 2", "<= 1"]),
        ("explain.latents=-3", ["explain.latents", "seen -3", "'all'"]),
        ("explain.latents=some", ["explain.latents", "seen 'some'"]),
        ("dictionary.source=neurons", ["dictionary", "hook_point"]),
        ("dictionary.path=3", ["dictionary.path", "seen 3", "a text"]),
        ("corpus.test_fraction=1.0", ["corpus.test_fraction", "seen 1.0", "< 1.0"]),
        ("name=two words", ["name", "seen 'two words'"]),
        ("cache=3", ["cache", "seen 3", "a table"]),
        ("cache.n_tokens", ["--set", "section.key=value"]),
        ("name.x=1", ["--set"]),
    ],
)
def test_a_mistake_is_one_line_naming_key_value_and_what_is_accepted(tmp_path, override, expected):
    text = 'name = "here"\n' + MINIMAL
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, override)
    message = str(caught.value)
    assert "\n" not in message
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Literal["a", "b"] | list[Literal["a", "b"]], "one of 'a', 'b' or a list of them"),
        (str | Annotated[list[str], Field(min_length=1)] | None, "a text or a list of them"),
        (list[Literal["a", "b"]], "a list of any of 'a', 'b'"),
        (Latents, "'all' or a whole number >= 1 or a list of whole numbers >= 0"),
        (list[str | dict[str, int]], "a list of texts or tables"),
    ],
)
def test_types_in_words(annotation, words):
    assert describe_type(annotation) == words


def test_missing_section_is_named():
    with pytest.raises(UserError, match="subject: missing"):
        parse_table(RunConfig, {"dictionary": {"path": "x"}, "corpus": {"dataset": "y"}})


def test_missing_file_lists_the_recipes():
    with pytest.raises(UserError, match=r"no-such\.toml.*recipes here"):
        load_config("no-such.toml")


def test_bad_toml_is_one_line(tmp_path):
    with pytest.raises(UserError, match="not valid TOML"):
        load(tmp_path, "[cache\n")


def test_settings_of_speed_alone_do_not_change_the_fingerprint(tmp_path):
    base = load(tmp_path)
    assert load(tmp_path, MINIMAL, "cache.contexts_per_batch=3").fingerprint() == base.fingerprint()
    assert load(tmp_path, MINIMAL, "subject.device=cpu").fingerprint() == base.fingerprint()
    assert load(tmp_path, MINIMAL, "cache.n_tokens=3").fingerprint() != base.fingerprint()


def test_every_setting_is_documented():
    def check(cls, where=""):
        for name, info in cls.model_fields.items():
            inner = info.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                check(inner, f"{where}{name}.")
            else:
                assert info.description, f"{where}{name} has no docstring"
                assert describe_type(inner, info.metadata)

    check(RunConfig)


def test_a_misspelt_key_of_an_optional_section_lists_those_there(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        '[subject]\nmodel = "m"\n[dictionary]\npath = "d"\n[corpus]\ndataset = "c"\n[cache.reservoir]\nn_randm = 3\n'
    )
    with pytest.raises(
        UserError, match=r"cache\.reservoir\.n_randm.*did you mean 'n_random'.*n_random, n_top"
    ):
        load_config(path)

from __future__ import annotations

import json
import sys

import pytest

import autointerp.explainers.gradient as gradient
from autointerp import cli
from autointerp.explainers.gradient import Link, TokenLabel, Trajectory
from tests.report.trajectories import trajectory

MONTHS = (
    "January", "February", "March", "April", "June", "July", "August", "September", "October", "November",
)  # fmt: skip
OTHERS = (
    "Monday", "Friday", "window", "river", "doctor", "guitar", "spring", "London", "sugar", "letter", "seven",
    "hammer", "bread", "yellow", "jacket", "cloud", "candle", "bridge", "novel", "engine", "ticket", "uncle",
    "copper", "tiger",
)  # fmt: skip
HOSTILE = "[bold]x[/bold]\x1b[31m\u202e"


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.csv"
    path.write_text("token,activation\ndog,1\ncat,1\n \u00a0,1\nchair,0\ntable,0\n", encoding="utf-8")
    return path


@pytest.fixture
def asked(monkeypatch):
    """The explainer replaced: it keeps what it was asked and gives a fixed label."""
    calls = []
    link = Link(label="animal", precision=0.65, recall=1.0, balanced_accuracy=0.83)

    def label_tokens(items, config, discriminator, seed):
        calls.append((items, config, seed))
        return TokenLabel(
            label="mammal" if config.mode == "robust" else None,
            status="ok" if config.mode == "robust" else "undetermined",
            reason=None if config.mode == "robust" else f"not_found: {HOSTILE}",
            precision=0.97,
            recall=0.98,
            p_value=0.005,
            chain=(link,),
            candidates=(Link(label=HOSTILE, precision=None, recall=0.5, balanced_accuracy=None),),
            trajectories=() if config.mode == "paper" else (Trajectory(**trajectory()),),
        )

    monkeypatch.setattr(gradient, "open_discriminator", lambda config: None)
    monkeypatch.setattr(gradient, "label_tokens", label_tokens)
    return calls


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["autointerp", "label-tokens", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


def test_what_is_printed(monkeypatch, capsys, words, asked):
    assert run(monkeypatch, words, "--seed", 3, "--set", "restarts=5") == 0
    out = capsys.readouterr().out
    for part in ("label      mammal", "status     ok", "precision  .97", "recall     .98", "animal"):
        assert part in out
    assert "chain, from broad to narrow" in out
    assert "[bold]x[/bold]" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "1 rows with a blank token" in out
    (items, config, seed), *_ = asked
    assert [item.token for item in items] == ["dog", "cat", "chair", "table"]
    assert (config.restarts, seed) == (5, 3)


def test_json_is_alone_on_the_output(monkeypatch, capsys, words, asked):
    assert run(monkeypatch, words, "--mode", "paper", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value)[:7] == ["label", "status", "reason", "precision", "recall", "chain", "candidates"]
    assert (value["label"], value["status"]) == (None, "undetermined")


def test_plots_of_the_search(monkeypatch, capsys, words, asked, tmp_path):
    assert run(monkeypatch, words, "--json", "--trajectory", tmp_path / "plots" / "words") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["label"] == "mammal"
    assert "words.png" in captured.err
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["words.png", "words.svg"]


def test_no_search_no_plot(monkeypatch, capsys, words, asked, tmp_path):
    assert run(monkeypatch, words, "--mode", "paper", "--trajectory", tmp_path / "words") == 0
    assert "no plot" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"token\ndog\n", "no column 'activation'"),
        (b"token,activation\ndog,1\n", "no negatives"),
        (b"token,activation\ndog,one\n", "'one'"),
        (b"token,activation\n\xff,1\n", "not UTF-8"),
        (b'token,activation\n"dog,1\n', "not valid CSV"),
    ],
)
def test_mistakes_end_with_one_line_and_code_2(monkeypatch, capsys, tmp_path, asked, content, message):
    path = tmp_path / "words.csv"
    path.write_bytes(content)
    assert run(monkeypatch, path, "--json") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not asked


def test_unknown_mode_and_setting(monkeypatch, capsys, words, asked):
    assert run(monkeypatch, words, "--mode", "magic") == 2
    assert "robust" in capsys.readouterr().err
    assert run(monkeypatch, words, "--set", "restart=2") == 2
    assert "restarts" in capsys.readouterr().err


@pytest.mark.demo_model
def test_a_real_label(monkeypatch, capsys, tmp_path):
    path = tmp_path / "months.csv"
    lines = ["token,activation", *(f"{word},1" for word in MONTHS), *(f"{word},0" for word in OTHERS)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert run(monkeypatch, path, "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["label"] or "").casefold().removesuffix("s") == "month"
    assert value["status"] == "ok"
    assert value["recall"] >= 0.8

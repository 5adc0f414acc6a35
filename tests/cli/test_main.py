from __future__ import annotations

import sys
from pathlib import Path

import pytest

from autointerp import cli
from autointerp.artifacts.manifest import write_text_whole
from autointerp.errors import UserError


def run(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["autointerp", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["frobnicate"], "'frobnicate'"),
        (["export", "xml", "run", "out"], "`autointerp export --help`"),
        (["report"], "'RUN_DIR'"),
        (["report", "run", "extra"], "extra"),
        (["serve", "run", "--prot", "8"], "--port"),
        (["serve", "run", "--port", "99999"], "65535"),
        (["compare", "run", "--tie", "x"], "'--tie'"),
        (["check", "no-such.toml"], "no-such.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(monkeypatch, capsys, arguments, named):
    assert run(monkeypatch, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["import", "--help"], 0)])
def test_help_is_printed_and_no_error(monkeypatch, capsys, arguments, code):
    assert run(monkeypatch, *arguments) == code
    out, err = capsys.readouterr()
    assert "Usage: autointerp" in out
    assert err == ""


def test_an_interrupted_command_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(path, overrides):
        raise KeyboardInterrupt

    monkeypatch.setattr("autointerp.config.load_config", interrupted)
    assert run(monkeypatch, "check", "any.toml") == 130
    assert "run the same command again" in capsys.readouterr().err


@pytest.mark.parametrize("path", [Path("."), Path("/")])
def test_a_folder_in_place_of_a_file_is_refused(path):
    with pytest.raises(UserError, match="Is a directory"):
        write_text_whole(path, "text")

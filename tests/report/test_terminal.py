from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from autointerp.report import numbers
from autointerp.report.terminal import print_summary
from autointerp.run import open_run
from tests.synthetic import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("runs") / "synthetic"))


def printed(run, **console) -> str:
    out = io.StringIO()
    print_summary(run, Console(file=out, highlight=False, **console), report=Path("there/index.html"))
    return out.getvalue()


def test_plain_output(run):
    text = printed(run)
    assert "\x1b" not in text
    assert "\u202e" not in text
    for word in ("detection", "simulation", "default", "statistics", "shuffled control", "there/index.html"):
        assert word in text
    assert str(run.root) in text
    assert text.count("latent ") >= 5
    assert "[bold red]markup[/bold red]" in text
    assert "<<" in text


def test_on_a_terminal_marks_are_colours(run):
    text = printed(run, force_terminal=True, color_system="standard", width=200)
    assert "\x1b[" in text
    assert "\x1b[31mred" not in text
    assert "[bold red]markup[/bold red]" in text


def test_without_scores(tmp_path):
    text = printed(open_run(make_run(tmp_path / "run", explained=False)))
    assert "Nothing is scored yet" in text
    assert "None" not in text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.score(None), "–"),
        (numbers.score(-0.25), "−0.250"),
        (numbers.score(-0.0002), "0.000"),
        (numbers.signed(0.25), "+0.250"),
        (numbers.signed(-0.0002), "+0.000"),
        (numbers.interval(0.1, None), "–"),
        (numbers.share(0.0001), "<1%"),
        (numbers.share(0.9999), ">99%"),
        (numbers.share(1.0), "100%"),
        (numbers.usd(0.0), "$0.00"),
        (numbers.usd(0.00123), "$0.00123"),
        (numbers.duration(185), "3 min 05 s"),
        (numbers.duration(7830), "2 h 10 min"),
        (numbers.measure(0.0123), "0.0123"),
        (numbers.measure(12345.6), "12,346"),
        (numbers.count(1234567), "1,234,567"),
    ],
)
def test_numbers(shown, expected):
    assert shown == expected

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from autointerp.analyze.correlations import correlations
from autointerp.analyze.statistics import statistics
from autointerp.analyze.summary import summarise
from autointerp.report import numbers
from autointerp.report.terminal import print_statistics, print_summary
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return open_run(make_run(tmp_path_factory.mktemp("runs") / "synthetic", scorers=ALL_SCORERS))


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


def test_the_table_fits_a_hundred_columns(run):
    text = printed(run, force_terminal=True, color_system=None, width=100)
    table = text[: text.index("latent ")]
    assert all(len(line.rstrip()) <= 100 for line in table.splitlines())
    row = next(
        r for r in summarise(run) if (r.scorer, r.explainer, r.control) == ("fuzzing", "default", None)
    )
    (line,) = [line for line in table.partition("fuzzing")[2].splitlines() if "default" in line][:1]
    assert line.split()[1] == ".50"
    for cell in (
        numbers.brief(row.mean, row.low, row.high),
        numbers.brief(row.control_mean, row.control_low, row.control_high),
        numbers.brief(row.difference, row.difference_low, row.difference_high, sign=True),
        f"{row.n_scored}/{row.n_latents}",
        numbers.share(row.item_coverage),
    ):
        assert cell in line


def test_the_correlation_matrix(run):
    text = printed(run)
    rows = [r for r in correlations(run) if r.explainer is None and not r.with_controls]
    one = next(r for r in rows if (r.scorer_a, r.scorer_b) == ("detection", "fuzzing"))
    (line,) = [line for line in text.splitlines() if line.startswith("2 fuzzing")]
    assert line.split()[2] == numbers.rate(one.spearman)
    (line,) = [line for line in text.splitlines() if line.startswith("1 detection")]
    assert line.split()[2] == str(one.n)


def test_every_table_is_printed(run):
    out = io.StringIO()
    print_statistics(statistics(run), Console(file=out, highlight=False))
    text = out.getvalue()
    for title in (
        "Over latents",
        "Coverage",
        "Sensitivity",
        "Specificity",
        "Correlation",
        "Pairs of scorers",
    ):
        assert title in text
    assert "<accuracy>" in text
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
        (numbers.brief(0.5, -0.25, 1.0), ".500 [−.250, 1.000]"),
        (numbers.brief(0.5, None, None, sign=True), "+.500"),
        (numbers.brief(-0.5, -0.75, -0.0001), "−.500 [−.750, .000]"),
        (numbers.brief(None, 0.1, 0.2), "–"),
        (numbers.rate(0.8149), ".81"),
        (numbers.rate(1.0), "1.00"),
        (numbers.rate(-0.5), "−.50"),
        (numbers.chance(0.2), "0.20"),
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

"""Statistics kept in `summary/` are read where they are those of this version, else computed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autointerp.analyze.statistics import statistics
from autointerp.report import kept
from autointerp.report.export import write_statistics
from autointerp.report.kept import kept_statistics
from autointerp.run import open_run
from tests.synthetic import make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return open_run(make_run(path, only=[5, 6, 7], scorers=("detection", "fuzzing")))


def test_kept_statistics_are_read(run, monkeypatch):
    found = statistics(run)
    write_statistics(run.root, found)
    monkeypatch.setattr(kept, "statistics", None)
    assert kept_statistics(run).scores == found.scores


@pytest.mark.parametrize("table", ["scores", "rates", "correlations"])
def test_intervals_over_too_few_latents_are_of_another_version(run, table):
    found = statistics(run)
    ends = {"low": 0.1, "high": 0.9} if table != "correlations" else {"spearman_low": 0.1}
    first, *rest = getattr(found, table)
    write_statistics(run.root, replace(found, **{table: [replace(first, **ends), *rest]}))
    assert getattr(kept_statistics(run), table) == getattr(found, table)

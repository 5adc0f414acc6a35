from __future__ import annotations

import numpy as np
import pytest

from autointerp.analyze import summary
from autointerp.analyze.summary import bootstrap_mean, summarise, summarise_scores, summary_table
from autointerp.artifacts.schemas import table_of
from autointerp.run import open_run
from tests.synthetic import make_run


def score(latent, value, control=None, status="ok", explainer="default", **more):
    return {
        "latent": latent,
        "explanation": f"{explainer}/0" if control is None else f"{explainer}.shuffled/0",
        "explainer": explainer,
        "control": control,
        "scorer": "detection",
        "metric": "none" if status == "unexplained" else "auroc",
        "value": value,
        "chance": None if status == "unexplained" else 0.5,
        "status": status,
        "n_examples": 0 if status == "unexplained" else 10,
        "n_unparsed": 0,
        "n_error": 0,
        "details": "{}",
        **more,
    }


def rows_of(rows, **options):
    return {(r.explainer, r.control): r for r in summarise_scores(table_of("scores", rows), **options)}


def test_numbers_by_hand():
    real = [score(i, v) for i, v in enumerate([0.5, 0.75, 0.875, 1.0])]
    real += [
        score(4, None, status="unexplained"),
        score(5, None, status="failed", n_unparsed=4, n_error=6),
    ]
    control = [score(i, v, "shuffled") for i, v in enumerate([0.5, 0.25, 0.375])]
    rows = rows_of(real + control)
    row = rows["default", None]
    assert (row.n_latents, row.n_scored) == (6, 4)
    assert row.mean == pytest.approx(0.78125)
    assert row.median == pytest.approx(0.8125)
    assert (row.q25, row.q75) == pytest.approx((0.6875, 0.90625))
    assert (row.metric, row.chance) == ("auroc", 0.5)
    assert row.latent_coverage == pytest.approx(4 / 6)
    assert row.item_coverage == pytest.approx(40 / 50)
    assert row.low is not None
    assert row.high is not None
    assert 0.5 <= row.low < row.mean < row.high <= 1.0
    assert row.control_mean == pytest.approx(0.375)
    assert row.n_paired == 3
    assert row.difference == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert row.difference_low <= row.difference <= row.difference_high
    alone = rows["default", "shuffled"]
    assert (alone.mean, alone.low, alone.high) == (row.control_mean, row.control_low, row.control_high)
    assert (alone.control_mean, alone.difference, alone.n_paired) == (None, None, None)


def test_undefined_is_none():
    rows = rows_of([score(0, None, status="unexplained"), score(0, 0.5, "shuffled")])
    row = rows["default", None]
    assert (row.mean, row.low, row.median, row.metric, row.chance, row.item_coverage) == (None,) * 6
    assert (row.latent_coverage, row.n_paired, row.difference) == (0.0, 0, None)
    one = rows["default", "shuffled"]
    assert (one.mean, one.low, one.high) == (0.5, None, None)
    assert summarise_scores(table_of("scores", [])) == []


def test_several_explanations_of_a_latent_count_once():
    rows = [score(0, 0.5), {**score(0, 1.0), "explanation": "default/1"}, score(1, 0.25)]
    row = rows_of(rows)["default", None]
    assert (row.n_latents, row.n_scored, row.mean) == (2, 2, pytest.approx(0.5))


def test_rows_do_not_depend_on_one_another_and_are_repeatable():
    a = [score(i, (i % 7) / 7) for i in range(40)]
    b = [score(i, (i % 5) / 5, explainer="other") for i in range(40)]
    alone, together = rows_of(a)["default", None], rows_of(b + a)["default", None]
    assert alone == together
    assert rows_of(a, seed=1)["default", None].low != alone.low


def test_bootstrap_agrees_with_scipy_and_with_the_normal_interval(monkeypatch):
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).normal(0.7, 0.1, size=300)
    ours = bootstrap_mean(values, seed=1, n_resamples=4000)
    theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=2).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.001)
    monkeypatch.setattr(summary, "EXACT_BELOW", 100)
    normal = bootstrap_mean(values, seed=1)
    assert (normal.low, normal.high) == pytest.approx((ours.low, ours.high), abs=0.001)
    assert ours.n == 300


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(3)
    hits = 0
    for i in range(300):
        interval = bootstrap_mean(rng.uniform(size=60), seed=i, n_resamples=400)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.90 < hits / 300 < 0.985


def test_a_whole_run_in_its_own_order(tmp_path):
    rows = summarise(open_run(make_run(tmp_path / "run")))
    assert [(r.scorer, r.explainer, r.control) for r in rows] == [
        (scorer, explainer, control)
        for scorer in ("detection", "fuzzing", "simulation")
        for explainer in ("default", "statistics")
        for control in (None, "shuffled")
    ]
    table = summary_table(rows)
    assert table.num_rows == 12
    assert table.column("control_mean").null_count == 6
    assert summary_table([]).schema == table.schema

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from autointerp.analyze import correlations as module
from autointerp.analyze.correlations import _midranks, correlate, correlate_scores, correlations
from autointerp.artifacts.schemas import table_of
from autointerp.run import open_run
from tests.analyze.rows import score
from tests.synthetic import ALL_SCORERS, make_run


def pairs(*rows, order=("detection", "fuzzing")):
    # One table per scorer, as a run holds them.
    names = dict.fromkeys(row["scorer"] for row in rows)
    parts = [table_of("scores", [row for row in rows if row["scorer"] == name]) for name in names]
    return {(r.scorer_a, r.scorer_b, r.explainer, r.with_controls): r for r in correlate_scores(parts, order)}


def both(latent, first, second, *args, **more):
    return [
        score(latent, first, *args, **more),
        {**score(latent, second, *args, **more), "scorer": "fuzzing"},
    ]


def rows_of(points, *args, **more):
    return [row for latent, (x, y) in enumerate(points) for row in both(latent, x, y, *args, **more)]


POINTS = [(0.1, 0.3), (0.9, 0.35), (0.5, 0.9), (0.7, 0.8), (0.7, 0.1)]


def test_numbers_are_scipys():
    found = pairs(*rows_of(POINTS))
    assert list(found) == [("detection", "fuzzing", "default", False)]
    row = found["detection", "fuzzing", "default", False]
    x, y = np.float32(POINTS).T
    assert row.pearson == pytest.approx(pearsonr(x, y).statistic)
    assert row.spearman == pytest.approx(spearmanr(x, y).statistic)
    assert (row.n, row.n_latents) == (5, 5)
    assert (row.spearman_low, row.spearman_high, row.pearson_low, row.pearson_high) == (None,) * 4
    (more,) = pairs(*rows_of([*POINTS, (0.4, 0.6)])).values()
    assert more.n_latents == 6
    assert -1 <= more.spearman_low <= more.spearman <= more.spearman_high <= 1
    assert (row.published_spearman, row.published_pearson) == (0.73, 0.74)


def test_only_explanations_both_scored_count():
    rows = rows_of(POINTS)
    rows += [score(7, 0.1), score(8, None, status="unexplained"), score(9, None, status="failed")]
    (row,) = pairs(*rows).values()
    assert row.n == 5


@pytest.mark.parametrize("points", [POINTS[:2], [(0.5, 0.1), (0.5, 0.2), (0.5, 0.9), (0.5, 0.8)]])
def test_two_pairs_or_a_constant_have_no_correlation(points):
    (row,) = pairs(*rows_of(points)).values()
    assert row.n == len(points)
    assert (row.spearman, row.spearman_low, row.pearson, row.pearson_high) == (None,) * 4


def test_scopes():
    rows = rows_of(POINTS) + rows_of(POINTS[:4], explainer="other") + rows_of(POINTS, "shuffled")
    found = pairs(*rows)
    sizes = {(key[2], key[3]): (row.n, row.n_latents) for key, row in found.items()}
    assert sizes == {
        ("default", False): (5, 5),
        ("other", False): (4, 4),
        (None, False): (9, 5),
        (None, True): (14, 5),
    }


def test_a_scorer_that_needs_no_explanation_is_paired_by_latent():
    free = [
        {**score(i, v, explainer="none"), "scorer": "intruder"} for i, v in enumerate([0.1, 0.2, 0.3, 0.4])
    ]
    real = [score(i, v) for i, v in enumerate([0.5, 0.6, 0.7])]
    real += [{**score(0, 0.55), "explanation": "default/1"}, score(9, 0.9)]
    found = pairs(*real, *[score(i, 0.1 * i, "shuffled") for i in range(3)], *free)
    (row,) = found.values()
    assert (row.scorer_a, row.scorer_b, row.explainer, row.with_controls) == (
        "detection", "intruder", "default", False,
    )  # fmt: skip
    assert (row.n, row.n_latents) == (4, 3)
    assert row.pearson == pytest.approx(pearsonr([0.5, 0.55, 0.6, 0.7], [0.1, 0.1, 0.2, 0.3]).statistic)
    other = [row | {"scorer": "intruder-2", "value": row["value"] ** 2} for row in free]
    (row,) = pairs(*free, *other).values()
    assert (row.explainer, row.n, row.spearman) == ("none", 4, pytest.approx(1.0))


def test_copies_of_a_latents_explanations_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    x = rng.normal(size=40)
    y = x + rng.normal(size=40)
    once = correlate(x, y, np.arange(40), seed=1)
    many = correlate(np.repeat(x, 9), np.repeat(y, 9), np.repeat(np.arange(40), 9), seed=1)
    assert many["n"] == 360
    for end in ("spearman_low", "spearman_high", "pearson_low", "pearson_high"):
        assert many[end] == pytest.approx(once[end], abs=0.01)


def test_large_sample_intervals_agree_with_resampling(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=450)
    y = 0.7 * x + rng.normal(size=450)
    exact = correlate(x, y, np.arange(450))
    monkeypatch.setattr(module, "EXACT_BELOW", 100)
    normal = correlate(x, y, np.arange(450))
    for end in ("spearman_low", "spearman_high", "pearson_low", "pearson_high"):
        assert exact[end] == pytest.approx(normal[end], abs=0.03)


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=12).flatmap(
        lambda x: st.tuples(st.just(x), st.lists(st.integers(0, 3), min_size=len(x), max_size=len(x)))
    )
)
@settings(deadline=None)
def test_midranks_are_those_of_the_repeated_values(case):
    from scipy.stats import rankdata

    values, counts = map(np.array, case)
    group = np.unique(values, return_inverse=True)[1]
    found = _midranks(counts[None, :].astype(float), group)[0]
    ranks = rankdata(np.repeat(values, counts))
    assert np.repeat(found, counts) == pytest.approx(ranks)


def test_a_whole_run_in_its_own_order(tmp_path):
    run = open_run(make_run(tmp_path / "run", n_latents=20, scorers=ALL_SCORERS))
    rows = correlations(run)
    assert [(r.explainer, r.with_controls) for r in rows] == (
        [("default", False)] * 6 + [("statistics", False)] * 6 + [(None, False)] * 6 + [(None, True)] * 3
    )
    assert [(r.scorer_a, r.scorer_b) for r in rows[:3]] == [
        ("detection", "fuzzing"), ("detection", "simulation"), ("detection", "intruder"),
    ]  # fmt: skip
    assert correlations(run) == rows


def test_the_kind_of_a_scorer_named_otherwise_is_known(tmp_path):
    run = open_run(make_run(tmp_path / "run", scorers=("mine", "delphi-fuzz")))
    text = (run.root / "run.toml").read_text()
    (run.root / "run.toml").write_text(text + '\n[scorers.mine]\nscorer = "detection"\n')
    rows = correlations(open_run(run.root))
    assert {row.published_spearman for row in rows} == {0.73}

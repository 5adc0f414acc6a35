from __future__ import annotations

import numpy as np
import pytest

from autointerp.analyze.parts import ByLatent
from autointerp.analyze.summary import SummaryRow, frequencies, rows_table, summarise, summarise_scores
from autointerp.artifacts.schemas import table_of
from autointerp.run import open_run
from tests.analyze.rows import score
from tests.synthetic import ALL_SCORERS, make_run


def rows_of(rows, **options):
    return {(r.explainer, r.control): r for r in summarise_scores(table_of("scores", rows), **options)}


def test_numbers_by_hand():
    real = [score(i, v) for i, v in enumerate([0.5, 0.75, 0.875, 1.0] * 2)]
    real += [
        score(8, None, status="unexplained"),
        score(9, None, status="failed", n_unparsed=4, n_error=6),
    ]
    control = [score(i, v, "shuffled") for i, v in enumerate([0.5, 0.25, 0.375] * 2)]
    rows = rows_of(real + control)
    row = rows["default", None]
    assert (row.n_latents, row.n_scored) == (10, 8)
    assert row.mean == pytest.approx(0.78125)
    assert row.median == pytest.approx(0.8125)
    assert (row.q25, row.q75) == pytest.approx((0.6875, 0.90625))
    assert (row.metric, row.chance) == ("auroc", 0.5)
    assert row.latent_coverage == pytest.approx(8 / 10)
    assert row.item_coverage == pytest.approx(80 / 90)
    assert row.low is not None
    assert row.high is not None
    assert 0.5 <= row.low < row.mean < row.high <= 1.0
    assert row.control_mean == pytest.approx(0.375)
    assert row.n_paired == 6
    assert row.difference == pytest.approx((0 + 0.5 + 0.5 + 0.5 + 0.25 + 0.375) / 6)
    assert row.difference_low <= row.difference <= row.difference_high
    alone = rows["default", "shuffled"]
    assert (alone.mean, alone.low, alone.high) == (row.control_mean, row.control_low, row.control_high)
    assert (alone.control_mean, alone.difference, alone.n_paired) == (None, None, None)


def test_over_few_latents_there_is_a_mean_and_no_interval():
    scores = [0.9, 0.91, 0.92, 0.93, 0.94]
    five = rows_of([score(i, v) for i, v in enumerate(scores)])["default", None]
    assert (five.n_scored, five.mean) == (5, pytest.approx(0.92))
    assert {getattr(five, name) for name in SummaryRow.__annotations__ if name.endswith(("low", "high"))} == {
        None
    }
    assert rows_of([score(i, v) for i, v in enumerate([*scores, 0.95])])["default", None].low is not None


def test_undefined_is_none():
    rows = rows_of([score(0, None, status="unexplained"), score(0, 0.5, "shuffled")])
    row = rows["default", None]
    assert (row.mean, row.low, row.median, row.metric, row.chance, row.item_coverage) == (None,) * 6
    assert (row.latent_coverage, row.n_paired, row.difference) == (0.0, 0, None)
    one = rows["default", "shuffled"]
    assert (one.mean, one.low, one.high) == (0.5, None, None)
    assert summarise_scores(table_of("scores", [])) == []


def test_a_plug_in_that_writes_nan_has_no_number():
    row = rows_of([score(0, float("nan")), score(1, 0.5), score(2, float("inf"))])["default", None]
    assert (row.n_latents, row.n_scored, row.mean) == (3, 1, 0.5)


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


def test_weights_are_the_latents_frequencies():
    frequency = ByLatent(latents=np.array([0, 1, 2, 9]), values=np.array([1.0, 3.0, 0.0, 100.0]))
    rows = [score(0, 1.0), score(1, 0.5), score(2, 0.0), score(1, 0.25, "shuffled")]
    found = rows_of(rows, frequency=frequency)
    row = found["default", None]
    assert row.weighted_mean == pytest.approx((1.0 + 3 * 0.5) / 4)
    assert row.weighted_n == pytest.approx(16 / 10)
    assert row.weighted_low is None
    many = rows_of(
        [score(i, i / 10) for i in range(8)],
        frequency=ByLatent(latents=np.arange(8), values=np.arange(8) + 1.0),
    )["default", None]
    assert many.weighted_low < many.weighted_mean < many.weighted_high
    assert found["default", "shuffled"].weighted_mean == 0.25
    alone = rows_of(rows)["default", None]
    assert (alone.weighted_mean, alone.weighted_n) == (None, None)
    dead = ByLatent(latents=np.array([0, 1, 2]), values=np.zeros(3))
    assert rows_of(rows, frequency=dead)["default", None].weighted_mean is None


def test_worst_case_and_the_published_tools_number():
    rows = [
        score(0, 0.75, worst_case_accuracy=0.5, peer_metric="accuracy", peer_value=0.25),
        score(1, None, status="failed", n_error=10, worst_case_accuracy=0.0, peer_metric="accuracy"),
        score(2, None, status="unexplained"),
    ]
    row = rows_of(rows)["default", None]
    assert (row.n_latents, row.n_scored, row.mean) == (3, 1, 0.75)
    assert row.worst_case == 0.25
    assert (row.worst_case_low, row.worst_case_high) == (None, None)
    assert (row.peer_metric, row.peer_mean, row.n_peer, row.peer_low) == ("accuracy", 0.25, 1, None)


def test_a_whole_run_in_its_own_order(tmp_path):
    rows = summarise(open_run(make_run(tmp_path / "run", scorers=ALL_SCORERS)))
    assert [(r.scorer, r.explainer, r.control) for r in rows] == [
        (scorer, explainer, control)
        for scorer in ("detection", "fuzzing", "simulation")
        for explainer in ("default", "statistics")
        for control in (None, "shuffled")
    ] + [("intruder", "none", None)]
    table = rows_table(rows, SummaryRow)
    assert table.num_rows == 13
    assert table.column("control_mean").null_count == 7
    assert rows_table([], SummaryRow).schema == table.schema


def test_rows_are_the_same_read_whole_or_part_by_part(tmp_path):
    run = open_run(make_run(tmp_path / "run"))
    whole = summarise_scores(run.table("scores"), frequency=frequencies(run))
    assert sorted(whole, key=repr) == sorted(summarise(run), key=repr)
    assert all(row.weighted_n for row in whole)

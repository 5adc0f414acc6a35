from __future__ import annotations

import pytest

from autointerp.analyze.rates import rates, rates_of_scores
from autointerp.artifacts.schemas import table_of
from autointerp.run import open_run
from tests.analyze.rows import score
from tests.synthetic import ALL_SCORERS, SILENT_KINDS, make_run


def by_decile(*values):
    return [*values, *[None] * (10 - len(values))]


def found(rows):
    table = table_of("scores", rows)
    return {(r.explainer, r.control, r.rate, r.group): r for r in rates_of_scores(table)}


def test_means_over_the_latents_that_have_the_rate():
    rows = found(
        [
            score(0, 1.0, sensitivity_by_decile=by_decile(0.5, 1.0), specificity_by_kind={"random": 0.25}),
            score(1, 1.0, sensitivity_by_decile=by_decile(1.0), specificity_by_kind={"random": 0.75}),
            score(2, None, status="unexplained"),
            score(3, None, status="failed"),
            score(1, 0.5, "shuffled", specificity_by_kind={"similar": 0.0}),
        ]
    )
    assert {key: (r.mean, r.n_latents) for key, r in rows.items()} == {
        ("default", None, "sensitivity", "1"): (0.75, 2),
        ("default", None, "sensitivity", "2"): (1.0, 1),
        ("default", None, "specificity", "random"): (0.5, 2),
        ("default", "shuffled", "specificity", "similar"): (0.0, 1),
    }
    first = rows["default", None, "sensitivity", "1"]
    assert (first.low, first.high) == (None, None)
    enough = [score(i, 1.0, sensitivity_by_decile=by_decile(i / 5)) for i in range(6)]
    (row,) = found(enough).values()
    assert 0 <= row.low < row.mean < row.high <= 1


def test_several_explanations_of_a_latent_count_once():
    rows = [
        score(0, 1.0, sensitivity_by_decile=by_decile(1.0)),
        {**score(0, 1.0, sensitivity_by_decile=by_decile(0.0, 1.0)), "explanation": "default/1"},
        score(1, 1.0, sensitivity_by_decile=by_decile(0.0)),
    ]
    first, second = found(rows).values()
    assert (first.group, first.mean, first.n_latents) == ("1", 0.25, 2)
    assert (second.group, second.mean, second.n_latents) == ("2", 1.0, 1)


@pytest.mark.parametrize("values", [[], [0.5], [0.5] * 12])
def test_a_list_of_another_length_is_padded_or_cut(values):
    rows = found([score(0, 1.0, sensitivity_by_decile=values)])
    assert len(rows) == min(len(values), 10)
    assert all(row.mean == 0.5 for row in rows.values())


def test_nothing_decided_is_no_rows():
    assert found([score(0, 0.5), score(1, None, status="unexplained")]) == {}
    assert found([]) == {}


def test_a_whole_run(tmp_path):
    rows = rates(open_run(make_run(tmp_path / "run", n_latents=30, scorers=ALL_SCORERS)))
    assert {row.scorer for row in rows} == {"detection", "fuzzing", "intruder"}
    assert {row.group for row in rows if row.rate == "specificity"} == set(SILENT_KINDS)
    first = [
        row.group
        for row in rows
        if (row.scorer, row.explainer, row.control) == ("detection", "default", None)
    ]
    assert first == [*map(str, range(1, 11)), *SILENT_KINDS]
    assert all(row.low <= row.mean <= row.high for row in rows)

from __future__ import annotations

import pytest

from autointerp.analyze.precision import precision_on_text
from autointerp.run import open_run
from tests.synthetic import ALL_SCORERS, make_run


def test_bayes_by_hand(tmp_path):
    run = open_run(make_run(tmp_path / "run", scorers=ALL_SCORERS))
    rows = precision_on_text(run).to_pylist()
    scores = {(r["latent"], r["explanation"], r["scorer"]): r for r in run.table("scores").to_pylist()}
    density = {r["latent"]: r["density"] for r in run.table("latents").to_pylist()}
    assert {row["scorer"] for row in rows} == {"detection", "fuzzing", "intruder"}
    known = [row for row in rows if row["precision"] is not None]
    assert len(known) > 20
    for row in known:
        score = scores[row["latent"], row["explanation"], row["scorer"]]
        p = 1 - (1 - density[row["latent"]]) ** run.config.sample.window_tokens
        s = score["tp"] / (score["tp"] + score["fn"])
        c = score["specificity_by_kind"]["random"]
        assert row["precision"] == pytest.approx(s * p / (s * p + (1 - c) * (1 - p)))
        assert (row["prevalence"], row["sensitivity"]) == pytest.approx((p, s))


def test_undefined_is_null(tmp_path):
    run = open_run(make_run(tmp_path / "run"))
    unread = [row for row in precision_on_text(run).to_pylist() if row["latent"] == 4]
    assert unread
    assert all(row["sensitivity"] is row["precision"] is None for row in unread)
    assert precision_on_text(open_run(make_run(tmp_path / "new", scored=False))).num_rows == 0

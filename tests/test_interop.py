"""A run's files read by other tools, without our code."""

from __future__ import annotations

import pytest

from tests.synthetic import make_run


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "synthetic")


def test_duckdb(root):
    duckdb = pytest.importorskip("duckdb")
    rows = duckdb.sql(
        f"""
        SELECT scorer, explainer, control, count(*) AS n, count(value) AS scored, avg(value) AS mean
        FROM '{root}/scores/**/*.parquet' GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()
    assert len(rows) == 12
    assert {row[:2] for row in rows} >= {("detection", "default"), ("simulation", "statistics")}
    assert all(scored <= n for _, _, _, n, scored, _ in rows)
    joined = duckdb.sql(
        f"""
        SELECT e.text, avg(s.value) FROM '{root}/explanations/**/*.parquet' e
        JOIN '{root}/scores/**/*.parquet' s USING (latent, explanation)
        WHERE e.status = 'ok' AND e.control IS NULL GROUP BY ALL
        """
    ).fetchall()
    assert joined


def test_polars(root):
    pl = pytest.importorskip("polars")
    scores = pl.scan_parquet(f"{root}/scores/**/*.parquet")
    mean = (
        scores.filter(pl.col("status") == "ok", pl.col("control").is_null())
        .group_by("scorer", "explainer")
        .agg(pl.col("value").mean())
        .collect()
    )
    assert mean.height == 6
    latents = pl.read_parquet(f"{root}/latents/*.parquet")
    assert latents["top_tokens"].explode().struct.field("total").drop_nulls().min() > 0


def test_same_numbers_as_ours(root):
    pl = pytest.importorskip("polars")
    from autointerp import open_run

    theirs = pl.read_parquet(f"{root}/scores/**/*.parquet").sort("latent", "scorer", "explanation")
    ours = open_run(root).scores().sort_values(["latent", "scorer", "explanation"])
    assert theirs["value"].to_list() == [None if v != v else v for v in ours["value"]]

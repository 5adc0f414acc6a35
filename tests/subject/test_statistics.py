"""Statistics of latents, against a slow restatement on random activations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.artifacts.schemas import DATASETS
from autointerp.subject.statistics import StatusRule, latent_statistics

RULE = StatusRule(rare_below_contexts=2, dense_above=0.1)


def random_activations(seed, n_latents, n):
    rng = np.random.default_rng(seed)
    code = np.sort(rng.choice(n_latents * 400, size=n, replace=False))
    return pa.table(
        {
            "latent": (10 + code // 400).astype(np.uint32),
            "context": (code % 400 // 20).astype(np.uint32),
            "position": (code % 20).astype(np.uint16),
            "activation": (rng.integers(1, 5, size=n) / 2).astype(np.float32),
            "token": rng.integers(0, 6, size=n).astype(np.uint32),
        }
    )


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_columns_are_what_their_schema_says(seed, n_latents, n):
    table = random_activations(seed, n_latents, n)
    is_test = np.arange(20) % 2 == 1
    columns = latent_statistics(
        table, first=10, last=10 + n_latents, n_positions=400, is_test=is_test, n_top_tokens=3, rule=RULE
    )
    rows = pa.table(columns).to_pylist()
    frame = table.to_pandas()
    assert [row["latent"] for row in rows] == list(range(10, 10 + n_latents))
    for row in rows:
        mine = frame[frame.latent == row["latent"]]
        assert row["n_active_tokens"] == len(mine)
        assert row["n_active_contexts"] == mine.context.nunique()
        assert row["density"] == len(mine) / 400
        if mine.empty:
            assert row["status"] == "dead"
            assert row["max_activation"] is row["mean_activation"] is row["quantiles"] is None
            assert row["top_tokens"] == []
            continue
        assert row["max_activation"] == mine.activation.max()
        assert row["mean_activation"] == pytest.approx(mine.activation.mean(), rel=1e-6)
        np.testing.assert_allclose(
            row["quantiles"], np.quantile(mine.activation.astype(float), np.arange(11) / 10), rtol=1e-5
        )
        by_token = (
            mine[~is_test[mine.context]].groupby("token").activation.agg(["sum", "size", "max"]).reset_index()
        )
        by_token = by_token.sort_values(["sum", "token"], ascending=[False, True]).head(3)
        assert [t["token"] for t in row["top_tokens"]] == by_token.token.tolist()
        assert [t["n_active"] for t in row["top_tokens"]] == by_token["size"].tolist()
        assert [t["total"] for t in row["top_tokens"]] == pytest.approx(by_token["sum"].tolist())
        test = mine[is_test[mine.context]].context.nunique()
        train = mine[~is_test[mine.context]].context.nunique()
        expected = "rare" if min(test, train) < 2 else "dense" if len(mine) / 400 > 0.1 else "ok"
        assert row["status"] == expected


def test_columns_fit_the_schema():
    columns = latent_statistics(
        random_activations(0, 3, 50),
        first=10, last=13, n_positions=400, is_test=np.zeros(20, bool), n_top_tokens=3, rule=RULE,
    )  # fmt: skip
    schema = DATASETS["latents"].schema
    for name, column in columns.items():
        column.cast(schema.field(name).type)

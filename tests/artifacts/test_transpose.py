"""Activations in latent order are those in text order, whatever the ranges and shards."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.artifacts.dataset import Dataset, shard_path, write_shard
from autointerp.artifacts.transpose import (
    INTERMEDIATE,
    by_latent,
    count_by_latent,
    gather_each,
    plan_ranges,
    stable_order,
)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 60))
@settings(max_examples=25, deadline=None)
def test_every_activation_arrives_once_and_in_order(tmp_path_factory, seed, n_shards, rows_per_shard):
    folder = tmp_path_factory.mktemp("transpose")
    rng = np.random.default_rng(seed)
    n_latents = 17
    everything = []
    for shard in range(n_shards):
        code = np.sort(rng.choice(200, size=rng.integers(0, 80), replace=False)) + 200 * shard
        latent = rng.integers(0, n_latents, size=len(code)).astype(np.uint32)
        columns = {
            "latent": latent,
            "context": (code // 10).astype(np.uint32),
            "position": (code % 10).astype(np.uint16),
            "activation": rng.random(len(code)).astype(np.float32),
            "token": rng.integers(0, 5, size=len(code)).astype(np.uint32),
        }
        write_shard(shard_path(folder, shard), by_latent(columns), INTERMEDIATE)
        everything.append(pa.table(columns))
    expected = pa.concat_tables(everything).sort_by(
        [(n, "ascending") for n in ("latent", "context", "position")]
    )
    counts = count_by_latent(Dataset(folder, INTERMEDIATE).shards, n_latents)
    ranges = plan_ranges(counts, rows_per_shard)
    assert [r[0] for r in ranges] == [0, *[r[1] for r in ranges[:-1]]]
    assert ranges[-1][1] == n_latents
    for first, last in ranges:
        assert (
            counts[first:last].sum() <= rows_per_shard
            or last - first == 1
            or counts[first:last].max() > rows_per_shard
        )
    got = pa.concat_tables(gather_each(Dataset(folder, INTERMEDIATE).shards, ranges, counts))
    assert got.cast(INTERMEDIATE.schema).equals(expected.cast(INTERMEDIATE.schema))


def test_a_latent_larger_than_a_shard_stands_alone():
    assert plan_ranges(np.array([1, 100, 1, 1]), 10) == [(0, 1), (1, 2), (2, 4)]
    assert plan_ranges(np.zeros(5, dtype=np.int64), 10) == [(0, 5)]


@given(st.lists(st.integers(0, 9)))
def test_the_order_is_stable(keys):
    keys = np.array(keys, dtype=np.uint32)
    assert stable_order(keys).tolist() == np.argsort(keys, kind="stable").tolist()

"""Deciles from counts by value lie within 1/128 of the exact ones, however heavy the tails and whatever is kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.artifacts import write_shard
from autointerp.artifacts.dataset import RangeReader, read_shard
from autointerp.artifacts.transpose import by_latent
from autointerp.config import CacheConfig, ReservoirConfig
from autointerp.stages import histogram, reservoir
from autointerp.stages.histogram import HISTOGRAM, counted, put_together, quantiles
from autointerp.stages.reservoir import Reservoir
from autointerp.subject.statistics import QUANTILES, StatusRule, latent_statistics

BOUND = 1 / 128 + 1e-6
RULE = StatusRule(rare_below_contexts=10, dense_above=0.2)
DRAWS = {
    "gamma": lambda rng, n: rng.gamma(2.0, 1.0, n),
    "log-normal over twenty decades": lambda rng, n: rng.lognormal(0.0, 5.0, n),
    "Pareto without a mean": lambda rng, n: rng.pareto(0.7, n) + 1e-3,
    "a few values": lambda rng, n: rng.choice([0.25, 1.0, 1.0000001, 4.0, 3e4], n),
    "of both signs": lambda rng, n: np.where(rng.random(n) < 0.3, -0.01, 1.0) * rng.gamma(1.0, 1.0, n),
}


@pytest.fixture(params=DRAWS)
def draw(request):
    return DRAWS[request.param]


def put(folder, tables, name):
    """Tables of counts as files, put together; readers of the result."""
    sources = [folder / f"{name}-{index}.parquet" for index in range(len(tables))]
    for source, table in zip(sources, tables, strict=True):
        write_shard(source, table, HISTOGRAM)
    put_together(sources, 8, lambda index: folder / f"{name}-all-{index}.parquet")
    return [RangeReader(path, HISTOGRAM) for path in sorted(folder.glob(f"{name}-all-*.parquet"))]


def is_near(found, exact, scale=None):
    return np.abs(found - exact) <= BOUND * np.abs(exact if scale is None else scale)


@pytest.mark.parametrize("rows_per_range", [3, 10_000])
def test_deciles_are_within_the_bound(draw, tmp_path, monkeypatch, rows_per_range):
    monkeypatch.setattr(histogram, "ROWS_PER_RANGE", rows_per_range)
    rng = np.random.default_rng(0)
    latent = np.sort(rng.choice([1, 2, 3, 6], 4_000, p=[0.001, 0.099, 0.6, 0.3]).astype(np.uint32))
    values = draw(rng, len(latent)).astype(np.float32)
    shard = rng.integers(0, 3, len(latent))
    tables = [counted(latent[shard == s], values[shard == s]) for s in range(3)]
    readers = put(tmp_path, tables, "h")
    assert (len(readers) > 3) == (rows_per_range == 3)
    found = quantiles(readers, 0, 8)
    assert np.isnan(found[[0, 4, 5, 7]]).all()
    for one in (1, 2, 3, 6):
        mine = np.sort(values[latent == one].astype(np.float64))
        exact = np.quantile(mine, QUANTILES)
        # Where the two neighbouring values differ in sign, the larger of them sets the scale.
        place = QUANTILES * (len(mine) - 1)
        scale = np.maximum(*(np.abs(mine[f(place).astype(int)]) for f in (np.floor, np.ceil)))
        assert is_near(found[one], exact, scale).all()
        if mine[0] > 0:
            assert is_near(found[one], exact).all()
    assert np.array_equal(quantiles(readers, 2, 4), found[2:4])


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_any_number_is_near_the_middle_of_its_bin(tmp_path_factory, values):
    values = np.array(values, dtype=np.float32)
    table = counted(np.zeros(len(values), np.uint32), values)
    assert table.column("n").to_numpy().sum() == len(values)
    (reader,) = put(tmp_path_factory.mktemp("h"), [table], "h")
    found = quantiles([reader], 0, 1)[0].astype(np.float64)
    least, most = values.min().astype(np.float64), values.max().astype(np.float64)
    for near, exact in ((found[0], least), (found[-1], most)):
        assert abs(near - exact) <= max(BOUND * abs(exact), 2e-40)


def test_how_counts_are_put_together_changes_nothing(tmp_path):
    rng = np.random.default_rng(1)
    latent = rng.integers(0, 8, 3_000).astype(np.uint32)
    values = rng.lognormal(0, 2, 3_000).astype(np.float32)
    tables = [counted(latent[i::5], values[i::5]) for i in range(5)]
    put(tmp_path, tables, "once")
    put(tmp_path, tables[:2], "first")
    begun = read_shard(tmp_path / "first-all-0.parquet", HISTOGRAM)
    put(tmp_path, [begun, *reversed(tables[2:])], "then")
    put(tmp_path, [counted(latent, values)], "whole")
    once, then, whole = (
        (tmp_path / f"{name}-all-0.parquet").read_bytes() for name in ("once", "then", "whole")
    )
    assert once == then == whole


def shards_of(rng, draw, n_shards, n_contexts, n_latents):
    """Columns of shards of text, contexts of 16 tokens, latent i active on a share of them that falls with i."""
    for index in range(n_shards):
        active = rng.random((n_contexts * 16, n_latents)) < 0.3 / (1 + np.arange(n_latents)) ** 2.5
        at, latent = np.nonzero(active)
        yield {
            "latent": latent.astype(np.uint32),
            "context": (index * n_contexts + at // 16).astype(np.uint32),
            "position": (at % 16).astype(np.uint16),
            "activation": (draw(rng, len(at)) * (1 + latent)).astype(np.float32),
            "token": rng.integers(0, 50, len(at)).astype(np.uint32),
        }


def statistics(table, n_latents, n_positions, is_test):
    return latent_statistics(
        table,
        first=0,
        last=n_latents,
        n_positions=n_positions,
        is_test=is_test,
        n_top_tokens=3,
        rule=RULE,
    )


def test_a_reservoir_gives_the_statistics_of_everything(draw, tmp_path, monkeypatch):
    monkeypatch.setattr(reservoir, "ROWS_BEFORE_CHOOSING", 1_200)
    rng = np.random.default_rng(2)
    n_shards, n_contexts, n_latents = 8, 100, 10
    is_test = rng.random(n_shards * n_contexts) < 0.3
    cache = CacheConfig(reservoir=ReservoirConfig(n_random=12, n_top=4))
    kept = Reservoir(tmp_path, cache, 0, n_latents, len(is_test))
    everything, covered = [], set()
    for index, columns in enumerate(shards_of(rng, draw, n_shards, n_contexts, n_latents)):
        first = index * n_contexts
        kept.add(index, columns, first, is_test[first : first + n_contexts])
        everything.append(by_latent(columns))
        covered.add(kept.n_covered)
    assert len(covered) > 2, "nothing was chosen on the way"
    kept.choose(n_shards)
    n_positions = len(is_test) * 16
    table = pa.concat_tables(everything).sort_by([("latent", "ascending"), ("context", "ascending")])
    exact = statistics(table, n_latents, n_positions, is_test)
    held = pa.concat_tables([read_shard(path, reservoir.INTERMEDIATE) for path in kept.shards])
    sampled = statistics(held.filter(pa.array(kept.sample(held))), n_latents, n_positions, is_test)
    found = kept.exact(sampled, 0, n_latents, n_positions, RULE)
    for name in ("n_active_tokens", "n_active_contexts", "density", "max_activation", "status"):
        assert found[name].equals(exact[name]), name
    means = (columns["mean_activation"].to_numpy(zero_copy_only=False) for columns in (found, exact))
    np.testing.assert_allclose(*means, rtol=1e-6)
    of = {
        name: np.array(columns["quantiles"].to_pylist())
        for name, columns in (("found", found), ("exact", exact), ("sampled", sampled))
    }
    assert (of["found"][:, -1] == of["exact"][:, -1]).all()
    if (of["exact"] > 0).all():
        assert is_near(of["found"], of["exact"]).all()
        assert not is_near(of["sampled"], of["exact"]).all(), "the sample alone would do"
    whole = (kept.tallies.n_contexts <= 12).all(axis=1)
    assert 0 < whole.sum() < n_latents
    assert (of["found"][whole] == of["exact"][whole]).all()

"""A few latents out of many shards: the same rows as a scan of everything, from a few footers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.artifacts import DATASETS, Dataset, write_shard
from autointerp.artifacts.finding import holding

SPEC = DATASETS["activations"]


@st.composite
def parts(draw):
    """Limits of parts in order, with gaps, and parts that share a latent with the next."""
    steps = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=40))
    limits, at = [], 0
    for gap, width in steps:
        limits.append((at + gap, at + gap + width))
        at += gap + width
    wanted = draw(st.lists(st.integers(0, at + 5), max_size=6, unique=True))
    return limits, np.array(sorted(wanted), dtype=np.int64)


def plainly(limits, wanted):
    return [
        i for i, told in enumerate(limits) if told is None or any(told[0] <= one <= told[1] for one in wanted)
    ]


@given(parts())
@settings(max_examples=300, deadline=None)
def test_the_parts_found_are_those_that_hold_a_latent(world):
    limits, wanted = world
    assert holding(len(limits), limits.__getitem__, wanted) == plainly(limits, wanted)


@given(parts(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_parts_of_unknown_limits_are_never_passed_over(world, random):
    limits, wanted = world
    unknown = {random.randrange(len(limits)) for _ in range(3)}
    told = [None if i in unknown else limits[i] for i in range(len(limits))]
    found = holding(len(told), told.__getitem__, wanted)
    assert set(found) >= set(plainly(limits, wanted))


@given(parts(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_few_parts_may_come_in_any_order(world, random):
    limits, wanted = world
    limits = random.sample(limits, len(limits))
    assert holding(len(limits), limits.__getitem__, wanted, few=40) == plainly(limits, wanted)


def test_parts_seen_to_be_out_of_order_are_all_looked_at():
    limits = [(90, 99), *((i * 10, i * 10 + 9) for i in range(1, 9)), (0, 9)]
    assert holding(10, limits.__getitem__, np.array([5, 95])) == [0, 9]


def test_of_thousands_of_parts_few_are_looked_at():
    seen = []

    def limits(index):
        seen.append(index)
        return index * 64, index * 64 + 63

    wanted = np.array([5, 700_000, 999_999])
    assert holding(15_625, limits, wanted) == [0, 700_000 // 64, 999_999 // 64]
    assert len(seen) < 15
    # As many latents in the first part as in all others: halving finds them where proportion does not.
    seen.clear()
    uneven = [(0, 10**6), *((10**6 + i, 10**6 + i) for i in range(1, 5000))]
    assert holding(5000, lambda i: seen.append(i) or uneven[i], np.array([10**6 + 17])) == [17]
    assert len(seen) < 40


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Forty shards in each of two folders; some latents have no rows."""
    root = tmp_path_factory.mktemp("dataset")
    rng = np.random.default_rng(0)
    for folder in ("a", "b/c"):
        for shard in range(40):
            latents = np.sort(rng.integers(shard * 50, shard * 50 + 50, size=300)).astype(np.uint32)
            n = len(latents)
            table = pa.table(
                {
                    "latent": latents,
                    "context": np.arange(n, dtype=np.uint32),
                    "position": np.zeros(n, np.uint16),
                    "activation": rng.random(n).astype(np.float32),
                }
            )
            write_shard(root / folder / f"part-{shard:05d}.parquet", table, SPEC)
    return Dataset(root, SPEC)


@given(st.lists(st.integers(0, 2100), max_size=12))
@settings(max_examples=60, deadline=None)
def test_some_latents_are_those_rows_of_everything(dataset, latents):
    everything = dataset.read()
    expected = everything.filter(pc.is_in(everything.column("latent"), pa.array(latents, pa.uint32())))
    assert dataset.read(latents=latents).combine_chunks() == expected.combine_chunks()
    assert (
        dataset.read(columns=["activation"], latents=latents).column("activation").to_pylist()
        == expected.column("activation").to_pylist()
    )


def test_few_footers_are_read(dataset, monkeypatch):
    opened = []
    original = pq.ParquetFile.__init__
    monkeypatch.setattr(
        pq.ParquetFile,
        "__init__",
        lambda self, source, **k: opened.append(source) or original(self, source, **k),
    )
    assert dataset.read(latents=[3, 1_000, 1_999]).num_rows > 0
    assert len(opened) < 20 < len(dataset.shards)


def test_a_shard_without_rows_hides_none_of_the_others(dataset, tmp_path):
    for shard in range(6):
        rows = (
            dataset.read(latents=range(shard * 50, shard * 50 + 50))
            if shard != 3
            else SPEC.schema.empty_table()
        )
        write_shard(tmp_path / f"part-{shard:05d}.parquet", rows, SPEC)
    found = Dataset(tmp_path, SPEC)
    everything = found.read()
    for latent in (0, 120, 160, 210, 299):
        assert found.read(latents=[latent]).num_rows == pc.sum(pc.equal(everything["latent"], latent)).as_py()


def test_reading_a_few_latents_does_not_import_pandas(dataset):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from autointerp.artifacts import DATASETS, Dataset\n"
        "Dataset(Path(sys.argv[1]), DATASETS['activations']).read(latents=[7])\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(dataset.folder)], check=True)

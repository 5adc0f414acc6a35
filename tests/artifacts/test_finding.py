"""A few latents out of many shards: the same rows as a scan of everything, from a few footers."""

from __future__ import annotations

from pathlib import Path

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


def test_no_more_footers_than_shards_that_hold_a_latent_and_the_limits(dataset, monkeypatch):
    """Shards of equally many latents: the guess is right, and what follows a latent is not looked at."""
    wanted = [10, 525, 1_025, 1_990]
    opened = []
    original = pq.ParquetFile.__init__
    monkeypatch.setattr(
        pq.ParquetFile, "__init__", lambda self, path, **k: opened.append(path) or original(self, path, **k)
    )
    found = dataset.read(latents=wanted).column("latent").to_pylist()
    assert len(opened) <= 2 * len(wanted) + 2, "in each of two folders, and the last is looked at first"
    assert set(found) <= set(wanted)


def with_few_files_open(dataset, n_more, code):
    """What Python code prints that may open only so many files more at a time; it finds `read` and `dataset`."""
    import subprocess
    import sys

    head = (
        "import os, resource, sys; from pathlib import Path; from autointerp.artifacts import DATASETS, Dataset\n"
        "from autointerp.artifacts import dataset as reading\n"
        "dataset = Dataset(Path(sys.argv[1]), DATASETS['activations'])\n"
        "def read(latents): return dataset.read(latents=latents).num_rows\n"
        "read([7])\n"
        f"n = len(os.listdir('/proc/self/fd')) + {n_more}\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))\n"
    )
    command = [sys.executable, "-c", head + code, str(dataset.folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux tells them")
def test_many_latents_of_many_shards_need_few_open_files(dataset):
    """All shards are looked at, or most are searched: no more stay open than `_MOST_OPEN`."""
    code = (
        "reading._MOST_OPEN = 8\nprint(read(range(2100)), read(range(0, 2000, 60)), read(range(0, 2000, 5)))"
    )
    told = with_few_files_open(dataset, 16, code)
    latent = dataset.read().column("latent").to_numpy()
    wanted = [range(2100), range(0, 2000, 60), range(0, 2000, 5)]
    assert told.split() == [str(np.isin(latent, list(some)).sum()) for some in wanted]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux tells them")
def test_too_many_open_files_are_not_told_as_a_damaged_file(dataset):
    code = "try: read(range(2100))\nexcept Exception as error: print(type(error).__name__, error)"
    told = with_few_files_open(dataset, 0, code)
    assert told.startswith("UserError ")
    assert "Too many open files" in told
    assert "remove" not in told


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

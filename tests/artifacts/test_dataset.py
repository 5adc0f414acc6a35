"""Shards: whole or not at all, same bytes for the same rows, a few latents out of many."""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autointerp.artifacts import DATASETS, Dataset, RunDirectory, ShardWriter, write_shard
from autointerp.artifacts.schemas import table_of
from autointerp.errors import CorruptArtifactError, UserError, unknown_name

SPEC = DATASETS["activations"]


def activations(n_latents, per_latent=50, first=0):
    n = n_latents * per_latent
    return pa.table(
        {
            "latent": np.repeat(np.arange(first, first + n_latents, dtype=np.uint32), per_latent),
            "context": np.arange(n, dtype=np.uint32),
            "position": np.zeros(n, np.uint16),
            "activation": np.ones(n, np.float32),
        }
    )


def test_same_rows_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name / "part-00000.parquet", activations(10), SPEC)
    assert (tmp_path / "a/part-00000.parquet").read_bytes() == (
        tmp_path / "b/part-00000.parquet"
    ).read_bytes()


def test_an_interrupted_shard_leaves_nothing_behind(tmp_path):
    path = tmp_path / "part-00000.parquet"

    def killed_while_writing():
        with ShardWriter(path, SPEC) as writer:
            writer.write(activations(5))
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        killed_while_writing()
    assert list(tmp_path.iterdir()) == []


def test_a_few_latents_read_only_their_row_groups(tmp_path, monkeypatch):
    for shard in range(3):
        write_shard(
            tmp_path / f"part-{shard:05d}.parquet", activations(10_000, 40, first=shard * 10_000), SPEC
        )
    read = []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, **k: read.extend(groups) or original(self, groups, **k),
    )
    table = Dataset(tmp_path, SPEC).read(columns=["activation"], latents=[3, 25_000])
    assert table.num_rows == 80
    assert table.column_names == ["activation"]
    assert len(read) == 2
    n_groups = sum(pq.ParquetFile(p).metadata.num_row_groups for p in Dataset(tmp_path, SPEC).shards)
    assert n_groups > 6


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_a_damaged_shard_is_named_with_its_remedy(tmp_path, damage):
    path = tmp_path / "part-00000.parquet"
    write_shard(path, activations(100), SPEC)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "garbage": b"x" * 500, "empty": b""}[damage])
    with pytest.raises(CorruptArtifactError, match=r"part-00000\.parquet.*remove this file"):
        Dataset(tmp_path, SPEC).read()


def test_a_shard_of_another_schema_is_refused(tmp_path):
    pq.write_table(pa.table({"latent": [1]}), tmp_path / "part-00000.parquet")
    with pytest.raises(CorruptArtifactError, match="missing columns"):
        Dataset(tmp_path, SPEC).read()


def test_a_full_disk_is_told_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "part-00000.parquet"
    monkeypatch.setattr("autointerp.storage.secrets.token_hex", lambda n: "r")
    (tmp_path / f".{path.name}.{os.getpid()}-r.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match="cannot be written") as caught:
        write_shard(path, activations(2000), SPEC)
    assert "\n" not in str(caught.value)
    assert not path.exists()


def test_a_null_where_none_is_allowed_is_a_defect():
    with pytest.raises(ValueError, match=r"explanations\.status"):
        table_of("explanations", [{"latent": 1, "explanation": "a/0", "explainer": "a", "details": "{}"}])
    with pytest.raises(ValueError, match="no such column"):
        table_of("explanations", [{"latentt": 1}])


def test_sort_columns_are_recorded(tmp_path):
    path = tmp_path / "part-00000.parquet"
    write_shard(path, activations(3), SPEC)
    group = pq.ParquetFile(path).metadata.row_group(0)
    assert [group.column(c.column_index).path_in_schema for c in group.sorting_columns] == list(
        SPEC.sorted_by
    )


def test_two_writers_of_one_run_directory(tmp_path):
    first = RunDirectory(tmp_path / "run").lock()
    import subprocess
    import sys

    code = f"from autointerp.artifacts import RunDirectory; RunDirectory({str(tmp_path / 'run')!r}).lock()"
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "in use by another process" in second.stderr
    first.release()


def test_unknown_dataset_gets_the_nearest_name(tmp_path):
    with pytest.raises(UserError, match="did you mean 'scores'"):
        RunDirectory(tmp_path).dataset("score")


def test_long_lists_of_names_are_cut():
    message = str(unknown_name("sae", "layer_3x", [f"layer_{i}" for i in range(500)]))
    assert "layer_3" in message
    assert len(message) < 400

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from autointerp.config import CorpusConfig
from autointerp.errors import UserError
from autointerp.subject.corpus import CorpusCounts, iter_documents

DOCUMENTS = ["first document", 'second, with "quotes"\nand a line', "третий 🦊"]


def read(dataset: Path | str, counts: CorpusCounts | None = None, **options) -> list[str]:
    return list(iter_documents(CorpusConfig(dataset=str(dataset), **options), counts))


def write(folder: Path, kind: str) -> Path:
    path = folder / f"corpus.{kind}"
    rows = [{"id": i, "text": text} for i, text in enumerate(DOCUMENTS)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind in ("jsonl", "ndjson"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif kind == "json":
        path.write_text(json.dumps(rows))
    elif kind == "csv":
        import csv

        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, ["id", "text"])
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "ndjson", "jsonl.gz", "json", "csv"])
def test_each_kind_of_file_gives_its_documents_in_order(tmp_path, kind):
    assert read(write(tmp_path, kind)) == DOCUMENTS


def test_json_may_hold_columns_or_lines(tmp_path):
    columns, lines = tmp_path / "columns.json", tmp_path / "lines.json"
    columns.write_text(json.dumps({"text": DOCUMENTS}))
    lines.write_text("".join(json.dumps({"text": t}) + "\n" for t in DOCUMENTS))
    assert read(columns) == read(lines) == DOCUMENTS


def test_text_files_are_a_document_each_and_folders_and_globs_are_sorted(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(f"{name}\r\nline")
    (tmp_path / "ignored.md").write_text("no")
    assert read(tmp_path) == read(tmp_path / "*.txt") == ["a.txt\r\nline", "b.txt\r\nline"]


def test_what_is_not_text_is_skipped_and_counted(tmp_path):
    path = tmp_path / "dirty.jsonl"
    path.write_text('{"text": 3}\n{"text": ""}\nnot json\n\n{"text": "good"}\n{"other": 1}\n')
    counts = CorpusCounts()
    assert read(path, counts) == ["good"]
    assert (counts.n_documents, counts.n_not_text, counts.n_empty, counts.n_unreadable) == (1, 2, 1, 1)


def test_a_lone_surrogate_is_replaced(tmp_path):
    path = tmp_path / "surrogate.jsonl"
    path.write_text('{"text": "a\\ud800b"}\n')
    assert read(path) == ["a\ufffdb"]


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "json", "csv"])
def test_a_missing_column_lists_those_there_are(tmp_path, kind):
    with pytest.raises(
        UserError, match=r"no column 'texts' \(did you mean 'text'\?\); its columns: id, text"
    ):
        read(write(tmp_path, kind), text_column="texts")


def test_error_lines(tmp_path):
    write(tmp_path, "jsonl")
    with pytest.raises(UserError, match=r"no file or folder .*did you mean .*corpus\.jsonl"):
        read(tmp_path / "corpsu.jsonl")
    (tmp_path / "x.xlsx").touch()
    with pytest.raises(UserError, match="no known kind"):
        read(tmp_path / "x.xlsx")
    with pytest.raises(UserError, match="holds no"):
        read(tmp_path / "*.nothing")
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    with pytest.raises(UserError, match=r"holds no documents .*1 empty rows"):
        read(tmp_path / "empty.jsonl")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="not a whole Parquet file"):
        read(tmp_path / "broken.parquet")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UserError, match="cannot read"):
        read(tmp_path / "latin.txt")


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"corpus.dataset: cannot load 'nobody/no-such-set'") as caught:
        read("nobody/no-such-set")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("streaming", [True, False])
def test_hub_datasets_are_read_through_the_datasets_library(monkeypatch, streaming):
    import datasets

    asked = {}

    def load_dataset(name, subset, **options):
        asked.update(options, name=name, subset=subset)
        dataset = datasets.Dataset.from_list([{"body": text} for text in [*DOCUMENTS, None]])
        return dataset.to_iterable_dataset() if streaming else dataset

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    options = {"subset": "en", "split": "test", "revision": "abc", "streaming": streaming}
    assert read("someone/texts", text_column="body", **options) == DOCUMENTS
    assert asked == options | {"name": "someone/texts"}
    with pytest.raises(UserError, match="has no column 'text'; its columns: body"):
        read("someone/texts", **options)


def test_a_hub_that_fails_on_the_way_is_one_line(monkeypatch):
    import datasets

    def rows():
        yield {"text": "good"}
        raise ConnectionError("gone\nand a traceback")

    monkeypatch.setattr(
        datasets, "load_dataset", lambda *a, **k: datasets.IterableDataset.from_generator(rows)
    )
    documents = iter_documents(CorpusConfig(dataset="someone/texts"))
    assert next(documents) == "good"
    with pytest.raises(UserError, match=r"ConnectionError: gone; accepted"):
        next(documents)

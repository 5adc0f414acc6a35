from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import autointerp
from autointerp.artifacts import DATASETS
from autointerp.errors import UserError
from autointerp.run import open_run, printable
from tests.synthetic import HOSTILE, TOKENS, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return autointerp.open_run(make_run(tmp_path_factory.mktemp("runs") / "synthetic"))


def test_import_is_light():
    code = (
        "import sys, autointerp; autointerp.__version__; "
        "heavy = {'torch', 'pandas', 'pyarrow', 'vllm', 'numpy', 'transformers', 'pydantic'} & set(sys.modules); "
        "assert not heavy, heavy; "
        "from autointerp import open_run; assert not {'torch', 'vllm', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version_and_unknown_names():
    assert autointerp.__version__[0].isdigit()
    with pytest.raises(AttributeError):
        autointerp.nothing_of_the_kind  # noqa: B018


def test_missing_and_wrong_paths_are_one_line(tmp_path, run):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for name, word in (("nowhere", "no folder"), ("empty", "no run.toml"), ("file", "is a file")):
        with pytest.raises(UserError, match=word) as caught:
            open_run(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="synthetic"):
        open_run(run.root.parent / "synthetik")


@pytest.mark.parametrize("name", DATASETS)
def test_every_dataset_as_table_and_frame(run, name):
    table = run.table(name)
    assert table.schema.names == DATASETS[name].schema.names
    frame = run.frame(name)
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == table.num_rows
    assert (table.num_rows > 0) == (name != "reservoir")  # this run keeps everything
    assert len(getattr(run, name)()) == table.num_rows


def test_columns_and_latents(run):
    table = run.table("scores", columns=["latent", "value"], latents=[5, 7])
    assert table.schema.names == ["latent", "value"]
    assert set(table.column("latent").to_pylist()) == {5, 7}
    for bad in (
        lambda: run.table("skores"),
        lambda: run.table("scores", columns=["valeu"]),
        lambda: run.table("vocabulary", latents=[1]),
    ):
        with pytest.raises(UserError):
            bad()


def test_nulls_stay_nulls_in_frames(run):
    scores = run.scores()
    assert scores["tp"].dtype == "UInt32"
    assert scores["tp"].isna().sum() == run.table("scores").column("tp").null_count > 0
    assert run.judgements()["prediction"].dtype == "boolean"


def test_only_the_needed_row_groups_are_read(run, monkeypatch):
    import pyarrow.parquet as pq

    asked = []
    original = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(
        pq.ParquetFile,
        "read_row_groups",
        lambda self, groups, **k: asked.append(groups) or original(self, groups, **k),
    )
    assert run.table("latents", latents=[10_000]).num_rows == 0
    assert asked == []
    assert run.table("latents", latents=[3]).num_rows == 1
    assert len(asked) == 1


def test_config_and_steps(run):
    assert run.config.name == "synthetic"
    assert run.steps()["score/fuzzing/default"].status == "complete"
    assert "synthetic" in repr(run)


def test_a_run_that_has_only_begun(tmp_path):
    run = open_run(make_run(tmp_path / "run", explained=False))
    assert run.table("scores").num_rows == 0
    view = run.latent(5)
    assert len(view.explanations) == len(view.scores) == len(view.judgements) == 0
    assert "Latent 5" in repr(view)


def test_a_latent(run):
    view = run.latent(6)
    assert view.statistics["n_active_tokens"] == len(view.activations)
    windows = view.windows(split="test", kind="activating")
    assert windows
    assert all(w.split == "test" and w.activating for w in windows)
    peaks = [w.max_activation for w in windows]
    assert peaks == sorted(peaks, reverse=True)
    assert len(view.windows()) == len(run.examples([6]))
    assert set(view.scores["latent"]) == {6}
    assert len(view.record("train").windows) == len(view.windows(split="train"))
    with pytest.raises(UserError, match="0 to 11"):
        run.latent(12)
    with pytest.raises(UserError):
        run.latent(-1)


def test_text_of_a_window_marks_what_is_active(run):
    view = run.latent(6)
    window = view.windows(kind="activating")[0]
    assert view.text(window).count("<<") >= 1
    bare = view.text(window, threshold=None)
    assert bare == "".join(TOKENS[t] for t in window.tokens if t)
    few = view.text(window, threshold=0.99).count("<<")
    assert few <= view.text(window).count("<<")


def test_repr_is_readable_and_harmless(run):
    for latent in range(12):
        text = repr(run.latent(latent))
        assert text.startswith(f"Latent {latent} of synthetic")
        assert all(c == "\n" or c.isprintable() for c in text)


def test_tokens(run):
    assert run.tokens.text(np.arange(len(TOKENS))) == "".join(TOKENS[1:])
    assert run.tokens.readable(0) == "<bos>"


def test_printable():
    assert printable("a\nb\r\nc") == "a↵b↵c"
    assert printable("\x1b[31m") == "\\u001b[31m"
    assert printable("\u202e") == "\\u202e"
    assert printable("naïve 日本 🙂") == "naïve 日本 🙂"
    assert all(c.isprintable() for text in HOSTILE for c in printable(text))

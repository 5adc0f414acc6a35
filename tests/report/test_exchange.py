"""Imports and exports: round trips, what stages make of imported runs, and bad files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from autointerp.artifacts import RunDirectory
from autointerp.cli import app
from autointerp.engine.pipeline import run_stages
from autointerp.errors import UserError
from autointerp.report.exchange import neuronpedia_export, reading
from autointerp.report.exchange.labels import export_labels
from autointerp.report.exchange.sources import Release, Source, release_of, source_of
from autointerp.report.exchange.tokens import bytes_of
from autointerp.run import open_run
from tests.report.neuronpedia_files import (
    IDS,
    N_TEXTS,
    activation,
    dump,
    imported,
    label,
    load,
    write_export,
)
from tests.synthetic import HOSTILE, make_run


@pytest.mark.parametrize("as_text", [True, False])
def test_a_neuronpedia_export_becomes_a_run(tmp_path: Path, as_text: bool) -> None:
    folder = write_export(tmp_path / "v1" / "tiny" / "0-test-res", as_text=as_text)
    imported(tmp_path / "v1", tmp_path / "run")
    run = open_run(tmp_path / "run")
    latents = run.table("latents").to_pylist()
    assert [row["latent"] for row in latents] == [0, 1, 2]
    for row in latents:
        assert row["status"] == "ok"
        assert row["n_active_tokens"] == row["n_active_contexts"] == N_TEXTS
        assert (row["density"], row["max_activation"]) == (0.01, N_TEXTS)
        assert [run.tokens.readable(x["token"]) for x in row["top_tokens"]] == [f" w{row['latent']}"]
        assert run.tokens.readable(row["top_logits"][0]["token"]) == " river"
    windows = run.table("examples").to_pylist()
    assert all(len(row["tokens"]) == len(row["activations"]) == 32 for row in windows)
    for row in windows:
        tokens = [run.tokens.readable(t) for t in row["tokens"]]
        if row["kind"] == "activating":
            assert tokens[-1] == f" w{row['latent']}"
            assert row["max_activation"] == max(row["activations"]) > 0
        else:
            assert row["kind"] == "random"
            assert f" w{row['latent']}" not in tokens
            assert row["max_activation"] == 0
    sides = {row["context"]: row["split"] for row in run.table("contexts").to_pylist()}
    assert all(row["split"] == sides[row["context"]] for row in windows)
    assert {row["split"] for row in windows} == {"train", "test"}
    names = {
        row["explainer"]: row["text"]
        for row in run.table("explanations", latents=[0]).to_pylist()
        if not row["control"]
    }
    assert names == {"oai_token-act-pair-gpt-4o-mini": "the word w0", "label": "human"}
    manifest = run.directory.manifest("sample")
    assert manifest is not None
    assert "assumption" in manifest.counts["silent_by"]
    assert manifest.counts["share_with_activation_expected"] == pytest.approx(1 - 0.99**32)
    assert manifest.counts["imported"]["source"] == "0-test-res"
    assert folder.is_dir()


def test_stages_go_on_from_an_imported_run(tmp_path: Path) -> None:
    write_export(tmp_path / "export")
    config = imported(tmp_path / "export", tmp_path / "run").config
    judge = {
        "score": {"scorers": ["detection"]},
        "scorers": {"detection": {"readout": "json"}},
        "models": {"judge": {"backend": "canned", "default_text": "[]"}},
    }
    config = config.model_validate(config.model_dump(mode="json", exclude_none=True) | judge)
    run = RunDirectory(tmp_path / "run")
    manifests = run_stages(config, run, ["cache", "sample", "explain", "score"])
    assert all(manifest.status == "complete" for manifest in manifests)
    scores = open_run(tmp_path / "run").table("scores").to_pylist()
    assert {row["latent"] for row in scores} == {0, 1, 2}
    assert {row["control"] for row in scores} == {None, "shuffled"}
    assert all(row["n_examples"] > 0 for row in scores if row["status"] != "unexplained")
    assert sum(row["n_examples"] > 0 for row in scores) >= 6


def test_another_text_makes_an_imported_run_stale(tmp_path: Path) -> None:
    from autointerp.errors import StaleRunError

    config = imported(write_export(tmp_path / "export"), tmp_path / "run").config
    changed = config.model_copy(update={"seed": 5})
    with pytest.raises(StaleRunError, match="seed"):
        run_stages(changed, RunDirectory(tmp_path / "run"), ["explain"])


def test_unread_negatives_promise_nothing(tmp_path: Path) -> None:
    imported(write_export(tmp_path / "export"), tmp_path / "run", negatives="unread")
    kinds = set(open_run(tmp_path / "run").table("examples", columns=["kind"]).column("kind").to_pylist())
    assert kinds == {"activating", "unread"}


def test_an_export_comes_back_as_it_was(tmp_path: Path) -> None:
    make_run(tmp_path / "first", n_latents=12)
    options = neuronpedia_export.ExportOptions(**IDS, n_top=1000)
    neuronpedia_export.export_neuronpedia(tmp_path / "first", tmp_path / "a", options)
    imported(tmp_path / "a", tmp_path / "second")
    neuronpedia_export.export_neuronpedia(
        tmp_path / "second", tmp_path / "b", neuronpedia_export.ExportOptions(n_top=1000)
    )
    folders = [tmp_path / x / "v1" / "tiny" / "0-test-res" for x in "ab"]

    def texts(folder: Path) -> set[Any]:
        return {
            (
                row["index"],
                tuple(row["tokens"]),
                tuple(row["values"]),
                row["maxValue"],
                row["maxValueTokenIndex"],
            )
            for row in load(folder, "activations")
        }

    assert texts(folders[0]) == texts(folders[1])
    assert len(texts(folders[0])) > 20
    first, second = (
        {
            (r["index"], " ".join(r["description"].split()), r["typeName"], r["explanationModelName"])
            for r in load(f, "explanations")
        }
        for f in folders
    )
    assert first == second
    assert any(text[1] in HOSTILE or text[1] for text in first)
    for row, again in zip(*(load(f, "features") for f in folders), strict=True):
        same = (
            "modelId",
            "layer",
            "index",
            "hookName",
            "frac_nonzero",
            "pos_str",
            "pos_values",
            "neg_str",
            "neg_values",
        )
        assert {k: row[k] for k in same if k != "hookName"} == {k: again[k] for k in same if k != "hookName"}
        assert row["maxActApprox"] == again["maxActApprox"]


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    for name in "ab":
        neuronpedia_export.export_neuronpedia(
            tmp_path / "run", tmp_path / name, neuronpedia_export.ExportOptions(**IDS, n_top=2)
        )
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.gz"))
    parts = {f.parts[-2] for f in files}
    assert parts == {"features", "activations", "explanations", "explanation_scores"}
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_intervals_are_of_the_latents_own_range(tmp_path: Path) -> None:
    make_run(tmp_path / "run", n_latents=12)
    options = neuronpedia_export.ExportOptions(**IDS, n_top=1, n_per_interval=3)
    neuronpedia_export.export_neuronpedia(tmp_path / "run", tmp_path / "out", options)
    rows = load(tmp_path / "out" / "v1" / "tiny" / "0-test-res", "activations")
    top = {row["index"]: row["maxValue"] for row in rows if row["binMin"] == -1}
    binned = [row for row in rows if row["binMin"] != -1]
    assert binned
    for row in binned:
        assert row["binMin"] < row["maxValue"] <= row["binMax"] * 1.00001
        assert row["maxValue"] <= top[row["index"]]
        assert 0 < row["binContains"] <= 1
    assert len({row["id"] for row in rows}) == len(rows)
    assert all(len(row["id"]) == 25 for row in rows)


def test_ids_come_from_the_dictionarys_metadata(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "export")
    imported(folder, tmp_path / "run")
    assert source_of(open_run(tmp_path / "run"), None, None) == Source("tiny", "0-test-res")
    assert Source("m", "12-gemmascope-res-16k__l0-176").source_set == "gemmascope-res-16k"
    make_run(tmp_path / "other")
    with pytest.raises(UserError, match="--model-id"):
        source_of(open_run(tmp_path / "other"), None, None)
    for bad in ("../up", "a/b", ".hidden", "a b"):
        with pytest.raises(UserError, match="--source-id"):
            neuronpedia_export.export_neuronpedia(
                tmp_path / "other",
                tmp_path / "out",
                neuronpedia_export.ExportOptions(model_id="m", source_id=bad),
            )


def test_a_source_known_to_sae_lens_is_found() -> None:
    assert release_of(Source("gpt2-small", "6-res-jb")) == Release(
        "gpt2-small-res-jb", "blocks.6.hook_resid_pre", "gpt2-small"
    )
    assert release_of(Source("gpt2-small", "no-such")) is None


def test_labels_alone_for_a_run_of_ones_own(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "export")
    result = CliRunner().invoke(
        app, ["import", "neuronpedia", str(folder), "--labels", str(tmp_path / "l.jsonl")]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert [(row["latent"], row["text"]) for row in rows] == [
        (0, "the word w0"), (0, "human"), (1, "the word w1"), (2, "the word w2"),
    ]  # fmt: skip


GOOD = activation("0", ["a", "b"], [0.0, 1.0])
BAD_ROWS = {
    "no JSON": "{",
    "seen list": "[1]",
    "accepted: a row of a Neuronpedia export": json.dumps({"index": 0}),
    "index: seen '-1'": json.dumps({**GOOD, "index": "-1"}),
    "index: seen None": json.dumps({k: v for k, v in GOOD.items() if k != "index"}),
    "index: seen True": json.dumps({**GOOD, "index": True}),
    "2 tokens but 1 values": json.dumps({**GOOD, "values": [1.0]}),
    "values: seen": json.dumps({**GOOD, "values": [1.0, None]}),
    "values: seen .*NaN|values: seen .*nan": json.dumps({**GOOD, "values": [1.0, float("nan")]}),
    "tokens: seen": json.dumps({**GOOD, "tokens": ["a", 3]}),
    "is of other/1-x": json.dumps({**GOOD, "modelId": "other", "layer": "1-x"}),
}


@pytest.mark.parametrize("said", BAD_ROWS)
def test_a_bad_row_is_one_line_and_leaves_nothing(tmp_path: Path, said: str) -> None:
    folder = write_export(tmp_path / "export")
    path = folder / "activations" / "batch-1.jsonl"
    path.write_text(BAD_ROWS[said] + "\n")
    with pytest.raises(UserError, match=said) as error:
        imported(folder, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_what_is_no_export_is_told(tmp_path: Path) -> None:
    folder = write_export(tmp_path / "a" / "one")
    (tmp_path / "empty").mkdir()
    write_export(tmp_path / "a" / "two")
    for given_, said in (
        (tmp_path / "none", "no folder"),
        (tmp_path / "empty", "no batch-N"),
        (tmp_path / "a", "holds 2 exports"),
    ):
        with pytest.raises(UserError, match=said):
            imported(given_, tmp_path / "run")
    (folder / "activations" / "batch-0.jsonl.gz").write_bytes(b"\x1f\x8b broken")
    with pytest.raises(UserError, match="cannot be read"):
        imported(folder, tmp_path / "run")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match="not empty"):
        imported(tmp_path / "a" / "two", tmp_path / "full")
    assert (tmp_path / "full" / "file").exists()


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    tokens = [*HOSTILE, "\ud800", "<|endoftext|>", "end"]
    rows = [activation(0, [*tokens, str(i)], [0.0] * (len(tokens) - 1) + [1.0 + i, 0.0]) for i in range(12)]
    dump(tmp_path / "e" / "activations" / "batch-0.jsonl.gz", rows)
    dump(tmp_path / "e" / "explanations" / "batch-0.jsonl.gz", [label(0, h) for h in HOSTILE])
    imported(tmp_path / "e", tmp_path / "run")
    run = open_run(tmp_path / "run")
    assert "<<" not in run.latent(0).text(run.latent(0).windows()[0], None).replace("<<marked>>", "")
    ids = {row["text"]: row["bytes"] for row in run.table("vocabulary").to_pylist()}
    assert ids["<|endoftext|>"] is None
    assert ids["[bold red]markup[/bold red]"] == b"[bold red]markup[/bold red]"
    for kind in ("csv", "jsonl"):
        out = tmp_path / f"labels.{kind}"
        assert export_labels(tmp_path / "run", out, kind) == len(HOSTILE)
    with (tmp_path / "labels.csv").open(newline="") as handle:
        read = [row["text"] for row in csv.DictReader(handle)]
    assert sorted(read) == sorted(" ".join(h.split()) for h in HOSTILE)


def test_a_spelling_of_tokens_is_read_as_text() -> None:
    assert bytes_of("Ġthe", "Ġ") == b" the"
    assert bytes_of("âĢĻ", "Ġ") == "’".encode()
    assert bytes_of("▁the", "▁") == b" the"
    assert bytes_of("▁the", None) == "▁the".encode()
    assert bytes_of("\\xe2", None) == b"\xe2"
    assert bytes_of("\\x41", None) == b"\\x41"
    assert bytes_of("<bos>", None) is None


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=12))
def test_any_token_text_has_bytes_or_is_special(name: str) -> None:
    found = bytes_of(name, None)
    assert found is None or isinstance(found, bytes)
    if found is not None and not name.startswith("\\x"):
        assert found.decode("utf-8") == reading.clean(name)


def test_csv_and_jsonl_hold_labels_and_scores(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    n = export_labels(tmp_path / "run", tmp_path / "l.jsonl", "jsonl", explainers=["default"])
    rows = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert len(rows) == n > 5
    run = open_run(tmp_path / "run")
    known = {
        (r["latent"], r["explanation"]): r["value"]
        for r in run.table("scores").to_pylist()
        if r["scorer"] == "detection"
    }
    for row in rows:
        assert (row["control"], row["explainer"]) == (None, "default")
        assert row["score.detection"] == known[row["latent"], row["explanation"]]
    more = export_labels(tmp_path / "run", tmp_path / "l.csv", "csv", explainers=["default"], controls=True)
    assert more > n
    (tmp_path / "formula").mkdir()
    with pytest.raises(UserError, match="did you mean 'default'"):
        export_labels(tmp_path / "run", tmp_path / "x.csv", "csv", explainers=["defualt"])
    from autointerp.report.exchange.labels import _csv

    assert _csv([{"text": "=1+1"}], ["text"], True).splitlines()[1] == "'=1+1"
    assert _csv([{"text": "=1+1"}], ["text"], False).splitlines()[1] == "=1+1"


def test_imported_runs_are_compared_by_their_texts(tmp_path: Path) -> None:
    from autointerp.analyze.similarity import SimilarityOptions, compare

    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        imported(write_export(tmp_path / f"{run.name}-export", n_latents=6), run)
    found = compare(runs, SimilarityOptions(measures=["decoder", "jaccard"], n_null=3))
    decoder, jaccard = found.rows
    assert (decoder.status, decoder.mean) == ("undefined", None)
    assert "was imported" in (decoder.reason or "")
    assert (jaccard.mean, jaccard.n_shared) == (1.0, 6)


def test_commands_end_with_two_and_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    from autointerp.cli import main

    make_run(tmp_path / "run")
    for arguments in (
        ["import", "neuronpedia", str(tmp_path / "none"), "--run-dir", str(tmp_path / "new")],
        ["import", "delphi", str(tmp_path / "none"), "--run-dir", str(tmp_path / "new")],
        ["import", "delphi", str(tmp_path)],
        ["export", "neuronpedia", str(tmp_path / "run"), str(tmp_path / "out")],
        ["export", "csv", str(tmp_path / "none"), str(tmp_path / "out.csv")],
    ):
        monkeypatch.setattr("sys.argv", ["autointerp", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2
        assert said.startswith("error: ")
        assert "\n" not in said

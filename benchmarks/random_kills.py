"""Runs killed at random moments of every stage: do they end with the tables of an undisturbed run?

    python benchmarks/random_kills.py [--kills 50] [--delay 0.01] [--seed 0] [--folder FOLDER]

A small planted dictionary is cached (whole, and with a reservoir), sampled, explained (`default` and `statistics`),
judged (`detection` and `fuzzing`) through the `openai` backend by a server on this machine that logs every request,
and reported. Two runs are left alone. Others get SIGKILL at a moment drawn uniformly from the time the stage takes,
and the same command again, at most three times a stage, until they are done; then another such run, until there were as many
kills as asked. Printed: kills by stage, how far the killed runs' tables equal those of the undisturbed ones (every
dataset, the summary and the names of the pages), how many requests were served twice, and whether one was whose
reply was stored (must be 0). Ends with 1 if anything differs.

Stages are started by fork from a process that has imported the libraries, which takes most of the time of a stage
as small as these: more kills come in less time, and all of them while the stage works.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pyarrow.parquet as pq

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.kill_resume import LoggingServer, environment, stored  # noqa: E402
from tests.planted import build  # noqa: E402

STAGES = ("cache", "sample", "explain", "score", "report")
CACHES = {"full": [], "reservoir": ["cache.reservoir={n_random=6, n_top=4}"]}
MOST_KILLS = 3
"""Of one stage of one run: a stage of one shard would never end, and no later one be killed."""


class Nursery:
    """A process with the libraries imported; each stage is a child of it."""

    def __init__(self, run_file: Path, log: Path) -> None:
        self.log = log
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--nursery"],
            env={**environment(run_file), "OPENAI_API_KEY": "none", "TOKENIZERS_PARALLELISM": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def start(self, words: list[str]) -> int:
        """Start a command; its process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"words": words, "log": str(self.log)}) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """Exit code of the command started last, or minus the signal that ended it."""
        return int(self._line())

    def run(self, words: list[str]) -> float:
        """Carry out a command and return its seconds; ends the benchmark if it fails."""
        began = time.monotonic()
        self.start(words)
        if code := self.wait():
            raise SystemExit(f"{' '.join(words[:2])} ended with {code}:\n{self.log.read_text()[-2000:]}")
        return time.monotonic() - began

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the process that starts stages ended")
        return line.strip()


def nursery() -> None:
    """Read commands from standard input; fork a child for each, tell its id and how it ended."""
    from importlib import import_module

    from autointerp.cli import main as command_line

    for name in ("torch", "autointerp.engine.pipeline", "autointerp.report.finish"):
        import_module(name)
    transformers = import_module("transformers")
    for name in ("AutoModelForCausalLM", "AutoTokenizer", "LlamaForCausalLM"):  # each is loaded when named
        getattr(transformers, name)
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if not pid:
            out = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(out, stream)
            sys.argv = ["autointerp", *told["words"]]
            code = 0
            try:
                command_line()
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def words(stage: str, run_file: Path, run_dir: Path, url: str, kind: str) -> list[str]:
    """The command of a stage."""
    if stage == "report":
        return ["report", str(run_dir)]
    model = f'{{backend="openai", model="m", base_url="{url}", max_concurrency=4, max_retries=2}}'
    told = [
        f"models.explainer={model}",
        f"models.judge={model}",
        "cache.contexts_per_shard=16",
        "cache.rows_per_shard=1000",
        'explain.explainers=["default", "statistics"]',
        'score.scorers=["detection", "fuzzing"]',
        'scorers={detection={readout="json", examples_per_request=3}, fuzzing={readout="json"}}',
        "explain.latents_per_shard=2",
        "score.latents_per_shard=2",
        *CACHES[kind],
    ]
    return [stage, str(run_file), "--run-dir", str(run_dir), *(p for s in told for p in ("--set", s))]


def tables(run_dir: Path) -> dict[str, object]:
    """Every table of a run but for the seconds that things took, and the names of its pages."""
    found: dict[str, object] = {}
    for path in sorted(run_dir.rglob("*.parquet")):
        table = pq.read_table(path)
        kept = [column for column in table.column_names if "seconds" not in column]
        found[str(path.relative_to(run_dir))] = table.select(kept)
    found["pages"] = sorted(str(path.relative_to(run_dir)) for path in (run_dir / "report").rglob("*.html"))
    return found


class Killed:
    """One run killed again and again until all its stages are done."""

    def __init__(self, folder: Path, kind: str, delay: float) -> None:
        self.run_dir, self.kind, self.delay = folder, kind, delay
        self.server = LoggingServer(delay)
        self.kills: Counter[str] = Counter()
        self.lost = 0
        """Requests answered by the server whose reply was not committed when the process was killed."""

    def carry_out(
        self, nursery: Nursery, run_file: Path, seconds: dict[str, float], rng: random.Random, left: int
    ) -> None:
        for stage in STAGES:
            for attempt in range(MOST_KILLS + 1):
                if attempt == MOST_KILLS or self.kills.total() >= left:
                    nursery.run(words(stage, run_file, self.run_dir, self.server.url, self.kind))
                    break
                moment = time.monotonic() + rng.uniform(0, seconds[stage])
                pid = nursery.start(words(stage, run_file, self.run_dir, self.server.url, self.kind))
                time.sleep(max(0.0, moment - time.monotonic()))
                with suppress(ProcessLookupError):  # it was done before
                    os.kill(pid, signal.SIGKILL)
                code = nursery.wait()
                if code == 0:
                    break
                if code != -signal.SIGKILL:
                    raise SystemExit(f"{stage} ended with {code}:\n{nursery.log.read_text()[-2000:]}")
                self.kills[f"{stage} ({self.kind})" if stage == "cache" else stage] += 1
                if stage in ("explain", "score"):
                    time.sleep(self.delay + 0.1)  # what was in flight is answered to nobody
                    self.lost = self.server.n_answered - stored(self.run_dir)

    @property
    def twice(self) -> int:
        return sum(len(times) - 1 for times in self.server.log.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--delay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="where runs lie, by default a temporary folder")
    parser.add_argument("--nursery", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.nursery:
        nursery()
        return
    rng = random.Random(arguments.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        run_file = build(folder)
        children = Nursery(run_file, folder / "last.log")
        quiet = LoggingServer(arguments.delay)
        wanted, seconds = {}, {}
        for kind in CACHES:
            run_dir = folder / kind
            seconds[kind] = {
                stage: children.run(words(stage, run_file, run_dir, quiet.url, kind)) for stage in STAGES
            }
            wanted[kind] = tables(run_dir)
        spent = ", ".join(f"{stage} {seconds['full'][stage]:.1f}" for stage in STAGES)
        print(
            f"undisturbed   {len(wanted)} runs, {len(quiet.log)} requests; seconds of one: {spent}",
            flush=True,
        )
        done: list[Killed] = []
        while (kills := sum(run.kills.total() for run in done)) < arguments.kills:
            kind = list(CACHES)[len(done) % len(CACHES)]
            done.append(Killed(folder / f"killed-{len(done)}", kind, arguments.delay))
            done[-1].carry_out(children, run_file, seconds[kind], rng, arguments.kills - kills)
            found = tables(done[-1].run_dir)
            if found != wanted[kind]:
                differ = [n for n in {*found, *wanted[kind]} if found.get(n) != wanted[kind].get(n)]
                raise SystemExit(f"final tables DIFFERENT in {done[-1].run_dir.name}: {sorted(differ)}")
        children.close()
    by_stage: Counter[str] = sum((run.kills for run in done), Counter())
    served = sum(run.server.n_answered for run in done)
    twice = sum(run.twice for run in done)
    again = sum(max(0, run.twice - run.lost) for run in done)
    print(f"killed        {by_stage.total()} times in {len(done)} runs: {dict(sorted(by_stage.items()))}")
    print(f"requests      {served} served, {twice} of them twice: unanswered or uncommitted at a kill")
    print(f"stored, yet served again   {again}")
    n_tables = sum(len(wanted[run.kind]) - 1 for run in done)
    print(f"final tables  equal ({n_tables} files), {time.monotonic() - began:.0f} s")
    if again:
        raise SystemExit(1)


if __name__ == "__main__":
    main()

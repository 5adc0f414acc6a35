"""What sharing a run with worker processes or Ray actors costs, and whether its tables stay the same.

    python benchmarks/ray_overhead.py [--seconds-per-shard 0.5] [--documents 60] [--folder FOLDER]
        [--only NAME ...] [--stages STAGE ...]

A small planted dictionary is cached, explained and judged through a server on this machine: by one process (`one`), by
two worker processes (`processes`), on a Ray cluster of two nodes on this machine (`ray`), and there again with a node
killed in the middle of `cache`, `explain` and `score` (`killed`). Each shard of text and each reply takes a fixed
time that needs no processor, so the floor of two workers is half of what one process takes. Printed for each step:
its seconds, and how many seconds per shard lie above that floor, the start of the workers included in the first
step; then whether all tables are those of the one process. With `--folder`, runs found finished there are not
made again, so that they can be made one by one. Needs the extra `ray`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from autointerp.artifacts import RunDirectory  # noqa: E402
from autointerp.config import RunConfig, load_config  # noqa: E402
from autointerp.engine.pipeline import run_stages  # noqa: E402
from tests.engine.slow import SECONDS_VARIABLE, Server  # noqa: E402
from tests.engine.test_processes import STAGES, assert_same  # noqa: E402
from tests.planted import build  # noqa: E402
from tests.ray_cluster import LocalCluster, Losses, environment  # noqa: E402

STEPS = {
    "cache": "contexts",
    "explain/default": "explanations/default",
    "score/detection/default": "scores/detection/default",
}


def configured(run_file: Path, server: Server, engine: str) -> RunConfig:
    model = f'{{backend="openai", model="m", base_url="{server.url}", max_concurrency=1}}'
    told = [
        f"models={{explainer={model}, judge={model}}}",
        "dictionary.path='tests.engine.slow:dictionary'",
        "cache.contexts_per_shard=16",
        "cache.contexts_per_batch=16",
        "explain={explainers=['default'], latents_per_shard=1}",
        "score={scorers=['detection'], latents='all', latents_per_shard=1}",
        'scorers.detection={readout="json"}',
        f"engine={engine}",
    ]
    return load_config(run_file, told)


NAMES = {"one": "local", "processes": "processes", "ray": "ray", "killed": "ray"}
"""What is run, and the kind of engine."""


def make(name: str, run: RunDirectory, run_file: Path, server: Server, stages: list[str]) -> None:
    """Carry out stages of one of the runs, unless they are finished."""
    left = {
        s: dataset for s, dataset in STEPS.items() if s.split("/")[0] in stages and not run.is_complete(s)
    }
    if not left:
        return
    if NAMES[name] != "ray":
        run_stages(configured(run_file, server, f"{{kind='{NAMES[name]}', workers=2}}"), run, stages)
        return
    with LocalCluster(n_nodes=2) as cluster:
        losses = Losses(cluster, run, left)
        if name == "killed":
            losses.start()
        engine = f"{{kind='ray', workers=2, address='{cluster.address}'}}"
        run_stages(configured(run_file, server, engine), run, stages)
        if name == "killed":
            losses.finish()
            print(f"killed while it ran: {', '.join(losses.in_the_middle)}")
            assert losses.in_the_middle == dict.fromkeys(left, True), losses.in_the_middle


def seconds_of(run: RunDirectory, step: str) -> float:
    manifest = run.manifest(step)
    assert manifest is not None
    return manifest.seconds or 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds-per-shard", type=float, default=0.5)
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES))
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES)
    arguments = parser.parse_args()
    os.environ.update(environment())
    os.environ[SECONDS_VARIABLE] = str(arguments.seconds_per_shard)
    with ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Server(arguments.seconds_per_shard))
        run_file = folder / "files" / "run.toml"
        if not run_file.exists():
            build(run_file.parent, n_documents=arguments.documents)
        os.environ["PLANTED_MODEL"] = str(run_file.parent / "model")
        runs = {name: RunDirectory(folder / name) for name in NAMES}
        for name in arguments.only:
            make(name, runs[name], run_file, server, arguments.stages)
        runs = {name: run for name, run in runs.items() if all(run.is_complete(step) for step in STEPS)}
        report(runs, arguments.seconds_per_shard)


def report(runs: dict[str, RunDirectory], each: float) -> None:
    alone = runs["one"]
    print(f"each shard of text and each reply: {each:g} s; two workers")
    print(f"{'seconds':26}" + "".join(f"{name:>12}" for name in runs))
    for step in STEPS:
        print(f"{step:26}" + "".join(f"{seconds_of(run, step):12.1f}" for run in runs.values()))
    print(f"{'above the floor, per shard':26}" + "".join(f"{name:>12}" for name in runs))
    for step, dataset in STEPS.items():
        n = len(list((alone.root / dataset).rglob("part-*.parquet")))
        floor = seconds_of(alone, step) / 2
        over = {name: (seconds_of(run, step) - floor) / n for name, run in runs.items() if name != "one"}
        print(
            f"{step:26}{'':12}"
            + "".join(f"{o:12.2f}" for o in over.values())
            + f"  {n} shards, floor {floor:.1f} s"
        )
    for name, run in runs.items():
        if name != "one":
            assert_same(alone, run)
            print(f"{name}: all tables equal to those of one process")


if __name__ == "__main__":
    main()

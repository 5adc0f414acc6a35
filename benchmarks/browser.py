"""The browser on a large run: how long until it serves, and how long each page takes.

    python benchmarks/browser.py [--latents 100_000] [--scorers 4]

Writes a made-up run (labels, scores and controls of two explainers for every latent, windows and
judgements for some), opens it as `autointerp serve` does and asks for pages: each time is the median and
the worst over its questions, rendered HTML included, and the processor time, which other work on the
machine does not lengthen. Beside it the pages on disk, as
`autointerp report` writes them. `--keep FOLDER` leaves the run there.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent.parent))

from autointerp.artifacts import DATASETS, Manifest, RunDirectory, write_shard
from autointerp.artifacts.manifest import write_manifest, write_text_whole
from autointerp.artifacts.schemas import table_of
from autointerp.config import RunConfig
from autointerp.report.serve import Browser
from autointerp.report.site import write_site
from autointerp.run import open_run

EXPLAINERS = ("default", "statistics")
SCORERS = ("detection", "fuzzing", "simulation", "embedding", "surprisal", "intruder")
WORDS = [
    a + b
    for a in ("river", "stone", "music", "number", "green", "law", "animal", "verb")
    for b in ("", "s", "ing", "like", "-free")
]
N_TOKENS, WINDOW, LATENTS_PER_SHARD = 2_000, 16, 20_000


def make_large_run(
    path: Path, n_latents: int = 100_000, *, n_scorers: int = 4, n_detailed: int = 500, seed: int = 0
) -> Path:
    """Write a run directory of `n_latents` latents, `n_detailed` of them with windows and judgements."""
    rng = np.random.default_rng(seed)
    run = RunDirectory(path)
    scorers = SCORERS[:n_scorers]
    config = {
        "name": f"made-up-{n_latents}",
        "subject": {"model": "none/made-up"},
        "dictionary": {"source": "neurons", "hook_point": "blocks.0.mlp.hook_post"},
        "corpus": {"dataset": "made-up.jsonl"},
        "explain": {"explainers": list(EXPLAINERS)},
        "score": {"scorers": list(scorers)},
    }
    write_text_whole(path / "run.toml", RunConfig.model_validate(config).to_toml())
    names = [f" {WORDS[i % len(WORDS)]}{i}" for i in range(N_TOKENS)]
    vocabulary = [
        {
            "token": i,
            "text": name,
            "bytes": name.encode(),
            "special": False,
            "n_occurrences": 50,
            "n_occurrences_train": 25,
        }
        for i, name in enumerate(names)
    ]
    write_shard(run.shard("vocabulary", index=0), table_of("vocabulary", vocabulary), DATASETS["vocabulary"])
    for index, first in enumerate(range(0, n_latents, LATENTS_PER_SHARD)):
        latents = np.arange(first, min(first + LATENTS_PER_SHARD, n_latents), dtype=np.uint32)
        _write(run, "latents", index, _latents(latents, n_latents, rng))
        for explainer in EXPLAINERS:
            labels, controls = _labels(latents, explainer, rng)
            _write(run, "explanations", index, labels, explainer)
            _write(run, "explanations", index, controls, f"{explainer}.shuffled")
            for scorer in scorers:
                _write(run, "scores", index, _scores(latents, scorer, explainer, rng), scorer, explainer)
    examples = [row for latent in range(min(n_detailed, n_latents)) for row in _windows(latent, rng)]
    write_shard(run.shard("examples", index=0), table_of("examples", examples), DATASETS["examples"])
    for explainer in EXPLAINERS:
        rows = [_judged(row, explainer, rng) for row in examples if row["split"] == "test"]
        table = table_of("judgements", rows)
        write_shard(run.shard("judgements", "detection", explainer, index=0), table, DATASETS["judgements"])
    manifest = Manifest(
        step="cache", status="complete", fingerprint="0" * 16, config={}, inputs={}, seconds=1.0
    )
    write_manifest(path, manifest)
    return path


def _write(run: RunDirectory, dataset: str, index: int, columns: dict[str, Any], *parts: str) -> None:
    schema = DATASETS[dataset].schema
    n = len(next(iter(columns.values())))
    arrays = [
        pa.nulls(n, field.type)
        if field.name not in columns
        else pa.array(columns[field.name], field.type)
        if not isinstance(columns[field.name], pa.Array)
        else columns[field.name].cast(field.type)
        for field in schema
    ]
    write_shard(
        run.shard(dataset, *parts, index=index),
        pa.Table.from_arrays(arrays, schema=schema),
        DATASETS[dataset],
    )


def _lists(item: pa.Array, size: int) -> pa.Array:
    return pa.ListArray.from_arrays(np.arange(0, len(item) + 1, size, dtype=np.int32), item)


def _latents(latents: np.ndarray, n_latents: int, rng: np.random.Generator) -> dict[str, Any]:
    n = len(latents)
    density = 10 ** rng.normal(-3, 0.7, n).clip(-5, -0.5)
    largest = rng.gamma(4, 4, n).astype(np.float32) + 1
    steps = np.linspace(0.05, 1, 11, dtype=np.float32) ** 2

    def struct(columns: dict[str, Any]) -> pa.Array:
        return pa.StructArray.from_arrays([pa.array(c) for c in columns.values()], list(columns))

    def tokens(k: int) -> np.ndarray:
        return rng.integers(0, N_TOKENS, n * k).astype(np.uint32)

    top = struct(
        {
            "token": tokens(8),
            "n_active": np.tile(np.arange(80, 0, -10, dtype=np.uint64), n),
            "total": np.tile(np.arange(80, 0, -10).astype(float), n),
            "max": np.tile(np.full(8, 2, np.float32), n),
        }
    )
    logits = [
        struct({"token": tokens(8), "logit": np.tile(np.linspace(a, a / 3, 8, dtype=np.float32), n)})
        for a in (2, -2)
    ]
    near = struct(
        {
            "latent": rng.integers(0, n_latents, n * 5).astype(np.uint32),
            "cosine": np.tile(np.linspace(0.6, 0.2, 5, dtype=np.float32), n),
        }
    )
    status = np.where(density < 1e-4, "rare", np.where(density > 0.1, "dense", "ok"))
    return {
        "latent": latents,
        "n_active_tokens": (density * 1e8).astype(np.uint64),
        "n_active_contexts": (density * 1e6).astype(np.uint64),
        "density": density,
        "max_activation": largest,
        "mean_activation": largest / 3,
        "quantiles": _lists(pa.array((largest[:, None] * steps).ravel()), 11),
        "top_tokens": _lists(top, 8),
        "top_logits": _lists(logits[0], 8),
        "bottom_logits": _lists(logits[1], 8),
        "neighbours": _lists(near, 5),
        "status": status.tolist(),
    }


def _labels(
    latents: np.ndarray, explainer: str, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, Any]]:
    picks = rng.integers(0, len(WORDS), (len(latents), 3))
    texts = [f"words about {WORDS[a]}, {WORDS[b]} and {WORDS[c]}" for a, b, c in picks.tolist()]
    base = {
        "latent": latents,
        "explainer": [explainer] * len(latents),
        "status": ["ok"] * len(latents),
        "details": ["{}"] * len(latents),
    }
    real = {**base, "explanation": [f"{explainer}/0"] * len(latents), "text": texts}
    control = {
        **base,
        "explanation": [f"{explainer}.shuffled/0"] * len(latents),
        "control": ["shuffled"] * len(latents),
        "source_latent": np.roll(latents, 1),
        "text": [*texts[-1:], *texts[:-1]],
    }
    return real, control


def _scores(latents: np.ndarray, scorer: str, explainer: str, rng: np.random.Generator) -> dict[str, Any]:
    n = len(latents)
    value = np.stack([rng.beta(6, 3, n), rng.beta(5, 5, n)], axis=1).ravel().astype(np.float32)
    return {
        "latent": np.repeat(latents, 2),
        "explanation": [f"{explainer}.shuffled/0", f"{explainer}/0"] * n,
        "explainer": [explainer] * (2 * n),
        "control": ["shuffled", None] * n,
        "scorer": [scorer] * (2 * n),
        "metric": ["auroc"] * (2 * n),
        "value": value,
        "ci_low": value - 0.1,
        "ci_high": value + 0.1,
        "chance": np.full(2 * n, 0.5, np.float32),
        "status": ["ok"] * (2 * n),
        "n_examples": np.full(2 * n, 20, np.uint32),
        "coverage": np.ones(2 * n, np.float32),
        "n_unparsed": np.zeros(2 * n, np.uint32),
        "n_error": np.zeros(2 * n, np.uint32),
        "details": ["{}"] * (2 * n),
    }


def _windows(latent: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for example in range(60):
        active = example % 3 > 0
        values = (
            np.where(rng.random(WINDOW) < 0.2, rng.gamma(2, 2, WINDOW), 0) if active else np.zeros(WINDOW)
        )
        rows.append(
            {
                "latent": latent,
                "example": example,
                "split": "test" if example >= 20 else "train",
                "kind": "activating" if active else "random",
                "decile": int(rng.integers(1, 11)) if active else None,
                "context": 0,
                "start": 0,
                "tokens": rng.integers(0, N_TOKENS, WINDOW).tolist(),
                "activations": values.tolist(),
                "max_activation": float(values.max()),
            }
        )
    return rows


def _judged(row: dict[str, Any], explainer: str, rng: np.random.Generator) -> dict[str, Any]:
    label = row["kind"] == "activating"
    return {
        **{key: row[key] for key in ("latent", "example", "kind", "decile")},
        "explanation": f"{explainer}/0",
        "scorer": "detection",
        "label": label,
        "prediction": bool(rng.random() < 0.8) == label,
        "probability": float(rng.random()),
        "status": "ok",
    }


QUESTIONS: dict[str, list[dict[str, str]]] = {
    "list, first page": [{}],
    "list, search one word": [{"q": word} for word in ("river", "musiclike", "law-free", "zzz")],
    "list, search two words": [{"q": "stone verbing"}, {"q": "green1640 law"}],
    "list, sort by a score": [
        {"sort": "detection"},
        {"sort": "fuzzing", "dir": "asc", "explainer": "statistics"},
    ],
    "list, filters and search": [
        {"q": "animal", "by": "detection", "low": "0.8", "status": "ok", "dense": "0.001", "sort": "density"}
    ],
    "list, all labels, late page": [{"explainer": "*", "sort": "latent", "page": "1500"}],
}


def measure(run_dir: Path, n_latents: int, n_detailed: int) -> dict[str, Any]:
    """Seconds to open the run and milliseconds per page, by kind of page."""
    started, worked = time.perf_counter(), time.process_time()
    browser = Browser(open_run(run_dir))
    found: dict[str, Any] = {
        "open_seconds": time.perf_counter() - started,
        "open_processor_seconds": time.process_time() - worked,
    }
    try:
        kinds = {name: [f"/latents.html?{urlencode(q)}" for q in some] for name, some in QUESTIONS.items()}
        kinds["latent, judged"] = [
            f"/latents/{i}.html" for i in range(0, n_detailed, max(1, n_detailed // 10))
        ]
        kinds["latent, not judged"] = [
            f"/latents/{i}.html" for i in range(n_latents // 2, n_latents, n_latents // 20)
        ]
        for name, addresses in kinds.items():
            times, processor = [], []
            for address in addresses * 3:
                started, worked = time.perf_counter(), time.process_time()
                answer = browser.answer("GET", address, "127.0.0.1")
                times.append(1000 * (time.perf_counter() - started))
                processor.append(1000 * (time.process_time() - worked))
                assert answer.status == 200, (address, answer.status)
            found[name] = {
                "median_ms": statistics.median(times),
                "worst_ms": max(times),
                "processor_ms": statistics.median(processor),
            }
        started = time.perf_counter()
        browser.answer("GET", "/", "127.0.0.1")
        found["run_page_seconds"] = time.perf_counter() - started
    finally:
        browser.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--latents", type=int, default=100_000)
    parser.add_argument("--scorers", type=int, default=4, choices=range(1, len(SCORERS) + 1))
    parser.add_argument("--keep", type=Path, help="leave the run in this folder")
    parser.add_argument("--json", action="store_true", help="print JSON only")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.keep or Path(folder) / "run"
        n_detailed = min(500, arguments.latents)
        if not (root / "run.toml").exists():
            make_large_run(root, arguments.latents, n_scorers=arguments.scorers, n_detailed=n_detailed)
        found = measure(root, arguments.latents, n_detailed)
        found["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        page = write_site(open_run(root), root / "report")
        found["site_seconds"] = time.perf_counter() - started
        found["site_mb"] = sum(p.stat().st_size for p in page.parent.rglob("*") if p.is_file()) / 1e6
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    print(f"{arguments.latents:,} latents, {len(EXPLAINERS)} explainers, {arguments.scorers} scorers")
    print(
        f"opened in {found['open_seconds']:.1f} s (processor {found['open_processor_seconds']:.1f} s); run page first {found['run_page_seconds']:.1f} s; peak {found['peak_rss_mb']:.0f} MB"
    )
    for name, times in found.items():
        if isinstance(times, dict):
            print(
                f"  {name:<30} median {times['median_ms']:7.1f} ms   worst {times['worst_ms']:7.1f} ms"
                f"   processor {times['processor_ms']:6.1f} ms"
            )
    print(f"site on disk: {found['site_seconds']:.1f} s, {found['site_mb']:.0f} MB")


if __name__ == "__main__":
    main()

"""Do scorers rank labels of known quality as they should? On a planted dictionary over real text.

    python benchmarks/planted_truth.py                        judge SmolLM2-135M, readout likelihood
    python benchmarks/planted_truth.py --base-url http://127.0.0.1:8899/v1 --model NAME
                                                              any server's model, readouts json and logprob

Every concept of `benchmarks/planted.py` is labelled five times: truly, half truly, too narrowly, too
broadly and wrongly. The whole pipeline runs (cache, sample, explain, score; resumable), every
scorer judges all five on the same windows, and two tables are printed and written to
`docs/results/planted-truth-NAME.json` (`--out`): the mean score of each quality with its bootstrap interval
by concept, and, for each lesser quality, the share of concepts whose true label scores higher (ties count
half) with the paired difference and its interval. A scorer ranks a pair as it should if that
interval lies above 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent))

import autointerp
from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig, parse_table
from autointerp.engine.pipeline import run_stages
from autointerp.scorers.metrics import mean_interval
from benchmarks.planted import CONCEPTS, MODEL, QUALITIES, labels

SMALL: dict[str, dict[str, Any]] = {
    "detection": {"readout": "likelihood"},
    "fuzzing": {"readout": "likelihood"},
    "simulation": {"readout": "likelihood"},
    "embedding": {},
    "surprisal": {},
    "intervention": {"readout": "likelihood"},
}
"""Scorers a model without instruction following can serve."""
CAPABLE: dict[str, dict[str, Any]] = {
    "detection-json": {"scorer": "detection", "readout": "json", "examples_per_request": 6},
    "fuzzing-json": {"scorer": "fuzzing", "readout": "json", "examples_per_request": 6},
    "detection-logprob": {"scorer": "detection", "readout": "logprob"},
    "fuzzing-logprob": {"scorer": "fuzzing", "readout": "logprob"},
}
"""Scorers that ask questions."""


def configuration(arguments: argparse.Namespace, folder: Path) -> RunConfig:
    """The run: the planted dictionary, one explainer per quality, the judge's scorers."""
    folder.mkdir(parents=True, exist_ok=True)
    for quality, texts in labels().items():
        lines = [json.dumps({"latent": latent, "text": text}) for latent, text in texts.items()]
        (folder / f"labels-{quality}.jsonl").write_text("\n".join(lines) + "\n")
    judge: dict[str, Any] = {"backend": "local", "model": MODEL}
    if arguments.base_url:
        judge = {"backend": "openai", "base_url": arguments.base_url, "model": arguments.model}
        judge |= {"max_concurrency": arguments.in_flight, "timeout_seconds": 1_800.0}
    scorers = CAPABLE if arguments.base_url else SMALL
    if arguments.scorers:
        scorers = {name: scorers[name] for name in arguments.scorers.split(",")}
    half = arguments.windows // 2
    both = {"n_activating": half, "n_silent": half}
    sizes = {
        "detection": both,
        "fuzzing": {"n_activating": 2 * half},
        "simulation": {"n_windows": half},
        "embedding": both,
        "surprisal": both,
    }
    scorers = {n: {**sizes.get(o.get("scorer", n), {}), **o} for n, o in scorers.items()}
    return parse_table(
        RunConfig,
        {
            "name": "planted-truth",
            "subject": {"model": MODEL},
            "dictionary": {
                "source": "object",
                "path": "benchmarks.planted:dictionary",
                "hook_point": "hook_embed",
            },
            "corpus": {"dataset": str(Path(__file__).parent.parent / "data/wikipedia-sample.parquet")},
            "cache": {"context_size": 128, "prepend_bos": True, "contexts_per_batch": 64},
            "sample": {
                "n_train": 10,
                "n_train_random": 0,
                "n_test": 40,
                "n_test_random": 20,
                "n_test_similar": 20,
                "n_test_neighbour": 20,
            },
            "explain": {"explainers": list(QUALITIES), "shuffled_control": False},
            "explainers": {
                quality: {"explainer": "given", "path": str(folder / f"labels-{quality}.jsonl")}
                for quality in QUALITIES
            },
            "score": {"scorers": list(scorers), "latents": list(range(arguments.concepts))},
            "scorers": scorers,
            "models": {"judge": judge},
        },
    )


def table(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per scorer: mean and interval per quality, and how the true label stands to each lesser one."""
    rows = []
    for scorer, mine in scores.groupby("scorer", sort=False):
        values = mine.pivot_table(index="latent", columns="explainer", values="value", dropna=False)
        row: dict[str, Any] = {"scorer": scorer, "metric": mine.metric.iloc[0]}
        row["chance"] = float(mine.chance.iloc[0])
        row["qualities"] = {q: _interval(values[q]) for q in QUALITIES if q in values}
        row["true_above"] = {}
        for quality in QUALITIES[1:]:
            both = values[["true", quality]].dropna()
            difference = both["true"] - both[quality]
            share = float(((difference > 0) + 0.5 * (difference == 0)).mean()) if len(both) else None
            row["true_above"][quality] = {"share": share, **_interval(difference)}
        rows.append(row)
    return rows


def _interval(values: pd.Series) -> dict[str, Any]:
    known = [float(v) for v in values.dropna()]
    interval = mean_interval(known, seed=0)
    return {"mean": interval.value, "low": interval.low, "high": interval.high, "n": len(known)}


def show(rows: list[dict[str, Any]], judge: str, n: int) -> str:
    """Both tables as Markdown."""

    def cell(x: Mapping[str, Any]) -> str:
        if x["mean"] is None:
            return "-"
        spread = "" if x["low"] is None else f" [{x['low']:.2f}, {x['high']:.2f}]"
        return f"{x['mean']:.2f}{spread}"

    out = [f"Mean score over {n} concepts, judge {judge}, with 95% intervals by concept:", ""]
    out += [f"| scorer | chance | {' | '.join(QUALITIES)} |", "|---|---|" + "---|" * len(QUALITIES)]
    for row in rows:
        cells = " | ".join(cell(row["qualities"][q]) for q in QUALITIES)
        out.append(f"| {row['scorer']} ({row['metric']}) | {row['chance']:.2f} | {cells} |")
    out += ["", "True label above the lesser one: share of concepts, and mean difference:", ""]
    out += [f"| scorer | {' | '.join(QUALITIES[1:])} |", "|---|" + "---|" * (len(QUALITIES) - 1)]
    for row in rows:
        above = row["true_above"]
        cells = " | ".join(
            "-" if above[q]["share"] is None else f"{above[q]['share']:.0%}, {cell(above[q])}"
            for q in QUALITIES[1:]
        )
        out.append(f"| {row['scorer']} | {cells} |")
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--base-url", help="an OpenAI-compatible server; by default SmolLM2-135M in this process"
    )
    parser.add_argument("--model", help="name of the server's model")
    parser.add_argument("--name", help="name in the output file; by default the model's")
    parser.add_argument("--concepts", type=int, default=len(CONCEPTS))
    parser.add_argument("--windows", type=int, default=40, help="windows per label and scorer")
    parser.add_argument("--scorers", help="some of the judge's scorers, separated by commas")
    parser.add_argument("--in-flight", type=int, default=4, help="requests at a time")
    parser.add_argument("--rebuild", action="store_true", help="discard scores made with other options")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    name = arguments.name or (arguments.model if arguments.base_url else "smollm2-135m")
    run = RunDirectory(Path("runs") / f"planted-truth-{name}")
    config = configuration(arguments, run.root)
    run_stages(config, run, ["cache", "sample", "explain", "score"], rebuild=["score"] * arguments.rebuild)
    scores = autointerp.open_run(run.root).frame("scores")
    explained = scores[scores.explainer.isin(QUALITIES)]
    rows = table(explained)
    usage = explained.groupby("scorer", sort=False)[["prompt_tokens", "completion_tokens"]].mean()
    result = {
        "judge": name,
        "n_concepts": int(explained.latent.nunique()),
        "scorers": rows,
        "coverage": {s: _number(g.coverage.mean(), 3) for s, g in explained.groupby("scorer", sort=False)},
        "tokens_per_label": {s: {k: _number(v) for k, v in r.items()} for s, r in usage.iterrows()},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"planted-truth-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(show(rows, name, result["n_concepts"]))
    print(f"\nwritten: {path}")


def _number(value: Any, digits: int = 1) -> float | None:
    return None if pd.isna(value) else round(float(value), digits)


if __name__ == "__main__":
    main()

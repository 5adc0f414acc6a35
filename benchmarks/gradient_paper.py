"""The published results of token-space gradient descent, on data written anew; with plots of the search.

    python benchmarks/gradient_paper.py [--model smollm2|qwen|NAME] [--features NAME ...] [--seeds 0 1 2]
        [--modes paper robust] [--published-settings] [--max-steps N] [--readout auto|likelihood|yes_no]
        [--set KEY=VALUE ...] [--name NAME] [--no-files] [--fresh]

Features are the sets of benchmarks/concepts/paper/: animals, mammals (natural, unbalanced text),
mammals_words (single words), numbers, chinese, palindromes. For each and each mode it prints the labels
by seed and the rate of right ones, beside what Schulz & Fallows (arXiv 2504.00754) report: animal,
number, Chinese and, on words, mammal are found; mammal in text falls back to animal; palindrome ends in
a meaningless token. Over all their published logs 6 of 47 runs are right.

`smollm2` is SmolLM2-135M, readout likelihood; `qwen` a 1.5B instruct model in the cache folder, asked yes or
no as published (slow on a CPU: give it few features and `--max-steps`). `--published-settings` takes, in mode
paper, each feature's own weights, learning rate, batch and steps of the published run, else one setting
serves all. Results are kept per feature and seed and go into docs/results/gradient-paper-NAME.json, plots of
the first right seed, or else of the first, into docs/images/gradient-paper-FEATURE-MODE[-NAME].png. In mode paper
the seeds of a feature share their forward passes (`--set latents_at_once=N`: so many).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.concept_bank import (
    PUBLISHED,
    Concept,
    Kept,
    Runner,
    interval,
    load,
    same,
    summary_rows,
    totals,
    write_results,
)
from benchmarks.gradient_bank import cell

IMAGES = Path(__file__).parent.parent / "docs" / "images"
QWEN = "models/qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"
REPORTED: dict[str, str] = {
    "animals": "animal",
    "mammals": "animal (broader)",
    "mammals_words": "mamm",
    "numbers": "number",
    "chinese": "中文 (1 of 16 runs)",
    "palindromes": "a (meaningless)",
}
"""Label of the run that stands behind each published claim."""
SETTINGS: dict[str, tuple[float, float, float, int, int]] = {
    "animals": (0.2, 0.2, 0.1, 10, 2500),
    "mammals": (0.2, 0.2, 0.2, 30, 360),
    "mammals_words": (0.1, 0.3, 0.2, 10, 1100),
    "numbers": (0.2, 0.2, 0.1, 20, 380),
    "chinese": (0.05, 0.25, 0.5, 25, 300),
    "palindromes": (0.2, 0.2, 0.1, 15, 1170),
}
"""Of those runs: weights of divergence and entropy, learning rate, tokens per step, steps."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--features", nargs="+", default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=["paper", "robust"], choices=("robust", "paper"))
    parser.add_argument("--published-settings", action="store_true")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--readout", choices=("auto", "likelihood", "yes_no"))
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of the results; by default the model's")
    parser.add_argument("--no-files", action="store_true", help="write neither results nor plots")
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()

    features = load("paper", options.features)
    name = (options.name or options.model).replace("/", "_")
    runner = Runner(Kept(f"gradient-paper-{options.model.replace('/', '_')}", fresh=options.fresh))
    rows: list[dict[str, Any]] = []
    for mode in options.modes:
        readout = options.readout or ("yes_no" if options.model == "qwen" and mode == "paper" else "auto")
        print(f"mode {mode}, {options.model}, readout {readout}, seeds {' '.join(map(str, options.seeds))}")
        for feature in features:
            config = configuration(options, feature.name, mode, readout)
            mine = [row for _, row in runner.run([feature], options.seeds, config, mode)]
            rows += mine
            report(feature, mine)
            if not options.no_files:
                plot(next((row for row in mine if row["right"]), mine[0]), mode, options.model, name)
        print()
    wins(rows)
    print(f"published: {PUBLISHED} right, over all features, search over settings included")
    if options.no_files:
        return
    write_results(
        f"gradient-paper-{name}",
        {
            "model": options.model,
            "settings": options.settings,
            "max_steps": options.max_steps,
            "seeds": options.seeds,
            "published_settings": options.published_settings,
            "published": PUBLISHED,
            "rows": [
                {
                    **short,
                    "readout": row["result"].get("readout"),
                    "broader": row["result"]["label"] is not None
                    and same(row["result"]["label"], _broader(row["concept"])),
                }
                for short, row in zip(summary_rows(rows), rows, strict=True)
            ],
        },
    )


def configuration(options: argparse.Namespace, feature: str, mode: str, readout: str) -> Any:
    """Settings of one feature: published ones if asked for, then what was given by --set."""
    from autointerp.engine.labelling import gradient_config
    from autointerp.weights import cache_folder

    model = {"smollm2": None, "qwen": str(cache_folder() / QWEN)}.get(options.model, options.model)
    settings = [f"readout={readout}"]
    if mode == "paper":
        if options.published_settings:
            kl, entropy, rate, batch, steps = SETTINGS[feature]
            settings += [f"paper_weight_kl={kl}", f"paper_weight_entropy={entropy}"]
            settings += [f"paper_learning_rate={rate}", f"paper_batch={batch}"]
            settings.append(f"paper_steps={min(steps, options.max_steps or steps)}")
        elif options.max_steps:
            settings.append(f"paper_steps={options.max_steps}")
    return gradient_config([*settings, *options.settings], mode=mode, model=model)


def report(feature: Concept, rows: list[dict[str, Any]]) -> None:
    """A line per feature: rate of right labels, of broader ones, each seed's label, the published one."""
    right = sum(row["right"] for row in rows)
    low, high = interval(right, len(rows))
    broader = sum(
        row["result"]["label"] is not None and same(row["result"]["label"], feature.broader) for row in rows
    )
    seconds = sum(row["seconds"] for row in rows) / len(rows)
    also = f", broader {broader}/{len(rows)}" if feature.broader else ""
    print(
        f"{feature.name:<15}right {right}/{len(rows)} ({low:.2f} to {high:.2f}){also}; published: "
        f"{REPORTED[feature.name]}; {seconds:.1f} s\n    " + "; ".join(cell(row) for row in rows),
        flush=True,
    )


def plot(row: dict[str, Any], mode: str, model: str, results: str) -> None:
    """Trajectories of a result as PNG and SVG in docs/images/."""
    from autointerp.report.plots.trajectory import write_trajectories

    result = row["result"]
    if not result.get("trajectories"):
        return
    name = row["concept"].replace("_", "-")
    ending = "" if results == "smollm2" else f"-{results}"
    best = result["label"] or row["first_candidate"]
    said = result["label"] or result["status"]
    title = f"{name.replace('-', ', ')}, mode {mode}, {model}, seed {row['seed']}: {said}"
    for path in write_trajectories(
        result["trajectories"], IMAGES / f"gradient-paper-{name}-{mode}{ending}", label=best, title=title
    ):
        if path.suffix == ".svg":
            path.unlink()


def wins(rows: list[dict[str, Any]]) -> None:
    """Rate of right labels over all judgeable features, by mode."""
    for mode in dict.fromkeys(row["variant"] for row in rows):
        mine = [row for row in rows if row["variant"] == mode and row["judgeable"]]
        if mine:
            found = totals(mine)
            right, (low, high) = found["right"], found["right_interval"]
            print(
                f"mode {mode}: right {right}/{len(mine)} runs on judgeable features ({low:.2f} to {high:.2f})"
            )


def _broader(name: str) -> tuple[str, ...]:
    return load("paper", [name])[0].broader


if __name__ == "__main__":
    main()

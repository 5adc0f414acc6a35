"""Reach of the explainer `gradient` on the concept bank: right label, or undetermined where none is right.

    python benchmarks/gradient_bank.py [--part dev|final] [--seeds 0 1 2] [--modes robust paper]
        [--concepts NAME ...] [--model NAME] [--set KEY=VALUE ...] [--together] [--fresh]

Prints, per concept, the label of each seed (`+` right, `-` not) with seconds, then the totals: right
labels of the judgeable concepts and `undetermined` of the others, with Wilson intervals, and seconds
per latent. The floor: the published logs hold a right label in 6 of 47 runs, and an explainer that
names the commonest concept of the bank, or nothing, is right for one judgeable concept or none.

`--together` labels all concepts of a seed in one call, as a run labels its latents (forward passes are shared): it
prints the seconds per latent of that call and how many labels differ from those found one by one.

Results are kept per concept, seed and settings in runs/benchmarks/, so a run that was stopped goes
on; docs/results/gradient-bank-PART.json (of mode paper alone: gradient-bank-PART-paper.json) holds them when the
part is complete. The part `final` is
meant to be run once, when the method is finished.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.concept_bank import (
    PUBLISHED,
    Concept,
    Kept,
    Runner,
    load,
    print_totals,
    summary_rows,
    totals,
    write_results,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", default="dev", choices=("dev", "final"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--modes", nargs="+", default=["robust", "paper"], choices=("robust", "paper"))
    parser.add_argument(
        "--concepts", nargs="+", default=[], help="only these; then no results file is written"
    )
    parser.add_argument("--model", help="the discriminator; by default SmolLM2-135M of a package")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--together", action="store_true", help="also all concepts in one call")
    parser.add_argument("--fresh", action="store_true", help="forget what was kept")
    options = parser.parse_args()

    from autointerp.engine.labelling import gradient_config

    concepts = load(options.part, options.concepts)
    runner = Runner(Kept(f"gradient-bank-{options.part}", fresh=options.fresh))
    found: dict[str, list[dict[str, Any]]] = {}
    shared: dict[str, list[dict[str, Any]]] = {}
    configs = {
        mode: gradient_config(options.settings, mode=mode, model=options.model) for mode in options.modes
    }
    for mode, config in configs.items():
        print(f"mode {mode}, discriminator {config.model}, seeds {' '.join(map(str, options.seeds))}")
        found[mode] = table(runner, concepts, options.seeds, config, mode)
        if options.together:
            shared[mode] = [together(runner, concepts, seed, config, found[mode]) for seed in options.seeds]
        print()
    for mode, rows in found.items():
        print_totals(f"mode {mode}", totals(rows))
        for kind, part in by_kind(rows).items():
            print_totals(f"    {kind}", totals(part))
        print_chains(concepts, rows)
    print(f"floor: {PUBLISHED} of the published method found the right label (8B discriminator)")
    if options.concepts:
        return
    alone = "" if "robust" in options.modes else "-paper"
    write_results(
        f"gradient-bank-{options.part}{alone}",
        {
            "part": options.part,
            "seeds": options.seeds,
            "published": PUBLISHED,
            "opening_seconds": runner.opening_seconds,
            "modes": {
                mode: {
                    "settings": configs[mode].model_dump(mode="json", exclude_none=True),
                    "totals": totals(rows),
                    "together": shared.get(mode),
                    "by_kind": {kind: totals(part) for kind, part in by_kind(rows).items()},
                    "rows": summary_rows(rows),
                }
                for mode, rows in found.items()
            },
        },
    )


def table(
    runner: Runner, concepts: Sequence[Concept], seeds: Sequence[int], config: Any, variant: str
) -> list[dict[str, Any]]:
    """Print a line per concept as it is finished; returns all results."""
    rows: list[dict[str, Any]] = []
    print(f"{'concept':<20}{'wanted':<20}" + "".join(f"{f'seed {seed}':<32}" for seed in seeds) + "seconds")
    for concept in concepts:
        mine = [row for _, row in runner.run([concept], seeds, config, variant)]
        rows += mine
        cells = "".join(f"{cell(row):<32}" for row in mine)
        wanted = concept.labels[0] if concept.judgeable else "undetermined"
        seconds = " ".join(f"{row['seconds']:.1f}" for row in mine)
        print(f"{concept.name:<20}{wanted:<20}{cells}{seconds}", flush=True)
    return rows


def together(
    runner: Runner, concepts: Sequence[Concept], seed: int, config: Any, rows: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """All concepts in one call: seconds per latent, and labels that differ from those found one by one."""
    from autointerp.explainers.gradient import label_many

    discriminator = runner.discriminator(config)
    features = [concept.items() for concept in concepts]
    began = time.perf_counter()
    labels = label_many(features, config, discriminator, seed)
    seconds = round((time.perf_counter() - began) / len(concepts), 2)
    alone = {row["concept"]: row["result"]["label"] for row in rows if row["seed"] == seed}
    differ = [
        concept.name
        for concept, label in zip(concepts, labels, strict=True)
        if label.label != alone[concept.name]
    ]
    print(f"together, seed {seed}: {seconds} s per latent; other labels for {', '.join(differ) or 'none'}")
    return {"seed": seed, "seconds_per_latent": seconds, "labels_differ": differ}


def cell(row: dict[str, Any]) -> str:
    """`+ animal .97`, `- undetermined (fruit)`: right or not, label or status, balanced accuracy."""
    result = row["result"]
    mark = "+" if row["right"] else "-"
    if result["status"] == "ok":
        accuracy = result.get("balanced_accuracy")
        text = f"{result['label']}" + (f" {accuracy:.2f}" if accuracy is not None else "")
    else:
        best = row["first_candidate"]
        reason = (result["reason"] or "").split(":")[0].replace("discriminator_", "")
        text = f"{result['status'][:6]} {reason}" + (f" ({best})" if best else "")
    text = " ".join(text.split())
    return f"{mark} {text if len(text) < 29 else text[:28] + '…'}"


def by_kind(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    return dict(kinds)


def print_chains(concepts: Sequence[Concept], rows: Sequence[dict[str, Any]]) -> None:
    """How often a broader word stands in the chain of a hierarchical concept that was named rightly."""
    nested = {concept.name: concept for concept in concepts if concept.kind == "hierarchy" and concept.parent}
    mine = [row for row in rows if row["concept"] in nested and row["right"]]
    if mine:
        n = sum(nested[row["concept"]].has_parent(row["chain_labels"]) for row in mine)
        print(f"    chains of rightly named hierarchical concepts with a broader word: {n}/{len(mine)}")


if __name__ == "__main__":
    main()

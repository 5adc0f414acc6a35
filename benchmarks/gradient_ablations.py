"""Which part of the explainer `gradient` earns its cost? Its parts taken away, on the development bank.

    python benchmarks/gradient_ablations.py [--variants NAME ...] [--seeds 0 1 2] [--concepts NAME ...] [--fresh]

Variants: `full` (the default settings); `no-gradient` (contrastive likelihood and lists propose, exact
scoring decides); `gradient-only`, `contrastive-only`, `lists-only` (one proposer); `adamw` for mirror
descent; `no-schedule` (entropy left free); `restarts-1`, `restarts-4`; `flat-negatives` (near negatives weigh
like all others).

Prints per variant the right labels of the judgeable concepts, `undetermined` of the others, seconds per
latent, and the difference from `full` on the same concepts and seeds: how many concepts do better, how
many worse, with an exact sign test, and the seconds saved. Beside them the floor: 6 of 47 published runs.
Results are kept per concept and seed in runs/benchmarks/; a run of all variants writes
docs/results/gradient-ablations.json.
"""

from __future__ import annotations

import argparse
import sys
from math import comb
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.concept_bank import (
    PUBLISHED,
    Kept,
    Runner,
    by_concept,
    load,
    summary_rows,
    totals,
    write_results,
)

GRADIENT_ONLY = 'proposals=["gradient"]'
VARIANTS: dict[str, list[str]] = {
    "full": [],
    "no-gradient": ['proposals=["contrastive", "lists"]'],
    "gradient-only": [GRADIENT_ONLY],
    "contrastive-only": ['proposals=["contrastive"]'],
    "lists-only": ['proposals=["lists"]'],
    "adamw": ['optimiser="adamw"'],
    "no-schedule": ["entropy_schedule=false"],
    "restarts-1": ["restarts=1"],
    "restarts-4": ["restarts=4"],
    "flat-negatives": ['negatives="flat"'],
    "gradient-only-adamw": [GRADIENT_ONLY, 'optimiser="adamw"'],
    "gradient-only-no-schedule": [GRADIENT_ONLY, "entropy_schedule=false"],
    "gradient-only-restarts-1": [GRADIENT_ONLY, "restarts=1"],
    "gradient-only-restarts-4": [GRADIENT_ONLY, "restarts=4"],
}
"""Settings that differ from the defaults. The last four show the optimiser's parts, which other
proposers would hide."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--concepts", nargs="+", default=[])
    parser.add_argument("--fresh", action="store_true")
    options = parser.parse_args()

    from autointerp.engine.labelling import gradient_config

    concepts = load("dev", options.concepts)
    runner = Runner(Kept("gradient-ablations", fresh=options.fresh))
    names = list(dict.fromkeys(["full", *options.variants]))
    found: dict[str, list[dict[str, Any]]] = {}
    print(
        f"{'variant':<28}{'right':>10}{'undetermined':>14}{'s per latent':>14}   against full (sign test)",
        flush=True,
    )
    for name in names:
        config = gradient_config(VARIANTS[name])
        found[name] = [row for _, row in runner.run(concepts, options.seeds, config, name)]
        print(line(name, found[name], found["full"]), flush=True)
    print(f"floor: {PUBLISHED} of the published method found the right label")
    if len(names) == len(VARIANTS):
        write_results(
            "gradient-ablations",
            {
                "seeds": options.seeds,
                "concepts": [concept.name for concept in concepts],
                "published": PUBLISHED,
                "variants": {
                    name: {
                        "settings": VARIANTS[name],
                        "totals": totals(rows),
                        "against_full": compare(rows, found["full"]),
                        "rows": summary_rows(rows),
                    }
                    for name, rows in found.items()
                },
            },
        )


def line(name: str, rows: list[dict[str, Any]], full: list[dict[str, Any]]) -> str:
    t = totals(rows)
    against = ""
    if name != "full":
        c = compare(rows, full)
        against = (
            f"{len(c['better'])} concepts better, {len(c['worse'])} worse (p {c['p_value']:.2f}), "
            f"{c['seconds']:+.1f} s"
        )
    shares = (f"{t['right']}/{t['judgeable']}", f"{t['undetermined']}/{t['unjudgeable']}")
    return f"{name:<28}{shares[0]:>10}{shares[1]:>14}{t['seconds_mean']:>14}   {against}"


def compare(rows: list[dict[str, Any]], full: list[dict[str, Any]]) -> dict[str, Any]:
    """Concepts that do better or worse than with `full`, over their seeds; two-sided exact sign test."""
    new, old = by_concept(rows), by_concept(full)
    better = [name for name in new if new[name] > old[name]]
    worse = [name for name in new if new[name] < old[name]]
    n, k = len(better) + len(worse), min(len(better), len(worse))
    p = min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n) if n else 1.0
    return {
        "better": better,
        "worse": worse,
        "p_value": round(p, 4),
        "seconds": round(_mean_seconds(rows) - _mean_seconds(full), 2),
    }


def _mean_seconds(rows: list[dict[str, Any]]) -> float:
    return sum(row["seconds"] for row in rows) / len(rows)


if __name__ == "__main__":
    main()

"""The concept bank of `benchmarks/concepts/`: its parts, what counts as right, and results that are kept."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from autointerp.explainers.base import get_explainer

if TYPE_CHECKING:
    from autointerp.explainers.gradient import GradientConfig, TokenItem

ROOT = Path(__file__).parent / "concepts"
RESULTS = Path(__file__).parent.parent / "docs" / "results"
KEPT = Path("runs") / "benchmarks"
"""Where results are kept while a benchmark goes on."""
PARTS = ("dev", "final", "paper")
PUBLISHED = "6 of 47 runs"
"""Strict successes in the logs that Schulz & Fallows published, search over settings included."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    part: str
    name: str
    kind: str
    judgeable: bool
    labels: tuple[str, ...]
    """Right labels; none where the right answer is `undetermined`."""
    parent: tuple[str, ...] = ()
    """Broader words expected before the label in the chain."""
    broader: tuple[str, ...] = ()
    """Labels that the published method fell back to."""

    @property
    def path(self) -> Path:
        return ROOT / self.part / f"{self.name}.csv"

    def items(self) -> list[TokenItem]:
        from autointerp.engine.labelling import read_tokens

        return read_tokens(self.path).items

    def digest(self) -> str:
        return hashlib.blake2b(self.path.read_bytes(), digest_size=8).hexdigest()

    def is_right(self, label: str | None, status: str) -> bool:
        """One of the right labels; where there is none, `undetermined`."""
        if not self.judgeable:
            return status == "undetermined"
        return label is not None and status == "ok" and same(label, self.labels)

    def has_parent(self, chain: Sequence[str]) -> bool:
        """Whether a broader word stands in the chain before its last link."""
        return any(same(label, self.parent) for label in chain[:-1])


def load(part: str, names: Sequence[str] = ()) -> list[Concept]:
    """The concepts of a part, or some of them, in the order of the index."""
    table = tomllib.loads((ROOT / f"{part}.toml").read_text(encoding="utf-8"))
    unknown = set(names) - set(table)
    if unknown:
        raise SystemExit(f"no concept {', '.join(sorted(unknown))} in {part}; there are {', '.join(table)}")
    return [
        Concept(
            part=part,
            name=name,
            kind=values["kind"],
            judgeable=values["judgeable"],
            labels=tuple(values["labels"]),
            parent=tuple(values.get("parent", ())),
            broader=tuple(values.get("broader", ())),
        )
        for name, values in table.items()
        if not names or name in names
    ]


def same(label: str, accepted: Sequence[str]) -> bool:
    """Whether a label is one of the accepted ones: case, articles, punctuation and a plural's s aside."""
    return _reduced(label) in {_reduced(other) for other in accepted}


def _reduced(label: str) -> str:
    words = re.sub(r"[^\w\s]", " ", label.casefold()).split()
    while words and words[0] in ("a", "an", "the"):
        words.pop(0)
    if words and len(words[-1]) > 3 and words[-1].endswith("s") and not words[-1].endswith("ss"):
        words[-1] = words[-1][:-1]
    return " ".join(words)


class Kept:
    """Results as JSON lines under a key, so that a benchmark that was stopped goes on."""

    def __init__(self, name: str, *, fresh: bool = False) -> None:
        self.path = KEPT / f"{name}.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            self.path.unlink(missing_ok=True)
        self.rows: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    row = json.loads(line)
                    self.rows[row["key"]] = row
                except (ValueError, KeyError):
                    continue

    def add(self, row: dict[str, Any]) -> None:
        self.rows[row["key"]] = row
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


class Runner:
    """Labels concepts, one after another, opening the discriminator when it is first needed."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self._discriminators: dict[str, Any] = {}
        self.opening_seconds: float | None = None

    def run(
        self, concepts: Sequence[Concept], seeds: Sequence[int], config: GradientConfig, variant: str
    ) -> Iterator[tuple[Concept, dict[str, Any]]]:
        """Concept and result for each concept and seed; a kept result of the same settings is not computed again.

        In mode `paper` a concept's seeds share their forward passes, so a seed's seconds are its share.
        """
        for concept in concepts:
            keys = {seed: _key(concept, config, variant, seed) for seed in seeds}
            missing = [seed for seed, key in keys.items() if key not in self.kept.rows]
            for some in [missing] if config.mode == "paper" else [[seed] for seed in missing]:
                for seed, row in zip(some, self._labels(concept, some, config), strict=True):
                    self.kept.add({"key": keys[seed], **row, "variant": variant})
            for seed in seeds:
                yield concept, self.kept.rows[keys[seed]]

    def _labels(self, concept: Concept, seeds: Sequence[int], config: GradientConfig) -> list[dict[str, Any]]:
        from autointerp.engine.labelling import finite
        from autointerp.explainers.gradient import label_tokens
        from autointerp.explainers.gradient.paper import label_features_paper

        if not seeds:
            return []
        discriminator = self.discriminator(config)
        items = concept.items()
        began, worked = time.perf_counter(), time.process_time()
        if config.mode == "paper":
            streams = [(seed, 0) for seed in seeds]
            found = label_features_paper([items] * len(seeds), config, discriminator, streams)
        else:
            found = [label_tokens(items, config, discriminator, seed) for seed in seeds]
        seconds = (time.perf_counter() - began) / len(seeds)
        cpu_seconds = (time.process_time() - worked) / len(seeds)
        return [
            {
                "concept": concept.name,
                "kind": concept.kind,
                "judgeable": concept.judgeable,
                "seed": seed,
                "right": concept.is_right(label.label, label.status),
                "seconds": round(seconds, 2),
                "cpu_seconds": round(cpu_seconds, 2),
                "chain_labels": [link.label for link in label.chain],
                "first_candidate": label.candidates[0].label if label.candidates else None,
                "result": finite(label.as_json()),
            }
            for seed, label in zip(seeds, found, strict=True)
        ]

    def discriminator(self, config: GradientConfig) -> Any:
        """Opened once per model and readout; the seconds of the last opening are kept."""
        from autointerp.explainers.gradient import open_discriminator

        key = json.dumps([config.model, config.revision, config.device, config.dtype, config.readout])
        if key not in self._discriminators:
            began = time.perf_counter()
            self._discriminators[key] = open_discriminator(config)
            self.opening_seconds = round(time.perf_counter() - began, 2)
        return self._discriminators[key]


def _key(concept: Concept, config: GradientConfig, variant: str, seed: int) -> str:
    version = get_explainer("gradient").version
    parts = (concept.part, concept.name, concept.digest(), variant, config.fingerprint(), version, seed)
    return "/".join(map(str, parts))


def totals(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Right of the judgeable, undetermined of the others, seconds per latent, over concepts and seeds.

    Intervals are Wilson's at 95% with the concepts as the sample: seeds of one concept tell little more.
    """
    judgeable = [row for row in rows if row["judgeable"]]
    others = [row for row in rows if not row["judgeable"]]
    named = [row for row in judgeable if row["result"]["status"] == "ok"]
    seconds = sorted(row["seconds"] for row in rows)
    return {
        "n": len(rows),
        "judgeable": len(judgeable),
        "right": sum(row["right"] for row in judgeable),
        "right_rate": _rate(judgeable),
        "right_interval": _interval_by_concept(judgeable),
        "right_of_those_labelled": _rate(named),
        "unjudgeable": len(others),
        "undetermined": sum(row["right"] for row in others),
        "undetermined_rate": _rate(others),
        "undetermined_interval": _interval_by_concept(others),
        "seconds_mean": round(sum(seconds) / len(seconds), 2) if seconds else None,
        "seconds_max": seconds[-1] if seconds else None,
        "cpu_seconds_mean": round(sum(row["cpu_seconds"] for row in rows) / len(rows), 2) if rows else None,
    }


def interval(right: float, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of a share."""
    z = 1.959964
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * ((share * (1 - share) + z * z / (4 * n)) / n) ** 0.5 / (1 + z * z / n)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def by_concept(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of right seeds of each concept."""
    found: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        found[row["concept"]].append(row["right"])
    return {name: sum(values) / len(values) for name, values in found.items()}


def print_totals(name: str, found: dict[str, Any]) -> None:
    parts = []
    for what, of in (("right", "judgeable"), ("undetermined", "unjudgeable")):
        if found[of]:
            low, high = found[f"{what}_interval"]
            parts.append(f"{what} {found[what]}/{found[of]} {of} ({low:.2f} to {high:.2f})")
    parts.append(
        f"{found['seconds_mean']} s per latent, at most {found['seconds_max']}, {found['cpu_seconds_mean']} of CPU"
    )
    print(f"{name}: {'; '.join(parts)}")


def _rate(rows: Sequence[dict[str, Any]]) -> float | None:
    return round(sum(row["right"] for row in rows) / len(rows), 4) if rows else None


def _interval_by_concept(rows: Sequence[dict[str, Any]]) -> list[float] | None:
    shares = list(by_concept(rows).values())
    return [round(value, 4) for value in interval(sum(shares), len(shares))] if shares else None


def write_results(name: str, value: dict[str, Any]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return path


def summary_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Results without trajectories and candidates, for a results file."""
    own = ("variant", "concept", "kind", "judgeable", "seed", "right", "seconds", "cpu_seconds")
    short = ("label", "status", "reason", "precision", "recall", "balanced_accuracy", "p_value", "confidence")
    return [
        {
            **{key: row[key] for key in own},
            **{key: row["result"].get(key) for key in short},
            "chain": row["chain_labels"],
            "first_candidate": row["first_candidate"],
        }
        for row in rows
    ]

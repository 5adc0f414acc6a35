"""A run as its page shows it: what it was made from, its scores, how far they can be trusted, what it cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from autointerp.analyze.intervals import FEWEST
from autointerp.analyze.statistics import Statistics
from autointerp.analyze.summary import SummaryRow
from autointerp.report import numbers, svg, svg_run
from autointerp.report.calibration import MAX_ITEMS, calibrations
from autointerp.report.listing import LATENT_STATUS
from autointerp.report.trust import Chart, Trust, trust
from autointerp.report.views import explainer_name
from autointerp.run import Run, printable


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One scorer's part of the table, with a chart per row."""

    scorer: str
    metric: str | None
    rows: list[tuple[SummaryRow, Markup]]
    every: list[SummaryRow]
    """Those rows and their controls."""


@dataclass(frozen=True, kw_only=True)
class CostLine:
    """What one explainer, or one scorer on one explainer, asked of language models."""

    what: str
    who: str
    n: int
    """Explanations, or explanations scored (controls too)."""
    sent: str
    generated: str
    cost: str
    each: str
    seconds: str


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Everything on the page of a run."""

    names: list[tuple[str, str]]
    figures: list[tuple[str, str]]
    read: str
    """What the tokens read leave out; empty if they leave out nothing."""
    versions: str
    """What most steps were made with."""
    steps: list[dict[str, Any]]
    costs: list[CostLine]
    toml: str
    comparisons: list[Comparison]
    fewest: int
    """Latents below which a number has no interval."""
    trust: Trust
    calibration: list[Chart]
    max_items: str
    """Items a calibration reads at most."""
    density: Markup | None
    shown_status: list[str]
    """Status of the latents in the chart of densities."""


def run_page(run: Run, found: Statistics, scorers: Sequence[str]) -> RunPage:
    """The page of a run, from its tables and its statistics."""
    summary = found.scores
    scores = run.table("scores", columns=["explainer", "control", "scorer", "value", "status"])
    latents = run.table("latents", columns=["status", "density"])
    groups = _densities(latents)
    versions, steps = _steps(run)
    return RunPage(
        names=_names(run),
        figures=_figures(run, latents),
        read=_read(run),
        versions=versions,
        steps=steps,
        costs=_costs(run, scorers),
        toml="\n".join(
            printable(line) for line in (run.root / "run.toml").read_text(encoding="utf-8").split("\n")
        ),
        comparisons=_comparisons(summary),
        fewest=FEWEST,
        trust=trust(found, scores),
        calibration=[
            Chart(
                scorer=one.scorer,
                who=f"{explainer_name(one.explainer)}, error {numbers.score(one.error)}",
                drawing=svg_run.reliability(one),
            )
            for one in calibrations(run, scorers)
        ],
        max_items=numbers.count(MAX_ITEMS),
        density=svg_run.densities(groups),
        shown_status=[name for name, _ in groups],
    )


def _densities(latents: pa.Table) -> list[tuple[str, np.ndarray]]:
    found = []
    for status in LATENT_STATUS:
        values = latents.filter((pc.field("status") == status) & (pc.field("density") > 0))
        if values.num_rows:
            found.append((status, values.column("density").to_numpy()))
    return found


def _comparisons(summary: Sequence[SummaryRow]) -> list[Comparison]:
    out = []
    for scorer in dict.fromkeys(row.scorer for row in summary):
        mine = [row for row in summary if row.scorer == scorer]
        rows = [row for row in mine if row.control is None]
        ends = [x for r in mine for x in (r.q25, r.mean, r.q75, r.low, r.high, r.chance) if x is not None]
        domain = svg.domain_of(ends)
        out.append(
            Comparison(
                scorer=scorer,
                metric=next((row.metric for row in rows if row.metric), None),
                rows=[(row, svg.intervals(row, domain)) for row in rows],
                every=mine,
            )
        )
    return out


def _names(run: Run) -> list[tuple[str, str]]:
    config = run.config
    dictionary = config.dictionary
    what = dictionary.path or " / ".join(filter(None, [dictionary.release, dictionary.sae_id]))
    cached = run.directory.manifest("cache")
    names = [
        ("subject", config.subject.model),
        ("dictionary", what or dictionary.source),
        ("hook point", str(cached.counts.get("hook_point", numbers.DASH)) if cached else numbers.DASH),
        ("corpus", config.corpus.dataset),
        ("explaining model", str(config.models.explainer.get("model", numbers.DASH))),
        ("judging model", str(config.models.judge.get("model", numbers.DASH))),
    ]
    return [(name, printable(value)) for name, value in names]


def _figures(run: Run, latents: pa.Table) -> list[tuple[str, str]]:
    counts = Counter(latents.column("status").to_pylist())
    n_tokens = pc.sum(run.table("vocabulary", columns=["n_occurrences"]).column("n_occurrences")).as_py()
    explanations = run.table("explanations", columns=["status", "control"])
    said = Counter(explanations.filter(pc.field("control").is_null()).column("status").to_pylist())
    manifests = list(run.steps().values())
    costs = [m.cost_usd for m in manifests if m.cost_usd is not None]
    seconds = [m.seconds for m in manifests if m.seconds is not None]
    return [
        ("tokens read", numbers.count(n_tokens)),
        ("latents", numbers.count(sum(counts.values()))),
        *[(status, numbers.count(counts[status])) for status in LATENT_STATUS if counts[status]],
        ("explanations", numbers.count(said["ok"])),
        *[(status, numbers.count(said[status])) for status in ("undetermined", "failed") if said[status]],
        ("cost", numbers.usd(sum(costs) if costs else None)),
        ("computing time", numbers.duration(sum(seconds) if seconds else None)),
    ]


def _read(run: Run) -> str:
    """What is left out of the tokens read, as `cache` counted it."""
    cached = run.directory.manifest("cache")
    counts = cached.counts if cached else {}
    masked, every = counts.get("n_positions_masked"), counts.get("n_tokens")
    if not masked or not every:
        return ""
    firsts = counts["n_contexts"] if counts.get("mask_first") else 0
    which = ["the first of each context"] if firsts else []
    which += ["special tokens"] if counts.get("mask_special") and masked > firsts else []
    said = f" ({' and '.join(which)})" if which else ""
    return (
        f"Tokens read: those that count. Of {numbers.count(every)} tokens of the corpus {numbers.count(masked)} are "
        f"masked{said}: no latent is looked at there, and densities leave them out."
    )


def _steps(run: Run) -> tuple[str, list[dict[str, Any]]]:
    """The versions most steps were made with, and the steps; `versions` of a step say what was another."""
    steps = run.steps()
    seen = Counter(item for manifest in steps.values() for item in manifest.versions.items())
    usual: dict[str, str] = {}
    for (name, version), _ in seen.most_common():
        usual.setdefault(name, version)
    rows = [
        {
            "name": name,
            "status": manifest.status,
            "rows": numbers.count(sum(manifest.n_rows.values())) if manifest.n_rows else numbers.DASH,
            "seconds": numbers.duration(manifest.seconds),
            "cost": numbers.usd(manifest.cost_usd),
            "versions": _named({k: v for k, v in manifest.versions.items() if usual[k] != v}),
        }
        for name, manifest in steps.items()
    ]
    return _named(usual), rows


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


_USAGE = ["prompt_tokens", "completion_tokens", "cost_usd", "seconds"]


def _costs(run: Run, scorers: Sequence[str]) -> list[CostLine]:
    explained = _usage(run.table("explanations", columns=["explainer", "control", *_USAGE]), ["explainer"])
    scored = _usage(
        run.table("scores", columns=["scorer", "explainer", "n_examples", *_USAGE]), ["scorer", "explainer"]
    )
    order = {name: i for i, name in enumerate([*run.config.explain.explainers, *scorers])}
    explained.sort(key=lambda row: order.get(row["explainer"], len(order)))
    scored.sort(
        key=lambda row: (order.get(row["scorer"], len(order)), order.get(row["explainer"], len(order)))
    )
    return [
        *[_cost_line("explain", row["explainer"], row) for row in explained],
        *[_cost_line(row["scorer"], explainer_name(row["explainer"]), row) for row in scored],
    ]


def _usage(table: pa.Table, keys: list[str]) -> list[dict[str, Any]]:
    """Sums by group over rows where something is known; null if nothing is."""
    if "control" in table.column_names:
        table = table.filter(pc.field("control").is_null())
    if "n_examples" in table.column_names:
        table = table.filter(pc.field("n_examples") > 0)
    sums = table.group_by(keys).aggregate([([], "count_all"), *[(name, "sum") for name in _USAGE]])
    rows: list[dict[str, Any]] = sums.to_pylist()
    return [row for row in rows if any(row[f"{name}_sum"] is not None for name in _USAGE)]


def _cost_line(what: str, who: str, row: dict[str, Any]) -> CostLine:
    cost, n = row["cost_usd_sum"], row["count_all"]
    return CostLine(
        what=what,
        who=who,
        n=n,
        sent=numbers.count(row["prompt_tokens_sum"]),
        generated=numbers.count(row["completion_tokens_sum"]),
        cost=numbers.usd(cost),
        each=numbers.usd(None if cost is None else cost / n),
        seconds=numbers.duration(row["seconds_sum"]),
    )

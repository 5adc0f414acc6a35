"""The HTML page of a run: one file, no request to anywhere, no script but its own.

Every text of the corpus, the models and the configuration is escaped by the template engine; a
Content-Security-Policy in the page names the hashes of its one style sheet and one script and
forbids all else, so that even an escaping defect could neither run nor load anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from autointerp.analyze.statistics import Statistics, statistics
from autointerp.analyze.summary import SummaryRow
from autointerp.artifacts.manifest import write_text_whole
from autointerp.config import ReportConfig
from autointerp.report import numbers, svg
from autointerp.report.latent_page import N_LEVELS, latent_pages
from autointerp.report.selection import pick_latents
from autointerp.report.trust import trust
from autointerp.report.views import explainer_name
from autointerp.run import Run, printable

LATENT_STATUS = ("ok", "rare", "dense", "dead")


def write_report(
    run: Run, path: Path, config: ReportConfig | None = None, *, found: Statistics | None = None
) -> Path:
    """Write the page of a run to `path` and return it.

    `config` says how many latents and windows are shown; by default as the run's own. `found` are the
    run's statistics if they are known already. Whatever a run has not computed yet is left out of the
    page. Raises `UserError` if `path` cannot be written.
    """
    write_text_whole(path, render(run, config, found=found))
    return path


def render(run: Run, config: ReportConfig | None = None, *, found: Statistics | None = None) -> str:
    """The page as text."""
    config = config or run.config.report
    found = found or statistics(run)
    environment = Environment(
        loader=PackageLoader("autointerp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = found.scores
    scores = run.table("scores", columns=["explainer", "control", "scorer", "value", "status"])
    scorers = list(dict.fromkeys(row.scorer for row in summary))
    shown = pick_latents(run, config.n_latents)
    style, script = _asset("report.css"), _asset("report.js")
    return environment.get_template("report.html.j2").render(
        run=run,
        n=numbers,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        header=_header(run),
        steps=_steps(run),
        toml=(run.root / "run.toml").read_text(encoding="utf-8"),
        comparisons=_comparisons(summary),
        trust=trust(found, scores),
        explainer_name=explainer_name,
        scorers=scorers,
        latents=list(latent_pages(run, shown, scorers, config.n_windows)),
        n_all=run.directory.dataset("latents").n_rows,
        levels=range(1, N_LEVELS + 1),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One scorer's part of the table, with a chart per row."""

    scorer: str
    metric: str | None
    rows: list[tuple[SummaryRow, Markup]]
    every: list[SummaryRow]
    """Those rows and their controls."""


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


def _header(run: Run) -> dict[str, list[tuple[str, str]]]:
    config = run.config
    dictionary = config.dictionary
    what = dictionary.path or " / ".join(filter(None, [dictionary.release, dictionary.sae_id]))
    counts = Counter(run.table("latents", columns=["status"]).column("status").to_pylist())
    n_tokens = pc.sum(run.table("vocabulary", columns=["n_occurrences"]).column("n_occurrences")).as_py()
    explanations = run.table("explanations", columns=["status", "control"])
    real = explanations.filter(pc.field("control").is_null())
    said = Counter(real.column("status").to_pylist())
    manifests = list(run.steps().values())
    cached = run.directory.manifest("cache")
    costs = [m.cost_usd for m in manifests if m.cost_usd is not None]
    seconds = [m.seconds for m in manifests if m.seconds is not None]
    names = [
        ("subject", config.subject.model),
        ("dictionary", what or dictionary.source),
        ("hook point", str(cached.counts.get("hook_point", numbers.DASH)) if cached else numbers.DASH),
        ("corpus", config.corpus.dataset),
        ("explaining model", str(config.models.explainer.get("model", numbers.DASH))),
        ("judging model", str(config.models.judge.get("model", numbers.DASH))),
    ]
    figures = [
        ("tokens read", numbers.count(n_tokens)),
        ("latents", numbers.count(sum(counts.values()))),
        *[(status, numbers.count(counts[status])) for status in LATENT_STATUS if counts[status]],
        ("explanations", numbers.count(said["ok"])),
        *[(status, numbers.count(said[status])) for status in ("undetermined", "failed") if said[status]],
        ("cost", numbers.usd(sum(costs) if costs else None)),
        ("computing time", numbers.duration(sum(seconds) if seconds else None)),
    ]
    return {"names": [(name, printable(value)) for name, value in names], "figures": figures}


def _steps(run: Run) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "status": manifest.status,
            "rows": numbers.count(sum(manifest.n_rows.values())) if manifest.n_rows else numbers.DASH,
            "seconds": numbers.duration(manifest.seconds),
            "cost": numbers.usd(manifest.cost_usd),
            "versions": ", ".join(f"{k} {v}" for k, v in sorted(manifest.versions.items())),
        }
        for name, manifest in run.steps().items()
    ]


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _asset(name: str) -> str:
    text = files("autointerp.report").joinpath("templates", name).read_text(encoding="utf-8")
    assert "</" not in text, f"{name} must not hold a closing tag"
    return text

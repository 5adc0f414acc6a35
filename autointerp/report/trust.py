"""What the page says of how far its numbers can be trusted: charts and the pairs of scorers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup

from autointerp.analyze.correlations import SOURCE, CorrelationRow
from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.analyze.rates import RateRow
from autointerp.analyze.statistics import Statistics
from autointerp.report import numbers, svg, svg_trust
from autointerp.report.views import explainer_name, pooled, scorers_of


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart under what it shows."""

    scorer: str
    who: str
    drawing: Markup


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two scorers over all real explanations, and with the controls too."""

    real: CorrelationRow
    with_controls: CorrelationRow | None


@dataclass(frozen=True, kw_only=True)
class Trust:
    """The section's charts and pairs; what a run has no numbers for is empty."""

    heat_maps: list[Chart]
    pairs: list[Pair]
    source: str
    """Of the published correlations; empty if no pair is among them."""
    distributions: list[Chart]
    deciles: list[Chart]
    kinds: list[Chart]


def trust(found: Statistics, scores: pa.Table) -> Trust:
    """The section of a run's statistics and its rows of `scores` (explainer, control, scorer, value, status)."""
    pairs = _pairs(found.correlations)
    published = any(pair.real.published_spearman is not None for pair in pairs)
    return Trust(
        heat_maps=_heat_maps(found.correlations),
        pairs=pairs,
        source=SOURCE if published else "",
        distributions=_distributions(found, scores),
        deciles=_rate_charts(found.rates, "sensitivity"),
        kinds=_rate_charts(found.rates, "specificity"),
    )


def _distributions(found: Statistics, scores: pa.Table) -> list[Chart]:
    scored = scores.filter((pc.field("status") == "ok") & pc.field("value").is_valid())
    charts = []
    for scorer in dict.fromkeys(row.scorer for row in found.real):
        mine = scored.filter(pc.field("scorer") == scorer)
        domain = svg.domain_of(mine.column("value").to_numpy())
        for row in (row for row in found.real if row.scorer == scorer):
            values = mine.filter(pc.field("explainer") == row.explainer)
            real = values.filter(pc.field("control").is_null()).column("value").to_numpy()
            control = values.filter(pc.field("control").is_valid()).column("value").to_numpy()
            if len(real) or len(control):
                label = (
                    f"{scorer} of {row.explainer}: {len(real)} latents, median {numbers.score(row.median)}; "
                    f"shuffled control: {len(control)} latents, mean {numbers.score(row.control_mean)}"
                )
                drawing = svg.histogram(real, control, domain, row.chance, label)
                charts.append(Chart(scorer=scorer, who=explainer_name(row.explainer), drawing=drawing))
    return charts


def _heat_maps(rows: Sequence[CorrelationRow]) -> list[Chart]:
    """All real explanations, with the controls too, and each explainer's own where there are several."""
    scopes: list[tuple[str, list[CorrelationRow]]] = [
        ("all explanations", pooled(rows)),
        ("with shuffled controls", pooled(rows, with_controls=True)),
    ]
    names = list(dict.fromkeys(row.explainer for row in rows if not row.with_controls))
    explainers = [name for name in names if name not in (None, NO_EXPLAINER)]
    if len(explainers) > 1:
        scopes += [
            (f"explanations of {name}", [r for r in rows if r.explainer == name and not r.with_controls])
            for name in explainers
        ]
    return [
        Chart(
            scorer="Spearman",
            who=title,
            drawing=svg_trust.heat_map(mine, scorers_of(mine), f"Spearman correlations, {title}"),
        )
        for title, mine in scopes
        if mine
    ]


def _pairs(rows: Sequence[CorrelationRow]) -> list[Pair]:
    controls = {(r.scorer_a, r.scorer_b): r for r in pooled(rows, with_controls=True)}
    return [Pair(real=row, with_controls=controls.get((row.scorer_a, row.scorer_b))) for row in pooled(rows)]


def _rate_charts(rows: Sequence[RateRow], rate: str) -> list[Chart]:
    mine = [row for row in rows if row.rate == rate]
    draw = svg_trust.by_decile if rate == "sensitivity" else svg_trust.by_kind
    charts = []
    for scorer, explainer in dict.fromkeys((row.scorer, row.explainer) for row in mine):
        both = [row for row in mine if (row.scorer, row.explainer) == (scorer, explainer)]
        real = [row for row in both if row.control is None]
        control = [row for row in both if row.control is not None]
        said = ", ".join(f"{row.group}: {numbers.rate(row.mean)}" for row in real)
        drawing = draw(real, control, f"{rate} of {scorer} of {explainer}, {said}")
        charts.append(Chart(scorer=scorer, who=explainer_name(explainer), drawing=drawing))
    return charts

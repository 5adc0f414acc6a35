"""The statistics of a run as tables of text, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from autointerp.analyze.control import ControlRow
from autointerp.analyze.correlations import SOURCE, CorrelationRow
from autointerp.analyze.intervals import FEWEST
from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.analyze.rates import DECILES, RateRow
from autointerp.analyze.statistics import Statistics
from autointerp.analyze.summary import SummaryRow
from autointerp.artifacts.schemas import KINDS
from autointerp.report import numbers
from autointerp.run import printable

NO_INTERVAL = f"No interval over fewer than {FEWEST} latents."
LATENT_ITSELF = "the latent"
"""Stands for the explainer where a scorer needs none."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A table of text. The first column is words and may be wrapped, the others are numbers."""

    title: str | None = None
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str | None = None
    warnings: Sequence[str] = ()
    """Sentences about what the rows do not show, below the note."""


def all_views(statistics: Statistics) -> list[View]:
    """Every table that has rows, as `autointerp summary` shows them."""
    found = [
        score_view(statistics.real),
        distribution_view(statistics.scores),
        coverage_view(statistics.scores),
        rate_view(statistics.rates, "sensitivity"),
        rate_view(statistics.rates, "specificity"),
        correlation_view(statistics.correlations),
        published_view(statistics.correlations),
        control_view(statistics.control or []),
    ]
    return [view for view in found if view is not None]


def score_view(rows: Sequence[SummaryRow]) -> View | None:
    """Explainers under each scorer: chance, mean, control, difference, coverage."""

    def cells(row: SummaryRow) -> list[str]:
        return [
            numbers.rate(row.chance),
            numbers.brief(row.mean, row.low, row.high),
            numbers.brief(row.control_mean, row.control_low, row.control_high),
            numbers.brief(row.difference, row.difference_low, row.difference_high, sign=True),
            f"{numbers.count(row.n_scored)}/{numbers.count(row.n_latents)}",
            numbers.share(row.item_coverage),
        ]

    columns = ["", "chance", "mean", "shuffled control", "difference", "scored", "read"]
    note = "95% intervals over latents. Scored: latents with a number. Read: items with a readable judgement."
    if any(0 < n < FEWEST for row in rows for n in (row.n_scored, row.n_paired or 0)):
        note += f" {NO_INTERVAL}"
    return _view(None, columns, _by_scorer(rows, cells), note)


def distribution_view(rows: Sequence[SummaryRow]) -> View | None:
    """Quartiles and the frequency-weighted mean, of real explanations and controls."""

    def cells(row: SummaryRow) -> list[str]:
        return [
            numbers.rate(row.chance),
            numbers.brief(row.q25, row.q25_low, row.q25_high),
            numbers.brief(row.median, row.median_low, row.median_high),
            numbers.brief(row.q75, row.q75_low, row.q75_high),
            numbers.brief(row.weighted_mean, row.weighted_low, row.weighted_high),
        ]

    columns = ["", "chance", "lower quartile", "median", "upper quartile", "weighted mean"]
    note = "Weighted mean: a latent counts as often as the tokens it is active on."
    return _view("Over latents", columns, _by_scorer([r for r in rows if r.n_scored], cells), note)


def coverage_view(rows: Sequence[SummaryRow]) -> View | None:
    """What was not judged, and numbers that count it as wrong or as the published tool does."""

    published = any(row.peer_metric for row in rows)

    def cells(row: SummaryRow) -> list[str]:
        found = [
            f"{numbers.count(row.n_scored)}/{numbers.count(row.n_latents)}",
            numbers.share(row.item_coverage),
            numbers.brief(row.worst_case, row.worst_case_low, row.worst_case_high),
        ]
        if published:
            which = row.peer_metric.replace("_", " ") if row.peer_metric else ""
            found += [numbers.brief(row.peer_mean, row.peer_low, row.peer_high), which]
        return found

    columns = ["", "scored", "read", "worst-case accuracy"]
    columns += ["published tool's number", "which"] if published else []
    note = "Worst case: every item without a readable judgement counted as wrong."
    return _view("Coverage", columns, _by_scorer(rows, cells), note)


def rate_view(rows: Sequence[RateRow], rate: str) -> View | None:
    """Sensitivity by decile or specificity by kind, mean over latents."""
    mine = [row for row in rows if row.rate == rate]
    groups = [g for g in (DECILES if rate == "sensitivity" else KINDS[1:]) if any(g == r.group for r in mine)]
    firsts = list({(row.scorer, row.explainer, row.control): row for row in mine}.values())

    def cells(first: RateRow) -> list[str]:
        name = (first.scorer, first.explainer, first.control)
        values = {r.group: r.mean for r in mine if (r.scorer, r.explainer, r.control) == name}
        return [numbers.rate(values.get(group)) for group in groups]

    by_decile = rate == "sensitivity"
    title = (
        "Sensitivity by activation decile, 10 the strongest" if by_decile else "Specificity by kind of window"
    )
    return _view(title, ["", *groups], _by_scorer(firsts, cells))


def pooled(rows: Sequence[CorrelationRow], *, with_controls: bool = False) -> list[CorrelationRow]:
    """Rows over all explanations: of all explainers pooled, or of the only one there is."""
    mine = [row for row in rows if row.with_controls == with_controls and row.explainer != NO_EXPLAINER]
    several = any(row.explainer is None for row in mine)
    found = [row for row in mine if (row.explainer is None) == several]
    return found + [row for row in rows if row.explainer == NO_EXPLAINER and not with_controls]


def scorers_of(rows: Iterable[CorrelationRow]) -> list[str]:
    """The scorers correlated, in their order: every pair has the earlier one first."""
    rows = list(rows)
    return list(dict.fromkeys([*(row.scorer_a for row in rows), *(row.scorer_b for row in rows)]))


def correlation_view(rows: Sequence[CorrelationRow]) -> View | None:
    """Spearman's correlations below the diagonal, numbers of explanations above it."""
    mine = pooled(rows)
    if not mine:
        return None
    names = scorers_of(mine)
    by_pair = {frozenset((row.scorer_a, row.scorer_b)): row for row in mine}
    table = []
    for i, name in enumerate(names):
        cells = [f"{i + 1} {name}"]
        for j, other in enumerate(names):
            row = by_pair.get(frozenset((name, other)))
            if row is None:
                cells.append("")
            else:
                cells.append(numbers.rate(row.spearman) if j < i else numbers.count(row.n))
        table.append(cells)
    return View(
        title="Correlation between scorers",
        columns=["", *[str(i + 1) for i in range(len(names))]],
        rows=table,
        note="Below the diagonal Spearman's correlation over explanations, above it how many both scored.",
    )


def published_view(rows: Sequence[CorrelationRow]) -> View | None:
    """Each pair with its intervals, without and with controls, beside the published number."""
    table = []
    for row in pooled(rows):
        controls = next(
            (r for r in pooled(rows, with_controls=True) if (r.scorer_a, r.scorer_b) == _pair(row)), None
        )
        table.append(
            [
                f"{row.scorer_a} · {row.scorer_b}",
                numbers.brief(row.spearman, row.spearman_low, row.spearman_high),
                numbers.brief(row.pearson, row.pearson_low, row.pearson_high),
                numbers.brief(controls.spearman, controls.spearman_low, controls.spearman_high)
                if controls
                else numbers.DASH,
                numbers.rate(row.published_spearman),
                numbers.rate(row.published_pearson),
            ]
        )
    columns = ["", "Spearman", "Pearson", "Spearman, with controls", "published", "Pearson"]
    return _view("Pairs of scorers", columns, table, f"Published: {SOURCE}.")


def control_view(rows: Sequence[ControlRow]) -> View | None:
    """A run beside its control run."""

    def cells(row: ControlRow) -> list[str]:
        alike = "yes" if row.same_settings else "no" if row.same_settings is False else numbers.DASH
        return [
            numbers.rate(row.chance),
            numbers.brief(row.mean, row.low, row.high),
            numbers.brief(row.control_mean, row.control_low, row.control_high),
            numbers.brief(row.difference, row.difference_low, row.difference_high, sign=True),
            f"{numbers.count(row.n)}/{numbers.count(row.control_n)}",
            alike,
        ]

    columns = ["", "chance", "this run", "control run", "difference", "latents", "alike"]
    note = "Alike: whether both runs scored with the same settings, prompts and judge."
    return _view("Beside the control run", columns, _by_scorer(rows, cells), note)


def explainer_name(explainer: str) -> str:
    """The explainer as tables show it."""
    return LATENT_ITSELF if explainer == NO_EXPLAINER else explainer


def markdown(view: View) -> str:
    """A view as a Markdown table under its title."""
    lines = [f"## {view.title}", ""] if view.title else []
    aligned = ["---", *["---:"] * (len(view.columns) - 1)]
    for cells in (view.columns, aligned, *view.rows):
        lines.append("| " + " | ".join(_escaped(cell) for cell in cells) + " |")
    if view.note:
        lines += ["", view.note]
    for warning in view.warnings:
        lines += ["", _escaped(warning)]
    return "\n".join([*lines, ""])


def _escaped(cell: str) -> str:
    """Text that is no Markdown or HTML; the indent of a name is kept."""
    indent = len(cell) - len(cell.lstrip(" "))
    text = printable(cell.strip())
    for mark in "\\|<>[]*_`":
        text = text.replace(mark, f"\\{mark}")
    return "&nbsp;" * indent + text.replace("&", "&amp;")


def _pair(row: CorrelationRow) -> tuple[str, str]:
    return row.scorer_a, row.scorer_b


def _view(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], note: str | None = None
) -> View | None:
    return View(title=title, columns=columns, rows=rows, note=note) if rows else None


def _by_scorer(
    rows: Sequence[SummaryRow] | Sequence[RateRow] | Sequence[ControlRow], cells: Callable[..., list[str]]
) -> list[list[str]]:
    """`grouped_by_scorer`, with the explainers' names; a control's is indented further."""

    def name(row: SummaryRow | RateRow | ControlRow) -> str:
        control = None if isinstance(row, ControlRow) else row.control
        return explainer_name(row.explainer) if control is None else f"  {control}"

    return grouped_by_scorer(rows, cells, name)


def grouped_by_scorer(
    rows: Iterable[Any], cells: Callable[[Any], list[str]], name: Callable[[Any], str]
) -> list[list[str]]:
    """A line per row, those of a scorer under a line with its name."""
    table: list[list[str]] = []
    previous = None
    for row in rows:
        shown = cells(row)
        if row.scorer != previous:
            table.append([row.scorer, *[""] * len(shown)])
            previous = row.scorer
        table.append([f"  {name(row)}", *shown])
    return table

"""A comparison as tables of text and as sentences, for the terminal and for Markdown."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.text import Text

from autointerp.analyze.compare import Comparison
from autointerp.analyze.compare_board import BoardRow
from autointerp.analyze.compare_breakdown import BreakdownRow
from autointerp.analyze.compare_pairs import HIGHER, LOWER, NONE_SHOWN, NOT_COMPARABLE, TOO_FEW, PairRow
from autointerp.analyze.compare_shared import SharedRow
from autointerp.analyze.intervals import FEWEST
from autointerp.report import numbers
from autointerp.report.terminal import print_views, widened
from autointerp.report.views import NO_INTERVAL, View, explainer_name, grouped_by_scorer, markdown
from autointerp.run import printable

MOST_FINDINGS = 24
"""Sentences printed; the file has all."""
_TITLES = {
    "explainers": "Explainers, two by two",
    "runs": "Runs, two by two",
    "control": "Against the shuffled control",
}
_BREAKDOWNS = {
    "density": "By firing density of the latent (share of tokens)",
    "decile": "Sensitivity by activation decile, 10 the strongest",
    "kind": "Specificity by kind of silent window",
    "layer": "By layer, over all latents of the runs there",
}
_PAIRING = {"windows": "same windows", "latents": "same latents", "none": "not paired"}


def comparison_views(found: Comparison) -> list[View]:
    """Every table that has rows, as `autointerp compare` shows them."""
    views = [_runs(found), _explainers(found), _board(found)]
    views += [_pairs(found, question) for question in _TITLES]
    views += [_breakdown(found, by) for by in _BREAKDOWNS]
    return [view for view in views if view is not None]


def print_comparison(found: Comparison, folder: Path, console: Console | None = None) -> None:
    """Print every table, then what they say, then where the files are."""
    console = widened(console or Console(highlight=False))
    print_views(comparison_views(found), console)
    said = findings(found)
    for line in said[:MOST_FINDINGS]:
        console.print(Text(f"* {printable(line)}"), soft_wrap=True)
    if len(said) > MOST_FINDINGS:
        console.print(Text(f"  and {len(said) - MOST_FINDINGS} more in comparison.md"), style="dim")
    console.print(Text.assemble(("\nfiles   ", "dim"), str(folder)), soft_wrap=True)


def as_markdown(found: Comparison) -> str:
    """The findings and every table, in Markdown."""
    lines = ["# Comparison", "", *(f"* {_escaped(line)}" for line in findings(found)), ""]
    return "\n".join([*lines, *(markdown(view) for view in comparison_views(found))])


def findings(found: Comparison) -> list[str]:
    """What the comparisons say, one sentence each: differences shown first, then what was not shown."""
    order = [HIGHER, LOWER, NONE_SHOWN, TOO_FEW, NOT_COMPARABLE]
    rows = [row for row in found.pairs if row.question != "control"]
    said = [_sentence(found, row) for row in sorted(rows, key=lambda row: order.index(row.verdict) // 2)]
    controls = [row for row in found.pairs if row.question == "control" and row.verdict != HIGHER]
    return said + [_sentence(found, row) for row in controls]


def name_of(found: Comparison, run: str, explainer: str, control: str | None = None) -> str:
    """An explainer as tables and plots show it: with its run where there are several."""
    name = explainer_name(explainer)
    name = f"{run}: {name}" if found.several_runs else name
    return f"{name}, {control}" if control else name


def p_value(p: float | None) -> str:
    """As `.034` or `.41`; `<.001` below that."""
    if p is None:
        return numbers.DASH
    if p < 0.001:
        return "<.001"
    return f"{p:.3f}".lstrip("0") if p < 0.1 else numbers.rate(p)


def _sentence(found: Comparison, row: PairRow) -> str:
    a = name_of(found, row.a_run, row.a_explainer)
    b = "its shuffled control" if row.b_control else name_of(found, row.b_run, row.b_explainer)
    if row.verdict == NOT_COMPARABLE:
        return f"{row.scorer}: {a} and {b} cannot be compared ({row.why or 'no latent has a number'})."
    over = f"{row.n} latents" if row.pairing != "none" else f"{row.a_n} and {row.b_n} latents, not paired"
    if row.verdict == TOO_FEW:
        return f"{row.scorer}: too few latents to compare {a} and {b} ({over})."
    shown = numbers.brief(row.difference, row.low, row.high, sign=True)
    p = f"p {p_value(row.p_holm)} after Holm over {row.n_tests}"
    tail = _caveats(row)
    if row.verdict == NONE_SHOWN:
        return (
            f"{row.scorer}: no difference shown between {a} and {b} ({shown}, {over}, {p}); "
            f"half-width {numbers.rate(row.half_width)}: a true difference of {numbers.rate(row.detectable)} "
            f"would have been shown four times in five{tail}."
        )
    return f"{row.scorer}: {a} is {row.verdict} than {b}: {shown} over {over}, {p}{tail}."


def _caveats(row: PairRow) -> str:
    out = []
    gap = (row.a_coverage or 0) - (row.b_coverage or 0)
    if row.a_coverage is not None and row.b_coverage is not None and abs(gap) >= 0.005:
        out.append(
            f"numbers for {numbers.share(row.a_coverage)} and {numbers.share(row.b_coverage)} of the latents, "
            f"and {numbers.brief(row.or_chance, row.or_chance_low, row.or_chance_high, sign=True)} "
            "if the others count at chance"
        )
    if row.pairing == "latents":
        out.append("same latents, other windows")
    if row.same_settings is False:
        out.append("scored with other settings or another judge")
    return "".join(f"; {part}" for part in out)


def _runs(found: Comparison) -> View | None:
    if not found.several_runs:
        return None
    rows = [
        [
            row.run,
            str(row.shares),
            row.hook_point or numbers.DASH,
            numbers.count(row.width),
            numbers.measure(row.l0),
            numbers.count(row.n_tokens),
            str(row.window_tokens),
            _short(row.explainer_model),
            _short(row.judge_model),
        ]
        for row in found.runs
    ]
    columns = ["", "dictionary", "hook point", "width", "L0", "tokens", "window", "explaining model", "judge"]
    note = "Runs with the same dictionary number are of the same weights and can be paired by latent."
    return View(title="Runs", columns=columns, rows=rows, note=note)


def _explainers(found: Comparison) -> View | None:
    rows = [
        [
            name_of(found, row.run, row.explainer),
            f"{numbers.count(row.common_labelled)}/{numbers.count(row.common_latents)}",
            f"{numbers.count(row.n_labelled)}/{numbers.count(row.n_latents)}",
            numbers.count(row.n_undetermined),
            numbers.count(row.n_failed),
            numbers.measure(row.words),
            numbers.measure(row.tokens_per_latent),
            numbers.measure(row.seconds_per_latent),
            numbers.usd(row.cost_usd_per_latent),
        ]
        for row in found.explainers
    ]
    columns = ["", "labelled", "of all asked", "undetermined", "failed", "words", "tokens", "seconds", "cost"]
    note = (
        "Labelled: of the latents all explainers of the run were asked for. Tokens, seconds and cost per latent "
        "asked; seconds of its requests, or of the whole step where no served model is asked."
    )
    return View(title="Labels and what they cost", columns=columns, rows=rows, note=note) if rows else None


def _board(found: Comparison) -> View | None:
    def cells(row: BoardRow) -> list[str]:
        return [
            numbers.rate(row.chance),
            f"{numbers.count(row.n_scored)}/{numbers.count(row.n_asked)}",
            numbers.brief(row.mean, row.low, row.high),
            numbers.count(row.n_shared),
            numbers.brief(row.shared_mean, row.shared_low, row.shared_high),
            numbers.brief(row.or_chance, row.or_chance_low, row.or_chance_high),
            numbers.rate(row.control_mean),
        ]

    rows = grouped_by_scorer(found.board, cells, lambda row: name_of(found, row.run, row.explainer))
    columns = [
        "",
        "chance",
        "scored",
        "own latents",
        "shared",
        "on shared latents",
        "unlabelled at chance",
        "control",
    ]
    note = "Compare on shared latents, or with the unlabelled ones at chance; a mean over own latents favours whoever labels only easy ones."
    if any(0 < n < FEWEST for row in found.board for n in (row.n_scored, row.n_shared, row.n_asked)):
        note += f" {NO_INTERVAL}"
    warnings = shared_few(found)
    return View(title="Scores", columns=columns, rows=rows, note=note, warnings=warnings) if rows else None


def shared_few(found: Comparison) -> list[str]:
    """Which explainers make the shared latents few; scorers with the same numbers in one sentence."""
    said: dict[str, list[str]] = {}
    for row in found.shared:
        said.setdefault(_why_few(found, row), []).append(row.scorer)
    out = [f"{', '.join(scorers)}: {why}" for why, scorers in said.items()]
    if any(row.n_without is not None for row in found.shared):
        out.append("To compare without an explainer, name the others with --explainer.")
    return out


def _why_few(found: Comparison, row: SharedRow) -> str:
    limits = []
    for i, one in enumerate(row.limits):
        verb = "has numbers for" if i == 0 else "for"
        alone = (
            f" (without it {numbers.count(one.n_without)})"
            if len(row.limits) > 1 and one.n_without is not None
            else ""
        )
        limits.append(f"{name_of(found, one.run, one.explainer)} {verb} {numbers.count(one.n)}{alone}")
    who = " and ".join([", ".join(limits[:-1]), limits[-1]] if len(limits) > 1 else limits)
    of = (
        f"shared by all: {numbers.count(row.n_shared)} of {numbers.count(row.n_asked)} latents, because {who}"
    )
    if row.n_without is None:
        return f"{of}."
    them = "it" if len(limits) == 1 else "them"
    return f"{of}; without {them} {numbers.count(row.n_without)}."


def _pairs(found: Comparison, question: str) -> View | None:
    mine = [row for row in found.pairs if row.question == question]

    def name(row: PairRow) -> str:
        a = name_of(found, row.a_run, row.a_explainer)
        return a if row.b_control else f"{a} − {name_of(found, row.b_run, row.b_explainer)}"

    def cells(row: PairRow) -> list[str]:
        outcome = [row.wins, row.ties, row.losses]
        cells = [
            numbers.count(row.n) if row.pairing != "none" else f"{row.a_n}/{row.b_n}",
            numbers.brief(row.difference, row.low, row.high, sign=True),
            p_value(row.p_holm),
            "/".join(map(str, outcome)) if None not in outcome else numbers.DASH,
        ]
        if question != "control":
            cells.append(f"{numbers.share(row.a_coverage)} {numbers.share(row.b_coverage)}")
            cells.append(_PAIRING[row.pairing] + ("" if row.same_settings is not False else "*"))
        cells.append(numbers.rate(row.detectable))
        cells.append(row.verdict)
        return cells

    columns = ["", "latents", "difference", "p (Holm)", "won/tied/lost"]
    columns += ["coverage", "paired by"] if question != "control" else []
    columns += ["could show", "verdict"]
    tests = sorted({row.n_tests for row in mine})
    one_family = question == "runs" or not found.several_runs
    over = f"{tests[-1] if tests else 0} in all" if one_family else "the comparisons of each run"
    note = (
        f"95% intervals by latent, uncorrected; p corrected for {over}. Tied: within {found.tie:g}. "
        "Could show: the true difference that would be found four times in five."
    )
    if any(0 < row.n < FEWEST for row in mine):
        note += f" {NO_INTERVAL}"
    if any(row.same_settings is False for row in mine):
        note += " *: not scored alike (options, prompts or judge)."
    rows = grouped_by_scorer(mine, cells, name)
    return View(title=_TITLES[question], columns=columns, rows=rows, note=note) if rows else None


def _breakdown(found: Comparison, by: str) -> View | None:
    mine = [row for row in found.breakdown if row.by == by]
    groups = [group for _, group in sorted({(row.place, row.group) for row in mine})]
    firsts = list({(row.scorer, row.run, row.explainer): row for row in mine}.values())
    values = {(row.scorer, row.run, row.explainer, row.group): row for row in mine}

    def cells(first: BreakdownRow) -> list[str]:
        rows = [values.get((first.scorer, first.run, first.explainer, group)) for group in groups]
        shown = [numbers.rate(row.mean) if row else numbers.DASH for row in rows]
        if by in ("density", "layer"):
            shown = [f"{text} ({row.n})" if row else text for text, row in zip(shown, rows, strict=True)]
        return shown

    def name(row: BreakdownRow) -> str:
        return explainer_name(row.explainer) if row.run is None else name_of(found, row.run, row.explainer)

    rows = grouped_by_scorer(firsts, cells, name)
    of = "Mean over the shared latents" if by != "layer" else "Mean"
    note = f"{of}, how many in brackets." if by in ("density", "layer") else f"{of}."
    return View(title=_BREAKDOWNS[by], columns=["", *groups], rows=rows, note=note) if rows else None


def _short(model: str | None) -> str:
    """A model's name without its folders."""
    return numbers.DASH if model is None else model.rstrip("/").rsplit("/", 1)[-1]


def _escaped(text: str) -> str:
    for mark in "\\|<>[]*_`":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;")

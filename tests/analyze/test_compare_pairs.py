"""Known answers: planted differences are found, and where there is none, none is."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from autointerp.analyze.compare_board import board_rows
from autointerp.analyze.compare_breakdown import band_name, breakdown_rows, density_bands
from autointerp.analyze.compare_pairs import pair_rows
from autointerp.analyze.parts import ByLatent
from tests.analyze.scored import draw, opened, scored, shown

FAST = {"seed": 0, "n_resamples": 200, "n_flips": 1_000}


def pairs(found, runs=None, **options):
    return pair_rows(found, runs or [opened()], **FAST | options)


def test_a_planted_difference_is_found():
    rng = np.random.default_rng(0)
    hard = rng.normal(0, 0.2, 40)
    a = {i: 0.65 + hard[i] + rng.normal(0, 0.05) for i in range(40)}
    b = {i: 0.60 + hard[i] + rng.normal(0, 0.05) for i in range(40)}
    (row,) = pairs([scored("good", a), scored("plain", b)])
    apart = np.array([a[i] - b[i] for i in range(40)])
    assert row.difference == pytest.approx(apart.mean())
    assert (row.verdict, row.pairing, row.why, row.n) == ("higher", "windows", None, 40)
    assert row.low < 0.05 < row.high
    assert row.half_width == pytest.approx((row.high - row.low) / 2)
    assert row.p_holm == row.p < 0.01
    assert (row.wins, row.ties, row.losses) == (
        (apart > 0.01).sum(),
        (np.abs(apart) <= 0.01).sum(),
        (apart < -0.01).sum(),
    )
    (turned,) = pairs([scored("plain", b), scored("good", a)])
    assert (turned.verdict, turned.wins) == ("lower", row.losses)
    # The same numbers from two dictionaries: the latents do not correspond, and the spread hides it.
    (apart_row,) = pairs(
        [scored("good", a), scored("good", b, run="other")], [opened(), opened("other", shares=2)]
    )
    assert (apart_row.pairing, apart_row.wins, apart_row.verdict) == ("none", None, "no difference shown")
    assert apart_row.question == "runs"
    assert apart_row.difference == pytest.approx(row.difference)
    assert apart_row.detectable > 3 * row.detectable


def test_the_chance_of_any_false_finding_is_held():
    """Four explainers alike, under two scorers: 12 comparisons, of which seldom even one is called real."""
    rng = np.random.default_rng(1)
    false = uncorrected = 0
    n_worlds = 150
    for seed in range(n_worlds):
        found = [
            scored(name, draw(rng, 24, 0.6), scorer=scorer)
            for scorer in ("detection", "fuzzing")
            for name in "abcd"
        ]
        rows = pairs(found, seed=seed, n_resamples=20)
        assert len(rows) == 12
        assert {row.n_tests for row in rows} == {12}
        false += any(row.verdict != "no difference shown" for row in rows)
        uncorrected += any(row.p < 0.05 for row in rows)
    assert false / n_worlds < 0.11
    assert uncorrected / n_worlds > 0.25


def test_power_is_as_the_row_says():
    """A true difference as large as `detectable` is found about four times in five."""
    rng = np.random.default_rng(2)
    (row,) = pairs([scored("a", draw(rng, 50, 0.6)), scored("b", draw(rng, 50, 0.6))])
    found = [
        pairs([scored("a", draw(rng, 50, 0.6 + row.detectable)), scored("b", draw(rng, 50, 0.6))], seed=s)[0]
        for s in range(80)
    ]
    assert 0.62 < np.mean([row.verdict == "higher" for row in found]) < 0.95


def test_labelling_only_easy_latents_is_not_called_better():
    rng = np.random.default_rng(3)
    full = {i: (0.9 if i < 20 else 0.55) + rng.normal(0, 0.02) for i in range(40)}
    easy = {i: 0.9 + rng.normal(0, 0.02) for i in range(20)}
    found = [scored("easy", easy, asked=range(40)), scored("full", full)]
    easy_row, full_row = board_rows(found, [opened()], seed=0, n_resamples=200)
    assert easy_row.mean > full_row.mean + 0.1
    assert (easy_row.coverage, full_row.coverage) == (0.5, 1.0)
    assert easy_row.n_shared == full_row.n_shared == 20
    assert abs(easy_row.shared_mean - full_row.shared_mean) < 0.02
    assert easy_row.or_chance < full_row.or_chance
    (row,) = pairs(found)
    assert (row.n, row.verdict) == (20, "no difference shown")
    assert (row.a_coverage, row.b_coverage) == (0.5, 1.0)
    expected = np.mean([easy.get(i, 0.5) - full[i] for i in range(40)])
    assert row.or_chance == pytest.approx(expected)
    assert row.or_chance_high < 0


def test_the_control_is_paired_by_latent_and_a_family_of_its_own():
    rng = np.random.default_rng(4)
    values = draw(rng, 30, 0.7)
    control = {i: x - 0.1 + rng.normal(0, 0.02) for i, x in values.items()}
    rows = pairs([scored("a", values, control=control), scored("b", draw(rng, 30, 0.7), control=values)])
    assert [(row.question, row.n_tests) for row in rows] == [
        ("explainers", 1),
        ("control", 2),
        ("control", 2),
    ]
    assert rows[1].verdict == "higher"
    assert rows[1].difference == pytest.approx(0.1, abs=0.02)
    assert (rows[1].a_explainer, rows[1].b_explainer, rows[1].b_control) == ("a", "a", "shuffled")


def test_verdicts_of_a_run_do_not_depend_on_other_runs():
    rng = np.random.default_rng(5)
    one = [scored(name, draw(rng, 20, mean)) for name, mean in (("a", 0.6), ("b", 0.65), ("c", 0.6))]
    other = [scored(name, draw(rng, 20, 0.6), run="other") for name in "abc"]
    alone = pairs(one)
    together = pairs(one + other, [opened(), opened("other", shares=2)])
    assert [row for row in together if row.question == "explainers" and row.a_run == "run"] == alone


def test_pairing_is_verified():
    values, other = draw(np.random.default_rng(6), 10, 0.6), draw(np.random.default_rng(7), 10, 0.6)
    (row,) = pairs([scored("a", values), scored("b", other, shown=shown(range(10), salt=1))])
    assert (row.pairing, row.n_same_windows) == ("latents", 0)
    assert row.why == "the same windows on 0 of 10 latents"
    runs = [opened(), opened("other")]
    (row,) = pairs([scored("a", values), scored("a", other, run="other")], runs)
    assert (row.question, row.pairing) == ("runs", "windows")
    (row,) = pairs([scored("a", values), scored("a", other, run="other", shown_content=None)], runs)
    assert row.pairing == "latents"
    (row,) = pairs(
        [scored("a", values), scored("a", {i + 10: x for i, x in other.items()}, run="other")], runs
    )
    assert (row.pairing, row.why) == ("none", "no latent has a number on both sides")


def test_what_cannot_be_compared_is_said():
    rng = np.random.default_rng(8)
    (row,) = pairs([scored("a", draw(rng, 10, 0.6)), scored("b", draw(rng, 10, 0.6), metric="f1")])
    assert (row.verdict, row.difference, row.p_holm, row.metric) == ("not comparable", None, None, None)
    assert row.why == "other metrics: auroc and f1"
    (row,) = pairs([scored("a", draw(rng, 5, 0.9)), scored("b", draw(rng, 5, 0.1))])
    assert (row.verdict, row.n_tests, row.p_holm) == ("too few latents", 0, None)
    assert row.p == pytest.approx(2 / 32)
    # Six latents could show something by themselves, but not as one of three comparisons.
    six = [scored(name, draw(rng, 6, mean, 0.01)) for name, mean in (("a", 0.9), ("b", 0.5), ("c", 0.1))]
    assert [row.verdict for row in pairs(six[:2])] == ["higher"]
    rows = pairs(six)
    assert [(row.verdict, row.p_holm, row.detectable) for row in rows] == [
        ("too few latents", pytest.approx(3 * 2 / 64), None)
    ] * 3
    (row,) = pairs([scored("a", draw(rng, 10, 0.6)), scored("b", {}, asked=range(10))])
    assert (row.verdict, row.n, row.b_mean, row.b_coverage) == ("not comparable", 0, None, 0.0)


def test_which_pairs():
    rng = np.random.default_rng(9)
    found = [scored(name, draw(rng, 8, 0.6), run=run) for run in ("r", "s") for name in ("a", "b", "none")]
    runs = [opened("r"), opened("s", shares=2)]

    def named(**options):
        return [
            (f"{row.a_run}{row.a_explainer}", f"{row.b_run}{row.b_explainer}")
            for row in pairs(found, runs, n_resamples=10, n_flips=10, **options)
        ]

    across = [("ra", "sa"), ("rb", "sb"), ("rnone", "snone")]
    assert named() == [("ra", "rb"), ("sa", "sb"), *across]
    assert sorted(named(all_pairs=True)) == sorted([*named(), ("ra", "sb"), ("rb", "sa")])
    assert named(baseline=(None, "a")) == [("rb", "ra"), ("sb", "sa")]
    assert named(baseline=("r", None)) == [(s, r) for r, s in across]
    assert named(baseline=("r", "a"), all_pairs=True) == [("rb", "ra"), ("sa", "ra"), ("sb", "ra")]


def test_undefined_chance_gives_no_number_at_chance():
    rng = np.random.default_rng(10)
    found = [scored(name, draw(rng, 8, 0.6), chance=None) for name in "ab"]
    assert board_rows(found, [opened()], seed=0, n_resamples=10)[0].or_chance is None
    assert pairs(found)[0].or_chance is None


def test_density_bands():
    assert density_bands(np.array([0.001, 0.0031, 0.0032, 0.0099, 0.01, 1.0])).tolist() == [
        -6, -6, -5, -5, -4, 0,
    ]  # fmt: skip
    assert [band_name(k) for k in (-7, -6, -5, -1)] == [
        "0.00032 to 0.001", "0.001 to 0.0032", "0.0032 to 0.01", "0.32 to 1",
    ]  # fmt: skip


def test_breakdowns():
    run = opened()
    density = {i: 0.002 if i < 8 else 0.02 for i in range(20)}
    deciles = (np.arange(20), np.tile(np.linspace(0.1, 1, 10), (20, 1)))
    found = [
        scored(name, dict.fromkeys(range(20), value), deciles=deciles)
        for name, value in (("a", 0.6), ("b", 0.7))
    ]
    run = type(run)(
        run=run.run,
        row=run.row,
        density=ByLatent(latents=np.arange(20), values=np.array([density[i] for i in range(20)])),
    )
    rows = breakdown_rows(found, [run], seed=0, n_resamples=50)
    by_density = [(r.explainer, r.group, r.n, r.mean) for r in rows if r.by == "density"]
    assert by_density == [
        ("a", "0.001 to 0.0032", 8, pytest.approx(0.6)),
        ("b", "0.001 to 0.0032", 8, pytest.approx(0.7)),
        ("a", "0.01 to 0.032", 12, pytest.approx(0.6)),
        ("b", "0.01 to 0.032", 12, pytest.approx(0.7)),
    ]
    of_a = [r.mean for r in rows if r.by == "decile" and r.explainer == "a"]
    assert of_a == pytest.approx(np.linspace(0.1, 1, 10))
    assert not [r for r in rows if r.by == "layer"]
    several = [
        scored("a", dict.fromkeys(range(10), value), run=f"layer{layer}")
        for layer, value in ((3, 0.5), (6, 0.7))
    ]
    runs = [opened(f"layer{layer}", shares=layer, layer=layer) for layer in (3, 6)]
    layers = [r for r in breakdown_rows(several, runs, seed=0, n_resamples=50) if r.by == "layer"]
    assert [(r.place, r.run, r.mean) for r in layers] == [(3, None, 0.5), (6, None, pytest.approx(0.7))]


def test_too_few_latents_have_no_interval_in_a_breakdown():
    rows = breakdown_rows([scored("a", dict.fromkeys(range(5), 0.6))], [opened()], seed=0, n_resamples=10)
    assert [(r.n, r.low, r.high) for r in rows] == [(5, None, None)]


def test_every_two_explainers_of_a_run_are_compared():
    rng = np.random.default_rng(11)
    names = "abcde"
    rows = pairs([scored(name, draw(rng, 8, 0.6)) for name in names], n_resamples=10, n_flips=10)
    assert [(row.a_explainer, row.b_explainer) for row in rows] == list(combinations(names, 2))

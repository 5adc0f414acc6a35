"""Which explainers make the shared latents few, and how many there would be without them."""

from __future__ import annotations

from autointerp.analyze.compare_shared import Limit, shared_latents, shared_rows
from tests.analyze.scored import opened, scored


def over(name: str, latents, **more):
    return scored(name, dict.fromkeys(latents, 0.5), asked=range(100), **more)


WIDE = [over("default", range(100)), over("statistics", range(16, 100))]
GRADIENT, SELF = over("gradient", [0, 1, 20, 30, 40, 50]), over("self", [2, 20, 30])


def limits(*explainers):
    return shared_rows(explainers, [opened()])


def test_explainers_of_most_latents_limit_nobody():
    assert limits(*WIDE) == []
    assert limits(WIDE[0]) == []


def test_one_explainer_of_few_latents_is_named():
    (row,) = limits(*WIDE, GRADIENT)
    assert (row.n_asked, row.n_shared, row.n_without) == (100, 4, 84)
    assert row.limits == [Limit(run="run", explainer="gradient", n=6, n_without=84)]


def test_several_are_named_with_what_each_and_all_take_away():
    (row,) = limits(GRADIENT, *WIDE, SELF)
    assert (row.n_shared, row.n_without) == (2, 84)
    assert [(one.explainer, one.n, one.n_without) for one in row.limits] == [
        ("self", 3, 4),
        ("gradient", 6, 2),
    ]


def test_of_two_the_one_with_few_is_named_and_nothing_is_shared_without_it():
    (row,) = limits(WIDE[0], SELF)
    assert (row.n_shared, row.n_without) == (3, None)
    assert row.limits == [Limit(run="run", explainer="self", n=3, n_without=None)]


def test_explainers_of_unlike_latents_have_nobody_to_blame():
    assert limits(over("a", range(50)), over("b", range(50, 100))) == []


def test_scorers_and_dictionaries_are_told_apart():
    rows = shared_rows(
        [*WIDE, GRADIENT, over("default", range(9), run="other"), over("default", [5], scorer="fuzzing")],
        [opened(), opened("other", shares=2)],
    )
    assert [(row.scorer, row.shares, row.n_without) for row in rows] == [("detection", 1, 84)]


def test_an_explainer_without_any_number_does_not_count():
    assert limits(*WIDE, over("nothing", [])) == []
    found = shared_latents([*WIDE, over("nothing", [])], [opened()])
    assert len(found["detection", 1]) == 84

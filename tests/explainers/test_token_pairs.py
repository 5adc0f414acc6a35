from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.explainers.token_pairs import rated_tokens
from tests.explainers.made_up import FakeModel, Vocabulary, context, record, window
from tests.explainers.test_asking import build, query


@given(st.lists(st.lists(st.floats(-2, 50, width=32), min_size=1, max_size=6), min_size=1, max_size=3))
def test_published_scale(values):
    """openai/automated-interpretability, activations/activation_records.py: normalize_activations."""
    v = Vocabulary()
    windows = [window(v, [(f" t{i}", a) for i, a in enumerate(row)]) for row in values]
    largest = max(float(np.float32(a)) for row in values for a in row)
    if largest <= 0:
        assert rated_tokens(windows, v.table) == []
        return
    published = [
        [min(10, math.floor(10 * max(float(np.float32(a)), 0.0) / largest)) for a in row] for row in values
    ]
    assert [[level for _, level in pairs] for pairs in rated_tokens(windows, v.table)] == published


def sparse(v: Vocabulary, n: int):
    quiet = [(f" w{i}", 0.0) for i in range(n - 1)]
    return record([window(v, [*quiet, (" cat", 8.0)], 0, 10)])


def test_every_token_with_its_activation():
    v = Vocabulary()
    windows = [
        window(v, [(" a", 0.0), (" cat", 8.0), ("\n", 3.9)], 0, 10),
        window(v, [(" b", 0.7), (" cat", 4.0)], 1, 5),
    ]
    model = FakeModel(lambda r: "EXPLANATION: looks for the word cat")
    (got,) = build("token-pairs").explain([record(windows)], context(model, v.table))
    tables = query(model.requests[0]).split("\n\n")[0]
    assert tables == ('Text 1:\n" a"\t0\n" cat"\t10\n"\\n"\t4\nText 2:\n" b"\t0\n" cat"\t5')
    assert got.text == "the word cat"
    assert model.requests[0].max_tokens == 60


@pytest.mark.parametrize(("n", "repeated"), [(5, False), (6, True)])
def test_non_zeros_are_repeated_below_a_fifth(n, repeated):
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    build("token-pairs", few_shot=False).explain([sparse(v, n)], context(model, v.table))
    assert ('Text 1, without zeros:\n" cat"\t10' in query(model.requests[0])) is repeated
    build("token-pairs", few_shot=False, repeat_below=0.0).explain([sparse(v, n)], context(model, v.table))
    assert "without zeros" not in query(model.requests[1])


def test_top_windows_or_deciles():
    v = Vocabulary()
    windows = [window(v, [(f" w{i}", 1 + i / 10)], i, 1 + i // 10) for i in range(100)]
    model = FakeModel(lambda r: "EXPLANATION: x")
    for which in ("top", "deciles"):
        explainer = build("token-pairs", windows=which, n_windows=10)
        explainer.explain([record(windows)], context(model, v.table))
    top, deciles = (
        sorted(int(x[2:].split('"')[0][1:]) for x in query(r).splitlines() if x.startswith('" '))
        for r in model.requests
    )
    assert sorted(set(top)) == list(range(90, 100))
    assert sorted({i // 10 for i in deciles}) == list(range(10))


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("In a text, the unit mainly looks for years", "years"),
        ("the unit looks for: numbers", "numbers"),
        ("lookups in tables", "lookups in tables"),
        ("the unit mainly looks for", None),
    ],
)
def test_the_beginning_of_the_sentence_is_taken_off(reply, text):
    v = Vocabulary()
    model = FakeModel(lambda r: f"EXPLANATION: {reply}")
    (got,) = build("token-pairs").explain([sparse(v, 3)], context(model, v.table))
    assert (got.text, got.status) == (text, "ok" if text else "failed")

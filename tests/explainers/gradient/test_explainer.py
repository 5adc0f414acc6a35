"""From windows to words, and the explainer's rows, with a planted discriminator."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.explainer import GradientExplainer
from autointerp.explainers.gradient.from_windows import same_words, token_items, words_of
from autointerp.explainers.gradient.types import TokenItem
from tests.explainers.gradient.planted import ANIMALS, COLOURS, TOOLS, Planted
from tests.explainers.made_up import Vocabulary, context, record, window


def made(config: GradientConfig) -> GradientExplainer:
    explainer = GradientExplainer(config)
    explainer._discriminator = Planted()
    return explainer


CONFIG = GradientConfig(aspects=["category"], n_permutations=60, steps=4)


def windows_of(vocabulary: Vocabulary, active: Sequence[str], silent: Sequence[str]) -> list:
    lines = [
        window(vocabulary, [(f" {silent[i % len(silent)]}", 0.0), (f" {word}", 5.0), (".", 0.0)], example=i)
        for i, word in enumerate(active)
    ]
    return lines + [
        window(vocabulary, [(f" {word}", 0.0), (" x", 0.0)], example=100 + i) for i, word in enumerate(silent)
    ]


def test_words_are_whole_and_take_the_largest_activation_of_their_tokens() -> None:
    vocabulary = Vocabulary()
    w = window(vocabulary, [("The", 0.0), (" ham", 1.0), ("mer", 4.0), (", 19", 0.0), ("14", 0.0)])
    text, words = words_of(w, vocabulary.table)
    assert text == "The hammer, 1914"
    assert words == [("The", 0, 0.0), ("hammer", 4, 4.0), (",", 10, 0.0), ("1914", 12, 0.0)]
    for word, start, _ in words:
        assert text[start : start + len(word)] == word


def test_half_active_words_are_left_out_and_each_stratum_is_capped() -> None:
    vocabulary = Vocabulary()
    w = window(vocabulary, [(" saw", 10.0), (" file", 1.0), (" and", 0.0), (" or", 0.0)])
    silent = window(vocabulary, [(f" w{i}", 0.0) for i in range(9)], example=1)
    items = token_items(record([w, silent]), vocabulary.table, np.random.default_rng(0), most=1)
    assert [i.token for i in items if i.activation > 0] == ["saw"]
    assert sum(i.activation == 0 for i in items) == 2
    assert "file" not in [i.token for i in items]


def test_a_latent_of_one_kind_of_word_is_named() -> None:
    vocabulary = Vocabulary()
    rows = windows_of(vocabulary, TOOLS, ANIMALS + COLOURS)
    (row,) = made(CONFIG).explain([record(rows)], context(None, vocabulary.table))
    assert (row.text, row.status, row.reason) == ("tool", "ok", None)
    details = json.loads(json.dumps(row.details))
    assert details["chain"][-1]["label"] == "tool"
    assert details["trajectories"]


def test_a_latent_of_one_word_is_named_by_the_word() -> None:
    vocabulary = Vocabulary()
    rows = windows_of(vocabulary, ["hammer"] * 8, ANIMALS + COLOURS)
    (row,) = made(CONFIG).explain([record(rows)], context(None, vocabulary.table))
    assert row.text == 'the word "hammer"'
    assert row.details["words"]["precision"] == 1.0
    none = made(CONFIG.model_copy(update={"max_words": 0}))
    (bare,) = none.explain([record(rows)], context(None, vocabulary.table))
    assert (bare.text, bare.status) == (None, "undetermined")
    assert bare.reason is not None
    assert bare.reason.startswith("few_examples")


def test_a_latent_without_activating_windows_fails_with_a_reason() -> None:
    vocabulary = Vocabulary()
    rows = windows_of(vocabulary, [], ANIMALS)
    (row,) = made(CONFIG).explain([record(rows)], context(None, vocabulary.table))
    assert (row.text, row.status, row.reason) == (None, "failed", "no activating train window")


def test_few_words_are_told_with_their_share() -> None:
    items = [TokenItem(token=t, activation=a) for t, a in [("be", 3), ("been", 1), ("is", 6), ("be", 0)]]
    found = same_words(items, 1)
    assert found is not None
    assert found[0] == ["is"]
    assert found[1:] == (1.0, pytest.approx(0.6))
    assert same_words([TokenItem(token="a", activation=0)], 3) is None


def test_the_form_shown_is_the_commonest_of_the_corpus() -> None:
    items = [TokenItem(token=t, activation=a) for t, a in [("Because", 7), ("because", 6)]]
    assert same_words(items, 1) == (["Because"], 1.0, 1.0)
    assert same_words(items, 1, {"because": 4958.0, "Because": 779.0, "since": 9000.0}) == (
        ["because"],
        1.0,
        1.0,
    )

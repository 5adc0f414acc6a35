"""Labels of planted features: the right word, the hierarchy, and doubt where there is nothing to find."""

from __future__ import annotations

import json

import numpy as np
import pytest

from autointerp.explainers.gradient import GradientConfig, Link, TokenItem, label_many, label_tokens
from autointerp.explainers.gradient.ranking import merged_links
from autointerp.explainers.words import stem
from tests.explainers.gradient.planted import ANIMALS, BIRDS, COLOURS, TOOLS, Planted, items

CONFIG = GradientConfig(aspects=["category"], n_permutations=60, steps=6)


@pytest.mark.parametrize(
    ("positive", "negative", "label"),
    [
        (TOOLS, ANIMALS + COLOURS, "tool"),
        (COLOURS, TOOLS + BIRDS, "colour"),
        (BIRDS, TOOLS + ANIMALS, "bird"),
    ],
)
def test_the_planted_kind_is_named(positive: list[str], negative: list[str], label: str) -> None:
    found = label_tokens(items(positive, negative), CONFIG, Planted())
    assert (found.label, found.status, found.reason) == (label, "ok", None)
    assert found.precision is not None
    assert found.precision > 0.9
    assert found.recall is not None
    assert found.recall > 0.9
    assert found.p_value is not None
    assert found.p_value < 0.02


def test_near_negatives_tell_narrow_from_broad_and_the_chain_says_both() -> None:
    mammals = label_tokens(items(ANIMALS, BIRDS + TOOLS + COLOURS), CONFIG, Planted())
    assert mammals.label == "mammal"
    both = label_tokens(items(ANIMALS + BIRDS, TOOLS + COLOURS), CONFIG, Planted())
    assert both.label == "animal"


def test_a_random_split_of_words_is_undetermined() -> None:
    words = ANIMALS + BIRDS + TOOLS + COLOURS
    undetermined = 0
    for seed in range(12):
        order = np.random.default_rng(seed).permutation(words)
        found = label_tokens(items(list(order[:12]), list(order[12:])), CONFIG, Planted(), seed)
        undetermined += found.status == "undetermined"
        if found.status == "undetermined":
            assert found.label is None
            assert found.reason is not None
            assert found.reason.startswith(("discriminator_incapable", "not_found"))
            assert found.candidates
    assert undetermined == 12


def test_few_distinct_words_are_said_to_be_few() -> None:
    found = label_tokens(items(["cat", "cat", "dog"], TOOLS), CONFIG, Planted())
    assert found.status == "undetermined"
    assert found.reason is not None
    assert found.reason.startswith("few_examples: 2 with")


def test_four_against_four_are_too_few_to_blame_the_model() -> None:
    found = label_tokens(items(ANIMALS[:2] + TOOLS[:2], ANIMALS[2:4] + TOOLS[2:4]), CONFIG, Planted())
    assert found.status == "undetermined"
    assert found.reason is not None
    assert found.reason.startswith("few_examples: of 4 with and 4 without, shuffled tokens")


def test_a_label_does_not_depend_on_the_features_beside_it() -> None:
    features = [items(TOOLS, ANIMALS + COLOURS), items(BIRDS, TOOLS + ANIMALS), items(["cat"], TOOLS)]
    together = label_many(features, CONFIG, Planted(), 3)
    alone = [label_tokens(feature, CONFIG, Planted(), 3) for feature in features]
    for a, b in zip(together, alone, strict=True):
        # Trajectories may differ in the last decimal: sums of other sizes round otherwise.
        blank = {"seconds": None, "trajectories": None}
        assert {**a.as_json(), **blank} == {**b.as_json(), **blank}
        assert [t.tokens[:2] for t in a.trajectories] == [t.tokens[:2] for t in b.trajectories]


def test_each_kind_of_proposal_finds_the_label_alone_and_is_named_as_source() -> None:
    for source in ("contrastive", "lists", "gradient"):
        config = CONFIG.model_copy(update={"proposals": [source]})
        found = label_tokens(items(TOOLS, ANIMALS + COLOURS), config, Planted())
        assert found.label == "tool"
        assert found.candidates[0].sources == (source,)


@pytest.mark.parametrize("optimiser", ["mirror", "adamw"])
@pytest.mark.parametrize("schedule", [True, False])
def test_every_ablation_of_the_descent_runs_and_leaves_a_trajectory(optimiser: str, schedule: bool) -> None:
    config = CONFIG.model_copy(
        update={"optimiser": optimiser, "entropy_schedule": schedule, "restarts": 3, "negatives": "flat"}
    )
    found = label_tokens(items(TOOLS, ANIMALS + COLOURS), config, Planted())
    assert found.label == "tool"
    assert [t.restart for t in found.trajectories] == [0, 1, 2]
    for t in found.trajectories:
        assert len(t.tokens) <= 12
        assert np.array(t.probabilities).shape == (len(t.steps), len(t.tokens))
        assert set(t.losses) == {"prediction", "entropy"}


def test_json_begins_with_the_promised_keys_and_holds_plain_types() -> None:
    found = label_tokens(items(TOOLS, ANIMALS + COLOURS), CONFIG, Planted()).as_json()
    assert list(found)[:7] == ["label", "status", "reason", "precision", "recall", "chain", "candidates"]
    assert json.loads(json.dumps(found)) == found
    assert {"label", "precision", "recall", "balanced_accuracy"} <= set(found["chain"][0])


def test_graded_activations_and_hostile_tokens_are_taken() -> None:
    odd = [TokenItem(token=t, activation=0.0) for t in ("", "  ", "<<x>>", "\x00", "a\nb", "z" * 500)]
    graded = [TokenItem(token=w, activation=float(i + 1)) for i, w in enumerate(TOOLS)]
    found = label_tokens(graded + odd + items([], COLOURS), CONFIG, Planted())
    assert found.label == "tool"


def test_a_token_that_its_own_text_does_not_hold_is_told_of() -> None:
    told = [
        TokenItem(token="cat", activation=1.0, text="the dog sleeps"),
        TokenItem(token=" dog", activation=1.0, text="the dog sleeps", start=4),
        *items(ANIMALS[2:], TOOLS + COLOURS),
    ]
    found = label_tokens(told, CONFIG, Planted())
    assert found.notes["not_in_text"] == ["cat"]
    assert found.as_json()["not_in_text"] == ["cat"]
    assert "not_in_text" not in label_tokens(told[1:], CONFIG, Planted()).as_json()


def test_candidates_name_a_word_once() -> None:
    config = CONFIG.model_copy(update={"aspects": ["category", "form"]})
    found = label_tokens(items(TOOLS, ANIMALS + COLOURS), config, Planted())
    words = [stem(link.label) for link in found.candidates]
    assert len(words) == len(set(words)) == config.max_candidates
    best = [
        Link(label=x, precision=p, recall=None, balanced_accuracy=None, sources=(y,))
        for x, p, y in (("tool", 0.9, "lists"), ("kind", 0.8, "lists"), ("Tools", 0.7, "gradient"))
    ]
    merged = merged_links(best, 5)
    assert [(link.label, link.precision, link.sources) for link in merged] == [
        ("tool", 0.9, ("gradient", "lists")),
        ("kind", 0.8, ("lists",)),
    ]
    assert merged_links(best, 1) == merged[:1]

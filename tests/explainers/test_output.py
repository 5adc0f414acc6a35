from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from autointerp.explainers.base import ExplainContext, subject_needed
from autointerp.explainers.token_change import _ranked
from autointerp.llm.types import Request
from autointerp.sampling.windows import LatentRecord, TokenTable
from autointerp.subject.steering import SteeredSubject
from tests.explainers.made_up import (
    CONCEPT,
    CONCEPT_LATENT,
    CONCEPT_WORDS,
    EMPTY_LATENT,
    Directions,
    FakeModel,
    Vocabulary,
    concept_table,
    context,
    record,
    window,
)
from tests.explainers.test_asking import build, query


def rows(ids: np.ndarray) -> list[dict[str, float]]:
    return [{"token": int(t), "logit": 1.0} for t in ids]


def test_lists_in_order_without_unreadable_tokens():
    v = Vocabulary()
    top, bottom = v.ids([" cello", "phony", "BAD", "NUL"]), v.ids([" shall", "%)"])
    table = TokenTable([*v.pieces[:2], b"\xe2", None, *v.pieces[4:]], ["?"] * 6)
    model = FakeModel(lambda r: "Music.\nEXPLANATION: **orchestral music**")
    (got,) = build("output").explain(
        [record([], top_logits=rows(top), bottom_logits=rows(bottom))], context(model, table)
    )
    assert lists(model.requests[0]) == ['More likely: [" cello", "phony"]', 'Less likely: [" shall", "%)"]']
    assert got.text == "promotes orchestral music"
    assert got.details == {"n_promoted": 2, "n_demoted": 2}


def lists(request: Request) -> list[str]:
    """The lines of a query above the one that asks."""
    shown, _, asked = query(request).partition("\n\n")
    assert asked.startswith("What do the ")
    assert asked.endswith("\nEXPLANATION: your phrase")
    return shown.splitlines()


def test_numbers_of_tokens():
    v = Vocabulary()
    logits = rows(v.ids([f" t{i}" for i in range(30)]))
    model = FakeModel(lambda r: "EXPLANATION: x")
    r = record([], top_logits=logits, bottom_logits=logits)
    build("output", n_promoted=2, n_demoted=0).explain([r], context(model, v.table))
    assert lists(model.requests[0]) == ['More likely: [" t0", " t1"]']
    assert all("Less likely:" not in m.content for m in model.requests[0].messages[1:])


@pytest.mark.parametrize(
    ("logits", "reason"),
    [(None, "no output logits at this hook point"), ([], "its output logits name no readable token")],
)
def test_without_logits_nothing_is_asked(logits, reason):
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    (got,) = build("output").explain([record([], top_logits=logits)], context(model, v.table))
    assert (got.status, got.reason, got.text) == ("failed", reason, None)
    assert not model.requests


@pytest.mark.parametrize(
    ("reply", "text", "status"),
    [
        ("promotes days of the week", "promotes days of the week", "ok"),
        ("The unit raises: years", "promotes years", "ok"),
        ("none", None, "undetermined"),
        ("promotes", None, "failed"),
    ],
)
def test_labels_say_that_they_are_of_the_output(reply, text, status):
    v = Vocabulary()
    model = FakeModel(lambda r: f"EXPLANATION: {reply}")
    r = record([], top_logits=rows(v.ids([" Monday"])))
    (got,) = build("output").explain([r], context(model, v.table))
    assert (got.text, got.status) == (text, status)


N_SILENT, KL = 6, 0.4


@pytest.fixture(scope="module")
def steered(concept_subject):
    return concept_subject


def steered_context(steered: SteeredSubject, model: FakeModel) -> ExplainContext:
    return replace(context(model, concept_table()), subject=lambda: steered)


def silent_record(**statistics: object) -> LatentRecord:
    """Windows of words that are not of the concept, in which the latent is silent."""
    rng = np.random.default_rng(0)
    silent = [
        replace(window(Vocabulary(), [(" x", 0)], i), tokens=rng.integers(4, len(CONCEPT_WORDS), 8))
        for i in range(N_SILENT)
    ]
    return record(silent, CONCEPT_LATENT, **statistics)


def test_turned_up_it_raises_the_words_of_its_direction(steered):
    model = FakeModel(lambda r: "EXPLANATION: animals")
    options = {"steered": True, "kl": KL, "n_promoted": 3, "n_demoted": 2}
    (got,) = build("output", **options).explain(
        [silent_record(top_logits=None)], steered_context(steered, model)
    )
    raised = [f" {word}" for word in CONCEPT]
    assert sorted(got.details["risen"]) == sorted(raised)
    assert not set(got.details["fallen"]) & set(raised)
    assert len(got.details["fallen"]) <= 2
    assert got.details["kl"] == pytest.approx(KL, rel=0.1)
    assert got.details["n_prompts"] == N_SILENT
    assert got.text == "promotes animals"
    lines = lists(model.requests[0])
    assert [line.partition(":")[0] for line in lines] == ["Raised", "Lowered"][: len(lines)]
    assert json.loads(lines[0].partition(": ")[2]) == got.details["risen"]
    # Worked examples are shown under the same names.
    assert model.requests[0].messages is not None
    assert model.requests[0].messages[1].content.startswith('Raised: [" violin"')


def test_the_decoders_own_lists_stand_beside(steered):
    model = FakeModel(lambda r: "EXPLANATION: animals")
    logits = [{"token": 1, "logit": 2.0}]
    (got,) = build("output", steered=True).explain(
        [silent_record(top_logits=logits, bottom_logits=logits)], steered_context(steered, model)
    )
    lines = lists(model.requests[0])
    assert lines[0].startswith("Raised: ")
    assert lines[-2:] == [f'Pointed to: [" {CONCEPT[0]}"]', f'Pointed away from: [" {CONCEPT[0]}"]']
    assert (got.details["n_promoted"], got.details["n_demoted"]) == (1, 1)


@pytest.mark.parametrize(
    ("latent", "windows", "reason"),
    [
        (
            CONCEPT_LATENT,
            False,
            "no train window in which the latent is silent (sample.n_train_random makes them)",
        ),
        (EMPTY_LATENT, True, "not turned up: the direction has no length"),
    ],
)
def test_what_cannot_be_turned_up(steered, latent, windows, reason):
    given = replace(silent_record(), latent=latent)
    given = given if windows else replace(given, windows=())
    model = FakeModel(lambda r: "EXPLANATION: x")
    (got,) = build("output", steered=True).explain([given], steered_context(steered, model))
    assert (got.status, got.reason, got.details["not_steered"]) == ("failed", reason, reason)
    assert not model.requests
    logits = [{"token": 1, "logit": 2.0}]
    given = replace(given, statistics={**given.statistics, "top_logits": logits})
    (got,) = build("output", steered=True).explain([given], steered_context(steered, model))
    assert (got.status, got.details["not_steered"]) == ("ok", reason)


def test_settings_of_steering_count_only_where_it_is_done():
    plain = build("output", kl=2.0).config
    assert plain.result_values() == build("output").config.result_values()
    assert "steered" not in plain.result_values()
    assert build("output", steered=True, kl=2.0).config.result_values()["kl"] == 2.0
    assert set(build("output", steered=True).prompts()) == {"output_steered", "form"}
    assert (build("output", steered=True).uses_windows, build("output").uses_windows) == (True, False)
    assert subject_needed(build("output", steered=True))
    assert not subject_needed(build("output"))
    assert subject_needed(build("best-of", candidates=[{"explainer": "output", "steered": True}]))
    assert not subject_needed(build("best-of", candidates=["statistics"]))


def test_rises_and_falls_are_means_over_positions():
    """Three tokens over two prompts of two positions: +2 and -2 on average, and one that may not be named."""
    before = torch.zeros(2, 2, 4)
    after = torch.tensor(
        [[[3.0, -3.0, 9.0, 0.1], [1.0, -1.0, 9.0, 0.1]], [[4.0, -4.0, 9.0, 0.1], [0.0, 0.0, 9.0, 0.1]]]
    )
    readable = torch.tensor([True, True, False, True])
    assert _ranked(after, before, 5, 5, readable) == ((0, 3), (1,))
    assert _ranked(after, before, 1, 0, readable) == ((0,), ())


def test_a_dictionary_that_cannot_be_turned_up_is_told_in_every_row(steered):
    without = replace(steered, dictionary=Directions(None))
    model = FakeModel(lambda r: "EXPLANATION: x")
    (got,) = build("output", steered=True).explain([silent_record()], steered_context(without, model))
    assert got.status == "failed"
    assert "no decoder directions" in str(got.reason)

from __future__ import annotations

import numpy as np
import pytest

from autointerp.sampling.windows import TokenTable
from tests.explainers.made_up import FakeModel, Vocabulary, context, record
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
    assert query(model.requests[0]) == 'More likely: [" cello", "phony"]\nLess likely: [" shall", "%)"]'
    assert got.text == "promotes orchestral music"
    assert got.details == {"n_promoted": 2, "n_demoted": 2}


def test_numbers_of_tokens():
    v = Vocabulary()
    logits = rows(v.ids([f" t{i}" for i in range(30)]))
    model = FakeModel(lambda r: "EXPLANATION: x")
    r = record([], top_logits=logits, bottom_logits=logits)
    build("output", n_promoted=2, n_demoted=0).explain([r], context(model, v.table))
    assert query(model.requests[0]) == 'More likely: [" t0", " t1"]'
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

from __future__ import annotations

import pytest

from autointerp.explainers.max_act import peak
from autointerp.llm.types import Reply, Usage
from autointerp.sampling.windows import TokenTable
from tests.explainers.made_up import FakeModel, Vocabulary, context, record, window
from tests.explainers.test_asking import build, query

TRAINS = [
    [(" the", 0.0), (" train", 1.0), (" to", 5.0), (" Oslo", 2.0)],
    [(" born", 0.5), (" near", 7.0), (" Rome", 0.0), (",", 0.0)],
    [(" it", 0.0), (" came", 0.0), (" from", 6.0)],
]


def towns(v: Vocabulary, **statistics: object):
    return record([window(v, pieces, i, 10 - i) for i, pieces in enumerate(TRAINS)], **statistics)


def test_lists_of_the_strongest_windows_first():
    v = Vocabulary()
    model = FakeModel(lambda r: "READING: 2\nEXPLANATION: say a city")
    (got,) = build("max-act").explain([towns(v)], context(model, v.table))
    assert query(model.requests[0]) == (
        'Strongest tokens: [" near", " from", " to"]\n'
        'Tokens after: [" Rome", " Oslo"]\n'
        'Excerpt 1: " born <<near>> Rome,"\n'
        'Excerpt 2: " it came <<from>>"\n'
        'Excerpt 3: " the train <<to>> Oslo"\n\n'
        'Strongest tokens once more: [" near", " from", " to"]\n'
        "Reply with two lines of this form:\nREADING: its number\nEXPLANATION: the name"
    )
    assert (got.text, got.details["n_windows"]) == ("say a city", 3)


def test_only_the_top_windows_and_near_surroundings():
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    build("max-act", n_windows=1, n_around=1).explain([towns(v)], context(model, v.table))
    text = query(model.requests[0])
    assert 'Strongest tokens: [" near"]' in text
    assert 'Excerpt 1: " born <<near>> Rome"\n\n' in text


def test_logits_are_shown_and_needed():
    v = Vocabulary()
    ids = v.ids([" Bonn", " Bonn", "\n", " Kiel"])
    logits = [{"token": int(t), "logit": 2.0} for t in ids]
    model = FakeModel(lambda r: "EXPLANATION: say a city")
    explainer = build("max-act-logits", n_logits=3)
    records = [towns(v, top_logits=logits), towns(v, top_logits=None), towns(v, top_logits=[])]
    got = explainer.explain(records, context(model, v.table))
    assert query(model.requests[0]).splitlines()[2] == r'Promoted tokens: [" Bonn", "\n", " Kiel"]'
    assert [e.reason for e in got] == [
        None,
        "no output logits at this hook point",
        "its output logits name no readable token",
    ]
    assert len(model.requests) == 1


@pytest.mark.parametrize("text", ["Method 2: say a city", "reading 1", "READING #3"])
def test_a_reading_is_no_label(text):
    v = Vocabulary()
    model = FakeModel(lambda r: Reply(text=f"EXPLANATION: {text}", usage=Usage()))
    (got,) = build("max-act").explain([towns(v)], context(model, v.table))
    assert (got.status, got.text) == ("failed", None)
    assert got.details["reply"].endswith(text)


def test_a_split_character_is_one_token():
    v = Vocabulary()
    w = window(v, [(" a", 1), ("E", 3), ("A", 0), (" b", 2)])
    pieces = list(v.pieces)
    pieces[1], pieces[2] = "é".encode()[:1], "é".encode()[1:]
    found = peak(w, TokenTable(pieces, ["?"] * 4), 24)
    assert found is not None
    assert (found.token, found.after, found.excerpt) == ("é", " b", " a<<é>> b")

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from autointerp.config import parse_table
from autointerp.explainers.statistics import StatisticsConfig, StatisticsExplainer
from autointerp.explainers.words import stem
from autointerp.sampling.windows import LatentRecord, TokenTable
from tests.explainers.made_up import context

TOKENS = [
    " book",
    " Book",
    "book",
    " books",
    " during",
    " while",
    " throughout",
    " the",
    " of",
    ",",
    ".",
    "ing",
]
TOKENS += ["ed", " 1", "2", "3", '"', "\n", " <script>", "\u202ex", "\ufffd"]
TABLE = TokenTable([t.encode() for t in TOKENS], TOKENS)
COUNTS = np.full(len(TOKENS), 100)
N_TOKENS = 100 * len(TOKENS)


def latent(active: dict[str, tuple[int, float]], **other: Any) -> LatentRecord:
    """A latent active on tokens: text -> (how often, how much each time); all in train documents."""
    top = [
        {"token": TOKENS.index(text), "n_active": n, "total": n * each, "max": each}
        for text, (n, each) in active.items()
    ]
    n_active = sum(n for n, _ in active.values())
    total = sum(n * each for n, each in active.values())
    statistics = {
        "status": "ok",
        "n_active_tokens": n_active,
        "mean_activation": total / n_active if n_active else None,
        "density": n_active / N_TOKENS,
        "top_tokens": sorted(top, key=lambda row: -row["total"]),
        "top_logits": None,
        **other,
    }
    return LatentRecord(latent=3, statistics=statistics)


def explain(record: LatentRecord, **options: Any) -> Any:
    explainer = StatisticsExplainer(parse_table(StatisticsConfig, options))
    (got,) = explainer.explain([record], context(None, TABLE, COUNTS))
    return got


@pytest.mark.parametrize(
    ("active", "text"),
    [
        ({" book": (80, 2.0), " Book": (20, 2.0), " books": (9, 1.0)}, 'the word "book"'),
        (
            {" during": (90, 3.0), " while": (80, 2.0), " throughout": (40, 2.0)},
            '"during", "while", "throughout"',
        ),
        ({",": (90, 2.0)}, "commas"),
        ({",": (90, 2.0), ".": (80, 2.0)}, "commas and full stops"),
        ({"ing": (90, 2.0), "ed": (80, 2.0)}, 'the word parts "ing", "ed"'),
        ({" 1": (30, 2.0), "2": (30, 1.9), " during": (9, 1.0)}, 'numbers such as "1", "2"'),
        ({" book": (50, 3.0), " the": (3, 1.0), " of": (2, 1.0)}, 'the word "book"'),
        ({" of": (30, 3.0)}, 'the word "of"'),
        ({" <script>": (30, 3.0)}, 'the word "<script>"'),
    ],
)
def test_planted_words_are_named(active, text):
    got = explain(latent(active))
    assert (got.text, got.status) == (text, "ok")
    assert 0 < got.details["share"] <= 1


def test_spread_over_unrelated_tokens_is_undetermined():
    spread = dict.fromkeys(TOKENS[:12], (5, 1.0))
    got = explain(latent(spread, n_active_tokens=2000, mean_activation=1.0, density=2000 / N_TOKENS))
    assert (got.text, got.status) == (None, "undetermined")
    assert got.reason.startswith("spread over many tokens")
    assert got.details["share"] < 0.5


def test_too_few_positions_are_undetermined():
    got = explain(latent({" during": (2, 5.0), " while": (1, 5.0)}))
    assert (got.status, got.reason) == ("undetermined", "too little seen: active 3 times on its first words")


def test_unreadable_tokens_are_left_out():
    got = explain(latent({"\u202ex": (50, 9.0), "\ufffd": (50, 9.0)}))
    assert (got.text, got.status) == (None, "undetermined")
    assert explain(latent({"\u202ex": (5, 1.0), " while": (50, 9.0)})).text == 'the word "while"'


def test_dead_and_never_in_train():
    dead = latent({}, status="dead")
    assert (explain(dead).status, explain(dead).reason) == ("failed", "dead latent")
    only_test = latent({}, n_active_tokens=1, mean_activation=1.0)
    assert explain(only_test).reason == "never active in the train documents"


def test_promoted_words_on_request():
    logits = [{"token": TOKENS.index(t), "logit": 2.0} for t in (" while", " While", " book") if t in TOKENS]
    record = latent({" during": (90, 3.0)}, top_logits=logits)
    assert explain(record).text == 'the word "during"'
    assert explain(record, n_promoted=2).text == 'the word "during"; promotes "while", "book"'


def test_stems_join_inflections_only():
    assert len({stem(w) for w in ("share", "shares", "Shared", "sharing")}) == 1
    assert len({stem(w) for w in ("book's", "books", "book")}) == 1
    assert stem("es") != stem("s")
    assert stem("nature") != stem("nation")


def test_four_thousand_latents_in_seconds_and_the_same_twice():
    rng = np.random.default_rng(0)
    records = []
    for i in range(4096):
        chosen = rng.choice(len(TOKENS), size=12, replace=False)
        active = {TOKENS[int(t)]: (int(rng.integers(1, 60)), float(rng.random() + 0.1)) for t in chosen}
        records.append(LatentRecord(latent=i, statistics=latent(active).statistics))
    explainer = StatisticsExplainer(StatisticsConfig())
    started = time.process_time()
    first = explainer.explain(records, context(None, TABLE, COUNTS))
    assert time.process_time() - started < 10
    assert [e.latent for e in first] == list(range(4096))
    assert first == explainer.explain(records, context(None, TABLE, COUNTS))

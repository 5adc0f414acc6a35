"""On a tiny subject (`concept_subject`) in which one latent's direction is what three words share."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config, parse_table
from autointerp.errors import UserError
from autointerp.explainers import self_
from autointerp.explainers.base import ExplainContext, Explanation, get_explainer
from autointerp.explainers.prompt_files import PromptFile
from autointerp.explainers.self_ import Candidate, SelfExplainer
from autointerp.sampling.windows import TokenTable
from autointerp.subject.steering import SteeredSubject
from tests import planted
from tests.explainers.made_up import (
    CONCEPT,
    CONCEPT_LATENT,
    CONCEPT_WORDS,
    EMPTY_LATENT,
    Directions,
    concept_table,
    record,
)

PROMPT = PromptFile(
    version=1,
    parts=(("template", "a thing near X"), ("context", "near"), ("plain", "a thing under a thing")),
    source="",
)


@pytest.fixture(scope="module")
def steered(concept_subject):
    return concept_subject


def context(steered: SteeredSubject, seed: int = 0) -> ExplainContext:
    return ExplainContext(
        model=None,
        tokens=concept_table(),
        token_counts=np.ones(len(CONCEPT_WORDS)),
        seed=seed,
        subject=lambda: steered,
    )


def build(**options: Any) -> SelfExplainer:
    options = {"layer": 1, "n_tokens": 1, **options}
    cls = get_explainer("self")
    explainer = cls(parse_table(cls.Config, options))
    assert isinstance(explainer, SelfExplainer)
    explainer._prompt = PROMPT
    return explainer


def explain(steered: SteeredSubject, *latents: int, **options: Any) -> list[Explanation]:
    return build(**options).explain([record([], latent) for latent in latents], context(steered))


@pytest.mark.parametrize("choose", ["reread", "scale"])
def test_a_latent_names_its_words(steered, choose):
    (got,) = explain(steered, CONCEPT_LATENT, choose=choose)
    assert (got.status, got.reason) == ("ok", None)
    assert got.text in CONCEPT
    details = got.details
    chosen = details["candidates"][details["chosen"]]
    assert chosen["text"] == got.text
    assert {k: details[k] for k in ("scale", "similarity", "entropy", "likeness")} == {
        k: chosen[k] for k in ("scale", "similarity", "entropy", "likeness")
    }
    # Three orthogonal words in equal parts.
    assert details["likeness"] == pytest.approx(1 / math.sqrt(3), abs=0.12)
    assert {c["scale"] for c in details["candidates"]} == {1.0, 2.0, 4.0, 8.0}
    assert json.loads(json.dumps(details)) == details


def test_random_directions_fail_and_say_so(steered):
    for got in explain(steered, 0, 1, 2, min_similarity=0.3):
        assert (got.status, got.text) == ("failed", None)
        assert got.reason == "low self-similarity (below 0.3)"
        assert got.details["likeness"] < 0.3
        assert got.details["text"]


def test_a_direction_of_zeros_fails(steered):
    (got,) = explain(steered, EMPTY_LATENT)
    assert (got.status, got.reason) == ("failed", "the latent's direction has no length")


def test_first_tokens_are_what_others_do_not_raise(steered):
    """The likeliest token after this prompt is its last word; by the gain it is no candidate."""
    (got,) = explain(steered, CONCEPT_LATENT, n_starts=3, scales=[8.0], plausible_nats=50.0)
    assert {c["text"] for c in got.details["candidates"]} == set(CONCEPT)
    assert all(c["gain"] > 0 for c in got.details["candidates"])


def test_batches_and_order_change_nothing(steered):
    alone = [explain(steered, latent)[0] for latent in (0, CONCEPT_LATENT, 7)]
    assert explain(steered, 7, 0, CONCEPT_LATENT) == [alone[2], alone[0], alone[1]]


def test_drawn_continuations_follow_the_seed(steered):
    first, again = (explain(steered, CONCEPT_LATENT, sampled=True, n_tokens=3)[0] for _ in range(2))
    assert first == again
    records, options = (
        [record([], CONCEPT_LATENT)],
        {"sampled": True, "n_tokens": 3, "min_similarity": -1.0, "scales": [0.05]},
    )
    drawn = {
        json.dumps(
            [
                c["text"]
                for c in build(**options).explain(records, context(steered, seed))[0].details["candidates"]
            ]
        )
        for seed in range(4)
    }
    assert len(drawn) > 1


def test_continuations_that_say_nothing(steered):
    (got,) = explain(steered, CONCEPT_LATENT, n_tokens=8)
    assert got.status in ("ok", "failed")
    said = {c.get("reason") for c in got.details["candidates"] if c["text"] is None}
    assert said <= {"it repeats itself", "the explanation is empty"}
    assert "it repeats itself" in said


@pytest.mark.parametrize(
    ("continuation", "text", "reason"),
    [
        ([" a", " dog", '"', " and"], "a dog", None),
        ([" a", " dog", ",", "<bos>", " x"], "a dog", None),
        ([" dog", "\n", " cat"], "dog", None),
        ([" dog"] * 6, None, "it repeats itself"),
        ([" the", " word", " X", '"'], None, "it names the word it stands for"),
        (["!", '"'], None, "the explanation is empty"),
        ([" none", '"'], None, "the model sees no pattern"),
        (["\ufffd", "a", '"'], None, "it cannot be shown"),
        ([" cut", " off", " her"], "cut off", None),
    ],
)
def test_reading_continuations(continuation, text, reason):
    names = sorted(set(continuation))
    pieces = [None if name == "<bos>" else name.encode() for name in names]
    special = {names.index("<bos>")} if "<bos>" in names else set()
    read = self_._read([names.index(c) for c in continuation], special, TokenTable(pieces, names))
    assert (read["reading"].text, read["reading"].reason) == (text, reason)


def candidate(text: str, **numbers: float) -> Candidate:
    values = {"similarity": 0.0, "entropy": 1.0, "likeness": 0.5, "scale": 1.0, **numbers}
    reading = self_.Reading(text=text)
    return Candidate(template=0, gain=None, continuation=text, reading=reading, **values)


def test_the_shorter_of_equally_like_texts():
    given = [
        candidate("a long text", likeness=0.501),
        candidate("text", likeness=0.499),
        candidate("no", likeness=0.1),
    ]
    assert self_._likest(given).reading.text == "text"


def test_the_scale_of_much_similarity_and_little_entropy():
    given = [
        candidate("weak", similarity=0.1, entropy=5.0),
        candidate("right", similarity=0.4, entropy=3.0),
        candidate("strong", similarity=0.45, entropy=6.0),
    ]
    assert self_._clearest(given).reading.text == "right"


def test_no_directions_and_no_such_layer(steered):
    without = replace(steered, dictionary=Directions(None))
    with pytest.raises(UserError, match="no decoder directions"):
        explain(without, 0)
    with pytest.raises(UserError, match="layer: seen 9"):
        explain(steered, 0, layer=9)


def test_through_the_stages(tmp_path, monkeypatch):
    from autointerp.analyze.plan import plan
    from autointerp.engine.pipeline import run_stages

    planted.build(tmp_path, n_documents=40)
    monkeypatch.setenv("PLANTED_MODEL", str(tmp_path / "model"))
    table = "{layer=1, min_similarity=-1.0, n_tokens=2}"
    config = load_config(
        tmp_path / "run.toml",
        [
            "dictionary.path='tests.scorers.test_intervention:planted_with_decoder'",
            "explain.explainers=['self', 'chosen']",
            f"explainers={{self={table}, chosen={{explainer='best-of', candidates=[{{explainer='self', layer=1, n_tokens=2}}, 'statistics']}}}}",
            "score.scorers=['detection']",
            "scorers={detection={readout='likelihood'}}",
            "models.judge={backend='canned'}",
        ],
    )
    run = RunDirectory(tmp_path / "run")
    run_stages(config, run, ["cache", "sample", "explain"])
    rows = run.dataset("explanations", "self").read().to_pylist()
    assert {row["status"] for row in rows} <= {"ok", "failed"}
    live = [row for row in rows if "dead" not in (row["reason"] or "")]
    assert all(json.loads(row["details"])["candidates"] for row in live)
    chosen = run.dataset("explanations", "chosen").read().to_pylist()
    assert {"self", "statistics"} <= {
        c["explainer"] for row in chosen for c in json.loads(row["details"]).get("candidates", [])
    }
    told = {step.name: step for step in plan(config, run).scopes[0].steps}
    assert told["explain/self"].note == "asks no model"
    assert told["explain/chosen"].note == "counted --with-subject only"
    assert told["score/detection/self"].requests
    counted = {step.name: step for step in plan(config, run, with_subject=True).scopes[0].steps}
    assert counted["explain/chosen"].requests

"""The presets: the published formulas restated on fixed inputs, and whole scorers with judges that know or fail."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.artifacts.schemas import SCORES, table_of
from autointerp.llm.types import ErrorKind, Reply, Request
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers import load_all
from autointerp.scorers.base import Item, Judged, get_scorer
from autointerp.scorers.presets.lists import EXAMPLES_PER_REQUEST
from autointerp.scorers.presets.marks import (
    delphi_false_marks,
    n_false_marks,
    neuronpedia_false_marks,
    peer_true_marks,
)
from autointerp.scorers.presets.neuronpedia_recall import FIRST_DECOY, decoys
from autointerp.scorers.presets.numbers import (
    Counts,
    delphi_metrics,
    neuronpedia_balanced_accuracy,
    pooled,
)
from tests.scorers import fakes

LISTS = ["delphi-detection", "delphi-fuzz", "neuronpedia-detection", "neuronpedia-fuzz"]
NAMES = [*LISTS, "saebench", "neuronpedia-recall"]


def record(n: int = 60, n_random: int = 60, n_unread: int = 0, latent: int = 3) -> LatentRecord:
    """Activating, random and unread windows; every third unread one is active unseen."""
    windows = list(fakes.record(latent, n).activating)
    silent = list(fakes.record(latent + 1, max(n_random + n_unread, 1)).silent)
    active = fakes.record(latent + 2, max(n_unread, 1)).activating
    for i in range(n_random):
        windows.append(replace(silent[i], example=1000 + i, kind="random"))
    for i in range(n_unread):
        source = active[i] if i % 3 == 0 else silent[n_random + i]
        windows.append(replace(source, example=2000 + i, kind="unread", decile=None))
    return LatentRecord(latent=latent, statistics={}, windows=tuple(windows))


def judge(
    name: str, answer: fakes.Answer, given_record: LatentRecord, **config: object
) -> tuple[Judged, fakes.Judge]:
    load_all()
    cls, model = get_scorer(name), fakes.Judge(answer)
    item = Item(explanation="x/0", text=fakes.EXPLANATION, record=given_record)
    (judged,) = cls(cls.Config(**config)).judge([item], fakes.context(model))
    return judged, model


def texts_of(request: Request) -> list[str]:
    query = (request.messages or ())[-1].content
    return [json.loads(t) for t in re.findall(r'^(?:Example \d+:|\d+\.) (".*")$', query, re.MULTILINE)]


def answering(truth: Callable[[str], bool]) -> fakes.Answer:
    """Answers every preset's form of request by a function of the text."""

    def answer(request: Request) -> Reply:
        query = (request.messages or ())[-1].content
        if query.startswith("{"):
            active = [p["token"].strip() for p in json.loads(query)["activations"] if p["activation"] > 0]
            match = bool(active) and truth(" ".join(active))
            return Reply(text=json.dumps({"match": match, "reason": "so"}), usage=fakes.USAGE)
        said = [truth(text) for text in texts_of(request)]
        if "Example 0:" in query:
            return Reply(text=str([int(s) for s in said]), usage=fakes.USAGE)
        numbers = [str(i) for i, s in enumerate(said, start=1) if s]
        return Reply(text=", ".join(numbers) or "None", usage=fakes.USAGE)

    return answer


perfect = answering(fakes.fits)


def saying(text: str) -> fakes.Answer:
    return lambda request: Reply(text=text)


# --- The published formulas ---


def published_delphi(rows: list[tuple[bool, bool | None]]) -> tuple[float, float]:
    """`compute_confusion` and `compute_classification_metrics`: (accuracy, F1) of (activating, prediction) rows."""
    valid = [(act, float(p)) for act, p in rows if p is not None]
    pos = sum(act for act, _ in valid)
    neg = len(valid) - pos
    tp = sum(p >= 0.5 and act for act, p in valid)
    tn = sum(p < 0.5 and not act for act, p in valid)
    fp = sum(p >= 0.5 and not act for act, p in valid)
    accuracy = ((tp / pos if pos > 0 else 0) + (tn / neg if neg > 0 else 0)) / 2
    precision = tp / (tp + fp) if tp + fp > 0 else 0
    recall = tp / pos if pos > 0 else 0
    f1 = 2 * (precision * recall) / (precision + recall) if precision + recall > 0 else 0
    return accuracy, f1


def published_neuronpedia(rows: list[tuple[bool, bool | None]]) -> float | None:
    """`per_feature_scores_fuzz_detection` and `calculate_balanced_accuracy`."""
    kept = [(truth, truth == p) for truth, p in rows if p is not None]
    if not kept:
        return None
    tp = sum(t and c for t, c in kept)
    tn = sum(not t and c for t, c in kept)
    fp = sum(not t and not c for t, c in kept)
    fn = sum(t and not c for t, c in kept)
    recall = 0 if tp + fn == 0 else tp / (tp + fn)
    return 0 if tn + fp == 0 else (recall + tn / (tn + fp)) / 2


def counted(rows: list[tuple[bool, bool | None]]) -> Counts:
    return Counts(
        tp=rows.count((True, True)),
        fp=rows.count((False, True)),
        tn=rows.count((False, False)),
        fn=rows.count((True, False)),
        n_dropped=sum(p is None for _, p in rows),
    )


ROWS = st.lists(st.tuples(st.booleans(), st.none() | st.booleans()), max_size=40)


@given(ROWS)
def test_published_formulas(rows: list[tuple[bool, bool | None]]) -> None:
    metrics = delphi_metrics(counted(rows))
    assert (metrics["accuracy"], metrics["f1_score"]) == pytest.approx(published_delphi(rows), abs=1e-6)
    assert neuronpedia_balanced_accuracy(counted(rows)) == pytest.approx(
        published_neuronpedia(rows), abs=1e-6
    )


@given(st.lists(ROWS, max_size=6))
def test_delphi_pools_rows_of_all_latents(latents: list[list[tuple[bool, bool | None]]]) -> None:
    together = delphi_metrics(pooled(counted(rows) for rows in latents))
    accuracy, f1 = published_delphi([row for rows in latents for row in rows])
    assert (together["accuracy"], together["f1_score"]) == pytest.approx((accuracy, f1), abs=1e-6)


def test_pooled_is_not_the_mean_of_latents() -> None:
    counts = [Counts(tp=9, fn=1, tn=1, fp=1), Counts(tp=0, fn=2, tn=8, fp=0)]
    assert delphi_metrics(pooled(counts))["accuracy"] == pytest.approx((9 / 12 + 9 / 10) / 2)
    assert np.mean([delphi_metrics(c)["accuracy"] for c in counts]) == pytest.approx(0.6)


def test_neuronpedia_where_a_class_is_missing() -> None:
    assert neuronpedia_balanced_accuracy(Counts(tp=5, fn=1)) == 0.0
    assert neuronpedia_balanced_accuracy(Counts(tn=3, fp=1)) == pytest.approx(0.375)
    assert neuronpedia_balanced_accuracy(Counts(n_dropped=4)) is None


# --- Marks ---


def silent(n_tokens: int):
    return fakes.window(0, ["the"] * n_tokens, "random", [0.0] * n_tokens)


def test_delphis_false_marks_are_the_published_places() -> None:
    """Places seen when Delphi's own code was run on windows of 32 tokens."""
    assert np.flatnonzero(delphi_false_marks(silent(32), 1)).tolist() == [24]
    assert np.flatnonzero(delphi_false_marks(silent(32), 3)).tolist() == [24, 30, 31]
    assert np.flatnonzero(delphi_false_marks(silent(32), 5)).tolist() == [4, 7, 24, 30, 31]
    for n_tokens, n in ((32, 7), (16, 4), (64, 9)):
        found = np.flatnonzero(delphi_false_marks(silent(n_tokens), n))
        assert set(found.tolist()) == published_delphi_places(n_tokens, n)


def published_delphi_places(n_tokens: int, n: int) -> set[int]:
    """`_prepare_text` on a silent window: a fixed place, and others after `random.seed(22)`."""
    random.seed(22)
    place = n_tokens - n_tokens // 4
    rest = [i for i in range(n_tokens) if i != place]
    return {place, *random.sample(rest, n - 1)}


@pytest.mark.parametrize("n", [1, 3, 6])
def test_neuronpedias_false_marks(n: int) -> None:
    random.seed(22)
    expected = sorted(random.sample(range(32), n))
    assert np.flatnonzero(neuronpedia_false_marks(silent(32), n)).tolist() == expected


def test_marks_of_positives_and_their_number() -> None:
    first = fakes.window(0, ["cat"] * 4, "activating", [1.0, 0.3, 0.29, 0.0])
    second = fakes.window(1, ["cat"] * 4, "activating", [1.0, 0.0, 0.0, 0.0])
    assert peer_true_marks(first).tolist() == [True, True, False, False]
    assert n_false_marks([first, second]) == 2
    assert n_false_marks([]) == 0
    assert delphi_false_marks(silent(4), 9).all()


# --- Whole scorers ---


@pytest.mark.parametrize("name", NAMES)
def test_a_judge_that_knows(name: str) -> None:
    judged, model = judge(name, perfect, record(n_unread=12))
    score, peer = judged.score, judged.details["peer"]
    assert score["value"] == 1.0
    assert score["status"] == "ok"
    assert peer["as_published"]
    assert score["peer_metric"]
    if name == "saebench":
        # Three or four of the ten unread windows are active, which the tool takes for silent.
        unseen = judged.details["n_unread_active"]
        assert unseen > 0
        assert score["peer_value"] == pytest.approx((14 - unseen) / 14, abs=1e-6)
        assert score["specificity_by_kind"]["unread"] == 1.0
        assert len(model.requests) == 1
    else:
        assert score["peer_value"] == 1.0
    table_of("scores", [{"latent": 3, "explanation": "x", "explainer": "x", "control": None, "scorer": name,
                         "details": json.dumps(judged.details), **score}])  # fmt: skip
    assert set(score) <= set(SCORES.schema.names)
    cls = get_scorer(name)
    assert cls(cls.Config()).prompts()
    assert all(info.description for info in cls.Config.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["", "I cannot say.", "[1,0", '{"match": 7}', "<think>1,1", "[1,1]"])
def test_what_cannot_be_read_is_no_number_of_ours(name: str, text: str) -> None:
    judged, _ = judge(name, saying(text), record(n_unread=12))
    assert judged.score["value"] is None
    assert judged.score["status"] == "failed"
    assert judged.score["n_unparsed"] == len(judged.judgements) > 0
    assert all(j.status == "unparsed" and j.reason and j.prediction is None for j in judged.judgements)
    if name == "saebench":
        assert judged.score["peer_value"] == (pytest.approx(10 / 14) if text == "" else None)
    elif name == "neuronpedia-recall":
        expected = 20 / 30 if text == '{"match": 7}' else 10 / 30
        assert judged.score["peer_value"] == pytest.approx(expected)
    else:
        assert judged.score["peer_value"] == (0.0 if name.startswith("delphi") else None)


@pytest.mark.parametrize("name", NAMES)
def test_requests_that_fail_are_rows(name: str) -> None:
    judged, _ = judge(name, lambda r: Reply(error=ErrorKind.SERVER, error_message="x"), record(n_unread=12))
    assert judged.score["value"] is None
    assert judged.score["n_error"] == len(judged.judgements) > 0
    assert judged.score["peer_value"] == (0.0 if name.startswith("delphi") else None)


@pytest.mark.parametrize("name", NAMES)
def test_no_windows_and_no_explanation(name: str) -> None:
    judged, model = judge(name, perfect, LatentRecord(latent=0, statistics={}))
    assert model.requests == []
    assert (judged.score["value"], judged.score["peer_value"], judged.score["status"]) == (
        None,
        None,
        "failed",
    )
    assert not judged.details["peer"]["as_published"]
    cls = get_scorer(name)
    (empty,) = cls(cls.Config()).judge(
        [Item(explanation="x", text=" ", record=record())], fakes.context(fakes.Judge(perfect))
    )
    assert empty.score["status"] == "unexplained"


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_stays_on_its_line(name: str) -> None:
    base = fakes.record(5, 30, hostile=True)
    windows = [replace(w, kind="random" if not w.activating else w.kind) for w in base.windows]
    windows += [replace(w, kind="unread", example=500 + i) for i, w in enumerate(base.silent[:10])]
    hostile = LatentRecord(latent=5, statistics={}, windows=tuple(windows))
    judged, model = judge(name, perfect, hostile)
    assert judged.score["coverage"] == 1.0
    assert judged.score["value"] == 1.0
    for request in model.requests:
        query = (request.messages or ())[-1].content
        if not name.endswith("fuzz"):
            assert "<<" not in query
        if name in LISTS:
            assert len(texts_of(request)) == EXAMPLES_PER_REQUEST


@pytest.mark.parametrize("name", NAMES)
def test_batching_changes_nothing(name: str) -> None:
    load_all()
    cls = get_scorer(name)
    scorer, context = cls(cls.Config()), fakes.context(fakes.Judge(perfect))
    items = [Item(explanation="x", text="animals", record=record(n_unread=10, latent=k)) for k in range(3)]
    assert scorer.judge(items, context) == [scorer.judge([item], context)[0] for item in items]


@pytest.mark.parametrize("name", LISTS)
def test_the_numbers_follow_from_the_rows(name: str) -> None:
    """A judge that errs and fails: the published formula on what it said gives `peer_value`."""

    n_asked = 0

    def careless(request: Request) -> Reply:
        nonlocal n_asked
        n_asked += 1
        if n_asked % 5 == 3:
            return Reply(text="[1,1,1]")
        if n_asked % 5 == 4:
            return Reply(error=ErrorKind.TIMEOUT, error_message="late")
        key = int(request.key("fake")[:8], 16)
        return Reply(text=str([(key >> i) % 2 for i in range(len(texts_of(request)))]))

    judged, _ = judge(name, careless, record(), **({"corrected": False} if name.endswith("fuzz") else {}))
    rows = [(bool(j.label), j.prediction) for j in judged.judgements]
    published = published_delphi(rows)[0] if name.startswith("delphi") else published_neuronpedia(rows)
    assert judged.score["peer_value"] == pytest.approx(published, abs=1e-6)
    assert judged.details["peer"]["n_dropped"] == judged.score["n_unparsed"] + judged.score["n_error"] > 0
    if judged.score["value"] is not None:
        assert judged.score["value"] == pytest.approx(published, abs=1e-6)


def test_delphi_cannot_read_a_shorter_last_batch_and_we_can() -> None:
    judged, model = judge("delphi-detection", perfect, record(n=13, n_random=9))
    assert [len(texts_of(r)) for r in model.requests] == [5, 5, 5, 5, 2]
    assert judged.details["peer"]["n_dropped"] == 2
    assert judged.score["coverage"] == 1.0
    assert not judged.details["peer"]["as_published"]


def test_the_structure_of_delphis_prompts() -> None:
    for name in LISTS:
        _, model = judge(name, perfect, record())
        messages = model.requests[0].messages or ()
        assert [m.role for m in messages] == ["system", *["user", "assistant"] * 3, "user"]
        assert [m.content for m in messages if m.role == "assistant"][1:] == ["[0,0,0,0,0]", "[1,1,1,1,1]"]
        shots = [m.content for m in messages if m.role == "user"]
        assert all(len(re.findall(r'^Example [0-4]: "', shot, re.MULTILINE)) == 5 for shot in shots)
        assert model.requests[0].temperature == 0


@pytest.mark.parametrize("name", ["delphi-fuzz", "neuronpedia-fuzz"])
def test_fuzz_judges_the_published_set_and_a_corrected_one(name: str) -> None:
    """A judge that knows only the published places of false marks gets full marks there and none of ours."""
    places: list[tuple[int, ...]] = []

    def by_place(text: str) -> bool:
        words = text.split()
        marked = tuple(i for i, word in enumerate(words) if "<<" in word)
        places.append(marked)
        return fixed != marked

    scorer = get_scorer(name)
    own = scorer(scorer.Config(corrected=False))
    item = Item(explanation="x", text="animals", record=record())
    negatives = [s.text for s in own.shown(item, fakes.context(fakes.Judge(perfect))) if not s.label]  # type: ignore[attr-defined]
    fixed_places = {tuple(i for i, word in enumerate(t.split()) if "<<" in word) for t in negatives}
    assert len(fixed_places) == 1
    fixed = fixed_places.pop()
    judged, model = judge(name, answering(by_place), record())
    assert judged.score["peer_value"] > 0.9
    assert judged.score["value"] < 0.7
    n = sum(own.published)  # type: ignore[attr-defined]
    assert len(model.requests) == 2 * n / 5
    assert len(judged.judgements) == n
    assert len(judged.details["peer"]["requests"]) == n / 5
    once, model = judge(name, perfect, record(), corrected=False)
    assert len(model.requests) == n / 5
    assert "requests" not in once.details["peer"]


@pytest.mark.parametrize("name", LISTS)
def test_one_class_only(name: str) -> None:
    """Ours is null; the tools' formulas give what they give, and fuzzing asks nothing without positives."""
    judged, _ = judge(name, perfect, record(n_random=0))
    assert (judged.score["value"], judged.score["status"]) == (None, "failed")
    assert judged.score["peer_value"] == (0.5 if name.startswith("delphi") else 0.0)
    judged, model = judge(name, perfect, record(n=0))
    assert judged.score["value"] is None
    assert judged.score["peer_value"] == (None if name.endswith("fuzz") else 0.5)
    assert bool(model.requests) != name.endswith("fuzz")


def test_which_windows() -> None:
    for name, n_positive, n_negative in (("delphi-detection", 50, 50), ("neuronpedia-detection", 20, 5)):
        judged, _ = judge(name, perfect, record())
        labels = [j.label for j in judged.judgements]
        assert (labels.count(True), labels.count(False)) == (n_positive, n_negative)
        assert {j.kind for j in judged.judgements} == {"activating", "random"}
        deciles = {j.decile for j in judged.judgements if j.label}
        assert (deciles == set(range(1, 11))) == name.startswith("delphi")


# --- SAEBench and recall ---


def test_saebench_none_gets_its_floor_and_ours_is_chance() -> None:
    judged, model = judge("saebench", saying("None"), record(n_unread=10))
    assert judged.score["peer_value"] == pytest.approx(10 / 14, abs=1e-6)
    assert judged.details["peer_value_of_none"] == pytest.approx(10 / 14)
    assert judged.score["value"] == 0.5
    assert judged.score["accuracy"] == pytest.approx(judged.details["accuracy_of_none"])
    (request,) = model.requests
    assert request.max_tokens == 33
    assert request.temperature == 1.0
    system = (request.messages or ())[0].content
    example = [int(n) for n in re.findall(r'like "([\d, ]+)"', system)[0].split(", ")]
    assert len(set(example)) == 4
    assert example == sorted(example)
    assert set(example) <= set(range(1, 15))
    assert len(texts_of(request)) == 14


def published_saebench(predictions: list[int], active: list[bool]) -> float:
    """`score_predictions`."""
    said = [i in predictions for i in range(1, len(active) + 1)]
    return sum(c == cc for c, cc in zip(said, active, strict=True)) / len(said)


@given(st.lists(st.integers(1, 14), max_size=14))
def test_saebench_formula(numbers: list[int]) -> None:
    judged, _ = judge("saebench", saying(", ".join(map(str, numbers)) or "None"), record(n_unread=10))
    order = sorted(judged.judgements, key=lambda j: j.position_in_request or 0)
    active = [j.kind == "activating" for j in order]
    assert judged.score["peer_value"] == pytest.approx(published_saebench(numbers, active), abs=1e-6)
    truth = [bool(j.label) for j in order]
    assert judged.score["accuracy"] == pytest.approx(published_saebench(numbers, truth), abs=1e-6)


def test_saebench_needs_unread_windows_and_says_so() -> None:
    judged, model = judge("saebench", perfect, record())
    assert model.requests == []
    assert "n_test_unread" in judged.score["reason"]


def test_recall_asks_about_each_text_with_its_activations() -> None:
    judged, model = judge("neuronpedia-recall", perfect, record())
    kinds = [j.kind for j in judged.judgements]
    assert [kinds.count(k) for k in ("activating", "random", "decoy")] == [20, 5, 5]
    assert len(model.requests) == 30
    assert judged.score["chance"] == pytest.approx(20 / 30)
    shown = json.loads((model.requests[0].messages or ())[-1].content)
    assert shown["explanation"] == "animals"
    assert sum(p["activation"] > 0 for p in shown["activations"]) in (1, 2, 3)
    assert [j.example for j in judged.judgements if j.kind == "decoy"] == [FIRST_DECOY + i for i in range(5)]
    assert all(len(d.tokens) > 8 and max(d.activations) == 10 for d in decoys())


def test_recall_counts_failures_as_no_match_and_we_do_not() -> None:
    def fails_on_decoys_and_some(request: Request) -> Reply:
        if int(request.key("fake")[:8], 16) % 3 == 0:
            return Reply(error=ErrorKind.TIMEOUT, error_message="late")
        return perfect(request)

    judged, _ = judge("neuronpedia-recall", fails_on_decoys_and_some, record())
    failed = [j for j in judged.judgements if j.status == "error"]
    lost = sum(bool(j.label) for j in failed)
    assert 0 < lost < 20
    assert judged.score["value"] == 1.0
    assert judged.score["peer_value"] == pytest.approx((30 - lost) / 30, abs=1e-6)
    assert {f.name for f in fields(failed[0])} >= {"example", "kind"}

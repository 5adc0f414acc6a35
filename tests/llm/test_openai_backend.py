"""The openai backend against a real HTTP server that misbehaves in every way servers do."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import Any

import pytest

from autointerp.errors import ModelUnavailableError, UserError
from autointerp.llm.openai_backend import OpenAIBackend
from autointerp.llm.openai_errors import retry_after
from autointerp.llm.options import OpenAIOptions
from autointerp.llm.types import ErrorKind, Message, Reply, Request
from tests.llm.server import Answer, Handle, Served, chat, failure, serve

KEY = "sk-very-secret"
CARRIED = {"transport": "http"}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(autouse=True, params=["http", "openai"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs over both carriers of requests."""
    monkeypatch.setitem(CARRIED, "transport", request.param)
    return str(request.param)


def user(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), **more)


def options(url: str, **more: Any) -> OpenAIOptions:
    fast = {"max_retry_wait_seconds": 0.02, "max_retries": 3, "timeout_seconds": 5.0}
    return OpenAIOptions.model_validate({"model": "m", "base_url": url, **CARRIED, **fast, **more})


def ask(url: str, requests: Sequence[Request], **more: Any) -> list[Reply]:
    backend = OpenAIBackend(options(url, **more))
    replies: dict[int, Reply] = {}
    try:
        backend.complete(requests, replies.__setitem__)
    finally:
        backend.close()
    return [replies[i] for i in range(len(requests))]


def ask_one(handle: Handle, request: Request, **more: Any) -> tuple[Reply, Served]:
    with serve(handle) as served:
        return ask(served.url, [request], **more)[0], served


def flaky(*first: Answer) -> Handle:
    """Answers that come first, then good ones."""
    return lambda path, body, number: first[number] if number < len(first) else chat("fine")


def test_a_chat_reply_and_what_is_sent() -> None:
    request = user("hi", max_tokens=7, temperature=0.5, top_p=0.9, stop=("x",), seed=3)
    reply, served = ask_one(
        lambda *_: chat("hello"),
        request,
        price_prompt_usd_per_million=1.0,
        price_completion_usd_per_million=2.0,
        extra_body={"top_k": 5},
        omit=["seed"],
    )
    assert reply.text == "hello"
    assert reply.finish_reason == "stop"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (10, 4)
    assert reply.usage.cost_usd == pytest.approx(18e-6)
    path, body = served.calls[0]
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["x"],
        "top_k": 5,
    }
    assert served.headers[0]["authorization"] == f"Bearer {KEY}"


def test_an_unknown_price_is_no_cost() -> None:
    reply, _ = ask_one(lambda *_: chat("hello"), user("hi"))
    assert reply.usage.cost_usd is None


@pytest.mark.parametrize(
    "first",
    [
        Answer(drop=True),
        Answer(status=500, body={"error": "oops"}),
        Answer(status=503, raw=b"<html>busy</html>", headers={"Content-Type": "text/html"}),
        Answer(raw=b'{"choices": [{"mess'),
        Answer(body={"choices": []}),
        Answer(body=["what"]),
        Answer(body={"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}),
        failure(429, "slow down"),
        failure(408, "too slow"),
        failure(409, "conflict"),
        Answer(delay_seconds=1.0, body={}),
        Answer(raw=b"x", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_passing_troubles_are_tried_again(first: Answer) -> None:
    reply, served = ask_one(flaky(first, first), user("hi"), timeout_seconds=0.3)
    assert reply.text == "fine"
    assert len(served.calls) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "n_calls"),
    [
        (Answer(drop=True), ErrorKind.CONNECTION, 3),
        (failure(500, "oops"), ErrorKind.SERVER, 3),
        (failure(429, "slow down"), ErrorKind.RATE_LIMIT, 3),
        (Answer(delay_seconds=1.0, body={}), ErrorKind.TIMEOUT, 3),
        (Answer(raw=b'{"choices": [{"mess'), ErrorKind.MALFORMED, 3),
        (failure(400, "temperature must be positive"), ErrorKind.BAD_REQUEST, 1),
        (failure(422, "bad"), ErrorKind.BAD_REQUEST, 1),
        (failure(413, "large"), ErrorKind.TOO_LONG, 1),
        (failure(400, "This model's maximum context length is 10 tokens"), ErrorKind.TOO_LONG, 1),
        (failure(400, "no", code="context_length_exceeded"), ErrorKind.TOO_LONG, 1),
        (failure(400, "no", code="content_filter"), ErrorKind.CONTENT_FILTER, 1),
        (failure(403, "the input was flagged"), ErrorKind.CONTENT_FILTER, 1),
        (chat("", finish_reason="content_filter"), ErrorKind.CONTENT_FILTER, 1),
    ],
)
def test_lasting_troubles_are_error_rows(answer: Answer, kind: ErrorKind, n_calls: int) -> None:
    reply, served = ask_one(lambda *_: answer, user("hi"), max_retries=2, timeout_seconds=0.5)
    assert reply.error is kind
    assert reply.error_message
    assert reply.text is None
    assert len(served.calls) == n_calls


def test_retry_after_is_honoured() -> None:
    begun = time.monotonic()
    reply, _ = ask_one(flaky(failure(429, "wait", Retry_After="0.5")), user("hi"))
    assert reply.text == "fine"
    assert time.monotonic() - begun >= 0.5
    assert retry_after({"retry-after-ms": "250"}) == 0.25
    assert retry_after({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_a_storm_of_errors_passes() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        return failure(500, "storm") if number < 40 else chat(body["messages"][0]["content"])

    with serve(handle) as served:
        replies = ask(served.url, [user(str(i)) for i in range(60)], max_concurrency=8, max_retries=12)
    assert [r.text for r in replies] == [str(i) for i in range(60)]


def test_concurrency_is_bounded_and_replies_come_as_they_are_done() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        text = body["messages"][0]["content"]
        answer = chat(text)
        answer.delay_seconds = 0.8 if text == "0" else 0.0
        return answer

    order: list[int] = []
    with serve(handle) as served:
        backend = OpenAIBackend(options(served.url, max_concurrency=4))
        for _ in range(2):  # connections and the loop live from call to call
            backend.complete([user(str(i)) for i in range(30)], lambda index, _: order.append(index))
        backend.close()
        backend.close()
    assert sorted(order) == sorted([*range(30), *range(30)])
    assert order.index(0) > 5
    assert served.most_at_once <= 4


def test_a_refused_key_ends_the_call_and_is_not_shown() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        return failure(401, f"Incorrect API key provided: {KEY}", code="invalid_api_key")

    with serve(handle) as served:
        backend = OpenAIBackend(options(served.url))
        with pytest.raises(ModelUnavailableError, match="OPENAI_API_KEY is not accepted") as caught:
            backend.complete([user(str(i)) for i in range(50)], lambda *_: None)
        assert KEY not in str(caught.value) + repr(backend) + str(vars(backend.options))
        backend.close()
    assert len(served.calls) <= 32


def test_the_key_is_cut_out_of_error_rows() -> None:
    reply, _ = ask_one(lambda *_: failure(400, f"bad header {KEY}"), user("hi"))
    assert "bad header ***" in (reply.error_message or "")


def test_an_unknown_model_names_those_there() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        if path == "/v1/models":
            return Answer(body={"data": [{"id": "llama-8b"}, {"id": "mm"}]})
        return failure(404, "The model `m` does not exist", code="model_not_found")

    with serve(handle) as served, pytest.raises(ModelUnavailableError, match=r"no such model.*mm"):
        ask(served.url, [user("hi")])


def test_spent_credit_ends_the_call_but_replies_stay() -> None:
    replies: dict[int, Reply] = {}

    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        return (
            chat("ok") if number < 5 else failure(429, "You exceeded your quota", code="insufficient_quota")
        )

    with serve(handle) as served:
        backend = OpenAIBackend(options(served.url, max_concurrency=1))
        with pytest.raises(ModelUnavailableError, match="out of credit"):
            backend.complete([user(str(i)) for i in range(20)], replies.__setitem__)
        backend.close()
    assert sorted(replies) == [0, 1, 2, 3, 4]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_nobody_there() -> None:
    begun = time.monotonic()
    with pytest.raises(ModelUnavailableError, match="cannot connect"):
        ask(f"http://127.0.0.1:{free_port()}/v1", [user(str(i)) for i in range(100)])
    assert time.monotonic() - begun < 10


def test_a_server_that_goes_away_for_good_ends_the_call() -> None:
    def first(path: str, body: dict[str, Any], number: int) -> Answer:
        return chat("ok")

    with serve(first) as served:
        backend = OpenAIBackend(options(served.url, max_concurrency=4, max_retries=1))
        backend.complete([user("0")], lambda *_: None)
    replies: list[Reply] = []
    with pytest.raises(ModelUnavailableError, match="cannot connect"):
        backend.complete([user(str(i)) for i in range(500)], lambda _, reply: replies.append(reply))
    backend.close()
    assert len(replies) < 100
    assert {r.error for r in replies} <= {ErrorKind.CONNECTION}


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="no API key: environment variable OPENAI_API_KEY is not set"):
        OpenAIBackend(options("https://api.example.com/v1"))
    OpenAIBackend(options("http://localhost:1/v1")).close()
    OpenAIBackend(options("http://[::1]:1/v1")).close()


def test_log_probabilities_of_generated_tokens() -> None:
    top = [
        {"token": " Yes", "logprob": -0.1, "bytes": None},
        {"token": " No", "logprob": -2.5, "bytes": None},
    ]
    content = [{"token": " Yes", "logprob": -0.1, "bytes": None, "top_logprobs": top}]
    reply, served = ask_one(
        lambda *_: chat(" Yes", logprobs={"content": content}), user("?", top_logprobs=5, max_tokens=1)
    )
    assert served.calls[0][1]["logprobs"] is True
    assert served.calls[0][1]["top_logprobs"] == 5
    assert reply.tokens[0].top == {" Yes": -0.1, " No": -2.5}


def test_json_schema_is_sent_strict() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    reply, served = ask_one(lambda *_: chat('{"a": 1}'), user("?", json_schema=schema))
    assert served.calls[0][1]["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "reply", "schema": schema, "strict": True},
    }
    assert reply.text == '{"a": 1}'


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>hm\n</think>\n\nYes", "Yes"),
        ("reasoned</think>Yes", "Yes"),
        ("<think>never done", ""),
        ("a <think>b</think> c", "a <think>b</think> c"),
        ("Yes", "Yes"),
    ],
)
def test_reasoning_is_stripped(content: str, text: str) -> None:
    reply, _ = ask_one(lambda *_: chat(content), user("?"))
    assert reply.text == text


def test_an_assistant_beginning_is_continued() -> None:
    request = Request(
        messages=(Message(role="user", content="?"), Message(role="assistant", content="It is"))
    )
    _, served = ask_one(lambda *_: chat(" so"), request)
    assert served.calls[0][1]["continue_final_message"] is True
    assert served.calls[0][1]["add_generation_prompt"] is False


def test_a_repeated_beginning_is_cut() -> None:
    request = Request(
        messages=(Message(role="user", content="?"), Message(role="assistant", content="It is"))
    )
    reply, _ = ask_one(lambda *_: chat("It is so"), request)
    assert reply.text == " so"


def test_a_server_that_does_not_echo_is_told_once() -> None:
    content = [{"token": " that", "logprob": -0.3, "bytes": None, "top_logprobs": []}]
    choice = {"index": 0, "text": " that", "finish_reason": "length", "logprobs": {"content": content}}
    reply, served = ask_one(
        lambda *_: Answer(body={"choices": [choice]}), Request(prompt="a", continuation=" b"), api="both"
    )
    assert reply.error is ErrorKind.BAD_REQUEST
    assert "does not echo" in (reply.error_message or "")
    assert len(served.calls) == 1


def echoing(accepts_zero: bool, bos: bool = False, offsets: bool = True) -> Handle:
    """A completions server with one token per four characters, that knows its own log-probabilities."""

    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        assert path == "/v1/completions"
        if body["max_tokens"] == 0 and not accepts_zero:
            return failure(400, "max_tokens must be at least 1")
        text = body["prompt"] + "!!!" * body["max_tokens"]
        tokens = [body["prompt"][i : i + 4] for i in range(0, len(body["prompt"]), 4)]
        tokens = ["<s>"] * bos + tokens + ["!!!"] * body["max_tokens"]
        values = [None, *(-float(i) for i in range(1, len(tokens)))]
        logprobs = {
            "tokens": tokens,
            "token_logprobs": values,
            "top_logprobs": [
                None,
                *({t: v, "other": -9.0} for t, v in zip(tokens[1:], values[1:], strict=True)),
            ],
            "text_offset": [sum(map(len, tokens[:i])) for i in range(len(tokens))] if offsets else None,
        }
        usage = {"prompt_tokens": len(tokens) - body["max_tokens"], "completion_tokens": body["max_tokens"]}
        choice = {"index": 0, "text": text, "logprobs": logprobs, "finish_reason": "length"}
        return Answer(body={"model": "m", "choices": [choice], "usage": usage})

    return handle


@pytest.mark.parametrize("accepts_zero", [True, False])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("offsets", [True, False])
def test_likelihood_through_echo(accepts_zero: bool, bos: bool, offsets: bool) -> None:
    requests = [
        Request(prompt="abcdefgh", continuation=" animal"),
        Request(prompt="abcd", continuation=" an!!!"),
    ]
    with serve(echoing(accepts_zero, bos, offsets)) as served:
        first, second = ask(served.url, requests, api="completions", max_concurrency=1)
    assert [t.text for t in first.tokens] == [" ani", "mal"]
    assert first.logprob == -2 - 3 - 2 * bos
    assert [t.text for t in second.tokens] == [" an!", "!!"]
    assert first.text is None
    assert len(served.calls) == (2 if accepts_zero else 3)


def test_a_continuation_inside_a_token_is_an_error() -> None:
    reply, _ = ask_one(
        echoing(True), Request(prompt="abc", continuation=" animal"), api="completions", max_retries=0
    )
    assert reply.error is ErrorKind.MALFORMED


def test_prompt_log_probabilities_through_echo() -> None:
    reply, served = ask_one(echoing(False), Request(prompt="abcdefgh", prompt_top_logprobs=3), api="both")
    assert served.calls[-1][1]["logprobs"] == 3
    assert [(t.text, t.logprob) for t in reply.tokens] == [("abcd", None), ("efgh", -1.0)]
    assert reply.tokens[1].top == {"efgh": -1.0, "other": -9.0}


def test_a_request_for_another_endpoint_is_an_error_row() -> None:
    raw, messages = Request(prompt="x"), user("x")
    with serve(lambda *_: chat("ok")) as served:
        assert ask(served.url, [raw], api="chat")[0].error is ErrorKind.BAD_REQUEST
        assert ask(served.url, [messages], api="completions")[0].error is ErrorKind.BAD_REQUEST
        assert ask(served.url, [messages], api="both")[0].text == "ok"
    assert len(served.calls) == 1


def test_identity_is_of_the_model_not_of_the_place() -> None:
    def identity(**more: Any) -> str:
        backend = OpenAIBackend(options("http://127.0.0.1:1/v1", **more))
        backend.close()
        return backend.identity

    assert identity() == identity(base_url="http://localhost:2/v1", max_concurrency=2)
    assert (
        len({identity(), identity(revision="q4"), identity(extra_body={"top_k": 1}), identity(api="both")})
        == 4
    )


def test_a_limit_is_cut_on_429_and_work_goes_on() -> None:
    def handle(path: str, body: dict[str, Any], number: int) -> Answer:
        return failure(429, "slow", Retry_After="0.05") if number < 8 else chat("ok")

    with serve(handle) as served:
        replies = ask(served.url, [user(str(i)) for i in range(40)], max_concurrency=8, max_retries=9)
    assert all(r.text == "ok" for r in replies)


def test_models_without_system_messages_get_them_in_the_first_one() -> None:
    system, asked = Message(role="system", content="Be brief."), Message(role="user", content="Why?")
    request = Request(messages=(system, asked))
    _, served = ask_one(lambda *_: chat("so"), request, system_role=False)
    assert served.calls[0][1]["messages"] == [{"role": "user", "content": "Be brief.\n\nWhy?"}]
    _, served = ask_one(lambda *_: chat("so"), request)
    assert [m["role"] for m in served.calls[0][1]["messages"]] == ["system", "user"]


def reasoned(content: str, apart: str | None = None, told: int | None = None) -> Answer:
    answer = chat(content)
    answer.body["usage"] = {"prompt_tokens": 10, "completion_tokens": 40}
    if apart is not None:
        answer.body["choices"][0]["message"]["reasoning_content"] = apart
    if told is not None:
        answer.body["usage"]["completion_tokens_details"] = {"reasoning_tokens": told}
    return answer


@pytest.mark.parametrize(
    ("answer", "n"),
    [
        (reasoned("Yes"), None),
        (reasoned("Yes", told=0), None),
        (reasoned("Yes", told=33), 33),
        (reasoned("<think>" + "x" * 83 + "</think>Yes, yes!!"), 36),  # 90 of 100 characters
        (reasoned("Yes", apart="x" * 9), 30),  # 9 of 12
        (reasoned("Yes", apart="x" * 9, told=31), 31),
    ],
)
def test_reasoning_is_counted(answer: Answer, n: int | None) -> None:
    reply, _ = ask_one(lambda *_: answer, user("?"))
    assert reply.text is not None
    assert reply.text.startswith("Yes")
    assert reply.usage.reasoning_tokens == n
    assert reply.usage.completion_tokens == 40

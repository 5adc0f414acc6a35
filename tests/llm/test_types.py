"""Replies and request keys survive the round trip through JSON."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autointerp.llm.types import ErrorKind, Message, Reply, Request, TokenLogprob, Usage

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)
counts = st.none() | st.integers(0, 2**40)
tokens = st.builds(
    TokenLogprob,
    text=st.text(),
    logprob=numbers,
    top=st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
)
replies = st.builds(
    Reply,
    text=st.none() | st.text(),
    finish_reason=st.none() | st.text(),
    tokens=st.lists(tokens, max_size=4).map(tuple),
    usage=st.builds(
        Usage,
        prompt_tokens=counts,
        completion_tokens=counts,
        cached_tokens=counts,
        cost_usd=numbers,
        seconds=numbers,
    ),
    model=st.none() | st.text(),
    error=st.none() | st.sampled_from(ErrorKind),
    error_message=st.none() | st.text(),
)


@given(replies)
def test_a_reply_comes_back_from_json(reply: Reply) -> None:
    assert Reply.from_json(reply.to_json()) == reply


def test_a_key_follows_what_changes_the_answer() -> None:
    message = Message(role="user", content="x")
    requests = [
        Request(prompt="x"),
        Request(messages=(message,)),
        Request(prompt="x", continuation=""),
        Request(prompt="x", temperature=0.5),
        Request(prompt="x", stop=("a",)),
        Request(prompt="x", json_schema={"type": "object"}),
    ]
    assert len({request.key("m") for request in requests}) == len(requests)
    assert requests[0].key("m") != requests[0].key("n")
    assert requests[0].key("m") == Request(prompt="x").key("m")


def test_keys_are_those_of_stores_already_filled() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, None]}}}
    asked = Request(
        messages=(Message(role="user", content="é"),), json_schema=schema, stop=("a", "b"), seed=3
    )
    assert asked.key("openai:m#0") == "59a7393e9bb2aafa2c99e93e24cccd6d"
    assert Request(prompt="x", continuation=" b").key("local:0") == "7e7560363719d69d51903176c8140002"

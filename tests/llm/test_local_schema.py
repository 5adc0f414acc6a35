"""Replies of a random model held to a JSON schema can be read, whatever it would have said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import local_schema
from autointerp.llm.local import LocalBackend
from autointerp.llm.options import LocalOptions
from autointerp.llm.types import Capability, ErrorKind, Message, Request
from autointerp.scorers.answers import answer_schema
from tests.llm.test_local import ask

pytest.importorskip("llguidance")
CHAT = (Message(role="user", content="Which?"),)


@pytest.fixture(scope="module")
def held(tiny_model: Path) -> LocalBackend:
    return LocalBackend(LocalOptions(model=str(tiny_model), device="cpu", hold_to_schema=True))


@pytest.fixture(scope="module")
def free(tiny_model: Path) -> LocalBackend:
    return LocalBackend(LocalOptions(model=str(tiny_model), device="cpu"))


def request(schema: Mapping[str, Any] | None, max_tokens: int = 60, **options: Any) -> Request:
    return Request(messages=CHAT, max_tokens=max_tokens, json_schema=schema, **options)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("n", [1, 3, 5])
def test_the_scorers_answers_are_whole(held: LocalBackend, n: int, temperature: float) -> None:
    (reply,) = ask(held, [request(answer_schema(n), temperature=temperature)])
    value = json.loads(reply.text or "")
    assert list(value) == [str(i + 1) for i in range(n)]
    assert set(value.values()) <= {0, 1}
    assert reply.finish_reason == "stop"
    assert " " not in (reply.text or "").replace('": ', "").replace(", ", "")


def test_a_choice_is_one_of_them(held: LocalBackend) -> None:
    (reply,) = ask(held, [request({"enum": ["yes", "no"]})])
    assert json.loads(reply.text or "") in ("yes", "no")


def test_a_string_is_held_to_its_length(held: LocalBackend) -> None:
    schema = {
        "type": "object",
        "properties": {"explanation": {"type": "string", "maxLength": 8}},
        "required": ["explanation"],
        "additionalProperties": False,
    }
    (reply,) = ask(held, [request(schema, temperature=1.0)])
    assert len(json.loads(reply.text or "")["explanation"]) <= 8


def test_others_in_the_batch_are_left_alone(held: LocalBackend, free: LocalBackend) -> None:
    plain = [request(None), request(None, temperature=1.0, seed=3), request(None, top_logprobs=2)]
    mixed = ask(held, [plain[0], request(answer_schema(2)), *plain[1:], request(answer_schema(3))])
    alone = ask(free, plain)
    assert [mixed[i].text for i in (0, 2, 3)] == [reply.text for reply in alone]
    assert mixed[3].tokens == alone[2].tokens
    assert [len(json.loads(mixed[i].text or "")) for i in (1, 4)] == [2, 3]


def test_a_reply_too_long_for_its_schema_is_cut_off(held: LocalBackend) -> None:
    (reply,) = ask(held, [request(answer_schema(5), max_tokens=6)])
    assert reply.finish_reason == "length"
    assert (reply.text or "").startswith('{"1":')


def test_a_schema_that_cannot_be_used_is_an_error_of_its_request_alone(held: LocalBackend) -> None:
    broken, whole = ask(held, [request({"type": "frobnicate"}), request(answer_schema(1))])
    assert broken.error is ErrorKind.BAD_REQUEST
    assert (broken.error_message or "").startswith("the JSON schema cannot be used: ")
    assert whole.ok


def test_it_is_told_apart_in_the_store_and_told_of(held: LocalBackend, free: LocalBackend) -> None:
    assert held.identity != free.identity
    assert held.capabilities - free.capabilities == {Capability.JSON_SCHEMA}


def test_without_the_library_it_says_what_to_install(tiny_model: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(local_schema, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"autointerp\[structured\]"):
        LocalBackend(LocalOptions(model=str(tiny_model), device="cpu", hold_to_schema=True))

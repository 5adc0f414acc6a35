"""A real vLLM engine in this process: generation, schemas, and the same likelihoods as `local`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm.registry import open_backend, parse_model
from autointerp.llm.types import Backend, ErrorKind, Message, Reply, Request
from tests.vllm.conftest import ENGINE, MODEL

TOLERANCE_NATS = 2e-3
"""Largest difference of one token's log-probability between vLLM and `local`, both in float32."""
STORY = "The harbour lay still that morning and the boats had not gone out. " * 9
WORDS = ["cat", "dog", "house", "river", "blue", "green", "seven", "table", "violin", "France", "run", "walk"]
CONTINUATIONS = (" kind of animal.", " color", " country in Europe", " number, as far as one can tell")


def ask(backend: Backend, requests: Sequence[Request]) -> tuple[list[Reply], float]:
    replies: dict[int, Reply] = {}
    begun = time.perf_counter()
    backend.complete(requests, replies.__setitem__)
    return [replies[i] for i in range(len(requests))], time.perf_counter() - begun


@pytest.fixture(scope="module")
def engine(measured: list[str]) -> Iterator[Backend]:
    # One process: its start takes a fifth of the time. The test of `vllm serve` runs the usual three.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        begun = time.perf_counter()
        backend = open_backend(parse_model({"backend": "vllm", "model": MODEL, **ENGINE}))
        measured.append(f"engine in this process, float32: started in {time.perf_counter() - begun:.0f} s")
        yield backend
        backend.close()


@pytest.fixture(scope="module")
def local() -> Iterator[Backend]:
    backend = open_backend(parse_model({"backend": "local", "model": MODEL, "device": "cpu"}))
    yield backend
    backend.close()


def likelihood_requests() -> list[Request]:
    return [
        Request(prompt=f"{STORY}Word: {word}. It is a", continuation=continuation)
        for word in WORDS
        for continuation in CONTINUATIONS
    ]


def test_generation_with_log_probabilities(engine: Backend, local: Backend) -> None:
    requests = [
        Request(prompt="The capital of France is", max_tokens=8, top_logprobs=5),
        Request(prompt="One, two, three,", max_tokens=12, stop=(" six",), top_logprobs=1),
        Request(messages=(Message(role="user", content="What is the capital of Italy?"),), max_tokens=16),
        Request(
            messages=(
                Message(role="system", content="Answer with one word."),
                Message(role="user", content="What is the capital of Italy?"),
                Message(role="assistant", content="The capital of Italy is"),
            ),
            max_tokens=4,
        ),
    ]
    (ours, _), (theirs, _) = ask(engine, requests), ask(local, requests)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.text, a.finish_reason) == (b.text, b.finish_reason)
        assert [t.text for t in a.tokens] == [t.text for t in b.tokens]
        for mine, other in zip(a.tokens, b.tokens, strict=True):
            assert list(mine.top) == list(other.top)
            assert list(mine.top.values()) == pytest.approx(list(other.top.values()), abs=TOLERANCE_NATS)
    assert (ours[0].text or "").startswith(" Paris")
    assert len(ours[0].tokens[0].top) == 5
    assert ours[1].text == " four, five,"
    assert "Rome" in (ours[2].text or "") + (ours[3].text or "")


def test_sampling_depends_on_the_seed(engine: Backend) -> None:
    def request(seed: int) -> Request:
        return Request(prompt="Once upon a time", max_tokens=12, temperature=1.5, top_p=0.95, seed=seed)

    texts = [reply.text for reply in ask(engine, [request(s) for s in (1, 2, 1, 3)])[0]]
    assert texts[0] == texts[2]
    assert len(set(texts)) == 3


def test_output_held_to_a_schema(engine: Backend, measured: list[str]) -> None:
    schema = {
        "type": "object",
        "properties": {"1": {"type": "integer", "enum": [0, 1]}, "2": {"type": "integer", "enum": [0, 1]}},
        "required": ["1", "2"],
        "additionalProperties": False,
    }
    asked = (Message(role="user", content="Tell a joke about cats."),)
    held, free = ask(
        engine,
        [
            Request(messages=asked, json_schema=schema, max_tokens=40),
            Request(messages=asked, max_tokens=40),
        ],
    )[0]
    assert set(json.loads(held.text or "")) == {"1", "2"}
    assert set(json.loads(held.text or "").values()) <= {0, 1}
    with pytest.raises(ValueError):
        json.loads(free.text or "")
    measured.append(f"JSON schema: asked for a joke, answered {' '.join((held.text or '').split())}")


def test_likelihoods_are_those_of_local(engine: Backend, local: Backend, measured: list[str]) -> None:
    requests = likelihood_requests()
    (ours, seconds), (theirs, _) = ask(engine, requests), ask(local, requests)
    assert all(reply.ok for reply in ours)
    differences = []
    for a, b in zip(ours, theirs, strict=True):
        assert [t.text for t in a.tokens] == [t.text for t in b.tokens]
        for mine, other in zip(a.tokens, b.tokens, strict=True):
            assert mine.logprob is not None
            assert other.logprob is not None
            differences.append(abs(mine.logprob - other.logprob))
    assert max(differences) < TOLERANCE_NATS
    n_read = sum(reply.usage.prompt_tokens or 0 for reply in ours)
    n_cached = sum(reply.usage.cached_tokens or 0 for reply in ours)
    assert n_cached > 0.6 * n_read
    measured += [
        f"likelihoods: {len(requests)} continuations, {len(differences)} tokens, largest difference from local "
        f"{max(differences):.1e} nats (float32)",
        f"prefix cache: {n_cached:,} of {n_read:,} prompt tokens reused; {n_read / seconds:,.0f} tokens/s read, "
        f"{(n_read - n_cached) / seconds:,.0f} computed",
    ]


def test_likelihoods_are_exact_where_the_continuation_itself_is_cached(engine: Backend) -> None:
    prompt = f"{STORY}It is a"
    tail = " long way from here to the sea, and nobody who lives in the valley has seen it in all these years"
    requests = [
        Request(prompt=prompt, continuation=tail),
        Request(prompt=prompt, continuation=f"{tail} of war"),
    ]
    one, two = ask(engine, requests)[0]
    again = ask(engine, requests)[0]
    for reply in (two, *again):
        ours = [t.logprob for t in reply.tokens][: len(one.tokens)]
        assert ours == pytest.approx([t.logprob for t in one.tokens], abs=TOLERANCE_NATS)


def test_prompt_log_probabilities_are_those_of_local(engine: Backend, local: Backend) -> None:
    requests = [
        Request(prompt=p, prompt_top_logprobs=15) for p in ("The cat sat on the mat.", "Zürich, 東京 and")
    ]
    for a, b in zip(ask(engine, requests)[0], ask(local, requests)[0], strict=True):
        assert a.tokens[0].logprob is None
        assert [t.text for t in a.tokens] == [t.text for t in b.tokens]
        for mine, other in zip(a.tokens[1:], b.tokens[1:], strict=True):
            assert mine.logprob == pytest.approx(other.logprob, abs=TOLERANCE_NATS)
            assert max(mine.top.values()) == pytest.approx(max(other.top.values()), abs=TOLERANCE_NATS)


def test_generation_reuses_beginnings(engine: Backend, measured: list[str]) -> None:
    requests = [Request(prompt=f"{STORY}Once there was a {word} that", max_tokens=2) for word in WORDS]
    ask(engine, requests)
    replies, _ = ask(engine, requests)
    n_read = sum(reply.usage.prompt_tokens or 0 for reply in replies)
    n_cached = sum(reply.usage.cached_tokens or 0 for reply in replies)
    assert n_cached > 0.7 * n_read
    measured.append(
        f"generation, asked again: {n_cached:,} of {n_read:,} prompt tokens from the prefix cache"
    )


def test_requests_the_engine_refuses_are_errors_of_their_own(engine: Backend) -> None:
    requests = [
        Request(prompt="a cat " * 800),
        Request(prompt="x", temperature=-1.0),
        Request(prompt="x", json_schema={"type": "nonsense"}, max_tokens=4),
        Request(prompt="The capital of France is", max_tokens=1),
    ]
    replies, _ = ask(engine, requests)
    assert [r.error for r in replies[:2]] == [ErrorKind.TOO_LONG, ErrorKind.BAD_REQUEST]
    assert not replies[2].ok
    assert replies[3].text == " Paris"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"engine": {"no_such_argument": 1}}, "does not take these arguments: .*no_such_argument"),
        ({"max_model_len": 1_000_000}, "does not start: .*max_model_len"),
    ],
)
def test_an_engine_that_cannot_start_is_one_line(engine: Backend, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_backend(parse_model({"backend": "vllm", "model": MODEL, **ENGINE, **more}))
    assert "\n" not in str(caught.value)

"""The vllm backend against a stand-in for vLLM: the same numbers as `local`, whatever the prefix cache does."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autointerp.errors import ModelUnavailableError, UserError
from autointerp.llm import vllm_backend
from autointerp.llm.local import LocalBackend
from autointerp.llm.openai_wire import parse_reply
from autointerp.llm.options import LocalOptions, OpenAIOptions
from autointerp.llm.registry import open_backend, parse_model
from autointerp.llm.types import Backend, Capability, ErrorKind, Message, Reply, Request
from autointerp.llm.unopened import unopened
from tests.llm import vllm_stand_in as stand_in
from tests.llm.vllm_stand_in import Engine

FEW_SHOT = "dog is a kind of animal. red is a kind of color. "


def ask(backend: Backend, requests: Sequence[Request]) -> list[Reply]:
    replies: dict[int, Reply] = {}

    def on_reply(index: int, reply: Reply) -> None:
        assert index not in replies
        replies[index] = reply

    backend.complete(requests, on_reply)
    return [replies[i] for i in range(len(requests))]


def table(model: Path, **more: Any) -> dict[str, Any]:
    return {"backend": "vllm", "model": str(model), **more}


def opened(model: Path, **more: Any) -> Backend:
    return open_backend(parse_model(table(model, **more)))


@pytest.fixture(params=["first runner", "second runner"])
def engines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    return stand_in.install(monkeypatch, second_runner=request.param == "second runner")


@pytest.fixture(scope="module")
def local(tiny_model: Path) -> Iterator[LocalBackend]:
    torch.set_num_threads(1)
    backend = LocalBackend(LocalOptions(model=str(tiny_model), device="cpu"))
    yield backend
    backend.close()


def same(ours: Reply, theirs: Reply) -> None:
    assert ours.error == theirs.error
    assert [t.text for t in ours.tokens] == [t.text for t in theirs.tokens]
    for a, b in zip(ours.tokens, theirs.tokens, strict=True):
        assert a.logprob == (None if b.logprob is None else pytest.approx(b.logprob, abs=1e-4))
        assert sorted(a.top.values()) == pytest.approx(sorted(b.top.values()), abs=1e-4)
        assert list(a.top.values()) == sorted(a.top.values(), reverse=True)


def likelihood_requests() -> list[Request]:
    prompts = [FEW_SHOT + f"{word} is a kind of" for word in ("cat", "car", "oak", "blue")] + ["", "x"]
    continuations = [" animal", " ant", " tree", " a", "", " an odd thing", " an odd thing with a long tail"]
    return [Request(prompt=p, continuation=c) for p in prompts for c in continuations]


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_likelihoods_are_those_of_local(
    tiny_model: Path, local: LocalBackend, engines: list[Engine], prefix_cache: bool
) -> None:
    requests = likelihood_requests()
    replies = ask(opened(tiny_model, prefix_cache=prefix_cache), requests)
    for ours, theirs in zip(replies, ask(local, requests), strict=True):
        same(ours, theirs)
        assert ours.usage.prompt_tokens == theirs.usage.prompt_tokens
        assert ours.text is None
    n_cached = sum(reply.usage.cached_tokens or 0 for reply in replies)
    n_read = sum(reply.usage.prompt_tokens or 0 for reply in replies)
    assert n_cached > 0.5 * n_read if prefix_cache else n_cached == 0, n_cached / n_read


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.text("ab", max_size=20), st.text("ab", max_size=20)), min_size=1, max_size=8))
def test_likelihoods_whatever_is_cached(
    tiny_model: Path, local: LocalBackend, engines: list[Engine], pairs: list[tuple[str, str]]
) -> None:
    requests = [Request(prompt=p, continuation=c) for p, c in pairs]
    if not engines:
        opened(tiny_model)
    backend = opened(tiny_model)
    for _ in range(2):  # the second time, all of it is in the cache
        for ours, theirs in zip(ask(backend, requests), ask(local, requests), strict=True):
            same(ours, theirs)


def test_prompt_log_probabilities_are_those_of_local(
    tiny_model: Path, local: LocalBackend, engines: list[Engine]
) -> None:
    prompts = [FEW_SHOT + "cat", FEW_SHOT + "cats", "z", "é", FEW_SHOT + "cat"]
    requests = [
        Request(prompt=p, prompt_top_logprobs=k) for p, k in zip(prompts, (3, 5, 1, 2, 3), strict=True)
    ]
    for ours, theirs in zip(ask(opened(tiny_model), requests), ask(local, requests), strict=True):
        same(ours, theirs)
        assert ours.tokens[0].logprob is None


def test_generation_is_that_of_local(tiny_model: Path, local: LocalBackend, engines: list[Engine]) -> None:
    user = Message(role="user", content="hi")
    begun = Message(role="assistant", content="Well")
    (whole,) = ask(local, [Request(prompt="cat", max_tokens=30)])
    assert whole.text is not None
    requests = [
        *(
            Request(prompt=FEW_SHOT + w, max_tokens=9, top_logprobs=3)
            for w in ("cat", "a big car", "oak", "")
        ),
        Request(messages=(Message(role="system", content="be kind"), user), max_tokens=8),
        Request(messages=(user, begun), max_tokens=8),
        Request(prompt="cat", max_tokens=30, stop=("never", whole.text[5:7]), top_logprobs=2),
        Request(prompt="x" * 250, max_tokens=100),
    ]
    for ours, theirs in zip(ask(opened(tiny_model), requests), ask(local, requests), strict=True):
        same(ours, theirs)
        assert ours.text == theirs.text
        assert ours.finish_reason == theirs.finish_reason


def test_requests_are_given_in_the_order_of_their_tokens_and_not_all_at_once(
    tiny_model: Path, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_backend, "_ORDERED_AT_ONCE", 12)
    monkeypatch.setattr(vllm_backend, "_RUNNING_AT_ONCE", 5)
    prompts = [f"{letter}{word}" for word in ("one", "two", "six") for letter in "abcdefgh"]
    replies = ask(opened(tiny_model), [Request(prompt=p, max_tokens=1) for p in prompts])
    assert all(reply.ok for reply in replies)
    (engine,) = engines
    given_ids = [ids for ids, _ in engine.added]
    assert given_ids[:12] == sorted(given_ids[:12])
    assert given_ids[12:] == sorted(given_ids[12:])
    assert given_ids != sorted(given_ids)
    assert engine.most_waiting <= 5


def test_what_is_sent(tiny_model: Path, engines: list[Engine]) -> None:
    backend = opened(tiny_model, kv_cache_gib=0.5, max_model_len=128, engine={"swap_space": 1})
    schema = {"type": "object"}
    requests = [
        Request(prompt="a", max_tokens=3, temperature=0.5, top_p=0.9, seed=7),
        Request(prompt="b", max_tokens=3, temperature=0.5),
        Request(prompt="c", json_schema=schema),
        Request(prompt="d", continuation=" e"),
        Request(prompt="eel", prompt_top_logprobs=4),
    ]
    ask(backend, requests)
    (engine,) = engines
    arguments = engine.arguments
    assert arguments["kv_cache_memory_bytes"] == 2**29
    assert (arguments["max_model_len"], arguments["swap_space"]) == (128, 1)
    assert "gpu_memory_utilization" not in arguments
    sampled, unseeded, held, read, prompt = [params for _, params in sorted(engine.added, key=lambda a: a[0])]
    assert (sampled.seed, sampled.top_p, sampled.temperature) == (7, 0.9, 0.5)
    assert unseeded.seed == int(requests[1].key("")[:15], 16)
    assert held.structured_outputs.json == schema
    assert held.max_tokens == 127
    assert (read.prompt_logprobs, read.skip_reading_prefix_cache) == (0, False)
    assert (prompt.prompt_logprobs, prompt.skip_reading_prefix_cache) == (4, True)
    backend.close()
    assert engine.closed


def test_a_request_the_engine_refuses_is_an_error_of_its_own(tiny_model: Path, engines: list[Engine]) -> None:
    long = "x" * 300
    requests = [
        Request(prompt="a", temperature=-1.0),
        Request(prompt=long),
        Request(prompt=long, continuation=" y"),
        Request(prompt="x" * 256),
        Request(prompt="b", max_tokens=2),
    ]
    replies = ask(opened(tiny_model), requests)
    assert [r.error for r in replies] == [ErrorKind.BAD_REQUEST, *[ErrorKind.TOO_LONG] * 3, None]
    assert "non-negative" in (replies[0].error_message or "")
    assert "300 tokens where the engine takes 255" in (replies[1].error_message or "")


def test_an_engine_that_dies_ends_the_run_and_what_it_gave_stays(
    tiny_model: Path, engines: list[Engine]
) -> None:
    backend = opened(tiny_model)
    engines[0].steps_before_death = 2
    replies: list[Reply] = []
    with pytest.raises(ModelUnavailableError, match=r"engine stopped \(EngineCore encountered an issue\.\)"):
        backend.complete(
            [Request(prompt=f"{i}", max_tokens=1) for i in range(10)], lambda _, reply: replies.append(reply)
        )
    assert len(replies) == 6
    assert all(reply.ok for reply in replies)


def test_an_engine_that_gives_up_on_one_request(tiny_model: Path, engines: list[Engine]) -> None:
    backend = opened(tiny_model)
    finish = engines[0]._finish

    def failing(name: str, ids: list[int], params: Any) -> Any:
        output = finish(name, ids, params)
        if len(ids) == 2:
            output.outputs[0].finish_reason = "error"
        return output

    engines[0]._finish = failing  # type: ignore[method-assign]
    replies = ask(backend, [Request(prompt=p, max_tokens=1) for p in ("a", "bb", "c")])
    assert [r.error for r in replies] == [None, ErrorKind.SERVER, None]
    assert replies[1].text is None


def test_what_a_model_thinks_is_no_part_of_its_reply_and_counted(
    tiny_model: Path, engines: list[Engine]
) -> None:
    backend = opened(tiny_model)
    finish = engines[0]._finish

    def thinking(name: str, ids: list[int], params: Any) -> Any:
        output = finish(name, ids, params)
        output.outputs[0].text = "<think>hm, a cat</think>\n\nYes"
        return output

    engines[0]._finish = thinking  # type: ignore[method-assign]
    (reply,) = ask(backend, [Request(messages=(Message(role="user", content="hi"),), max_tokens=3)])
    assert reply.text == "Yes"
    assert reply.usage.reasoning_tokens == len("<think>hm, a cat</think>\n\n")


def test_log_probabilities_that_are_not_those_asked_are_no_answer(
    tiny_model: Path, engines: list[Engine]
) -> None:
    backend = opened(tiny_model)
    engines[0]._prompt_rows = lambda ids, params, n: [None]  # type: ignore[method-assign]
    (reply,) = ask(backend, [Request(prompt="a", continuation=" b")])
    assert reply.error is ErrorKind.MALFORMED
    assert len(engines[0].added) == 2  # the second time without the cache
    assert engines[0].added[1][1].skip_reading_prefix_cache is True


def test_an_interrupted_call_leaves_nothing_running(tiny_model: Path, engines: list[Engine]) -> None:
    backend = opened(tiny_model)

    def interrupt(index: int, reply: Reply) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backend.complete([Request(prompt=f"{i}", max_tokens=1) for i in range(9)], interrupt)
    assert not engines[0].waiting
    assert len(ask(backend, [Request(prompt="b", max_tokens=1)])) == 1


def test_an_engine_that_does_not_start_is_one_line(tiny_model: Path, engines: list[Engine]) -> None:
    with pytest.raises(ModelUnavailableError) as caught:
        opened(tiny_model, tensor_parallel_size=2)
    assert "does not start: Engine core initialization failed" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelUnavailableError, match="does not start: Input should be less than or equal"):
        opened(tiny_model, max_model_len=2_000_000)
    with pytest.raises(UserError, match=r"does not take these arguments.*'no_such'"):
        opened(tiny_model, engine={"no_such": 1})
    with pytest.raises(UserError, match="no such file or folder"):
        opened(tiny_model / "missing.gguf")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"engine": {"max_model_len": 64}}, "max_model_len: an option of its own"),
        ({"engine": {"data_parallel_size": 2}}, "data_parallel_size: not in one process"),
        ({"gpu_memory_utilization": 1.5}, "models.judge.gpu_memory_utilization"),
        ({"tensor_parallel": 2}, "models.judge.tensor_parallel: unknown key.*'tensor_parallel_size'"),
    ],
)
def test_mistakes_in_the_options_are_told(tiny_model: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_model(table(tiny_model, **more))


def test_without_vllm_the_package_is_named(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match="needs the package vllm: pip install vllm"):
        opened(tiny_model)


def test_identity_follows_what_changes_answers(
    tiny_model: Path, engines: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(**changes: Any) -> str:
        options = parse_model(table(tiny_model, **changes))
        identity = open_backend(options).identity
        assert unopened(options).identity == identity
        return identity

    usual = identity()
    assert usual == identity(kv_cache_gib=1.0, block_size=32, enforce_eager=True, prefix_cache=False)
    assert (
        len(
            {
                usual,
                identity(dtype="bfloat16"),
                identity(max_model_len=64),
                identity(engine={"swap_space": 1}),
            }
        )
        == 4
    )
    assert usual != LocalBackend(LocalOptions(model=str(tiny_model), device="cpu")).identity


def test_a_server_that_counts_a_token_it_does_not_echo() -> None:
    """`vllm serve` generates a token also where `max_tokens` is 0, counts it, and leaves it out."""
    prompt, continuation = "It is a", " kind of animal."
    pieces = ["It", " is", " a", " kind", " of", " animal", "."]
    values = [None, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0]
    logprobs = {"tokens": pieces, "token_logprobs": values, "top_logprobs": [None, *[{"x": -9.0}] * 6]}
    choice = {"text": prompt + continuation, "logprobs": logprobs, "finish_reason": "length"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 1}}
    options = OpenAIOptions(model="m", api="both")
    reply = parse_reply(Request(prompt=prompt, continuation=continuation), body, options, 0.1, 0)
    assert [t.text for t in reply.tokens] == pieces[3:]
    assert reply.logprob == -18.0
    reply = parse_reply(Request(prompt=prompt + continuation, prompt_top_logprobs=1), body, options, 0.1, 0)
    assert [t.text for t in reply.tokens] == pieces


def test_it_can_do_everything(tiny_model: Path) -> None:
    assert parse_model(table(tiny_model)).capabilities() == frozenset(Capability)

"""The local backend gives the same numbers as plain forward passes, however it groups its work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.errors import UserError
from autointerp.llm.local import LocalBackend
from autointerp.llm.local_tree import TokenTree, TreeRunner
from autointerp.llm.options import LocalOptions
from autointerp.llm.types import ErrorKind, Message, Reply, Request

FEW_SHOT = "dog is a kind of animal. red is a kind of color. "


def ask(backend: LocalBackend, requests: Sequence[Request]) -> list[Reply]:
    replies: dict[int, Reply] = {}

    def on_reply(index: int, reply: Reply) -> None:
        assert index not in replies
        replies[index] = reply

    backend.complete(requests, on_reply)
    return [replies[i] for i in range(len(requests))]


@pytest.fixture(scope="module")
def backend(tiny_model: Path) -> Iterator[LocalBackend]:
    torch.set_num_threads(1)
    opened = LocalBackend(LocalOptions(model=str(tiny_model), device="cpu", max_forward_tokens=24))
    assert opened.packs
    yield opened
    opened.close()


def plain_logprobs(backend: LocalBackend, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.log_softmax(backend.model(torch.tensor([ids])).logits[0], dim=-1)


def likelihood_requests() -> list[Request]:
    prompts = [FEW_SHOT + f"{word} is a kind of" for word in ("cat", "car", "oak", "blue")] + ["", "x"]
    continuations = [" animal", " ant", " tree", " a", "", " an odd thing"]
    return [Request(prompt=p, continuation=c) for p in prompts for c in continuations]


@pytest.mark.parametrize("prefix_cache", [True, False])
@pytest.mark.parametrize("max_forward_tokens", [16, 50, 1000])
def test_likelihood_equals_a_plain_forward_pass(
    tiny_model: Path, prefix_cache: bool, max_forward_tokens: int
) -> None:
    backend = LocalBackend(
        LocalOptions(
            model=str(tiny_model),
            device="cpu",
            prefix_cache=prefix_cache,
            max_forward_tokens=max_forward_tokens,
        )
    )
    requests = likelihood_requests()
    for request, reply in zip(requests, ask(backend, requests), strict=True):
        prompt = backend.texts.prompt_ids(request)
        assert request.continuation is not None
        continuation = backend.texts.continuation_ids(request.continuation)
        expected = plain_logprobs(backend, prompt + continuation)
        ours = [token.logprob for token in reply.tokens]
        theirs = [float(expected[len(prompt) - 1 + i, t]) for i, t in enumerate(continuation)]
        assert ours == pytest.approx(theirs, abs=1e-4)
        assert "".join(token.text for token in reply.tokens) == request.continuation
        assert reply.usage.prompt_tokens == len(prompt) + len(continuation)
        assert reply.text is None


def test_shared_beginnings_are_computed_once(backend: LocalBackend) -> None:
    replies = ask(backend, likelihood_requests())
    cached = sum(r.usage.cached_tokens or 0 for r in replies)
    read = sum(r.usage.prompt_tokens or 0 for r in replies)
    assert cached > 0.8 * read
    assert all(0 <= (r.usage.cached_tokens or 0) < (r.usage.prompt_tokens or 0) for r in replies)


def test_prompt_logprobs_equal_a_plain_forward_pass(backend: LocalBackend) -> None:
    prompts = [FEW_SHOT + "cat", FEW_SHOT + "cats", "z", "é"]
    requests = [Request(prompt=p, prompt_top_logprobs=k) for p, k in zip(prompts, (3, 5, 1, 2), strict=True)]
    for request, reply in zip(requests, ask(backend, requests), strict=True):
        ids = backend.texts.prompt_ids(request)
        expected = plain_logprobs(backend, ids)
        assert len(reply.tokens) == len(ids)
        assert reply.tokens[0].logprob is None
        assert reply.tokens[0].top == {}
        for at, token in enumerate(reply.tokens[1:]):
            assert token.logprob == pytest.approx(float(expected[at, ids[at + 1]]), abs=1e-4)
            best = expected[at].topk(request.prompt_top_logprobs).values
            assert max(token.top.values()) == pytest.approx(float(best[0]), abs=1e-4)
            assert len(token.top) <= request.prompt_top_logprobs


def test_greedy_generation_does_not_depend_on_the_batch(backend: LocalBackend) -> None:
    words = ["cat", "a big car", "oak tree in a wood", "", "blue"]
    requests = [Request(prompt=FEW_SHOT + w, max_tokens=4 + 3 * i) for i, w in enumerate(words)]
    together = ask(backend, requests)
    alone = [ask(backend, [request])[0] for request in requests]
    assert [r.text for r in together] == [r.text for r in alone]
    for request, reply in zip(requests, together, strict=True):
        ids = backend.texts.prompt_ids(request)
        expected: list[int] = []
        for _ in range(request.max_tokens):
            token = int(plain_logprobs(backend, ids + expected)[-1].argmax())
            if token == 1:
                break
            expected.append(token)
        assert reply.text == backend.texts.added_text(expected)
        assert reply.usage.completion_tokens == len(expected)
        assert reply.finish_reason == ("length" if len(expected) == request.max_tokens else "stop")


def test_small_batches_reuse_the_shared_prefix(tiny_model: Path, backend: LocalBackend) -> None:
    small = LocalBackend(LocalOptions(model=str(tiny_model), device="cpu", max_batch_tokens=150))
    requests = [Request(prompt=FEW_SHOT + w, max_tokens=5) for w in ("cat", "dog", "car", "a", "bee", "oak")]
    assert [r.text for r in ask(small, requests)] == [r.text for r in ask(backend, requests)]
    computed = sum((r.usage.prompt_tokens or 0) - (r.usage.cached_tokens or 0) for r in ask(small, requests))
    assert computed <= len(FEW_SHOT) + 20


def test_a_model_that_cannot_be_packed_gives_the_same_numbers(
    tiny_model: Path, backend: LocalBackend
) -> None:
    plain = LocalBackend(LocalOptions(model=str(tiny_model), device="cpu"))
    plain.packs = False
    requests = [*likelihood_requests(), *(Request(prompt=FEW_SHOT + w, max_tokens=6) for w in ("cat", "bee"))]
    for ours, theirs in zip(ask(plain, requests), ask(backend, requests), strict=True):
        assert ours.text == theirs.text
        assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)


def test_top_logprobs_of_generated_tokens(backend: LocalBackend) -> None:
    request = Request(prompt="cat", max_tokens=5, top_logprobs=4)
    (reply,) = ask(backend, [request])
    ids = backend.texts.prompt_ids(request)
    assert reply.text is not None
    assert len(reply.tokens) == reply.usage.completion_tokens
    expected = plain_logprobs(backend, ids)[-1]
    assert reply.tokens[0].logprob == pytest.approx(float(expected.max()), abs=1e-4)
    assert reply.tokens[0].logprob == max(reply.tokens[0].top.values())


def test_stop_strings_cut_the_reply(backend: LocalBackend) -> None:
    (whole,) = ask(backend, [Request(prompt="cat", max_tokens=30, top_logprobs=1)])
    assert whole.text is not None
    stop = whole.text[5:7]
    (cut,) = ask(backend, [Request(prompt="cat", max_tokens=30, stop=("never", stop), top_logprobs=1)])
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.usage.completion_tokens is not None
    assert cut.usage.completion_tokens < 30
    assert len(cut.tokens) <= cut.usage.completion_tokens


def test_sampling_depends_on_the_seed_alone(backend: LocalBackend) -> None:
    def request(seed: int | None) -> Request:
        return Request(prompt="cat", max_tokens=12, temperature=1.5, top_p=0.95, seed=seed)

    alone = ask(backend, [request(1)])[0].text
    together = [r.text for r in ask(backend, [request(0), request(1), request(2), request(1)])]
    assert together[1] == together[3] == alone
    assert len(set(together)) == 3
    assert ask(backend, [request(None)])[0].text == ask(backend, [request(None)])[0].text


def test_too_long_prompts_are_errors_and_the_others_are_answered(backend: LocalBackend) -> None:
    long = "x" * 300
    requests = [
        Request(prompt=long),
        Request(prompt="x" * 256),
        Request(prompt=long, continuation=" y"),
        Request(prompt=long, prompt_top_logprobs=2),
        Request(prompt="x" * 250, max_tokens=100),
        Request(prompt="x", continuation=" y"),
    ]
    replies = ask(backend, requests)
    assert [r.error for r in replies] == [ErrorKind.TOO_LONG] * 4 + [None] * 2
    assert "256" in (replies[0].error_message or "")
    assert (replies[4].usage.completion_tokens or 0) <= 6


def test_chat_messages_go_through_the_template(backend: LocalBackend) -> None:
    user = Message(role="user", content="hi")
    begun = Message(role="assistant", content="Well")
    asked = Request(messages=(Message(role="system", content="be kind"), user))
    decode = backend.texts.tokenizer.decode
    assert decode(backend.texts.prompt_ids(asked)) == "<system>be kind</s><user>hi</s><assistant>"
    continued = backend.texts.prompt_ids(Request(messages=(user, begun)))
    assert decode(continued) == "<user>hi</s><assistant>Well"
    raw = Request(prompt="<user>hi</s><assistant>", max_tokens=8)
    (reply, expected) = ask(backend, [Request(messages=(user,), max_tokens=8), raw])
    assert reply.text == expected.text


def test_a_model_without_chat_template_says_so(tiny_model: Path) -> None:
    backend = LocalBackend(LocalOptions(model=str(tiny_model), device="cpu"))
    backend.texts.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        ask(backend, [Request(messages=(Message(role="user", content="hi"),))])


def test_identity_follows_what_changes_answers(tiny_model: Path, backend: LocalBackend) -> None:
    def identity(**changes: object) -> str:
        return LocalBackend(
            LocalOptions.model_validate({"model": str(tiny_model), "device": "cpu", **changes})
        ).identity

    assert identity(max_batch_tokens=100, prefix_cache=False) == backend.identity
    assert identity(max_context=100) != backend.identity
    assert identity(dtype="bfloat16") != backend.identity


def test_out_of_memory_halves_the_work(backend: LocalBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = likelihood_requests()
    expected = [r.logprob for r in ask(backend, requests)]
    monkeypatch.setattr(backend, "max_forward_tokens", 200)
    forward = type(backend.model).forward

    def small(self: object, input_ids: torch.Tensor, **keywords: object) -> object:
        if input_ids.numel() > 40:
            raise torch.OutOfMemoryError
        return forward(self, input_ids=input_ids, **keywords)

    monkeypatch.setattr(type(backend.model), "forward", small)
    assert [r.logprob for r in ask(backend, requests)] == pytest.approx(expected, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_tree_holds_each_beginning_once(sequences: list[list[int]]) -> None:
    tree = TokenTree.build(sequences)
    beginnings = {tuple(s[: i + 1]) for s in sequences for i in range(len(s))}
    assert len(tree) == len(beginnings) == tree.n_new.sum()
    for sequence, path in zip(sequences, tree.paths, strict=True):
        assert tree.tokens[path].tolist() == sequence
        assert tree.depth[path].tolist() == list(range(len(sequence)))
        for node in range(len(tree)):
            ancestors = np.flatnonzero((np.arange(len(tree)) <= node) & (node <= tree.last))
            if node == path[-1]:
                assert ancestors.tolist() == path.tolist()


def test_prefill_from_known_keys_and_values(backend: LocalBackend) -> None:
    sequences = [[5, 6, 7, 8], [5, 6, 9, 10], [5, 6, 9, 11, 12]]
    runner = TreeRunner(backend.model, 2)
    tree = TokenTree.build(sequences)
    wanted = np.zeros(len(tree), bool)
    wanted[[path[-1] for path in tree.paths]] = True
    before, _ = runner.prefill(TokenTree.build([[5, 6]]), np.array([False, True]))
    copies = [(k.clone(), v.clone()) for k, v in before]
    nodes, logits = runner.prefill(tree, wanted, before)
    for (keys, values), (k, v) in zip(before, copies, strict=True):
        assert torch.equal(keys, k)
        assert torch.equal(values, v)
    assert nodes[0][0].shape[2] == len(tree)
    for sequence, path in zip(sequences, tree.paths, strict=True):
        expected = plain_logprobs(backend, sequence)[-1]
        assert torch.allclose(torch.log_softmax(logits[int(path[-1])], -1), expected, atol=1e-4)


def test_options_reach_replies_unchanged(backend: LocalBackend) -> None:
    request = Request(prompt="cat", max_tokens=3)
    (reply,) = ask(backend, [request])
    assert Reply.from_json(reply.to_json()) == reply
    assert dataclasses.asdict(request)["max_tokens"] == 3

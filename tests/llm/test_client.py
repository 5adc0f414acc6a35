"""Nothing is asked twice: equal requests of one call, and requests answered before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from autointerp.errors import ModelUnavailableError
from autointerp.llm.canned import CannedBackend
from autointerp.llm.client import StoredModel
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import ErrorKind, LanguageModel, OnReply, Reply, Request, Usage


def ask(texts: Sequence[str]) -> list[Request]:
    return [Request(prompt=text) for text in texts]


def upper(request: Request) -> Reply:
    assert request.prompt is not None
    return Reply(text=request.prompt.upper(), usage=Usage(prompt_tokens=2, completion_tokens=1, cost_usd=0.5))


def test_each_request_is_sent_once(tmp_path: Path) -> None:
    backend = CannedBackend(upper)
    with ReplyStore(tmp_path / "r") as store:
        model: LanguageModel = StoredModel(backend, store)
        assert [r.text for r in model.complete(ask("abab"))] == list("ABAB")
        assert backend.n_requests == 2
        assert [r.text for r in model.complete(ask("cba"))] == list("CBA")
        assert backend.n_requests == 3
        assert isinstance(model, StoredModel)
        stats = model.stats
        assert (stats.requests, stats.stored, stats.duplicates, stats.sent) == (7, 2, 2, 3)
        assert (stats.prompt_tokens, stats.completion_tokens) == (6, 3)
        assert (stats.cost_usd, stats.saved_usd) == (1.5, 1.0)
    with ReplyStore(tmp_path / "r") as store:
        again = StoredModel(backend, store)
        (reply,) = again.complete(ask("a"))
        assert reply == upper(Request(prompt="a"))
        assert backend.n_requests == 3
        assert again.stats.cost_usd is None


def test_parameters_and_model_make_other_requests(tmp_path: Path) -> None:
    backend = CannedBackend(upper)
    sampled = [Request(prompt="a", temperature=1.0, seed=seed) for seed in (0, 1, None, None)]
    with ReplyStore(tmp_path / "r") as store:
        StoredModel(backend, store).complete(sampled)
        assert backend.n_requests == 3
        StoredModel(CannedBackend(upper, "another"), store).complete(sampled)
        assert len(store) == 6


def test_errors_are_returned_but_asked_again(tmp_path: Path) -> None:
    answers = iter([Reply(error=ErrorKind.TIMEOUT), Reply(text="now")])
    with ReplyStore(tmp_path / "r") as store:
        model = StoredModel(CannedBackend(lambda _: next(answers)), store)
        assert model.complete(ask("a"))[0].error is ErrorKind.TIMEOUT
        assert model.complete(ask("a"))[0].text == "now"
        assert model.complete(ask("a"))[0].text == "now"
        assert model.stats.errors == {ErrorKind.TIMEOUT: 1}


def test_replies_given_before_a_breakdown_stay(tmp_path: Path) -> None:
    class Breaking(CannedBackend):
        def complete(self, requests: Sequence[Request], on_reply: OnReply) -> None:
            super().complete(requests[:2], on_reply)
            raise ModelUnavailableError("gone")

    with ReplyStore(tmp_path / "r") as store:
        with pytest.raises(ModelUnavailableError, match="gone"):
            StoredModel(Breaking(upper), store).complete(ask("abc"))
        assert len(store) == 2


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[int] = []
    with ReplyStore(tmp_path / "r") as store:
        model = StoredModel(CannedBackend(upper), store, lambda stats: seen.append(stats.stored + stats.sent))
        model.complete(ask("ab"))
        model.complete(ask("abc"))
        assert model.complete([]) == []
    assert seen == [1, 2, 4, 5]

"""Prices: options before the user's table before the shipped one; what is unknown stays unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autointerp.errors import UserError
from autointerp.llm import prices
from autointerp.llm.budget import Budget, BudgetReachedError, most_usd
from autointerp.llm.canned import CannedBackend
from autointerp.llm.client import StoredModel
from autointerp.llm.openai_wire import parse_reply
from autointerp.llm.options import CannedOptions, LocalOptions, OpenAIOptions
from autointerp.llm.prices import Price, price_of
from autointerp.llm.store import ReplyStore
from autointerp.llm.types import ErrorKind, Message, Reply, Request, Usage


@pytest.fixture(autouse=True)
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "prices.toml"
    path.write_text(
        '[[price]]\nmodels = ["mine-*"]\nprompt = 3\ncompletion = 15.0\ncached = 0.3\nas_of = "today"\n'
        '[[price]]\nmodels = ["gpt-4o-mini"]\nprompt = 1.0\ncompletion = 2.0\n'
    )
    monkeypatch.setenv(prices.PRICES_VARIABLE, str(path))
    return path


def openai(model: str, **more: Any) -> OpenAIOptions:
    return OpenAIOptions(model=model, **more)


def test_the_users_table_wins_over_the_shipped_one(table: Path) -> None:
    found = price_of(openai("gpt-4o-mini"))
    assert found is not None
    assert (found.prompt, found.completion, found.cached) == (1.0, 2.0, None)
    assert found.source == str(table)
    other = price_of(openai("mine-7b"))
    assert other is not None
    assert other.source == f"{table}, as of today"
    shipped = price_of(openai("gpt-4.1-nano"))
    assert shipped is not None
    assert shipped.source.startswith("the shipped table, as of 20")


def test_an_unknown_model_has_no_price() -> None:
    assert price_of(openai("gpt-4o-mini-audio-preview")) is None
    assert price_of(openai("Mine-7b")) is None, "case counts"
    assert price_of(openai("unheard-of", price_prompt_usd_per_million=1.0)) is None, "half a price is none"


def test_options_win_over_tables() -> None:
    both = price_of(openai("mine-7b", price_prompt_usd_per_million=7.0, price_completion_usd_per_million=9.0))
    assert both is not None
    assert (both.prompt, both.completion, both.cached) == (7.0, 9.0, None)
    half = price_of(openai("mine-7b", price_completion_usd_per_million=9.0))
    assert half is not None
    assert (half.prompt, half.completion, half.cached) == (3.0, 9.0, 0.3)


def test_what_runs_here_is_free() -> None:
    for options in (LocalOptions(model="gpt-4o-mini"), CannedOptions()):
        price = price_of(options)
        assert price is not None
        assert price.usd(1e6, 1e6) == 0.0


def test_arithmetic() -> None:
    price = Price(prompt=3.0, completion=15.0, cached=0.3, source="")
    assert price.usd(1_000_000, 0) == 3.0
    assert price.usd(0, 1_000_000) == 15.0
    assert price.usd(1000, 100, cached_tokens=400) == pytest.approx((600 * 3 + 400 * 0.3 + 100 * 15) / 1e6)
    assert Price(prompt=3.0, completion=15.0, source="").usd(1000, 0, 400) == pytest.approx(3e-3)
    assert price.of(Usage(prompt_tokens=10, completion_tokens=None)) is None
    assert price.of(Usage(prompt_tokens=10, completion_tokens=0)) == pytest.approx(30e-6)


def test_half_a_price_among_the_options_is_no_cost_of_a_reply() -> None:
    body = {
        "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 1000},
    }
    options = openai("m", price_prompt_usd_per_million=1.0)
    assert parse_reply(ask("hi"), body, options, 0.1).usage.cost_usd is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[[price]]\nmodels = ['x']\nprompt = -1\ncompletion = 1\n", "prompt"),
        ("[[price]]\nmodels = ['x']\nprompt = 1\n", "completion"),
        ("[[prices]]\nmodels = ['x']\n", "accepted: \\[\\[price\\]\\]"),
        ("what", "cannot be read"),
    ],
)
def test_a_wrong_table_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    monkeypatch.setenv(prices.PRICES_VARIABLE, str(path))
    with pytest.raises(UserError, match=expected):
        price_of(openai("gpt-4o"))


def test_a_missing_table_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(prices.PRICES_VARIABLE, str(tmp_path / "none.toml"))
    with pytest.raises(UserError, match="cannot be read"):
        price_of(openai("gpt-4o"))


def ask(text: str, **more: Any) -> Request:
    return Request(messages=(Message(role="user", content=text),), max_tokens=10, **more)


def paying(*, known: bool = True, error: ErrorKind | None = None) -> CannedBackend:
    """A server whose replies have 8 prompt tokens and 4 generated ones, and no cost of its own."""
    usage = Usage(prompt_tokens=8, completion_tokens=4) if known else Usage()
    return CannedBackend(lambda request: Reply(text=None if error else "fine", usage=usage, error=error))


PRICE = Price(prompt=1000.0, completion=10_000.0, source="")
COST = PRICE.usd(8, 4)
REQUESTS = [ask(f"question {i}") for i in range(20)]


def test_a_stored_model_prices_what_its_backend_does_not(tmp_path: Path) -> None:
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        model = StoredModel(paying(), store, price=PRICE)
        (reply,) = model.complete(REQUESTS[:1])
        assert reply.usage.cost_usd == model.stats.cost_usd == pytest.approx(COST)
        assert store.counts().cost_usd == pytest.approx(COST)
        (unknown,) = StoredModel(paying(known=False), store, price=PRICE).complete(REQUESTS[1:2])
        assert unknown.usage.cost_usd is None


def test_a_budget_is_kept_and_nothing_is_paid_twice(tmp_path: Path) -> None:
    backend = paying()
    most = most_usd(REQUESTS[0], PRICE)
    assert most > COST
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        limit = 10 * COST
        budget = Budget(limit)
        with pytest.raises(BudgetReachedError, match="--max-cost"):
            StoredModel(backend, store, price=PRICE, budget=budget).complete(REQUESTS)
        n = backend.n_requests
        assert budget.spent_usd == pytest.approx(n * COST)
        assert limit - most < budget.spent_usd <= limit, "as far as can be gone safely"
        assert store.counts().n_replies == n
        model = StoredModel(backend, store, price=PRICE, budget=Budget(100 * COST))
        assert all(reply.ok for reply in model.complete(REQUESTS))
        assert backend.n_requests == len(REQUESTS)


def test_a_budget_is_shared_by_the_models_of_a_run(tmp_path: Path) -> None:
    budget = Budget(most_usd(REQUESTS[0], PRICE) + 1.5 * COST)
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        StoredModel(paying(), store, price=PRICE, budget=budget).complete(REQUESTS[:1])
        StoredModel(paying(), store, price=PRICE, budget=budget).complete(REQUESTS[1:2])
        with pytest.raises(BudgetReachedError):
            StoredModel(paying(), store, price=PRICE, budget=budget).complete(REQUESTS[2:3])


def test_what_may_have_been_billed_counts_at_its_most(tmp_path: Path) -> None:
    most = most_usd(REQUESTS[0], PRICE)
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        for backend, expected in (
            (paying(known=False), most),
            (paying(known=False, error=ErrorKind.TIMEOUT), most),
            (paying(known=False, error=ErrorKind.BAD_REQUEST), 0.0),
        ):
            budget = Budget(1.0)
            StoredModel(backend, store, price=PRICE, budget=budget).complete([ask(f"{expected}{backend}")])
            assert budget.spent_usd == pytest.approx(expected, rel=0.5)


def test_stored_replies_and_free_models_pass_an_empty_budget(tmp_path: Path) -> None:
    free = Price(prompt=0.0, completion=0.0, source="")
    with ReplyStore(tmp_path / "replies.sqlite") as store:
        assert StoredModel(paying(), store, price=free, budget=Budget(0.0)).complete(REQUESTS)[0].ok
        assert StoredModel(paying(), store, price=PRICE, budget=Budget(0.0)).complete(REQUESTS)[0].ok

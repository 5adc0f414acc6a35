"""`autointerp plan` of what models are asked, `autointerp replies` and `--max-cost`, against what a real server then sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from autointerp import cli
from autointerp.analyze.plan_count import NO_WINDOWS
from autointerp.analyze.plan_shape import Given
from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig, load_config
from autointerp.engine.pipeline import run_stages
from autointerp.engine.plan import plan_run
from autointerp.errors import UserError
from autointerp.llm.budget import BudgetReachedError
from autointerp.llm.replies import StoredReplies
from autointerp.report.plan_view import plan_views
from tests.oracle import Oracle
from tests.planted import build


class Server(Oracle):
    """Explains each latent in words of its own, and counts four characters of a request as a token."""

    def reply(self, body: dict) -> dict:
        reply = super().reply(body)
        if "response_format" not in body:
            text = f"EXPLANATION: words and signs that stand in reports about case {abs(hash(str(body)))}"
            reply["choices"][0]["message"]["content"] = text
        n_prompt = sum(len(message["content"]) for message in body["messages"]) // 4
        n_reply = len(reply["choices"][0]["message"]["content"]) // 4
        reply["usage"] = {"prompt_tokens": n_prompt, "completion_tokens": n_reply}
        return reply


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted"))


@pytest.fixture(autouse=True)
def here(planted, monkeypatch):
    monkeypatch.setenv("PLANTED_MODEL", str(planted.parent / "model"))
    monkeypatch.setenv("AUTOINTERP_PRICES", str(planted.parent / "prices.toml"))
    (planted.parent / "prices.toml").write_text("")


def settings(url: str, model: str = "oracle", prices: bool = True) -> list[str]:
    told = f'backend="openai", model="{model}", base_url="{url}", max_concurrency=2, max_retries=2'
    if prices:
        told += ", price_prompt_usd_per_million=1000.0, price_completion_usd_per_million=2000.0"
    return [
        f"models.judge={{{told}}}",
        f"models.explainer={{{told}}}",
        'explain.explainers=["statistics", "default"]',
        'score.scorers=["detection", "fuzzing"]',
    ]


@pytest.fixture(scope="module")
def sampled(planted, tmp_path_factory):
    """A run whose stages `cache` and `sample` are finished."""
    import os

    os.environ["PLANTED_MODEL"] = str(planted.parent / "model")
    run = RunDirectory(tmp_path_factory.mktemp("sampled") / "run")
    run_stages(load_config(planted, settings("http://127.0.0.1:9/v1")), run, ["cache", "sample"])
    return run


CACHED = ("activations", "contexts", "latents", "vocabulary")


def size_of(run: RunDirectory, *datasets: str) -> int:
    return sum(path.stat().st_size for name in datasets for path in (run.root / name).rglob("*.parquet"))


def copied(run: RunDirectory, folder: Path) -> RunDirectory:
    shutil.copytree(run.root, folder / "run")
    return RunDirectory(folder / "run")


def configured(planted: Path, url: str, *more: str, **options) -> RunConfig:
    return load_config(planted, [*settings(url, **options), *more])


def contents(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_plan_counts_what_the_server_then_sees(planted, sampled, tmp_path):
    run = copied(sampled, tmp_path)
    with Server() as server:
        config = configured(planted, server.url)
        before = contents(run.root)
        plan = plan_run(
            config, run, sample_latents=100, latents=[1_000_000], given=Given(tokens_per_second=1000.0)
        )
        assert not server.asked
        assert contents(run.root) == before
        run_stages(config, run, ["explain", "score"])
        n_seen = sum(server.asked.values())
    assert plan.exact
    mine = plan.scopes[0]
    by_name = {amount.name: amount for amount in mine.steps}
    # 4 latents, label and control, 20 windows by 5; 6 latents that are alive are explained.
    assert by_name["score/detection/statistics"].requests == 4 * 2 * 4
    assert by_name["explain/default"].requests == 6
    assert by_name["explain/statistics"].requests == 0
    assert mine.total.requests == n_seen > 100
    assert mine.total.stored == 0
    with StoredReplies(run.root / "replies.sqlite") as stored:
        (held,) = stored.models()
        assert held.n_replies == n_seen
        assert mine.total.prompt_tokens == pytest.approx(held.prompt_tokens, rel=0.02)
        assert mine.total.cost_usd is not None
        assert mine.total.most_usd is not None
        assert held.cost_usd == pytest.approx(
            (held.prompt_tokens * 1000 + held.completion_tokens * 2000) / 1e6
        )
        assert mine.total.cost_usd == pytest.approx(held.cost_usd, rel=0.3), "replies of unknown length"
        assert mine.total.most_usd > held.cost_usd
    tokens = mine.total.prompt_tokens + mine.total.completion_tokens
    assert mine.total.hours == pytest.approx(tokens / 1000 / 3600)
    whole, million = plan.scopes[1:]
    assert whole.n_latents == 6
    assert by_name["cache"].note == by_name["sample"].note == "finished"
    assert by_name["cache"].bytes == size_of(run, *CACHED)
    assert by_name["sample"].bytes == size_of(run, "examples")
    assert {a.name: a for a in million.steps}["explain/default"].requests == 1_000_000
    assert million.total.cost_usd > 1e4 * mine.total.cost_usd

    again = plan_run(config, run, sample_latents=100)
    total = again.scopes[0].total
    assert total.requests == total.stored == n_seen
    assert (total.prompt_tokens, total.cost_usd, total.hours) == (0, 0.0, 0.0)
    assert again.scopes[1].total.cost_usd > 0, "the whole dictionary is planned as if nothing were stored"
    assert "stored replies" in again.models[0].counted


def test_a_sample_is_multiplied(planted, sampled, tmp_path):
    config = configured(planted, "http://127.0.0.1:9/v1")
    one = plan_run(config, sampled, sample_latents=2)
    all_ = plan_run(config, sampled, sample_latents=100)
    assert not one.exact
    assert one.scopes[0].total.requests == pytest.approx(all_.scopes[0].total.requests, rel=0.05)
    assert one.scopes[0].total.prompt_tokens == pytest.approx(all_.scopes[0].total.prompt_tokens, rel=0.1)


def test_an_unknown_price_is_an_unknown_cost(planted, sampled):
    config = configured(planted, "http://127.0.0.1:9/v1", prices=False)
    total = plan_run(config, sampled, sample_latents=1).scopes[0].total
    assert total.requests > 0
    assert total.cost_usd is None
    assert total.most_usd is None
    assert total.hours is None


def test_a_model_of_this_process_costs_nothing(planted, sampled):
    model = planted.parent / "model"
    config = load_config(
        planted,
        [
            f"models.judge={{backend='local', model='{model}', device='cpu'}}",
            "scorers.detection={readout='likelihood'}",
        ],
    )
    plan = plan_run(config, sampled, sample_latents=4)
    assert plan.scopes[0].total.requests > 0
    assert plan.scopes[0].total.cost_usd == 0.0
    assert plan.models[0].counted == "by the model's own tokenizer"


def test_scorers_of_every_kind_of_request_are_counted_exactly(planted, sampled, tmp_path):
    run = copied(sampled, tmp_path)
    names = ["detection", "likely", "prob", "surprisal", "simulation", "openai", "intruder"]
    overrides = [
        "models.judge={backend='canned'}",
        f"score.scorers={names}",
        "scorers.likely={scorer='detection', readout='likelihood'}",
        "scorers.prob={scorer='fuzzing', readout='logprob'}",
        "score.latents=3",
    ]
    config = load_config(planted, overrides)
    before = plan_run(config, run, sample_latents=100).scopes[0]
    run_stages(config, run, ["explain"])
    planned = plan_run(config, run, sample_latents=100).scopes[0]
    run_stages(config, run, ["score"])
    with StoredReplies(run.root / "replies.sqlite") as stored:
        (held,) = stored.models()
    assert planned.total.requests == held.n_replies
    # Which latent gets whose label as control is not known before: it decides which words are shared.
    assert before.total.requests == pytest.approx(held.n_replies, rel=0.1)
    assert planned.total.prompt_tokens == pytest.approx(held.prompt_tokens, rel=0.3), "words of another count"
    counts = {amount.name: amount.requests for amount in planned.steps}
    assert counts.pop("score/openai/statistics") == 0, "the same requests as those of `simulation`"
    assert [counts.pop(name) for name in ("cache", "sample", "explain/statistics")] == [0, 0, 0]
    assert all(counts.values())


def test_without_samples_prompts_are_not_counted(planted, tmp_path):
    config = configured(planted, "http://127.0.0.1:9/v1")
    told = plan_run(config, RunDirectory(tmp_path / "nothing"), given=Given(n_latents=7))
    assert not (tmp_path / "nothing").exists()
    steps = {amount.name: amount for amount in told.scopes[0].steps}
    assert steps["explain/default"].requests is None
    assert steps["explain/default"].n_latents == 7
    assert steps["explain/default"].note == NO_WINDOWS
    assert told.scopes[0].total.note.startswith("without 5 not counted")
    shown = "\n".join(view.note or "" for view in plan_views(told))
    assert "autointerp sample" in shown
    assert "--like" in shown


def test_samples_made_otherwise_are_refused(planted, sampled):
    config = configured(planted, "http://127.0.0.1:9/v1", "sample.n_test=9")
    with pytest.raises(UserError, match="'sample' was made with other settings"):
        plan_run(config, sampled)


def test_a_budget_stops_a_run_that_goes_on_without_paying_twice(planted, sampled, tmp_path):
    run = copied(sampled, tmp_path)
    with Server() as server:
        config = configured(planted, server.url)
        plan = plan_run(config, run, sample_latents=100)
        limit = plan.scopes[0].total.cost_usd / 2
        with pytest.raises(BudgetReachedError, match="--max-cost"):
            run_stages(config, run, ["explain", "score"], max_cost_usd=limit)
        n_paid = sum(server.asked.values())
        with StoredReplies(run.root / "replies.sqlite") as stored:
            (held,) = stored.models()
        assert held.n_replies == n_paid
        assert 0.5 * limit < held.cost_usd <= limit
        assert run.is_complete("explain/default")
        shards = list((run.root / "scores").rglob("*.parquet"))
        assert shards
        times = {path: path.stat().st_mtime_ns for path in shards}
        run_stages(config, run, ["explain", "score"], max_cost_usd=2 * limit)
        assert {path: path.stat().st_mtime_ns for path in shards} == times
        assert set(server.asked.values()) == {1}
        assert sum(server.asked.values()) == plan.scopes[0].total.requests


def test_a_budget_needs_prices(planted, sampled, tmp_path):
    run = copied(sampled, tmp_path)
    with Server() as server:
        config = configured(planted, server.url, prices=False)
        with pytest.raises(UserError, match=r"price of models\.explainer\.model 'oracle' is not known"):
            run_stages(config, run, ["explain"], max_cost_usd=1.0)
        assert not server.asked
    assert not (run.root / "explanations").exists()


def call(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["autointerp", *map(str, words)])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return int(raised.value.code or 0)


def test_on_the_command_line(planted, sampled, tmp_path, monkeypatch, capsys):
    run = copied(sampled, tmp_path)
    prices = tmp_path / "prices.toml"
    prices.write_text('[[price]]\nmodels = ["orac*"]\nprompt = 1000\ncompletion = 2000\ncached = 500\n')
    monkeypatch.setenv("AUTOINTERP_PRICES", str(prices))
    with Server() as server:
        options = [planted, "--run-dir", run.root]
        options += [word for s in settings(server.url, prices=False) for word in ("--set", s)]
        assert call(monkeypatch, "plan", *options, "--json", "--latents", "5000") == 0
        told = json.loads(capsys.readouterr().out)
        assert told["scopes"][2]["n_latents"] == 5000
        cost = told["scopes"][0]["total"]["cost_usd"]
        assert call(monkeypatch, "plan", *options) == 0
        shown = capsys.readouterr().out
        assert "  fuzzing/default" in shown
        assert "asks no model" in shown
        assert max(map(len, shown.splitlines())) <= 100
        assert call(monkeypatch, "explain", *options) == 0
        assert call(monkeypatch, "score", *options, "--max-cost", str(cost / 3)) == 3
        assert [line for line in capsys.readouterr().err.splitlines() if "error: --max-cost" in line]
    assert call(monkeypatch, "replies", run.root) == 0
    shown = capsys.readouterr().out
    assert "openai:oracle#" in shown
    assert "Last uses" in shown
    export = tmp_path / "all.jsonl"
    assert call(monkeypatch, "replies", run.root, "--export", export) == 0
    rows = [json.loads(line) for line in export.read_text().splitlines()]
    assert len(rows) == sum(server.asked.values())
    asked = {json.loads(body)["messages"][-1]["content"] for body in server.asked}
    assert {row["request"]["messages"][-1]["content"] for row in rows} == asked
    assert all(row["reply"]["usage"]["cost_usd"] > 0 for row in rows)
    assert call(monkeypatch, "replies", tmp_path / "nothing") == 2

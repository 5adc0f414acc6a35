"""`autointerp plan` of the other stages: arithmetic, time, bytes on disk; and the recipes for millions of latents."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autointerp import cli
from autointerp.analyze.plan_measured import Firing
from autointerp.analyze.plan_shape import Given, layers_to, shape_of
from autointerp.artifacts import RunDirectory
from autointerp.config import ReservoirConfig, load_config
from autointerp.engine.pipeline import all_steps, run_stages
from autointerp.engine.plan import plan_run
from autointerp.errors import UserError
from autointerp.stages.plugins import Models
from tests.planted import build

RECIPES = sorted((Path(__file__).parent.parent / "pipelines" / "scale").glob("*.toml"))
N_TOKENS = 40_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model and text for it, under random directions: 128 latents, 8 of them active at each token."""
    here = tmp_path_factory.mktemp("scale")
    text = build(here, n_documents=450).read_text()
    before, _, rest = text.partition("[dictionary]")
    dictionary = """[dictionary]
source = "random"
hook_point = "blocks.1.hook_resid_post"
n_latents = 128
top_k = 8
"""
    corpus = rest[rest.index("[corpus]") :].replace("rows_per_shard = 1000\n", "")
    (here / "run.toml").write_text(before + dictionary + corpus + '[models.judge]\nbackend = "canned"\n')
    return here


def cached(folder: Path, name: str, *overrides: str) -> RunDirectory:
    run = RunDirectory(folder / name)
    run_stages(load_config(folder / "run.toml", list(overrides)), run, ["cache", "sample"])
    return run


@pytest.fixture(scope="module")
def small(folder) -> RunDirectory:
    run = cached(folder, "small", f"cache.n_tokens={N_TOKENS // 2}")
    config = load_config(folder / "run.toml", [f"cache.n_tokens={N_TOKENS // 2}", *JUDGED])
    run_stages(config, run, ["explain", "score"])
    return run


JUDGED = (
    "score.latents=24",
    "score.latents_per_shard=64",
    "explain.latents_per_shard=64",
)


def size_of(run: RunDirectory, *parts: str) -> int:
    return sum(path.stat().st_size for path in run.root.joinpath(*parts).rglob("part-*.parquet"))


@pytest.mark.parametrize("reservoir", [False, True])
def test_bytes_are_as_they_are_then_written(folder, small, reservoir):
    """Twice the text in a dictionary of another size, planned from the small run alone."""
    overrides = [f"cache.n_tokens={N_TOKENS}", "dictionary.n_latents=192", "dictionary.top_k=12"]
    if reservoir:
        overrides.append("cache.reservoir={n_random=40, n_top=20}")
    config = load_config(folder / "run.toml", overrides)
    planned = plan_run(config, RunDirectory(folder / "nothing"), like=small.root).scopes[0]
    run = cached(folder, f"large-{reservoir}", *overrides)
    written = plan_run(config, run).scopes[0]
    assert planned.cache.n_activations == pytest.approx(run.dataset("activations").n_rows, rel=0.1)
    for name in ("activations", "contexts", "latents"):
        # Deciles that are middles of bins take fewer bytes than those of the full cache planned from.
        rel = 0.2 if reservoir and name == "latents" else 0.1
        assert planned.cache.bytes_by_dataset[name] == pytest.approx(size_of(run, name), rel=rel), name
        assert written.cache.bytes_by_dataset[name] == size_of(run, name)
    assert ("reservoir" in planned.cache.bytes_by_dataset) is reservoir
    assert planned.sample.n_windows == pytest.approx(run.dataset("examples").n_rows, rel=0.1)
    assert planned.sample.bytes == pytest.approx(size_of(run, "examples"), rel=0.1)
    assert planned.cache.scratch_bytes > planned.cache.bytes_by_dataset["activations"]
    assert written.cache.device_hours == 0.0


def test_bytes_of_judgements_are_as_they_are_then_written(folder, small):
    overrides = [f"cache.n_tokens={N_TOKENS // 2}", *JUDGED, "score.latents=48"]
    config = load_config(folder / "run.toml", overrides)
    planned = plan_run(config, RunDirectory(folder / "nothing"), like=small.root, sample_latents=24).scopes[0]
    (amount,) = [step for step in planned.steps if step.name == "score/detection/statistics"]
    assert amount.n_latents == 48
    run = RunDirectory(folder / "judged")
    run_stages(config, run, ["cache", "sample", "explain", "score"])
    parts = ("detection", "statistics")
    written = size_of(run, "judgements", *parts) + size_of(run, "scores", *parts)
    replies = amount.requests * (small.root / "replies.sqlite").stat().st_size / stored(small)
    assert amount.bytes == pytest.approx(written + replies, rel=0.1)
    assert 0 < replies < amount.bytes


def stored(run: RunDirectory) -> int:
    from autointerp.llm.replies import StoredReplies

    with StoredReplies(run.root / "replies.sqlite") as replies:
        return sum(model.n_replies for model in replies.models())


def test_arithmetic_is_what_torch_counts(tmp_path):
    """Two layers of SmolLM2-135M's sizes, and an encoder, under torch's own counter."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = LlamaConfig(
        vocab_size=64,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=256,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(sizes)
    model.save_pretrained(tmp_path / "model")
    run = tmp_path / "run.toml"
    run.write_text(
        f"""
[subject]
model = "{tmp_path / "model"}"
[dictionary]
source = "random"
hook_point = "blocks.1.hook_resid_post"
n_latents = 1000
top_k = 8
[corpus]
dataset = "none.jsonl"
[cache]
context_size = 128
"""
    )
    shape = shape_of(load_config(run), Given())
    n = 128
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        hidden = model.model(torch.randint(0, 64, (1, n))).last_hidden_state
    with torch.no_grad(), FlopCounterMode(display=False) as encoder:
        hidden[0] @ torch.zeros(576, 1000)
    assert shape.subject_flops == pytest.approx(forward.get_total_flops() / n, rel=0.01)
    assert shape.encoder_flops == encoder.get_total_flops() / n == 2 * 576 * 1000
    by_hand = 576 * 64 * (9 + 3 + 3 + 9) + 3 * 576 * 1536
    assert shape.layer_weights == by_hand
    assert shape.subject_flops == 2 * (2 * by_hand + 4 * 576 * 128)
    assert shape.subject_parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("hook", "n"),
    [
        ("blocks.9.hook_resid_post", 10),
        ("blocks.9.hook_resid_pre", 9),
        ("blocks.0.hook_resid_pre", 0),
        ("blocks.3.mlp.hook_post", 4),
        ("hook_embed", 0),
        ("layers.7", 8),
        ("layers.7.mlp", 8),
        ("somewhere", None),
    ],
)
def test_layers_to_a_hook_point(hook, n):
    assert layers_to(hook) == n


def test_what_a_reservoir_keeps_by_hand():
    firing = Firing(
        density=np.array([0.02, 0.001]), per_context=np.array([2.0, 1.0]), n_latents=2, gap=1.0, where="here"
    )
    # 10,000 positions in 100 contexts, and two latents of which 0.021 fire per token, as here.
    contexts = firing.contexts(10_000, 100, 2, 0.021)
    assert contexts == pytest.approx([100, 10])
    # Half of the contexts on either side: all 5 of the rare one; 10 random, and of the 5 strongest the 4 of 5
    # that are not among them.
    kept = firing.kept(contexts, 0.5, ReservoirConfig(n_random=10, n_top=5), 2)
    assert kept == pytest.approx(2 * 2.0 * (10 + 5 * 0.8) + 2 * 1.0 * 5)
    kept = firing.kept(contexts, 0.5, ReservoirConfig(n_random=10, n_top=5), 2, strongest=1.5)
    assert kept == pytest.approx(2 * 2.0 * (10 + 1.5 * 5 * 0.8) + 2 * 1.0 * 5)
    # Ten times the latents, the same number active: each fires a tenth as often, and there are ten times as many.
    assert firing.contexts(10_000, 100, 20, 0.021) == pytest.approx([10, 1])
    assert firing.kept(
        np.array([10.0, 1.0]), 0.5, ReservoirConfig(n_random=10, n_top=5), 20
    ) == pytest.approx(210)


def planned(config, folder, **given):
    return plan_run(config, RunDirectory(folder / "nothing"), given=Given(**given))


def test_time_and_memory_by_hand(folder):
    config = load_config(
        folder / "run.toml",
        ["cache.n_tokens=1_000_000", "cache.context_size=100", "dictionary.dtype='bfloat16'"],
    )
    known = {"d_model": 100, "n_layers": 3, "n_latents": 10_000, "layer_parameters": 50_000}
    cache = planned(config, folder, **known, device_tflops=2.0, utilisation=0.5).scopes[0].cache
    assert cache.subject_flops == 3 * (2 * 50_000 + 4 * 100 * 100)
    assert cache.encoder_flops == 2 * 100 * 10_000
    assert cache.tokens_per_second == pytest.approx(1e12 / (420_000 + 2_000_000))
    assert cache.device_hours == pytest.approx(1e6 / cache.tokens_per_second / 3600)
    assert cache.dictionary_bytes == 2 * 100 * 10_000 * 2
    assert cache.bytes is None, "bytes per activation are measured, not guessed"
    given = planned(config, folder, **known, cache_tokens_per_second=500.0, workers=4)
    assert given.scopes[0].steps[0].device_hours == pytest.approx(1e6 / 500 / 3600)
    assert given.scopes[0].steps[0].hours == pytest.approx(1e6 / 500 / 3600 / 4)
    without_layer = planned(config, folder, **(known | {"layer_parameters": None})).scopes[0].cache
    assert without_layer.subject_flops == 3 * (2 * 12 * 100**2 + 4 * 100 * 100)
    assert without_layer.tokens_per_second is None
    assert without_layer.device_hours is None


def test_a_reservoir_is_kept_by_one_worker(folder):
    config = load_config(folder / "run.toml", ["cache.reservoir={}"])
    told = planned(config, folder, n_latents=100, cache_tokens_per_second=500.0, workers=4)
    assert told.alone == ["cache"]
    assert told.scopes[0].steps[0].hours == told.scopes[0].steps[0].device_hours


def test_a_measured_rate_is_scaled_by_arithmetic(folder, small):
    rate = N_TOKENS / 2 / small.manifest("cache").seconds
    config = load_config(folder / "run.toml")
    one = plan_run(config, RunDirectory(folder / "nothing"), like=small.root, latents=[1_000_000])
    same, million = one.scopes[0].cache, one.scopes[-1].cache
    assert same.tokens_per_second == pytest.approx(rate, rel=1e-3)
    assert million.n_latents == 1_000_000
    flops = same.subject_flops + same.encoder_flops
    assert million.tokens_per_second == pytest.approx(
        rate * flops / (same.subject_flops + 2 * 32 * 1_000_000)
    )
    assert "scaled by arithmetic" in million.rate
    assert million.n_activations == same.n_activations, "as many are active at a token"


def test_options_are_checked(folder):
    with pytest.raises(UserError, match="--utilisation: missing"):
        Given(device_tflops=400.0)
    with pytest.raises(UserError, match="beside --device-tflops"):
        Given(device_tflops=400.0, utilisation=0.4, cache_tokens_per_second=1.0)


def call(monkeypatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["autointerp", *map(str, words)])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    return int(raised.value.code or 0)


def test_a_wrong_like_is_told_before_anything_is_looked_at(folder, small, monkeypatch, capsys):
    """Even where the run itself was sampled with other settings, which would be an error of its own."""
    stale = ["plan", folder / "run.toml", "--run-dir", small.root, "--set", "sample.n_test=9"]
    (folder / "empty").mkdir()
    for like, said in (("missing", "no folder"), ("empty", "no run.toml")):
        assert call(monkeypatch, *stale, "--like", folder / like) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --like: ")
        assert said in line
        assert str(folder / like) in line
    assert call(monkeypatch, *stale) == 2
    assert "was made with other settings" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_planned_offline(recipe, small, tmp_path, monkeypatch, capsys):
    """Neither the model nor the dictionary is on this machine: their sizes are said."""
    config = load_config(recipe)
    assert [step.name for step in all_steps(config, Models(config))][:2] == ["cache", "sample"]
    words = ["plan", recipe, "--run-dir", tmp_path / "run", "--like", small.root, "--n-latents", 2**20]
    words += [
        "--d-model",
        2304,
        "--l0",
        58,
        "--device-tflops",
        400,
        "--utilisation",
        0.4,
        "--sample-latents",
        2,
    ]
    words += ["--tokens-per-second", 10_000, "--workers", 16]
    assert call(monkeypatch, *words, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    total = told["scopes"][0]["total"]
    assert total["requests"] > 100_000
    assert total["device_hours"] > total["hours"] > 1
    assert total["cost_usd"] == 0.0
    by_name = {step["name"]: step for step in told["scopes"][0]["steps"]}
    assert by_name["cache"]["device_hours"] > 1
    assert by_name["sample"]["device_hours"] > 0
    assert by_name["cache"]["bytes"] > 1e9
    assert told["scopes"][0]["cache"]["dictionary_bytes"] == 2 * 2304 * 2**20 * 2
    assert call(monkeypatch, *words) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 100
    assert call(monkeypatch, *words, "--utilisation", "1.5") == 2
    assert "utilisation" in capsys.readouterr().err
    assert call(monkeypatch, *words, "--cache-tokens-per-second", "5") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line]
    assert line.startswith("error: --cache-tokens-per-second")

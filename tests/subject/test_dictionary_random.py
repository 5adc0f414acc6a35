"""The random control: unit directions, as sparse as asked, the same twice, wrong options refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from autointerp.artifacts import RunDirectory
from autointerp.config import DictionaryConfig, SubjectConfig, parse_table
from autointerp.errors import CorruptArtifactError, UserError
from autointerp.subject.dictionary import open_dictionary
from autointerp.subject.dictionary_random import RandomDictionary, Standardisation

HOOK = "blocks.1.hook_resid_post"


def activations(n: int = 4000, d: int = 16) -> torch.Tensor:
    """Far from standard: large means, and spreads from 0.01 to 1000."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, d, generator=generator) * torch.logspace(-2, 3, d) + torch.linspace(-500, 500, d)


def opened(**options) -> RandomDictionary:
    dictionary = RandomDictionary(HOOK, 16, 200, 7, **options)
    dictionary.standardise(Standardisation.measure([activations()]))
    return dictionary


def test_as_many_active_as_asked_and_all_latents_alike():
    sparse = opened().encode(activations())
    assert torch.bincount(sparse.row).tolist() == [7] * 4000
    assert (sparse.value > 0).all()
    density = torch.bincount(sparse.latent, minlength=200) / 4000
    assert density.mean() == pytest.approx(7 / 200)
    # Without standardising, the latents along the few large dimensions would take nearly everything.
    assert ((density > 7 / 200 / 5) & (density < 7 / 200 * 5)).float().mean() > 0.95


def test_latents_are_projections_of_standardised_activations():
    x = activations()
    dictionary = opened(seed=3)
    standard = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    directions = dictionary.decoder_directions(torch.arange(200))
    pre = standard @ directions.T.double()
    found = dictionary.encode(x).to_dense(200).double()
    active = found > 0
    torch.testing.assert_close(found[active], pre[active], atol=1e-2, rtol=1e-3)
    # What is left out is no larger than what is kept (but for rounding).
    kept, left_out = pre.masked_fill(~active, torch.inf).amin(1), pre.masked_fill(active, -torch.inf).amax(1)
    assert (kept > left_out - 1e-2).all()
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(200))


def test_the_same_twice_and_other_for_another_seed():
    a, b, c = opened(), opened(), opened(seed=1)
    latents = torch.arange(200)
    assert torch.equal(a.decoder_directions(latents), b.decoder_directions(latents))
    assert torch.equal(a.encode(activations()).latent, b.encode(activations()).latent)
    assert not torch.equal(a.decoder_directions(latents), c.decoder_directions(latents))
    assert a.identity == b.identity != c.identity


def test_standardisation_is_measured_in_batches_and_survives_json():
    x = activations()
    whole, parts = Standardisation.measure([x]), Standardisation.measure(x.split(7))
    np.testing.assert_allclose(whole.mean, x.double().mean(0), rtol=1e-9)
    np.testing.assert_allclose(whole.deviation, x.double().std(0, correction=0), rtol=1e-6)
    np.testing.assert_allclose(parts.deviation, whole.deviation, rtol=1e-6)
    again = Standardisation.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert (again.mean == whole.mean).all()
    assert (again.deviation == whole.deviation).all()
    assert Standardisation.measure([torch.ones(9, 2)]).deviation.tolist() == [1.0, 1.0]


def test_opened_from_a_configuration(model_folder):
    where = SubjectConfig(model=model_folder("llama"), device="cpu")
    config = DictionaryConfig(source="random", hook_point=HOOK, n_latents=40, top_k=3)
    dictionary = open_dictionary(config, where)
    assert (dictionary.d_in, dictionary.n_latents, dictionary.hook_point_out) == (16, 40, HOOK)
    neurons = config.model_copy(update={"hook_point": "blocks.1.mlp.hook_post"})
    assert open_dictionary(neurons, where).d_in == 24
    with pytest.raises(UserError, match=r"dictionary.hook_point: seen 'blocks.1.attn.hook_z'"):
        open_dictionary(config.model_copy(update={"hook_point": "blocks.1.attn.hook_z"}), where)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "random", "hook_point": HOOK, "n_latents": 4}, r"needs hook_point, n_latents and top_k \(missing: top_k\)"),
        ({"source": "random", "n_latents": 4, "top_k": 2}, r"missing: hook_point"),
        ({"source": "random", "hook_point": HOOK, "top_k": 2}, r"missing: n_latents"),
        ({"source": "random", "hook_point": HOOK, "n_latents": 4, "top_k": 5}, r"top_k: seen 5, more than n_latents \(4\)"),
        ({"source": "random", "hook_point": HOOK, "n_latents": 4, "top_k": 2, "path": "x"}, r"takes no path"),
        ({"source": "random", "hook_point": HOOK, "n_latents": 4, "top_k": 2, "release": "x"}, r"takes no release"),
        ({"source": "neurons", "hook_point": "blocks.1.mlp.hook_post", "n_latents": 4}, r"n_latents is for source 'random'"),
        ({"source": "sparsify", "path": "x", "seed": 3}, r"seed is for source 'random'"),
        ({"source": "sparsify", "path": "x", "top_k": 3}, r"top_k is for sources 'neurons' and 'random'"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused_in_one_line(options, message):
    with pytest.raises(UserError, match=message) as error:
        parse_table(DictionaryConfig, options, "dictionary")
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def run_config(model_folder, tmp_path_factory):
    from autointerp.config import RunConfig

    folder = tmp_path_factory.mktemp("random")
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(["cat", "mat", "sat", "the", "on"], 200)) for _ in range(20)]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in lines))
    return RunConfig.model_validate(
        {
            "subject": {"model": model_folder("llama"), "device": "cpu"},
            "dictionary": {"source": "random", "hook_point": HOOK, "n_latents": 64, "top_k": 4},
            "corpus": {"dataset": str(folder / "corpus.jsonl")},
            "cache": {"context_size": 16, "contexts_per_shard": 32, "rows_per_shard": 1000},
        }
    )


def test_the_cache_stage_measures_once_and_a_resumed_run_ends_alike(run_config, tmp_path):
    from autointerp.stages.cache import cache

    run, other = RunDirectory(tmp_path / "a"), RunDirectory(tmp_path / "b")
    result = cache(run_config, run)
    assert result.counts["mean_active_latents_per_position"] == pytest.approx(4, abs=0.01)
    density = run.dataset("latents").read().column("density").to_numpy()
    assert density.mean() == pytest.approx(4 / 64, rel=0.01)
    files = sorted(p.relative_to(run.root) for p in run.root.rglob("part-*.parquet"))
    assert len(files) > 8
    cache(run_config, other)
    for path in files:
        assert (run.root / path).read_bytes() == (other.root / path).read_bytes()
    # Interrupted in the first half, resumed with another batch size.
    measured = (other.root / "standardisation" / "standardisation.json").read_bytes()
    for path in files:
        if path.parts[0] != "contexts" or path.name != "part-00000.parquet":
            (other.root / path).unlink(missing_ok=True)
    resumed = run_config.model_copy(
        update={"cache": run_config.cache.model_copy(update={"contexts_per_batch": 5})}
    )
    cache(resumed, other)
    assert (other.root / "standardisation" / "standardisation.json").read_bytes() == measured
    a, b = (r.dataset("activations").read() for r in (run, other))
    assert a.column("latent").equals(b.column("latent"))
    assert a.column("position").equals(b.column("position"))


def test_a_damaged_measurement_is_told(run_config, tmp_path):
    from autointerp.stages.cache import cache

    run = RunDirectory(tmp_path / "run")
    path = run.root / "standardisation" / "standardisation.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"mean": [1.0')
    with pytest.raises(CorruptArtifactError, match="remove it to measure again"):
        cache(run_config, run)


@pytest.mark.parametrize("n_neighbours", [0, 3])
def test_sampling_says_where_neighbours_come_from(run_config, tmp_path, n_neighbours):
    from autointerp.stages.cache import cache
    from autointerp.stages.sample import sample

    run = RunDirectory(tmp_path / "run")
    config = run_config.model_copy(
        update={
            "cache": run_config.cache.model_copy(update={"n_neighbours": n_neighbours}),
            "sample": run_config.sample.model_copy(update={"window_tokens": 4}),
        }
    )
    cache(config, run)
    counts = sample(config, run).counts
    column = run.dataset("latents").read().column("neighbours")
    if n_neighbours == 0:
        assert column.null_count == 64
        assert counts["neighbours"] == "none drawn: cache.n_neighbours is 0"
        assert counts["windows"]["test neighbour"] == 0
    else:
        assert {len(row) for row in column.to_pylist()} == {3}
        assert counts["neighbours"].startswith("the 3 nearest")
        assert counts["windows"]["test neighbour"] > 100
    assert counts["windows"]["test similar"] > 100

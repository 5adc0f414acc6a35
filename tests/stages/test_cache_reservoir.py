"""A cache with a reservoir beside one that keeps everything, on the same planted dictionary and text."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pytest

from autointerp.artifacts import RunDirectory
from autointerp.config import load_config
from autointerp.stages import cache as cache_stage
from autointerp.stages import reservoir
from autointerp.stages import sample as sample_stage
from tests.planted import N_LATENTS, build

SMALL = "cache.reservoir={n_random=20, n_top=6}"


@pytest.fixture(scope="module")
def run_file(tmp_path_factory):
    return build(tmp_path_factory.mktemp("planted") / "files", n_documents=150)


@pytest.fixture(autouse=True)
def _model(monkeypatch, run_file):
    monkeypatch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))


def carry_out(run_file, root, *overrides):
    config = load_config(run_file, list(overrides))
    run = RunDirectory(root)
    cache_stage.cache(config, run)
    sample_stage.sample(config, run)
    return run


@pytest.fixture(scope="module")
def full(run_file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
        return carry_out(run_file, tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def small(run_file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_MODEL", str(run_file.parent / "model"))
        return carry_out(run_file, tmp_path_factory.mktemp("small"), SMALL)


def codes(table):
    return table.column("context").to_numpy().astype(np.int64) * 32 + table.column("position").to_numpy()


def test_large_enough_it_changes_nothing(run_file, full, tmp_path):
    run = carry_out(run_file, tmp_path, "cache.reservoir={n_random=10_000}")
    for name in ("activations", "latents", "examples"):
        assert run.dataset(name).read().equals(full.dataset(name).read()), name
    assert run.dataset("reservoir").read().column("known_through").null_count == 2 * N_LATENTS


def test_counts_are_exact(full, small):
    exact, kept = full.dataset("latents").read(), small.dataset("latents").read()
    for name in ("n_active_tokens", "n_active_contexts", "density", "max_activation", "status"):
        assert kept.column(name).equals(exact.column(name)), name
    for name in ("mean_activation",):
        np.testing.assert_allclose(kept.column(name).to_numpy(), exact.column(name).to_numpy(), rtol=1e-6)
    assert small.dataset("activations").n_rows < 0.5 * full.dataset("activations").n_rows
    found, deciles = (np.array(t.column("quantiles").drop_null().to_pylist()) for t in (kept, exact))
    np.testing.assert_allclose(found, deciles, rtol=1 / 128 + 1e-6)
    assert (found[:, -1] == deciles[:, -1]).all()


def test_what_is_said_of_its_reach_is_true(full, small):
    is_test = np.concatenate(
        [
            pc.equal(t.column("split"), "test").to_numpy(zero_copy_only=False)
            for t in full.dataset("contexts").iter_shards()
        ]
    )
    rank = reservoir.priorities(load_seed(), len(is_test))
    everything, kept = full.dataset("activations").read(), small.dataset("activations").read()
    for row in small.dataset("reservoir").read().to_pylist():
        mine = [t.filter(pc.equal(t.column("latent"), row["latent"])) for t in (everything, kept)]
        side = is_test == (row["split"] == "test")
        all_contexts, kept_contexts = (
            np.unique(t.column("context").to_numpy()[side[t.column("context").to_numpy()]]) for t in mine
        )
        assert (row["n_contexts"], row["n_kept"]) == (len(all_contexts), len(kept_contexts))
        through = 2**64 - 1 if row["known_through"] is None else row["known_through"]
        known = rank[all_contexts] <= np.uint64(through)
        assert row["n_random"] == known.sum() == min(20, len(all_contexts))
        assert set(all_contexts[known].tolist()) <= set(kept_contexts.tolist())
        # Kept contexts are kept whole.
        inside = np.isin(mine[0].column("context").to_numpy(), mine[1].column("context").to_numpy())
        assert (codes(mine[0])[inside] == codes(mine[1])).all()


def load_seed():
    return 0


def test_windows_are_what_they_are_said_to_be(full, small):
    held: dict[int, dict[int, float]] = {}
    for row in full.dataset("activations").read().to_pylist():
        held.setdefault(row["latent"], {})[row["context"] * 32 + row["position"]] = row["activation"]
    examples = small.dataset("examples").read().to_pylist()
    assert len(examples) > 100
    for row in examples:
        begin = row["context"] * 32 + row["start"]
        found = [held[row["latent"]].get(begin + i, 0.0) for i in range(len(row["tokens"]))]
        assert found == row["activations"]
        assert any(found) == (row["kind"] == "activating")
    kinds = {row["kind"] for row in examples}
    assert kinds == {"activating", "random", "similar", "neighbour"}


def test_the_strongest_windows_are_those_of_the_full_cache(run_file, full, tmp_path):
    top = ["sample.train_strategy=top", "sample.n_train=5"]
    exact = carry_out(run_file, tmp_path / "full", *top).dataset("examples").read()
    kept = carry_out(run_file, tmp_path / "small", *top, SMALL).dataset("examples").read()

    def strongest(table):
        chosen = table.filter(
            pc.and_(pc.equal(table.column("kind"), "activating"), pc.equal(table.column("split"), "train"))
        )
        return chosen.select(["latent", "max_activation"])

    assert strongest(kept).equals(strongest(exact))


def test_chosen_often_killed_or_in_one_go_it_is_the_same(run_file, small, tmp_path, monkeypatch):
    monkeypatch.setattr(reservoir, "ROWS_BEFORE_CHOOSING", 300)
    config = load_config(run_file, [SMALL])
    run = RunDirectory(tmp_path)
    writes, limit = [0], [3]
    write = reservoir.write_shard

    def write_until_killed(*arguments):
        writes[0] += 1
        if writes[0] == limit[0]:
            raise KeyboardInterrupt
        write(*arguments)

    monkeypatch.setattr(reservoir, "write_shard", write_until_killed)
    for _ in range(60):
        try:
            cache_stage.cache(config, run)
            break
        except KeyboardInterrupt:
            writes[0], limit[0] = 0, limit[0] + 2
    else:
        pytest.fail("never finished")
    assert limit[0] > 9, "it was never killed in the middle"
    for name in ("activations", "latents", "reservoir"):
        assert run.dataset(name).read().equals(small.dataset(name).read()), name


def test_draws_by_chance_are_like_those_of_the_full_cache(run_file, tmp_path):
    """Over seeds, mean peak and token position of the windows drawn agree."""
    from scipy.stats import ks_2samp

    peaks: dict[str, list[float]] = {"full": [], "small": []}
    for seed in range(4):
        for name, options in (("full", []), ("small", [SMALL])):
            run = carry_out(
                run_file,
                tmp_path / f"{name}{seed}",
                f"seed={seed}",
                "sample.test_strategy=random",
                "sample.n_test=8",
                *options,
            )
            table = run.dataset("examples").read()
            chosen = table.filter(
                pc.and_(pc.equal(table.column("kind"), "activating"), pc.equal(table.column("split"), "test"))
            )
            peaks[name] += chosen.column("max_activation").to_pylist()
    assert len(peaks["small"]) > 100
    assert ks_2samp(peaks["full"], peaks["small"]).pvalue > 0.01

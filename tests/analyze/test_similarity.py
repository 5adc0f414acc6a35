import csv
import itertools
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from autointerp.analyze.similarity import MEASURES, SimilarityOptions, compare
from autointerp.analyze.similarity_matching import match
from autointerp.analyze.similarity_measures import CoActivation, Cosine
from autointerp.errors import UserError
from autointerp.report.similarity import similarity_views, write_similarity
from tests.analyze.similar_runs import Latents, embedder, random_latents, write_run

GEOMETRY = ("decoder", "encoder", "directions")
FIRING = ("correlation", "jaccard")
SEEN = (*GEOMETRY, *FIRING)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(embedder(tmp_path_factory.mktemp("embedder") / "model"))


def by_measure(found):
    return {row.measure: row for row in found.rows}


def test_a_permuted_copy_is_fully_matched_by_every_measure(tmp_path: Path, model: str) -> None:
    latents = random_latents(0)
    order = np.random.default_rng(1).permutation(len(latents.labels))
    a = write_run(tmp_path / "a", latents)
    b = write_run(tmp_path / "b", latents.permuted(order))
    found = compare([a, b], SimilarityOptions(n_null=19, embedder=model))
    for row in found.rows:
        assert (row.status, row.exact) == ("ok", True), row.measure
        assert row.mean == pytest.approx(1, abs=1e-4), row.measure
        assert row.shared == row.shared_a == row.shared_b == 1, row.measure
        assert row.null_high < 0.9, row.measure
        assert row.p_value == pytest.approx(1 / 20), row.measure
    assert {row.measure for row in found.rows} == set(MEASURES)
    place = {int(i): n for n, i in enumerate(order)}
    assert len(found.pairs) == len(order) * len(MEASURES)
    for pair in found.pairs:
        assert pair.latent_b == place[pair.latent_a]
        assert pair.text_a == pair.text_b
        # What the other measures say of the pair is read off independently of the matching.
        assert [getattr(pair, name) for name in MEASURES] == pytest.approx([1.0] * len(MEASURES), abs=1e-4)
    assert found.lone == []


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unrelated_dictionaries_lie_within_the_null(tmp_path: Path, seed: int) -> None:
    a = write_run(tmp_path / "a", random_latents(10 + seed))
    b = write_run(tmp_path / "b", random_latents(20 + seed), hidden_seed=50 + seed)
    found = by_measure(compare([a, b], SimilarityOptions(measures=SEEN, n_null=39, seed=seed)))
    for name in SEEN:
        row = found[name]
        spread = row.null_high - row.null_low
        assert row.null_low - spread < row.mean < row.null_high + spread, name
        assert row.p_value > 0.025, name
        assert row.mean > 0.05, "a matching finds the best of chance too: the null is not 0"
    assert found["directions"].n_shared == 0
    assert found["directions"].shared == 0


def test_half_shared_is_half_shared(tmp_path: Path) -> None:
    first, other = random_latents(0), random_latents(7)
    half = len(first.labels) // 2
    mixed = Latents(
        np.concatenate([first.encoder[:half], other.encoder[half:]]),
        np.concatenate([first.decoder[:half], other.decoder[half:]]),
        first.labels,
    )
    a, b = write_run(tmp_path / "a", first), write_run(tmp_path / "b", mixed)
    found = compare([a, b], SimilarityOptions(measures=["decoder"], threshold=0.95, n_null=0))
    (row,) = found.rows
    assert row.n_shared == half
    assert row.shared == pytest.approx(0.5)
    assert row.shared_low < 0.5 < row.shared_high
    assert row.null_mean is None
    assert row.p_value is None
    assert row.n_null == 0
    lone = {(r.run, r.latent) for r in found.lone}
    assert lone == {(name, i) for name in "ab" for i in range(half, len(first.labels))}


def test_a_wider_dictionary_that_holds_a_narrower_one(tmp_path: Path) -> None:
    wide = random_latents(0, n=80)
    narrow = wide.permuted(np.arange(30))
    a, b = write_run(tmp_path / "a", wide), write_run(tmp_path / "b", narrow)
    (row,) = compare([a, b], SimilarityOptions(measures=["decoder"], n_null=2)).rows
    assert (row.n_b, row.n_matched, row.n_shared) == (30, 30, 30)
    assert row.shared == row.shared_b == 1
    assert row.shared_a == pytest.approx(30 / row.n_a)
    assert row.n_a > 70
    assert row.nearest_b == pytest.approx(1)
    assert row.nearest_a < 1


def test_dead_latents_are_left_out(tmp_path: Path) -> None:
    latents = random_latents(0)
    a, b = write_run(tmp_path / "a", latents), write_run(tmp_path / "b", latents, dead=10)
    found = compare([a, b], SimilarityOptions(measures=["decoder"], n_null=0))
    assert (found.rows[0].n_a, found.rows[0].n_b) == (60, 50)
    assert {r.latent for r in found.lone if r.run == "a"} == set(range(50, 60))
    assert all(r.partner is None and r.similarity is None and r.nearest is not None for r in found.lone)


def test_undefined_measures_say_why_and_are_null(tmp_path: Path) -> None:
    latents = random_latents(0)
    a = write_run(tmp_path / "a", latents)
    b = write_run(tmp_path / "b", Latents(latents.encoder, latents.decoder, (None,) * 60), text=3)
    found = by_measure(compare([a, b], SimilarityOptions(n_null=1)))
    assert "no context in common" in found["jaccard"].reason
    assert "no labels by the same explainer" in found["meaning"].reason
    for name in (*FIRING, "meaning"):
        row = found[name]
        assert row.status == "undefined"
        assert (row.mean, row.shared, row.null_mean, row.p_value, row.n_shared) == (None,) * 5
    assert found["decoder"].status == "ok"


def test_users_mistakes_are_one_line(tmp_path: Path) -> None:
    a, b = write_run(tmp_path / "a", random_latents(0)), write_run(tmp_path / "b", random_latents(1))
    for roots, options, said in (
        ([a], {}, "two or more"),
        ([a, a], {}, "named twice"),
        ([a, tmp_path / "none"], {}, "no folder"),
        ([a, b], {"measures": ["decodr"]}, "did you mean 'decoder'"),
        ([a, b], {"measures": ["meaning"], "explainer": "defalt"}, "did you mean 'default'"),
    ):
        with pytest.raises(UserError, match=said) as error:
            compare(roots, SimilarityOptions(n_null=0, **options))
        assert "\n" not in str(error.value)


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, random_latents(i, n=20)) for i, name in enumerate("abc")]
    found = compare(runs, SimilarityOptions(measures=["decoder", "jaccard"], n_null=2))
    paths = write_similarity(found, tmp_path / "out")
    assert {p.name for p in paths} == {
        f"{n}.{e}" for n in ("similarity", "pairs", "unmatched") for e in ("parquet", "csv")
    }
    table = pq.read_table(tmp_path / "out" / "similarity.parquet")
    assert table.num_rows == 3 * 2
    assert table.column("mean").to_pylist() == [r.mean for r in found.rows]
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").open()))
    assert len(rows) == 3 * 2 * 20
    assert rows[0]["meaning"] == ""
    assert found.value("c", "a", "decoder") == found.value("a", "c", "decoder") is not None
    titles = [view.title for view in similarity_views(found)]
    assert "decoder: mean matched similarity (null)" in titles


def test_the_same_seed_gives_the_same_numbers(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, random_latents(i, n=20)) for i, name in enumerate("ab")]
    options = SimilarityOptions(measures=SEEN, n_null=3)
    assert compare(runs, options) == compare(runs, options)


def brute_force(similarities: np.ndarray) -> float:
    n_a, n_b = similarities.shape
    return max(
        sum(similarities[i, j] for i, j in enumerate(columns))
        for columns in itertools.permutations(range(n_b), n_a)
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 10_000))
def test_the_matching_is_the_best_there_is(n_a: int, more: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    similarities = rng.uniform(-1, 1, size=(n_a, n_a + more)).astype(np.float32)
    stored = sparse.csr_array(similarities)
    for found in (match(similarities), match(stored)):
        assert found.similarity.sum() == pytest.approx(brute_force(similarities), abs=1e-5)
        assert len(set(found.b.tolist())) == len(found.b) == n_a
        assert similarities[found.a, found.b] == pytest.approx(found.similarity)
    turned = match(similarities.T.copy())
    assert turned.similarity.sum() == pytest.approx(brute_force(similarities), abs=1e-5)


def test_a_latent_without_a_free_candidate_stays_alone() -> None:
    # Both rows know column 0 only: one of them gets it, the better one.
    found = match(sparse.csr_array(np.array([[0.5, 0.0], [0.9, 0.0]])))
    assert (found.a.tolist(), found.b.tolist(), found.similarity.tolist()) == ([1], [0], [0.9])


def test_candidates_find_what_all_pairs_find() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(90, 12))
    b = np.concatenate([a[rng.permutation(90)] + 0.05 * rng.normal(size=(90, 12)), rng.normal(size=(20, 12))])
    exact, near = Cosine(a, b), Cosine(a, b, dense_cells=10)
    assert not isinstance(near.similarities(), np.ndarray)
    first, second = match(exact.similarities()), match(near.similarities())
    assert (first.a.tolist(), first.b.tolist()) == (second.a.tolist(), second.b.tolist())
    assert exact.at(first.a, first.b) == pytest.approx(first.similarity, abs=1e-5)


def firing(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.exponential(size=(30 * 5, n)) * (rng.uniform(size=(30 * 5, n)) < 0.2)


@pytest.mark.parametrize("kind", FIRING)
def test_firing_together_is_counted_as_defined(kind: str) -> None:
    a, b = firing(0, 7), firing(1, 9)
    measure = CoActivation(
        sparse.csr_array(a), sparse.csr_array(b), kind=kind, n_positions=len(a), context_size=5
    )
    expected = np.zeros((7, 9))
    for i, j in itertools.product(range(7), range(9)):
        both = (a[:, i] > 0) & (b[:, j] > 0)
        if not both.any():
            continue
        if kind == "jaccard":
            expected[i, j] = both.sum() / ((a[:, i] > 0) | (b[:, j] > 0)).sum()
        else:
            expected[i, j] = np.corrcoef(a[:, i], b[:, j])[0, 1]
    assert measure.similarities() == pytest.approx(expected, abs=1e-4)
    i, j = (x.ravel() for x in np.indices((7, 9)))
    assert measure.at(i, j) == pytest.approx(expected.ravel(), abs=1e-4)
    measure.dense_cells = 1
    assert measure.similarities().toarray() == pytest.approx(expected, abs=1e-4)


def test_a_null_keeps_everything_of_the_second_side_but_the_correspondence() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 8)) * [9, 3, 1, 1, 1, 1, 1, 1] + 2
    measure = Cosine(vectors, vectors)
    null = measure.null(rng)
    assert null.b @ null.b.T == pytest.approx(measure.b @ measure.b.T, abs=1e-4)
    assert null.b.mean(axis=0) == pytest.approx(measure.b.mean(axis=0), abs=1e-4)
    spread, before = (np.linalg.svd(x.b, compute_uv=False) for x in (null, measure))
    assert spread == pytest.approx(before, abs=1e-4)
    assert not np.allclose(null.b, measure.b, atol=1e-2)
    acts = sparse.csr_array(firing(0, 6))
    fires = CoActivation(acts, acts, kind="jaccard", n_positions=150, context_size=5)
    moved = fires.null(rng).b.toarray().reshape(30, 5, 6)
    kept = acts.toarray().reshape(30, 5, 6)
    assert sorted(map(bytes, moved)) == sorted(map(bytes, kept))
    assert not np.array_equal(moved, kept)


def test_no_vector_is_alike_to_nothing() -> None:
    a = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 1.0]])
    assert Cosine(a, a).similarities().tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_neurons_have_no_encoder_and_share_no_axes_with_another_layer() -> None:
    from types import SimpleNamespace

    import torch

    from autointerp.analyze.similarity_types import SimilarityOptions
    from autointerp.analyze.similarity_views import view_of
    from autointerp.subject.dictionary_neurons import NeuronDictionary

    def side(layer: int, eye: np.ndarray | None) -> SimpleNamespace:
        dictionary = NeuronDictionary(f"blocks.{layer}.mlp.hook_post", 6)
        rows = dictionary.decoder_directions(torch.arange(6)).numpy()
        return SimpleNamespace(
            name=f"run {layer}", dictionary=dictionary, latents=np.arange(6), decoder=rows, encoder=eye
        )

    a, b = side(1, None), side(2, None)
    encoder = view_of("encoder", a, b, SimilarityOptions())
    assert encoder is not None
    assert encoder.measure is None
    assert encoder.reason == "run 1: a neuron is a coordinate of its MLP and has no encoder direction"
    decoder = view_of("decoder", a, b, SimilarityOptions())
    assert decoder is not None
    assert decoder.measure is None
    assert "no axes in common" in str(decoder.reason)
    same = view_of("decoder", a, side(1, None), SimilarityOptions())
    assert same is not None
    assert same.measure is not None
    assert np.allclose(same.measure.similarities(), np.eye(6))


def test_the_command_prints_and_draws(tmp_path: Path, model: str) -> None:
    from typer.testing import CliRunner

    from autointerp.cli import app

    runs = [
        str(write_run(tmp_path / name, random_latents(i, n=20), name=f"run.{name}"))
        for i, name in enumerate("abc")
    ]
    result = CliRunner().invoke(
        app, ["similarity", *runs, "--out", str(tmp_path / "out"), "--null", "2", "--embedder", model]
    )
    assert result.exit_code == 0, result.output
    assert "A run.a, B run.c" in result.output
    for name in ("matrix.png", "matrix.svg", "pairs.png", "pairs.svg"):
        assert (tmp_path / "out" / name).stat().st_size > 5_000

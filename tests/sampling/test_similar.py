"""Windows that look like a latent's own: TF-IDF restated densely, and an example by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.sampling.similar import SimilarTiles


def tiles_of(tokens: np.ndarray, window: int, n: int = 10_000, seed: int = 0) -> SimilarTiles:
    return SimilarTiles.draw(
        tokens.astype(np.uint32),
        np.arange(len(tokens)),
        n=n,
        window=window,
        rng=np.random.default_rng(seed),
    )


def dense_cosines(pool: np.ndarray, windows: np.ndarray, n_vocabulary: int) -> np.ndarray:
    """Cosine of the mean unit TF-IDF vector of `windows` with each tile of `pool`, word for word."""

    def counts(rows):
        return np.array([[list(row).count(t) for t in range(n_vocabulary)] for row in rows], dtype=float)

    weight = np.log((1 + len(pool)) / (1 + (counts(pool) > 0).sum(axis=0)))

    def unit(rows):
        length = np.linalg.norm(rows, axis=-1, keepdims=True)
        return rows / np.where(length > 0, length, 1)

    query = unit(unit(counts(windows) * weight).mean(axis=0))
    return unit(counts(pool) * weight) @ query


@given(st.integers(0, 2**20), st.integers(2, 6), st.integers(1, 4), st.sampled_from([3, 12]))
@settings(max_examples=60, deadline=None)
def test_cosines_are_those_of_the_formula(seed, window, n_windows, n_vocabulary):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, n_vocabulary, size=(7, 13))
    tokens[0, 0] = n_vocabulary - 1
    tiles = tiles_of(tokens, window)
    per_context = 13 // window
    pool = tokens[:, : per_context * window].reshape(-1, window)
    assert tiles.code.tolist() == [c * 13 + i * window for c in range(7) for i in range(per_context)]
    # Two latents at once, the second with windows of its own.
    windows = rng.integers(0, n_vocabulary, size=(n_windows + 2, window)).astype(np.uint32)
    whose = np.array([0] * n_windows + [1, 1])
    found = tiles.cosines(windows, whose, 2)
    np.testing.assert_allclose(found[0], dense_cosines(pool, windows[:n_windows], n_vocabulary), atol=1e-5)
    np.testing.assert_allclose(found[1], dense_cosines(pool, windows[n_windows:], n_vocabulary), atol=1e-5)


def ranked(tiles: SimilarTiles, windows: np.ndarray, whose: np.ndarray, n: int) -> list[list[int]]:
    """Tiles found for each query, the most alike first."""
    n_latents = int(whose.max()) + 1
    found: list[list[int]] = [[] for _ in range(n_latents)]
    for rows, tile, cosine in tiles.nearest(tiles.queries(windows.astype(np.uint32), whose, n_latents), n):
        assert (cosine > 0).all()
        for row, one in zip(rows.tolist(), tile.tolist(), strict=True):
            found[row].append(one)
    return found


def test_ranking_by_hand():
    # Tokens: 0 stands everywhere, 1 and 2 are the latent's topic, 3 to 9 are other matters.
    pool = np.array(
        [[0, 3, 4, 5], [0, 1, 2, 6], [0, 7, 8, 9], [0, 1, 7, 8], [0, 0, 0, 0], [0, 2, 3, 9], [0, 2, 2, 1]]
    )
    tiles = tiles_of(pool, 4)
    windows, whose = np.array([[0, 1, 2, 0], [0, 2, 1, 0]]), np.array([0, 0])
    # Both words and nothing else; both and another; then one of the two among others (equal: the earlier
    # first). Tiles 0, 2 and 4 share nothing that says anything: 0 stands in every window.
    assert ranked(tiles, windows, whose, 10) == [[6, 1, 3, 5]]
    assert ranked(tiles, windows, whose, 2) == [[6, 1]]


@given(st.integers(0, 2**20), st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_in_a_small_pool_the_nearest_are_those_of_all_cosines(seed, n):
    rng = np.random.default_rng(seed)
    tiles = tiles_of(rng.integers(0, 40, size=(30, 12)), 4)
    windows, whose = rng.integers(0, 40, size=(6, 4)), np.repeat([0, 1, 2], 2)
    cosines = tiles.cosines(windows.astype(np.uint32), whose, 3)
    for row, found in enumerate(ranked(tiles, windows, whose, n)):
        order = sorted(range(len(tiles.code)), key=lambda i: (-cosines[row, i], i))
        best = [i for i in order if cosines[row, i] > 1e-6]
        # As large as the last one asked are all of its equals.
        np.testing.assert_allclose(cosines[row, found[:n]], cosines[row, best[:n]], atol=1e-5)
        assert len(found) >= min(n, len(best))


def test_in_a_large_pool_nearly_all_of_the_nearest_are_found():
    rng = np.random.default_rng(0)

    def text(topic, n):
        # Words as frequent as one over rank, and one in four of the text's own topic.
        words = np.exp(rng.random((n, 32)) * np.log(5000)).astype(np.int64)
        own = 5000 + topic[:, None] * 30 + rng.integers(0, 30, (n, 32))
        return np.where(rng.random((n, 32)) < 0.25, own, words)

    tiles = tiles_of(text(rng.integers(0, 60, 4000), 4000), 32)
    whose = np.repeat(np.arange(20), 10)
    windows = text(whose, 200)
    cosines = tiles.cosines(windows.astype(np.uint32), whose, 20)
    shares = [
        len(set(found[:10]) & set(np.argsort(-cosines[row], kind="stable")[:10].tolist())) / 10
        for row, found in enumerate(ranked(tiles, windows, whose, 60))
    ]
    assert np.mean(shares) >= 0.9


def test_a_latent_without_windows_has_no_similar_tiles():
    tiles = tiles_of(np.arange(40).reshape(4, 10), 5)
    assert ranked(tiles, np.array([[0, 1, 2, 3, 4]]), np.array([1]), 3)[0] == []


def test_a_bounded_pool_is_drawn_over_the_contexts_given():
    tokens = np.random.default_rng(0).integers(0, 50, size=(100, 33))
    contexts = np.arange(0, 100, 3)
    draws = [
        SimilarTiles.draw(
            tokens.astype(np.uint32), contexts, n=40, window=8, rng=np.random.default_rng(seed)
        ).code
        for seed in (0, 0, 1)
    ]
    assert len(set(draws[0].tolist())) == 40
    assert np.isin(draws[0] // 33, contexts).all()
    assert (draws[0] % 33 % 8 == 0).all()
    assert (draws[0] % 33 <= 24).all()
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()

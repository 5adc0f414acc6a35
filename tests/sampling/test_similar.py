"""Windows that look like a latent's own: TF-IDF restated densely, and an example by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.sampling.similar import SimilarTiles, best


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


def test_ranking_by_hand():
    # Tokens: 0 stands everywhere, 1 and 2 are the latent's topic, 3 to 9 are other matters.
    pool = np.array(
        [[0, 3, 4, 5], [0, 1, 2, 6], [0, 7, 8, 9], [0, 1, 7, 8], [0, 0, 0, 0], [0, 2, 3, 9], [0, 2, 2, 1]]
    )
    tiles = tiles_of(pool, 4)
    cosine = tiles.cosines(np.array([[0, 1, 2, 0], [0, 2, 1, 0]], np.uint32), np.array([0, 0]), 1)[0]
    # Both words and nothing else; both and another; then one of the two among others (equal: the earlier
    # first). Tiles 0, 2 and 4 share nothing that says anything: 0 stands in every window.
    assert best(cosine, tiles.code, 10, anything).tolist() == [6, 1, 3, 5]
    assert best(cosine, tiles.code, 2, anything).tolist() == [6, 1]
    assert best(cosine, tiles.code, 10, lambda code: ~np.isin(code, [24, 12])).tolist() == [1, 5]
    assert best(cosine, tiles.code, 0, anything).tolist() == []


def anything(code):
    return np.ones(len(code), dtype=bool)


@given(st.integers(0, 2**20), st.integers(1, 120), st.integers(0, 12), st.sampled_from([0.02, 0.3, 1.0]))
@settings(max_examples=150, deadline=None)
def test_best_are_the_best_of_all_that_are_allowed(seed, n_tiles, n, share):
    rng = np.random.default_rng(seed)
    code = np.arange(n_tiles) * 4
    cosine = rng.choice([0.0, 0.1, 0.2, 0.3, 0.9], size=n_tiles).astype(np.float32)
    free = rng.random(n_tiles) < share
    ranked = sorted(range(n_tiles), key=lambda i: (-cosine[i], code[i]))
    expected = [i for i in ranked if free[i] and cosine[i] > 0][:n]
    assert best(cosine, code, n, lambda codes: free[codes // 4]).tolist() == expected


def test_ties_go_to_the_earlier_tile():
    code = np.arange(50) * 8
    cosine = np.r_[np.full(20, 0.5), np.full(10, 0.9), np.full(20, 0.5)].astype(np.float32)
    assert best(cosine, code, 14, anything).tolist() == [*range(20, 30), 0, 1, 2, 3]


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

"""Nearest latents: exact, whatever the blocks, and null where there is no direction."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autointerp.subject import neighbours
from autointerp.subject.neighbours import nearest_latents


class Directions:
    """A dictionary of which only the decoder matters."""

    hook_point_out = "blocks.0.hook_resid_post"

    def __init__(self, decoder: torch.Tensor | None, n_latents: int | None = None) -> None:
        self.decoder = decoder
        self.n_latents = len(decoder) if decoder is not None else n_latents

    def decoder_directions(self, latents):
        return None if self.decoder is None else self.decoder[latents]


class Subject:
    """A subject whose way to the residual stream is a matrix, or none."""

    device = torch.device("cpu")

    def __init__(self, matrix: torch.Tensor | None = None) -> None:
        self.matrix = matrix

    def decoder_writes_to_residual(self, hook_point):
        return self.matrix is not None

    def to_residual(self, hook_point, directions):
        return directions @ self.matrix


def restated(decoder: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(cosine, order, axis=1)


@pytest.mark.parametrize(("n", "k"), [(37, 5), (37, 100), (2, 1), (200, 10)])
@pytest.mark.parametrize("blocks", [(7, 5), (16, 64), (2048, 8192)])
def test_exact_whatever_the_blocks(monkeypatch, n, k, blocks):
    monkeypatch.setattr(neighbours, "_ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "_COLUMNS", blocks[1])
    decoder = torch.randn(n, 6, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    found = nearest_latents(Directions(decoder), Subject(), k)
    order, cosine = restated(decoder.numpy(), min(k, n - 1))
    np.testing.assert_array_equal(found.latent, order)
    np.testing.assert_allclose(found.cosine, cosine, atol=1e-6)


def test_directions_are_compared_in_the_residual_stream():
    matrix = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    found = nearest_latents(Directions(torch.eye(4)), Subject(matrix), 1)
    assert found.latent.ravel().tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize("blocks", [(2, 3), (64, 64)])
def test_directions_of_zeros_have_and_are_no_neighbours(monkeypatch, blocks):
    monkeypatch.setattr(neighbours, "_ROWS", blocks[0])
    monkeypatch.setattr(neighbours, "_COLUMNS", blocks[1])
    decoder = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.6, 0.8], [float("nan"), 0.0], [0.0, -1.0]])
    column = nearest_latents(Directions(decoder), Subject(), 3).column(0, 5).to_pylist()
    assert [None if c is None else [n["latent"] for n in c] for c in column] == [
        [2, 4],
        None,
        [0, 4],
        None,
        [0, 2],
    ]
    assert column[0][0]["cosine"] == pytest.approx(0.6)
    assert column[2][1]["cosine"] == pytest.approx(-0.8)


def test_equal_cosines_in_the_order_of_the_latents():
    decoder = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [0.0, 1.0]])
    assert nearest_latents(Directions(decoder), Subject(), 3).latent[0].tolist() == [1, 2, 3]


def test_no_decoder_no_neighbours():
    assert nearest_latents(Directions(None, 5), Subject(), 3) is None
    assert nearest_latents(Directions(torch.eye(3)), Subject(), 0) is None
    assert nearest_latents(Directions(torch.ones(1, 3)), Subject(), 3) is None


def test_approximately_most_are_found_and_what_is_found_is_true():
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(300, 24, generator=generator)
    decoder = centres.repeat_interleave(12, 0) + 0.4 * torch.randn(3_600, 24, generator=generator)
    decoder[17] = 0
    found = nearest_latents(Directions(decoder), Subject(), 5, "approximate")
    exact = nearest_latents(Directions(decoder), Subject(), 5, "exact")
    assert (found.latent[17] == -1).all()
    assert not (found.latent == 17).any()
    shared = [
        len(set(a.tolist()) & set(b.tolist())) / 5
        for i, (a, b) in enumerate(zip(found.latent, exact.latent, strict=True))
        if i != 17
    ]
    assert np.mean(shared) > 0.95
    same = found.latent == exact.latent
    np.testing.assert_allclose(found.cosine[same], exact.cosine[same], atol=1e-5)
    assert not (found.latent == np.arange(3_600)[:, None]).any()


def test_without_faiss_a_large_dictionary_is_refused_in_one_line(monkeypatch):
    import sys

    from autointerp.errors import UserError

    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(neighbours, "MOST_EXACT", 10)
    with pytest.raises(UserError, match=r"cache\.n_neighbours"):
        nearest_latents(Directions(torch.randn(20, 4)), Subject(), 3)

"""What a latent reads: its activation grows fastest along its encoder direction, whatever the dictionary."""

from __future__ import annotations

import pytest
import torch

from autointerp.subject.dictionary import encoder_rows
from autointerp.subject.dictionary_neurons import NeuronDictionary
from autointerp.subject.dictionary_object import ObjectDictionary
from autointerp.subject.dictionary_sae_lens import SaeLensDictionary
from tests.subject.test_dictionary import checkpoint, open_sparsify
from tests.subject.test_dictionary_random import opened as random_dictionary
from tests.subject.test_dictionary_sae_lens import OPTIONS, make

HOOK = "blocks.1.hook_resid_post"
STEP = 1e-3


class Transposed(torch.nn.Module):
    """A dictionary that stores its encoder as [n_latents, d_in]."""

    def __init__(self) -> None:
        super().__init__()
        self.W_enc = torch.nn.Parameter(torch.randn(24, 16, generator=torch.Generator().manual_seed(2)))

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W_enc.T).relu()


def object_dictionary(inner) -> ObjectDictionary:
    return ObjectDictionary(inner, name="test:it", hook_point=HOOK, d_in=16, dtype="float32", device="cpu")


def dictionaries(tmp_path):
    for architecture in OPTIONS:
        if architecture != "matching_pursuit":
            yield architecture, SaeLensDictionary(make(architecture))
    for transcode in (False, True):
        folder = tmp_path / f"run{transcode}" / "layers.1.mlp"
        checkpoint(folder, transcode=transcode)
        yield f"sparsify {transcode}", open_sparsify(folder)
    yield "object", object_dictionary(Transposed())
    yield "random", random_dictionary()


def slope(dictionary, x: torch.Tensor, latent: int) -> torch.Tensor | None:
    """How one latent changes with each input at x [d_in]; None where its being active does."""
    scale = x.abs().clamp_min(1.0) * STEP
    moved = torch.cat([x + torch.diag(scale), x - torch.diag(scale)])
    values = dictionary.encode(moved).to_dense(dictionary.n_latents)[:, latent]
    if (values == 0).any():
        return None
    up, down = values.chunk(2)
    return (up - down) / (2 * scale)


def test_the_direction_is_the_slope(tmp_path):
    seen = []
    for name, dictionary in dictionaries(tmp_path):
        x = torch.randn(dictionary.d_in, generator=torch.Generator().manual_seed(4))
        active = dictionary.encode(x[None]).latent.tolist()
        for latent in active:
            expected = slope(dictionary, x, latent)
            if expected is None:
                continue
            direction = dictionary.encoder_directions(torch.tensor([latent]))
            assert direction.shape == (1, dictionary.d_in)
            assert direction.dtype == torch.float32
            cosine = torch.cosine_similarity(direction[0], expected, dim=0)
            assert cosine > 0.99, (name, latent, cosine)
            seen.append(name)
            break
    assert set(seen) == {name for name, _ in dictionaries(tmp_path / "again")}


def test_a_tied_dictionary_reads_what_it_writes():
    tied = SaeLensDictionary(make("matching_pursuit"))
    some = torch.tensor([7, 1])
    torch.testing.assert_close(tied.encoder_directions(some), tied.decoder_directions(some))


def test_none_where_there_is_none():
    assert NeuronDictionary("blocks.1.mlp.hook_post", 24).encoder_directions(torch.tensor([1])) is None

    class Bare:
        n_latents = 16

        def encode(self, x):
            return x.relu()

    assert object_dictionary(Bare()).encoder_directions(torch.tensor([1])) is None


@pytest.mark.parametrize("weights", [None, "text", torch.ones(3, 5), torch.ones(4)])
def test_weights_of_another_shape_are_no_directions(weights):
    assert encoder_rows(weights, torch.tensor([0]), 4, 3) is None

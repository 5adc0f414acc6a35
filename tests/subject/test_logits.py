from dataclasses import dataclass

import pytest
import torch

from autointerp.artifacts.schemas import LATENTS
from autointerp.subject.logits import top_and_bottom_logits
from autointerp.subject.vocabulary import vocabulary_table


@dataclass
class Planted:
    """Decoder directions chosen by hand."""

    hook_point_out: str
    directions: torch.Tensor | None

    def decoder_directions(self, latents: torch.Tensor) -> torch.Tensor | None:
        return None if self.directions is None else self.directions[latents]


@pytest.mark.parametrize("backend", ["huggingface", "transformer_lens"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_logits_are_the_change_of_the_models_own_to_first_order(subject, family, backend):
    model = subject(family, backend)
    directions = torch.randn(300, model.d_model, generator=torch.Generator().manual_seed(0))
    dictionary = Planted("blocks.1.hook_resid_post", directions)
    top, bottom = top_and_bottom_logits(dictionary, model, range(300), 7)
    # The model's own head on a direction of the length the norm leaves as it is.
    reference = subject(family)
    norm, head = reference.layout.final_norm, reference.layout.unembedding
    x = directions - directions.mean(-1, keepdim=True) if model.final_norm_centres else directions
    length = x.pow(2).mean(-1, keepdim=True).sqrt()
    bias = getattr(norm, "bias", None)
    scaled = norm(1e3 * x / length) if bias is None else norm(1e3 * x / length) - bias
    logits = (scaled * length) @ head.weight.T
    logits = logits[:, : len(model.tokenizer)]
    logits = logits - logits.mean(-1, keepdim=True)
    n = len(vocabulary_table(model.tokenizer, 0))
    for row in (0, 255, 256, 299):
        expected = logits[row].sort(descending=True)
        got = top[row].as_py()
        assert [t["token"] for t in got] == expected.indices[:7].tolist()
        assert [t["logit"] for t in got] == pytest.approx(expected.values[:7].tolist(), abs=1e-3)
        assert [t["token"] for t in bottom[row].as_py()] == expected.indices.flip(0)[:7].tolist()
        assert all(t["token"] < n for t in got)
    assert top.type == bottom.type == LATENTS.schema.field("top_logits").type


def test_they_are_null_where_there_is_nothing_to_say(subject):
    model = subject("llama")
    ones = torch.ones(4, model.d_model)
    for dictionary in (
        Planted("blocks.1.ln2.hook_normalized", ones),
        Planted("blocks.1.mlp.hook_in", ones),
        Planted("blocks.1.hook_resid_post", None),
        Planted("blocks.1.hook_resid_post", torch.ones(4, 3)),
    ):
        top, bottom = top_and_bottom_logits(dictionary, model, range(4), 5)
        assert top.null_count == bottom.null_count == len(top) == 4
    ones[2] = 0
    top, _ = top_and_bottom_logits(Planted("blocks.1.hook_resid_post", ones), model, range(4), 5)
    assert top.is_null().to_pylist() == [False, False, True, False]
    assert len(top_and_bottom_logits(Planted("hook_embed", ones), model, range(0), 5)[0]) == 0


def test_fewer_tokens_than_asked_for(subject):
    model = subject("llama")
    ones = torch.randn(1, model.d_model)
    top, bottom = top_and_bottom_logits(Planted("hook_embed", ones), model, [0], 1000)
    assert len(top[0]) == len(bottom[0]) == len(model.tokenizer)

"""A vector in place of a word: equal to the plain model where nothing changes, and cached as uncached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autointerp.errors import UserError
from autointerp.subject import patching
from autointerp.subject.patching import Slotted
from tests.subject.conftest import FAMILIES
from tests.subject.test_steering import BACKENDS, prompts, steered_subject, whole_model

PLACES = (3, 5)


def slot() -> tuple[Tensor, Slotted]:
    tokens = prompts(1)
    return tokens, Slotted(tokens=tuple(tokens[0].tolist()), places=PLACES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_stood_there_anyway_changes_nothing(subject, family, backend):
    model = subject(family, backend)
    tokens, _ = slot()
    steered = steered_subject(model, "blocks.1.hook_resid_post")
    for layer in (0, 1):
        hook = patching.entering(steered, layer)
        for place in PLACES:
            state = model.activations(tokens, [hook])[hook][:, place].float()
            prompt = Slotted(tokens=tuple(tokens[0].tolist()), places=(place,))
            said = patching.say(steered, prompt, torch.cat([state, -state]), hook)
            clean = whole_model(model, tokens)[:, -1]
            torch.testing.assert_close(said.log_probs[:1], clean, atol=1e-5, rtol=0)
            assert (said.log_probs[1:] - clean).abs().max() > 1e-4
            read = model.activations(tokens, ["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
            torch.testing.assert_close(said.states[:1], read[:, -1].float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(whole_model(model, tokens)[:, -1], clean, atol=0, rtol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_going_on_from_the_cache_is_going_on_without(subject, family, backend):
    model = subject(family, backend)
    tokens, prompt = slot()
    steered = steered_subject(model, "blocks.1.hook_resid_post")
    hook = patching.entering(steered, 1)
    vectors = 5 * torch.randn(2, 16, generator=torch.Generator().manual_seed(3))
    said = patching.say(steered, prompt, vectors, hook)
    rows, firsts = [0, 1, 1], [40, 41, 42]
    got = patching.go_on(steered, said, rows, firsts, 4)
    for row, first, new in zip(rows, firsts, got.tolist(), strict=True):
        now = torch.cat([tokens[0], torch.tensor([first])])[None]

        def replace(value: Tensor, vector: Tensor = vectors[row]) -> Tensor:
            changed = value.clone()
            changed[:, list(PLACES)] = vector.to(value.dtype)
            return changed

        while now.shape[1] < tokens.shape[1] + 4:
            with model.editing(hook, replace):
                logits = model.logits(now)[:, -1, : len(model.tokenizer)]
            now = torch.cat([now, logits.argmax(-1, keepdim=True)], dim=1)
        assert new == now[0, tokens.shape[1] :].tolist()


def test_places_of_a_word_wherever_it_stands(subject):
    steered = steered_subject(subject("llama", "huggingface"), "blocks.0.hook_resid_post")
    tokenizer = steered.subject.tokenizer
    text = 'The X sat: "X"'
    found = patching.slotted(steered, text, "X")
    assert found.tokens[0] == steered.tokenisation.bos_id
    shown = [tokenizer.decode([found.tokens[i]]) for i in found.places]
    assert len(shown) == 2
    assert all("X" in piece for piece in shown)


@pytest.mark.parametrize(
    ("hook_point", "read"),
    [
        ("hook_embed", "blocks.0.hook_resid_pre"),
        ("blocks.1.hook_resid_pre", "blocks.1.hook_resid_pre"),
        ("blocks.1.hook_mlp_out", "blocks.1.hook_resid_post"),
        ("blocks.0.attn.hook_z", "blocks.0.hook_resid_post"),
    ],
)
def test_read_where_what_is_written_has_arrived(subject, hook_point, read):
    assert patching.stream_at(subject("llama", "huggingface"), hook_point) == read


def test_likeness_is_of_each_text_alone(subject):
    """Texts read together or apart, and padded or not, are as like a direction; a text is most like its own."""
    model = subject("llama", "huggingface")
    steered = steered_subject(model, "blocks.1.hook_resid_post")
    texts = ["mat", "the cat sat on the dog", "café"]
    direction = torch.randn(16, generator=torch.Generator().manual_seed(1))
    together = patching.likeness(steered, "The", "a thing", texts, direction)
    apart = [patching.likeness(steered, "The", "a thing", [text], direction)[0] for text in texts]
    assert together == pytest.approx(apart, abs=1e-5)
    assert all(-1 <= value <= 1 for value in together)
    assert patching.likeness(steered, "The", "a thing", [], direction) == []


def test_a_layer_too_deep_is_a_mistake_of_the_user(subject):
    steered = steered_subject(subject("llama", "huggingface"), "blocks.0.hook_resid_post")
    with pytest.raises(UserError, match="layer: seen 2, but the subject has 2 blocks; accepted: 0 to 1"):
        patching.entering(steered, 2)

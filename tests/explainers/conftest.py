"""A tiny subject whose residual stream is the embedding: one latent's direction is what concept words share."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from autointerp.subject.model_hf import HuggingFaceSubject
from autointerp.subject.steering import SteeredSubject
from autointerp.subject.tokenise import Tokenisation
from tests.explainers.made_up import CONCEPT, CONCEPT_LATENT, CONCEPT_WORDS, EMPTY_LATENT, Directions

N_LATENTS, WIDTH = 12, 256


@pytest.fixture(scope="session")
def concept_subject() -> SteeredSubject:
    vocabulary = {word: i for i, word in enumerate(CONCEPT_WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<bos>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<bos>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(CONCEPT_WORDS),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.005,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    rows = torch.randn(len(CONCEPT_WORDS), WIDTH)
    model.model.embed_tokens.weight.data = rows
    model.model.norm.weight.data *= 0.1  # so that no token is certain
    directions = torch.randn(N_LATENTS, WIDTH)
    directions[CONCEPT_LATENT] = rows[[CONCEPT_WORDS.index(word) for word in CONCEPT]].sum(0)
    directions[EMPTY_LATENT] = 0
    return SteeredSubject(
        subject=HuggingFaceSubject(model, tokenizer, torch.device("cpu")),
        dictionary=Directions(directions),  # type: ignore[arg-type]
        tokenisation=Tokenisation(
            context_size=32, prepend_bos=True, bos_id=0, separator_id=None, special_ids=(0,)
        ),
    )

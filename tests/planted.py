"""A planted dictionary: latents known by construction, on a tiny model with a tiny tokenizer.

The model's embedding is read at `blocks.0.hook_resid_pre`, where each vector is exactly one token's
row; latent i fires, with a strength that depends on the word, exactly on the tokens of one word set.
So every activation, label and silent window can be checked against the text.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

WORD_SETS = {
    "animals": ["cat", "dog", "horse", "mouse"],
    "colours": ["red", "blue", "green"],
    "numbers": ["one", "two", "three", "four", "five"],
    "fruit": ["apple", "pear", "plum"],
    "verbs": ["ran", "jumped", "slept"],
}
"""Latent i fires on the words of set i; one more latent is dead and one is rare."""
RARE_WORD = "zebra"
FILLER = ["the", "a", "on", "under", "house", "garden", "near", "with", "and", "then", "quietly", "often"]
N_LATENTS = len(WORD_SETS) + 2
STRENGTHS = (4.0, 3.0, 2.5, 2.0, 1.5)
"""Activation on the first, second, ... word of a set."""


def documents(n: int = 60, seed: int = 0) -> list[str]:
    """Texts of random words; every fourth word or so belongs to a set."""
    rng = np.random.default_rng(seed)
    set_words = [w for words in WORD_SETS.values() for w in words]
    out = []
    for _ in range(n):
        words = [
            str(rng.choice(set_words)) if rng.random() < 0.12 else str(rng.choice(FILLER)) for _ in range(200)
        ]
        out.append(" ".join(words))
    out[0] += f" {RARE_WORD}"
    return out


def build(folder: Path, n_documents: int = 60) -> Path:
    """Write model, tokenizer, corpus and a run's TOML file; returns the path of the TOML file."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder.mkdir(parents=True, exist_ok=True)
    texts = documents(n_documents)
    with (folder / "corpus.jsonl").open("w") as handle:
        for text in texts:
            handle.write(json.dumps({"text": text}) + "\n")
    words = sorted({w for text in texts for w in text.split()})
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<bos>", *[f"Ġ{w}" for w in words], *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    from tokenizers import decoders

    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>", eos_token="<bos>"
    ).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    run = folder / "run.toml"
    run.write_text(
        f"""
name = "planted"
[subject]
model = "{folder / "model"}"
device = "cpu"
[dictionary]
source = "object"
path = "tests.planted:dictionary"
hook_point = "blocks.0.hook_resid_pre"
[corpus]
dataset = "{folder / "corpus.jsonl"}"
[cache]
n_tokens = 1_000_000
context_size = 32
prepend_bos = true
contexts_per_shard = 64
rows_per_shard = 1000
rare_below_contexts = 4
[sample]
window_tokens = 8
n_train = 12
n_train_random = 6
n_test = 10
n_test_random = 4
n_test_similar = 3
n_test_neighbour = 3
[explain]
explainers = ["statistics"]
latents = "all"
latents_per_shard = 2
[score]
scorers = ["detection"]
latents = 4
latents_per_shard = 2
"""
    )
    return run


class PlantedDictionary:
    """Encodes embeddings by looking up which token they are."""

    def __init__(self, model_folder: Path) -> None:
        import torch

        from autointerp.weights import load_causal_lm

        model, tokenizer = load_causal_lm(str(model_folder))
        self.embedding = model.get_input_embeddings().weight.detach()
        self.strengths = strengths(tokenizer, self.embedding.shape[0])
        self.W_dec = torch.from_numpy(self.strengths).T @ self.embedding.float()

    def encode(self, activations):
        """Dense latents, [n, N_LATENTS]."""
        import torch

        token = torch.cdist(activations.float(), self.embedding).argmin(dim=1)
        return torch.from_numpy(self.strengths)[token]


def strengths(tokenizer, n_vocabulary: int) -> np.ndarray:
    """Activation of each latent on each token, [n_vocabulary, N_LATENTS]."""
    out = np.zeros((n_vocabulary, N_LATENTS), dtype=np.float32)
    for latent, words in enumerate([*WORD_SETS.values(), [RARE_WORD]]):
        for strength, word in zip(STRENGTHS, words, strict=False):
            for form in (word, f"Ġ{word}"):
                token = tokenizer.get_vocab().get(form)
                if token is not None:
                    out[token, latent] = strength
    return out


def dictionary() -> PlantedDictionary:
    """What `[dictionary] path = "tests.planted:dictionary"` calls; the model's folder is in PLANTED_MODEL."""
    return PlantedDictionary(Path(os.environ["PLANTED_MODEL"]))

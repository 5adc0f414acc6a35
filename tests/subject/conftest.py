"""Tiny real things: a byte-level tokenizer and random two-layer models of several families."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
N_VOCABULARY = 330
TEXTS = [
    "The cat sat on the mat, and the dog sat on the cat.",
    "Ein Fuchs läuft über die Straße; naïve café — 日本語 🦊.",
    "def f(x):\n    return x ** 2  # <|im_start|> is only text here\n",
]
_COMMON = {"vocab_size": N_VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
_LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
}
FAMILIES = {
    "llama": LlamaConfig(**_LLAMA, **_COMMON),
    "gpt2": GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=64, **_COMMON),
    "gemma2": Gemma2Config(**_LLAMA, query_pre_attn_scalar=6, attn_logit_softcapping=2.0, **_COMMON),
    "neox": GPTNeoXConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, **_COMMON
    ),
    "qwen3": Qwen3Config(**_LLAMA, **_COMMON),
}


def train_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIAL[0],
        eos_token=SPECIAL[0],
        additional_special_tokens=SPECIAL[1:],
    )


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer):
    """Folder of the saved tiny model of a family, random but the same every time."""
    made: dict[str, Path] = {}

    def folder_of(family: str) -> str:
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(FAMILIES[family])
            for name, parameter in model.named_parameters():  # norms and biases must not be trivial
                if parameter.ndim == 1:
                    parameter.data += 0.3 * torch.randn_like(parameter)
                else:
                    parameter.data += 0.1 * torch.randn_like(parameter)
                assert torch.isfinite(parameter).all(), name
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            made[family] = folder
        return str(made[family])

    return folder_of


@pytest.fixture(scope="session")
def subject(model_folder):
    """The opened tiny model of a family and backend."""
    from autointerp.config import SubjectConfig
    from autointerp.subject.model import open_subject

    opened = {}

    def open_once(family: str, backend: str = "huggingface"):
        key = (family, backend)
        if key not in opened:
            opened[key] = open_subject(
                SubjectConfig(model=model_folder(family), backend=backend, device="cpu")
            )
        return opened[key]

    return open_once

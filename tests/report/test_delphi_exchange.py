"""A cache of Delphi as a run: its activations, what stages make of them, and bad files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from autointerp.artifacts import RunDirectory
from autointerp.engine.importing import import_run
from autointerp.engine.pipeline import run_stages
from autointerp.errors import UserError
from autointerp.report.exchange import delphi
from autointerp.run import open_run


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    words = {w: i for i, w in enumerate(["[UNK]", "<s>", *[f"w{i}" for i in range(30)]])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", unk_token="[UNK]").save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    return str(folder)


MODULE = "layers.3.mlp"


def delphi_world(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [60, 16], and activations [60, 16, 10]: latent i fires on token i + 3; latent 9 never."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, 32, size=(60, 16))
    tokens[:, 0] = 1
    acts = np.zeros((60, 16, 10), dtype=np.float16)
    for i in range(9):
        acts[..., i] = (tokens == i + 3) * rng.uniform(0.5, 4, size=tokens.shape)
    acts[:, 0, 2] = 9.0  # on the BOS token
    return tokens, acts


def write_delphi(root: Path, *, dtype: torch.dtype = torch.uint16, with_tokens: bool = True) -> Path:
    tokens, acts = delphi_world()
    folder = root / "latents" / MODULE
    folder.mkdir(parents=True)
    for first, last in ((0, 4), (5, 9)):
        at = np.argwhere(acts[..., first : last + 1] != 0)
        data = {
            "locations": torch.tensor(np.ascontiguousarray(at)).to(dtype),
            "activations": torch.tensor(acts[..., first : last + 1][tuple(at.T)]),
        }
        if with_tokens:
            data["tokens"] = torch.tensor(tokens)
        save_file(data, folder / f"{first}_{last}.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_name": "tiny/model", "ctx_len": 16, "n_splits": 2})
    )
    labels = {0: "the token w1", 1: "Explanation could not be parsed.", 2: "<<b>>", 11: "beyond the cache"}
    for latent, text in labels.items():
        path = root / "explanations" / f"{MODULE}_latent{latent}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(text))
    (root / "run_config.json").write_text(json.dumps({"sparse_model": "some/sae", "explainer_model": "big"}))
    return root


def imported_delphi(folder: Path, root: Path, tokenizer: str, **options: Any):
    choice = delphi.DelphiOptions(tokenizer=tokenizer, rare_below_contexts=2, **options)
    return import_run(root, lambda path: delphi.import_delphi(folder, path, choice))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.int64])
def test_a_delphi_cache_becomes_a_run(tmp_path: Path, tokenizer: str, dtype: torch.dtype) -> None:
    folder = write_delphi(tmp_path / "results", dtype=dtype)
    config = imported_delphi(folder, tmp_path / "run", tokenizer).config
    assert (config.dictionary.source, config.dictionary.release, config.dictionary.sae_id) == (
        "sparsify", "some/sae", MODULE,
    )  # fmt: skip
    run = open_run(tmp_path / "run")
    tokens, acts = delphi_world()
    rows = run.table("activations").to_pylist()
    dense = np.zeros(acts.shape, dtype=np.float32)
    for row in rows:
        dense[row["context"], row["position"], row["latent"]] = row["activation"]
    expected = acts.astype(np.float32)
    expected[:, 0] = 0  # BOS and the first position are masked
    assert np.array_equal(dense, expected)
    assert [row["tokens"] for row in run.table("contexts").to_pylist()] == tokens.tolist()
    status = [row["status"] for row in run.table("latents").to_pylist()]
    assert status == ["ok"] * 9 + ["dead"]
    assert run.tokens.text(tokens[0][1:3]) == "".join(f"w{t - 2}" for t in tokens[0][1:3])
    manifest = run.directory.manifest("cache")
    assert manifest is not None
    assert manifest.counts["activations_dropped_at_masked_positions"] == 60
    labels = {
        row["latent"]: (row["status"], row["text"])
        for row in run.table("explanations").to_pylist()
        if row["control"] is None
    }
    assert labels[0] == ("ok", "the token w1")
    assert labels[1] == ("undetermined", None)
    assert labels[3][0] == "failed"


def test_windows_are_sampled_from_an_imported_delphi_cache(tmp_path: Path, tokenizer: str) -> None:
    config = imported_delphi(write_delphi(tmp_path / "results"), tmp_path / "run", tokenizer).config
    config = config.model_copy(
        update={"sample": config.sample.model_copy(update={"window_tokens": 6, "n_test": 5, "n_train": 5})}
    )
    run_stages(config, RunDirectory(tmp_path / "run"), ["sample", "explain"])
    windows = open_run(tmp_path / "run").table("examples").to_pylist()
    assert {row["kind"] for row in windows} >= {"activating", "random"}
    assert all(row["max_activation"] == 0 for row in windows if row["kind"] == "random")


def test_bad_delphi_caches_are_one_line(tmp_path: Path, tokenizer: str) -> None:
    def fails(folder: Path, said: str) -> None:
        with pytest.raises(UserError, match=said) as error:
            imported_delphi(folder, tmp_path / "run", tokenizer)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()

    fails(tmp_path / "none", "no folder")
    fails(write_delphi(tmp_path / "a", with_tokens=False), "save_tokens")
    folder = write_delphi(tmp_path / "b") / "latents" / MODULE
    good = {
        "locations": torch.tensor([[0, 1, 0]]),
        "activations": torch.ones(1),
        "tokens": torch.ones(2, 4).long(),
    }
    for change, said in (
        ({"locations": torch.tensor([[7, 1, 0]])}, "outside"),
        ({"locations": torch.tensor([[0, 1, 99]])}, "outside"),
        ({"locations": torch.tensor([0, 1])}, "accepted: \\[n, 3\\]"),
        ({"activations": torch.tensor([float("inf")])}, "not finite"),
        ({"tokens": torch.ones(3)}, "token ids"),
    ):
        save_file(good | change, folder / "0_4.safetensors")
        fails(tmp_path / "b", said)
    (folder / "0_4.safetensors").write_bytes(b"no safetensors")
    fails(tmp_path / "b", "cannot be read")
    (folder / "config.json").write_text("[")
    fails(tmp_path / "b", "is no JSON")
    pickled = tmp_path / "c" / "latents" / MODULE
    pickled.mkdir(parents=True)
    (pickled / "0_4.pt").write_bytes(b"")
    fails(tmp_path / "c", "pickle, which is never loaded")
    write_delphi(tmp_path / "d")
    (tmp_path / "d" / "latents" / MODULE).rename(tmp_path / "d" / "latents" / "one")
    write_delphi(tmp_path / "e")
    (tmp_path / "e" / "latents" / MODULE).rename(tmp_path / "d" / "latents" / "two")
    fails(tmp_path / "d", "--module: .* holds 2 hook points; accepted: one, two")

import json
import sys

import pytest
import torch
from safetensors.torch import save_file

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.dictionary import open_dictionary
from autointerp.subject.dictionary_sparsify import hook_points_of
from autointerp.subject.sparse import SparseLatents

HOOK = "blocks.1.hook_resid_post"


def checkpoint(folder, d_in: int = 16, n: int = 32, **config) -> dict[str, torch.Tensor]:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    weights = {
        "encoder.weight": torch.randn(n, d_in, generator=generator),
        "encoder.bias": torch.randn(n, generator=generator),
        "W_dec": torch.randn(n, d_in, generator=generator),
        "b_dec": torch.randn(d_in, generator=generator),
    }
    save_file(weights, folder / "sae.safetensors")
    facts = {"d_in": d_in, "num_latents": 0, "expansion_factor": n // d_in, "k": 4, "activation": "topk"}
    (folder / "cfg.json").write_text(json.dumps(facts | config))
    return weights


def inputs() -> torch.Tensor:
    return torch.randn(21, 16, generator=torch.Generator().manual_seed(1))


def open_sparsify(path, **options):
    config = DictionaryConfig(source="sparsify", path=str(path), **options)
    return open_dictionary(config, SubjectConfig(model="none/at-all", device="cpu"))


@pytest.mark.parametrize("transcode", [False, True])
@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_sparsify_checkpoints(tmp_path, activation, transcode):
    w = checkpoint(tmp_path / "run" / "layers.1.mlp", activation=activation, transcode=transcode)
    dictionary = open_sparsify(tmp_path / "run", sae_id="layers.1.mlp")
    x = inputs() if transcode else inputs() - w["b_dec"]
    pre = torch.relu(x @ w["encoder.weight"].T + w["encoder.bias"])
    expected = torch.zeros_like(pre)
    for row in range(len(pre)):
        if activation == "topk":
            kept = pre[row].argsort(descending=True)[:4]
        else:
            kept = torch.stack([8 * g + pre[row, 8 * g : 8 * g + 8].argmax() for g in range(4)])
        expected[row, kept] = pre[row, kept]
    torch.testing.assert_close(dictionary.encode(inputs()).to_dense(32), expected)
    assert (dictionary.d_in, dictionary.n_latents) == (16, 32)
    read = "blocks.1.mlp.hook_in" if transcode else "blocks.1.mlp.hook_out"
    assert (dictionary.hook_point, dictionary.hook_point_out) == (read, "blocks.1.mlp.hook_out")
    torch.testing.assert_close(dictionary.decoder_directions(torch.tensor([5])), w["W_dec"][[5]])
    assert dictionary.identity == open_sparsify(tmp_path / "run/layers.1.mlp").identity


def test_sparsify_tokenisation_and_training_facts(tmp_path):
    checkpoint(tmp_path / "layers.9", num_latents=32)
    (tmp_path / "config.json").write_text(
        json.dumps({"model": "HuggingFaceTB/SmolLM2-135M", "ctx_len": 1024})
    )
    dictionary = open_sparsify(tmp_path / "layers.9")
    assert dictionary.hook_point == "blocks.9.hook_resid_post"
    assert dictionary.metadata["model_name"] == "HuggingFaceTB/SmolLM2-135M"
    assert dictionary.metadata["context_size"] == 1024
    assert not dictionary.metadata["prepend_bos"]
    assert dictionary.metadata["sequence_separator_token"] == "eos"
    assert open_sparsify(tmp_path / "layers.9", hook_point=HOOK).hook_point == HOOK


@pytest.mark.parametrize(
    ("module", "transcode", "expected"),
    [
        ("layers.9", False, ("blocks.9.hook_resid_post",) * 2),
        ("model.layers.9", False, ("blocks.9.hook_resid_post",) * 2),
        ("h.3", True, ("blocks.3.hook_resid_pre", "blocks.3.hook_resid_post")),
        ("h.3.mlp", True, ("blocks.3.mlp.hook_in", "blocks.3.mlp.hook_out")),
        ("layers.3.self_attn", False, ("blocks.3.attn.hook_out",) * 2),
        ("embed_tokens", False, ("hook_embed",) * 2),
        ("layers.3.mlp.up_proj", False, None),
        ("layers.3.self_attn", True, None),
    ],
)
def test_sparsify_module_names(module, transcode, expected):
    assert hook_points_of(module, transcode) == expected


def test_sparsify_error_lines(tmp_path):
    checkpoint(tmp_path / "layers.1")
    checkpoint(tmp_path / "layers.2")
    with pytest.raises(UserError, match=r"several dictionaries; accepted: layers.1, layers.2"):
        open_sparsify(tmp_path)
    with pytest.raises(UserError, match=r"dictionary.sae_id: seen 'layers.3'.*did you mean"):
        open_sparsify(tmp_path, sae_id="layers.3")
    checkpoint(tmp_path / "odd")
    with pytest.raises(UserError, match=r"dictionary.hook_point: not to be told from the folder 'odd'"):
        open_sparsify(tmp_path / "odd")
    checkpoint(tmp_path / "layers.4", activation="relu")
    with pytest.raises(UserError, match=r"'relu'.*accepted: groupmax, topk"):
        open_sparsify(tmp_path / "layers.4")
    checkpoint(tmp_path / "layers.5", num_latents=99)
    with pytest.raises(UserError, match=r"cfg.json says 99 latents"):
        open_sparsify(tmp_path / "layers.5")
    (tmp_path / "layers.6").mkdir()
    (tmp_path / "layers.6" / "cfg.json").write_text("{}")
    (tmp_path / "layers.6" / "sae.pt").touch()
    with pytest.raises(UserError, match=r"sae.pt is a pickle"):
        open_sparsify(tmp_path / "layers.6")
    checkpoint(tmp_path / "layers.7")
    (tmp_path / "layers.7" / "sae.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match="cannot read"):
        open_sparsify(tmp_path / "layers.7")
    with pytest.raises(UserError, match="no such folder"):
        open_sparsify(tmp_path / "nothing")


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "neox"])
def test_neurons_are_the_positive_part_of_the_mlp(model_folder, subject, family):
    hook = "blocks.1.mlp.hook_post"
    where = SubjectConfig(model=model_folder(family), device="cpu")
    dictionary = open_dictionary(DictionaryConfig(source="neurons", hook_point=hook), where)
    model = subject(family)
    model.check_hook_points([dictionary.hook_point])
    x = model.activations(torch.arange(8)[None], [hook])[hook][0]
    assert torch.equal(dictionary.encode(x).to_dense(dictionary.n_latents), x.relu())
    written = model.to_residual(hook, dictionary.decoder_directions(torch.tensor([3, 7])))
    if family != "gemma2":
        torch.testing.assert_close(written, model.mlp_out_weights(1)[[3, 7]])
    few = open_dictionary(DictionaryConfig(source="neurons", hook_point=hook, top_k=3), where).encode(x)
    assert torch.bincount(few.row).max() == 3
    assert few.value.max() == x.max()


def test_neuron_error_lines(model_folder):
    where = SubjectConfig(model=model_folder("gpt2"), device="cpu")
    with pytest.raises(UserError, match=r"accepted for neurons: blocks.N.mlp.hook_post"):
        open_dictionary(DictionaryConfig(source="neurons", hook_point=HOOK), where)


MODULE = """
import torch

class Dense:
    metadata = {"context_size": 32}
    W_dec = torch.eye(16)[:8]
    def encode(self, x):
        return torch.relu(x[:, :8])

class Coo(Dense):
    def encode(self, x):
        return super().encode(x).to_sparse()

class Pair(Dense):
    n_latents = 8
    def encode(self, x):
        values, latents = super().encode(x).topk(8)
        return values, latents, "and more"

def make():
    return Dense()

instance = Dense()
nothing = 3
def broken():
    class Broken:
        def encode(self, x):
            raise ValueError("no")
    return Broken()
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_dictionary.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("my_dictionary", None)


def open_object(path: str, model: str, hook: str = HOOK):
    config = DictionaryConfig(source="object", path=path, hook_point=hook)
    return open_dictionary(config, SubjectConfig(model=model, device="cpu"))


@pytest.mark.parametrize("name", ["make", "Dense", "Coo", "Pair", "instance"])
def test_any_object_with_encode(module, model_folder, name):
    dictionary = open_object(f"my_dictionary:{name}", model_folder("llama"))
    assert (dictionary.d_in, dictionary.n_latents, dictionary.hook_point) == (16, 8, HOOK)
    assert torch.equal(dictionary.encode(inputs()).to_dense(8), inputs()[:, :8].relu())
    assert dictionary.metadata["context_size"] == 32
    assert dictionary.decoder_directions(torch.tensor([2]))[0, 2] == 1
    assert dictionary.identity == open_object(f"my_dictionary:{name}", model_folder("llama")).identity


def test_object_error_lines(module, model_folder):
    llama = model_folder("llama")
    for path, message in (
        ("my_dictionary", "'package.module:function'"),
        ("no_such_module:x", "cannot import"),
        ("my_dictionary:mak", "did you mean 'make'"),
        ("my_dictionary:broken", "fails on zeros"),
    ):
        with pytest.raises(UserError, match=message):
            open_object(path, llama)
    with pytest.raises(UserError, match="needs an attribute d_in"):
        open_object("my_dictionary:make", llama, "blocks.0.mlp.hook_post")


def test_sparse_latents_from_every_form():
    dense = torch.relu(inputs())
    reference = SparseLatents.from_dense(dense)
    values, indices = dense.topk(16, sorted=False)
    for other in (SparseLatents.from_top_k(indices, values), SparseLatents.from_coo(dense.to_sparse())):
        assert torch.equal(other.row, reference.row)
        assert torch.equal(other.latent, reference.latent)
        assert torch.equal(other.value, reference.value)
    halves = SparseLatents.concatenate(
        [SparseLatents.from_dense(dense[:10]), SparseLatents.from_dense(dense[10:])]
    )
    assert torch.equal(halves.to_dense(16), dense)

import json
import logging

import pytest
import torch
from sae_lens import SAE

from autointerp.config import DictionaryConfig, SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.dictionary import open_dictionary
from autointerp.subject.dictionary_sae_lens import SaeLensDictionary

# SAELens' advice on how to load the model; `open_dictionary` keeps it quiet itself.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty:UserWarning")

HOOK = "blocks.1.hook_resid_post"
D_IN, D_SAE = 16, 40
METADATA = {
    "model_name": "tiny",
    "hook_name": HOOK,
    "context_size": 128,
    "prepend_bos": True,
    "neuronpedia_id": "tiny/1-res",
    "sae_lens_version": "6.54.12",
}
OPTIONS = {
    "standard": {},
    "gated": {},
    "topk": {"k": 5},
    "abstopk": {"k": 5},
    "jumprelu": {},
    "transcoder": {"apply_b_dec_to_input": False, "d_out": 12},
    "skip_transcoder": {"apply_b_dec_to_input": False, "d_out": 12},
    "jumprelu_transcoder": {"apply_b_dec_to_input": False, "d_out": 12},
    "jumprelu_skip_transcoder": {"apply_b_dec_to_input": False, "d_out": 12},
    "matching_pursuit": {"max_iterations": 6, "residual_threshold": 0.1},
}


def make(architecture: str, metadata: dict | None = None, **options) -> SAE:
    torch.manual_seed(0)
    sae = SAE.from_dict(
        {
            "architecture": architecture,
            "d_in": D_IN,
            "d_sae": D_SAE,
            "dtype": "float32",
            "device": "cpu",
            "metadata": METADATA | (metadata or {}),
        }
        | OPTIONS[architecture]
        | options
    )
    for name, parameter in sae.named_parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
        if name == "threshold":
            parameter.data.abs_()
        if architecture == "matching_pursuit" and name == "W_dec":
            parameter.data /= parameter.norm(dim=-1, keepdim=True)
    return sae.eval()


def inputs(n: int = 33, width: int = D_IN) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(1))


def subject_config() -> SubjectConfig:
    return SubjectConfig(model="none/at-all", device="cpu")


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", OPTIONS)
def test_sparse_latents_are_the_non_zeros_of_sae_lens_exactly(architecture, normalisation):
    sae = make(architecture, normalize_activations=normalisation)
    with torch.no_grad():
        dense = sae.encode(inputs())
    dictionary = SaeLensDictionary(sae)
    sparse = dictionary.encode(inputs())
    assert sparse.n_rows == 33
    assert 0 < len(sparse.value) < dense.numel()
    assert torch.equal(sparse.to_dense(D_SAE), dense)
    row, latent = dense.nonzero(as_tuple=True)  # sorted by (row, latent), and never a zero
    assert torch.equal(sparse.row, row)
    assert torch.equal(sparse.latent, latent)
    assert dictionary.metadata["signed"] == (architecture == "abstopk")
    assert (dense < 0).any() == (architecture == "abstopk")


@pytest.mark.parametrize("architecture", OPTIONS)
def test_saved_dictionaries_are_loaded_and_known_again(architecture, tmp_path):
    sae = make(architecture)
    sae.save_model(tmp_path / "a")
    config = DictionaryConfig(path=str(tmp_path / "a"))
    dictionary = open_dictionary(config, subject_config())
    assert (dictionary.hook_point, dictionary.d_in, dictionary.n_latents) == (HOOK, D_IN, D_SAE)
    assert dictionary.metadata["architecture"] == architecture
    assert dictionary.metadata["neuronpedia_id"] == "tiny/1-res"
    assert (dictionary.metadata["context_size"], dictionary.metadata["prepend_bos"]) == (128, True)
    assert dictionary.metadata["sequence_separator_token"] == "bos"
    json.dumps(dictionary.metadata)
    with torch.no_grad():  # `sae` itself was not taken over
        assert torch.equal(dictionary.encode(inputs()).to_dense(D_SAE), sae.encode(inputs()))
        directions = dictionary.decoder_directions(torch.tensor([3, 0]))
    torch.testing.assert_close(directions, sae.W_dec[[3, 0]].detach().float())
    assert dictionary.identity == open_dictionary(config, subject_config()).identity
    sae.W_dec.data[0, 0] += 1
    sae.save_model(tmp_path / "b")
    assert (
        dictionary.identity
        != open_dictionary(DictionaryConfig(path=str(tmp_path / "b")), subject_config()).identity
    )


@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_training_only_architectures_are_saved_as_jumprelu(architecture, tmp_path):
    from sae_lens.registry import get_sae_training_class

    sae_class, config_class = get_sae_training_class(architecture)
    options = {"matryoshka_widths": [10, D_SAE]} if architecture == "matryoshka_batchtopk" else {}
    sae = sae_class(config_class(d_in=D_IN, d_sae=D_SAE, k=4, **options))
    sae.topk_threshold = torch.tensor(0.01)
    sae.save_inference_model(tmp_path)
    dictionary = open_dictionary(DictionaryConfig(path=str(tmp_path), hook_point=HOOK), subject_config())
    assert dictionary.metadata["architecture"] == "jumprelu"
    assert len(dictionary.encode(inputs()).value) > 0


def test_no_positions_and_many_positions(monkeypatch):
    dictionary = SaeLensDictionary(make("topk"))
    empty = dictionary.encode(inputs(0))
    assert (empty.n_rows, len(empty.value), empty.latent.dtype) == (0, 0, torch.int64)
    whole = dictionary.encode(inputs(100))
    monkeypatch.setattr("autointerp.subject.dictionary._ELEMENTS_PER_CHUNK", 1)  # 16 rows at a time
    parts = dictionary.encode(inputs(100))
    assert torch.equal(parts.row, whole.row)
    assert torch.equal(parts.latent, whole.latent)
    torch.testing.assert_close(parts.value, whole.value)


def test_hook_z_dictionaries_take_flat_heads():
    metadata = {"hook_name": "blocks.0.attn.hook_z"}
    sae = make("standard", metadata, reshape_activations="hook_z")
    with torch.no_grad():
        theirs = make("standard", metadata, reshape_activations="hook_z").encode(inputs().view(33, 4, 4))
    dictionary = SaeLensDictionary(sae)
    for _ in range(2):  # SAELens remembers the shape it saw first
        assert torch.equal(dictionary.encode(inputs()).to_dense(D_SAE), theirs)


def test_a_dictionary_of_one_head_is_given_that_head():
    metadata = {"hook_name": "blocks.0.attn.hook_z", "hook_head_index": 2}
    sae = make("standard", metadata)
    z = inputs(width=4 * D_IN)
    with torch.no_grad():
        theirs = sae.encode(z[:, 2 * D_IN : 3 * D_IN])
    dictionary = SaeLensDictionary(sae)
    assert torch.equal(dictionary.encode(z).to_dense(D_SAE), theirs)
    assert dictionary.decoder_directions(torch.tensor([0])) is None


def test_transcoders_write_elsewhere():
    metadata = {"hook_name": "blocks.0.mlp.hook_in", "hook_name_out": "blocks.0.hook_mlp_out"}
    dictionary = SaeLensDictionary(make("transcoder", metadata))
    assert (dictionary.hook_point, dictionary.hook_point_out) == tuple(metadata.values())
    behind_the_norm = {
        "hook_name": "blocks.3.hook_mlp_in",
        "hf_hook_name": "model.layers.3.pre_feedforward_layernorm.output",
    }
    assert SaeLensDictionary(make("transcoder", behind_the_norm)).hook_point == "blocks.3.mlp.hook_in"


def test_centred_weights_amount_to_centred_activations(model_folder, subject):
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    folder = model_folder("gpt2")
    bridge = TransformerBridge.boot_transformers(folder, tokenizer=AutoTokenizer.from_pretrained(folder))
    bridge.enable_compatibility_mode(
        fold_ln=False, center_unembed=False, fold_value_biases=False, center_writing_weights=True
    )
    ids = torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(0))
    for hook in (HOOK, "blocks.0.hook_mlp_out", "blocks.1.hook_resid_pre", "blocks.0.mlp.hook_post"):
        width = 64 if hook.endswith("post") and "mlp" in hook else D_IN
        centred = bridge.run_with_cache(ids, names_filter=[hook])[1][hook].flatten(0, 1)
        raw = subject("gpt2").activations(ids, [hook])[hook].flatten(0, 1)
        metadata = {"hook_name": hook, "model_from_pretrained_kwargs": {"center_writing_weights": True}}
        sae = make("standard", metadata, d_in=width)
        with torch.no_grad():
            theirs = sae.encode(centred)
        torch.testing.assert_close(
            SaeLensDictionary(sae).encode(raw).to_dense(D_SAE), theirs, atol=1e-4, rtol=1e-4
        )
    # TransformerLens does not centre a model with RMSNorm, and neither do we.
    sae = make("standard", {"model_from_pretrained_kwargs": {"center_writing_weights": True}})
    left_alone = SaeLensDictionary(sae, subject_uses_rms_norm=True).encode(raw[:, :D_IN])
    with torch.no_grad():
        assert torch.equal(left_alone.to_dense(D_SAE), sae.encode(raw[:, :D_IN]))


def test_rms_norm_is_told_from_the_models_configuration(model_folder, tmp_path):
    make("standard", {"model_from_pretrained_kwargs": {"center_writing_weights": True}}).save_model(tmp_path)
    config = DictionaryConfig(path=str(tmp_path))
    for family, centred in (("gpt2", True), ("llama", False)):
        subject = SubjectConfig(model=model_folder(family), device="cpu")
        assert open_dictionary(config, subject)._centred == centred


def test_weights_processing_that_cannot_be_followed_is_refused():
    metadata = {
        "hook_name": "blocks.0.ln2.hook_normalized",
        "model_from_pretrained_kwargs": {"fold_ln": True},
    }
    with pytest.raises(UserError, match="fold_ln = true"):
        SaeLensDictionary(make("standard", metadata))
    metadata["model_from_pretrained_kwargs"] = {"fold_ln": False}  # as many transcoders of the registry say
    SaeLensDictionary(make("standard", metadata))


def test_unscaled_inputs_are_told(caplog):
    with caplog.at_level(logging.WARNING):
        SaeLensDictionary(make("standard", normalize_activations="expected_average_only_in"))
    assert "expected_average_only_in" in caplog.text


def test_temporal_dictionaries_are_refused(tmp_path):
    OPTIONS["temporal"] = {"kval_topk": 4, "n_heads": 4, "bottleneck_factor": 2}
    try:
        with pytest.raises(UserError, match="'temporal' is not supported"):
            SaeLensDictionary(make("temporal"))
    finally:
        del OPTIONS["temporal"]


def test_error_lines(tmp_path):
    def error(**options) -> str:
        with pytest.raises(UserError) as caught:
            open_dictionary(DictionaryConfig(**options), subject_config())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "did you mean 'gpt2-small-res-jb'" in error(release="gpt2-small-resjb", sae_id="x")
    assert "did you mean 'blocks.8.hook_resid_pre'" in error(
        release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pr"
    )
    assert "cannot be loaded" in error(release="gpt2-small-res-jb", sae_id="blocks.8.hook_resid_pre")
    assert "no folder" in error(path=str(tmp_path / "nothing"))
    (tmp_path / "cfg.json").write_text("{}")
    (tmp_path / "sae_weights.pt").touch()
    assert "sae_weights.pt is a pickle" in error(path=str(tmp_path))
    (tmp_path / "sae.safetensors").touch()
    assert "set dictionary.source = 'sparsify'" in error(path=str(tmp_path))
    with pytest.raises(UserError, match=r"dictionary.hook_point: .*does not say where it reads"):
        SaeLensDictionary(make("standard", {"hook_name": None}))
    with pytest.raises(UserError, match=r"reads 16 values at 'blocks.1.hook_resid_post'.* has 12 there"):
        SaeLensDictionary(make("standard")).encode(torch.zeros(3, 12))


def test_a_release_of_pickles_is_refused(monkeypatch):
    import torch
    from sae_lens import SAE

    monkeypatch.setattr(SAE, "from_pretrained", lambda *args, **options: torch.load("weights.pt"))
    with pytest.raises(UserError, match=r"pickled \.pt files, which are never loaded"):
        open_dictionary(DictionaryConfig(release="someone/saes", sae_id="layer_3"), subject_config())

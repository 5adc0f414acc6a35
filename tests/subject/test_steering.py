import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autointerp.errors import UserError
from autointerp.subject.steering import Clean, Search, SteeredSubject, divergence
from autointerp.subject.tokenise import Tokenisation
from tests.subject.conftest import FAMILIES

BACKENDS = ["huggingface", "transformer_lens"]


class Directions:
    """A dictionary of nothing but decoder directions."""

    def __init__(self, hook_point: str, directions: Tensor | None) -> None:
        self.hook_point = self.hook_point_out = hook_point
        self._directions = directions

    def decoder_directions(self, latents: Tensor) -> Tensor | None:
        return None if self._directions is None else self._directions[latents]


def steered_subject(model, hook_point: str, directions: Tensor | None = None) -> SteeredSubject:
    tokenisation = Tokenisation(
        context_size=32, prepend_bos=True, bos_id=0, separator_id=None, special_ids=(0, 1, 2)
    )
    return SteeredSubject(
        subject=model,
        dictionary=Directions(hook_point, directions),  # type: ignore[arg-type]
        tokenisation=tokenisation,
    )


def prompts(n: int = 3, length: int = 9, seed: int = 0) -> Tensor:
    tokens = torch.randint(3, 320, (n, length), generator=torch.Generator().manual_seed(seed))
    tokens[:, 0] = 0
    tokens[0, 4] = 2  # a special token in the middle of a prompt
    return tokens


def vectors(hook_point: str, n: int = 2, seed: int = 1, model=None) -> Tensor:
    width = 16 if model is None else model.activations(prompts(), [hook_point])[hook_point].shape[-1]
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def supported(model) -> list[str]:
    return [name for name in model.hook_points() if model.decoder_writes_to_residual(name)]


def whole_model(model, tokens: Tensor) -> Tensor:
    return model.logits(tokens)[..., : len(model.tokenizer)].log_softmax(-1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_steering_by_nothing_gives_the_clean_distributions(subject, family, backend):
    model = subject(family, backend)
    tokens = prompts()
    expected = whole_model(model, tokens)[:, -2:]
    for hook_point in supported(model):
        steered = steered_subject(model, hook_point)
        clean = steered.clean(tokens, 2)
        torch.testing.assert_close(clean.log_probs, expected, atol=1e-5, rtol=0)
        same = steered.steered(clean, 0 * vectors(hook_point, model=model))
        assert same.shape == (2, 3, 2, len(model.tokenizer))
        torch.testing.assert_close(same[1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole_model(model, tokens)[:, -2:], expected, atol=0, rtol=0)


def by_hand(model, hook_point: str, tokens: Tensor, vector: Tensor) -> Tensor:
    """The residual stream of a block changed by a plain hook on the block, nothing resumed."""
    layer, name = int(hook_point.split(".")[1]), hook_point.split(".", 2)[2]
    mask = (tokens > 2).float()
    mask[:, 0] = 0
    block = model.layout.layers[layer].block
    added = mask[..., None] * vector
    if name == "hook_resid_pre":
        handle = block.register_forward_pre_hook(
            lambda m, args, kw: ((args[0] + added, *args[1:]), kw), with_kwargs=True
        )
    else:
        assert name == "hook_resid_post"
        handle = block.register_forward_hook(lambda m, args, out: out + added)
    try:
        return whole_model(model, tokens)
    finally:
        handle.remove()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_steering_is_adding_the_vector_at_every_ordinary_token(subject, family, backend):
    model = subject(family, backend)
    tokens = prompts()
    for hook_point in (f"blocks.{i}.{n}" for i in (0, 1) for n in ("hook_resid_pre", "hook_resid_post")):
        steered, two = steered_subject(model, hook_point), vectors(hook_point)
        got = steered.steered(steered.clean(tokens, 9), two)
        for vector, log_probs in zip(two, got, strict=True):
            expected = by_hand(model, hook_point, tokens, vector)
            torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=0)
            assert (expected - whole_model(model, tokens)).abs().max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_both_backends_give_the_same_numbers(subject, family):
    ours, theirs = subject(family), subject(family, "transformer_lens")
    tokens = prompts()
    for hook_point in supported(ours):
        seen = []
        for model in (ours, theirs):
            steered = steered_subject(model, hook_point)
            seen.append(steered.steered(steered.clean(tokens, 3), 3 * vectors(hook_point, model=model)))
        torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=0, msg=hook_point)
        clean = whole_model(ours, tokens)[:, -3:]
        assert (seen[0][0] - clean).abs().max() > 1e-3, hook_point


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_added_inside_a_block_is_what_it_writes_to_the_stream(subject, family):
    """Where the way to the stream is linear, a vector and its image in the stream do the same."""
    model = subject(family)
    tokens = prompts()
    pairs = {"blocks.1.hook_mlp_out": "blocks.1.hook_resid_post"}
    if model.layout.layers[1].mlp_post_norm is None:
        pairs |= {f"blocks.1.mlp.{n}": "blocks.1.hook_resid_post" for n in ("hook_out", "hook_post")}
    if model.layout.layers[1].parallel:
        pairs |= {"blocks.1.hook_attn_out": "blocks.1.hook_resid_post"}
    else:
        pairs |= {"blocks.1.hook_resid_mid": "blocks.1.hook_attn_out"}
    for inside, outside in pairs.items():
        vector = vectors(inside, model=model)
        image = vector
        if inside.endswith("hook_post"):
            image = model.to_residual(inside, vector)
        one, two = steered_subject(model, inside), steered_subject(model, outside)
        a = one.steered(one.clean(tokens, 2), vector)
        b = two.steered(two.clean(tokens, 2), image)
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0, msg=inside)


@pytest.mark.parametrize("backend", BACKENDS)
def test_blocks_below_the_hook_point_run_once(subject, backend):
    model = subject("llama", backend)
    ran = []
    steered = steered_subject(model, "blocks.0.hook_resid_post")
    clean = steered.clean(prompts())
    modules = [layer.mlp for layer in model.layout.layers]
    handles = [m.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, m in enumerate(modules)]
    try:
        steered.steered(clean, vectors("hook_resid_post"))
    finally:
        for handle in handles:
            handle.remove()
    assert ran == [1]


def test_a_model_that_cannot_go_on_from_a_block_is_run_whole(subject):
    model = subject("llama")
    steered = steered_subject(model, "blocks.0.hook_resid_post")
    clean = steered.clean(prompts())
    expected = steered.steered(clean, vectors("hook_resid_post"))
    steered._exact[1] = False
    torch.testing.assert_close(
        steered.steered(clean, vectors("hook_resid_post")), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_divergence_asked_for_is_reached(subject, family, backend):
    hook_point = "blocks.0.hook_resid_post"
    directions = vectors(hook_point, n=5) * torch.tensor([1.0, 1e-3, 100.0, 5.0, 0.0])[:, None]
    steered = steered_subject(subject(family, backend), hook_point)
    clean = steered.clean(prompts(), 2)
    found = steered.match(
        clean, directions, lambda p: p.clone(), kl=0.05, tolerance=0.05, max_norm=50, rows_per_pass=7
    )
    for matched, direction in zip(found[:4], directions, strict=False):
        assert matched.status == "ok", matched.reason
        assert matched.strength is not None
        assert matched.effect is not None
        again = steered.steered(clean, (matched.strength * direction)[None])[0]
        torch.testing.assert_close(matched.effect, again, atol=1e-4, rtol=0)
        # KL by the textbook.
        p, q = again.double().exp(), clean.log_probs.double().exp()
        kl = float((p * (p / q).log()).sum(-1).mean())
        assert kl == pytest.approx(matched.kl, rel=1e-3)
        assert kl == pytest.approx(0.05, rel=0.051)
        assert matched.n_passes <= 10
    assert found[4].status == "error"
    assert found[4].reason == "the direction has no length"
    assert found[4].strength is None


def test_strengths_do_not_depend_on_company_or_batching(subject):
    steered = steered_subject(subject("llama"), "blocks.0.hook_resid_post")
    clean = steered.clean(prompts(), 1)
    some = vectors("hook_resid_post", n=4)
    options = {"kl": 0.05, "tolerance": 0.1, "max_norm": 50.0}
    together = steered.match(clean, some, lambda p: None, rows_per_pass=100, **options)
    alone = [steered.match(clean, v[None], lambda p: None, rows_per_pass=1, **options)[0] for v in some]
    assert [m.strength for m in together] == pytest.approx([m.strength for m in alone], rel=1e-4)


def test_a_divergence_that_cannot_be_reached_is_said_so(subject):
    steered = steered_subject(subject("llama"), "blocks.0.hook_resid_post")
    clean = steered.clean(prompts(), 1)
    (matched,) = steered.match(
        clean, vectors("hook_resid_post", 1), lambda p: p, kl=50.0, tolerance=0.1, max_norm=3
    )
    assert matched.status == "error"
    assert matched.effect is None
    assert "of 50 nats with 3 times the activations' length added" in (matched.reason or "")


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_is_the_same_in_both_backends_and_without_a_cache(subject, family):
    hook_point = "blocks.0.hook_resid_post"
    vector = 3 * vectors(hook_point, 1)[0]
    texts = []
    for backend in BACKENDS:
        model = subject(family, backend)
        steered = steered_subject(model, hook_point)
        clean = steered.clean(prompts())
        texts.append(steered.generate(clean, vector, 4))
        unsteered = steered.generate(clean, None, 4)
        tokens = prompts()
        for step in range(4):
            assert torch.equal(whole_model(model, tokens)[:, -1].argmax(-1), unsteered[:, step])
            tokens = torch.cat([tokens, unsteered[:, step : step + 1]], 1)
        tokens = prompts()
        for step in range(4):
            longer = steered.clean(tokens)
            assert torch.equal(steered.steered(longer, vector[None])[0, :, 0].argmax(-1), texts[-1][:, step])
            tokens = torch.cat([tokens, texts[-1][:, step : step + 1]], 1)
        drawn = [steered.generate(clean, vector, 4, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(texts[0], texts[1])


def test_prompts_begin_as_contexts_do_and_are_equally_long(subject):
    steered = steered_subject(subject("llama"), "blocks.0.hook_resid_post")
    tokens, kept = steered.prompts([[0, 5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15]], 3)
    assert tokens.tolist() == [[0, 6, 7, 8], [0, 13, 14, 15]]
    assert kept == [0, 2]
    assert steered.prompts([[5, 6]], 30)[0].tolist() == [[0, 5, 6]]
    assert steered.prompts([[0]], 3)[1] == []
    assert steered.steered_positions(torch.tensor([[0, 6, 2, 8]])).tolist() == [[False, True, False, True]]


def test_dictionaries_that_cannot_be_added_are_refused_in_one_line(subject):
    model = subject("llama")
    steered_subject(model, "blocks.1.hook_mlp_out", torch.ones(4, 16)).check()
    with pytest.raises(UserError, match="no decoder directions"):
        steered_subject(model, "blocks.1.hook_mlp_out").check()
    with pytest.raises(UserError, match=r"'blocks.1.mlp.hook_in' does not reach the residual stream"):
        steered_subject(model, "blocks.1.mlp.hook_in", torch.ones(4, 16)).check()


@given(
    scale=st.floats(1e-4, 1e4),
    power=st.floats(0.5, 4),
    ceiling=st.floats(0.6, 20),
    target=st.floats(0.05, 0.5),
)
@settings(max_examples=200, deadline=None)
def test_the_search_finds_any_rising_curve(scale, power, ceiling, target):
    """KL like c s^p that saturates at a ceiling above the target."""
    search = Search(target=target, tolerance=0.1, guess=0.5, bound=1e6)
    seen = 0
    while not search.done:
        search.saw(ceiling * -math.expm1(-((search.next / scale) ** power)))
        seen += 1
    assert search.found, search.reason
    assert search.n_seen == seen <= 40
    assert ceiling * -math.expm1(-((search.at / scale) ** power)) == pytest.approx(target, rel=0.1001)


def test_the_search_takes_what_is_not_a_number_for_too_much_and_gives_up_on_jumps():
    search = Search(target=0.5, tolerance=0.1, guess=0.5, bound=100)
    while not search.done:
        search.saw(float("nan") if search.next > 0.2 else 10 * search.next**2)
    assert not search.found
    jump = Search(target=0.5, tolerance=0.1, guess=0.5, bound=100)
    while not jump.done:
        jump.saw(0.1 if jump.next < 0.3 else 2.0)
    assert "no strength gives a divergence of 0.5 nats (40 were tried)" in (jump.reason or "")


def test_divergence_is_zero_of_itself_and_positive_else():
    a, b = (torch.randn(2, 3, 4, 50).log_softmax(-1) for _ in range(2))
    torch.testing.assert_close(divergence(a, a), torch.zeros(2))
    assert divergence(a, b).shape == (2,)
    assert (divergence(a, b) > 0).all()


def test_clean_is_the_same_in_chunks(subject):
    steered = steered_subject(subject("llama"), "blocks.0.hook_resid_post")
    one: Clean = steered.clean(prompts(5), 2)
    many = steered.clean(prompts(5), 2, rows_per_pass=2)
    torch.testing.assert_close(one.log_probs, many.log_probs, atol=1e-5, rtol=0)
    assert one.norm == pytest.approx(many.norm, rel=1e-5)
    assert one.states.shape == many.states.shape == (5, 9, 16)

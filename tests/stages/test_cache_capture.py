"""The hot loop of the cache stage: never waiting for the batch just queued gives the same activations."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from sae_lens import SAE
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, GPT2Config, LlamaConfig

from autointerp.stages import capture as capture_module
from autointerp.stages.capture import Capture, Contexts
from autointerp.subject import model_hf, transfer
from autointerp.subject.dictionary_neurons import NeuronDictionary
from autointerp.subject.dictionary_sae_lens import SaeLensDictionary
from autointerp.subject.model_hf import HuggingFaceSubject
from autointerp.subject.sparse import SparseLatents

HOOK = "blocks.0.hook_resid_post"
D_IN, D_SAE, SIZE = 16, 40, 12
SMALL = {
    "hidden_size": D_IN,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 97,
}
FAMILIES = {
    "llama": LlamaConfig(**SMALL),
    "gemma2": Gemma2Config(**SMALL, head_dim=6, query_pre_attn_scalar=6),
    "gpt2": GPT2Config(n_embd=D_IN, n_layer=2, n_head=4, n_positions=64, vocab_size=97),
}
WAITS = {
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "nonzero_numpy", "argwhere"),
    *("masked_select", "unique", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
}
"""Operations whose result or its shape has to come from the device before Python can go on."""


def subject(family="llama", dtype=torch.float32):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval().requires_grad_(False).to(dtype)
    return HuggingFaceSubject(model, None, torch.device("cpu"))


def sae(architecture, **options):
    torch.manual_seed(1)
    made = SAE.from_dict(
        {
            "architecture": architecture,
            "d_in": D_IN,
            "d_sae": D_SAE,
            "dtype": "float32",
            "device": "cpu",
            "metadata": {"hook_name": HOOK},
        }
        | options
    )
    for name, parameter in made.named_parameters():
        parameter.data = 0.3 * torch.randn_like(parameter)
        if name == "threshold":
            parameter.data.abs_()
    return SaeLensDictionary(made)


DICTIONARIES = {
    "jumprelu": lambda: sae("jumprelu"),
    "standard": lambda: sae("standard"),
    "topk": lambda: sae("topk", k=5),
    "abstopk": lambda: sae("abstopk", k=5),
    "neurons": lambda: NeuronDictionary("blocks.1.mlp.hook_post", 24),
    "few neurons": lambda: NeuronDictionary("blocks.1.mlp.hook_post", 24, 3),
}


def batches(dictionaries, n=4, n_contexts=3):
    rng = np.random.default_rng(0)
    for index in range(n):
        tokens = rng.integers(0, 97, size=(n_contexts, SIZE)).astype(np.uint32)
        kept = tokens % 7 != 0
        kept[:, 0] = False
        yield Contexts(
            tag=index, first=index * n_contexts, tokens=tokens, kept=kept, dictionaries=dictionaries
        )


def ahead(model):
    """As on a GPU: one batch is queued before the last is read, and room is left for its latents."""
    made = Capture(model)
    made._runs_ahead = True
    return made


def everything(capture, dictionaries, **options):
    return [(batch.tag, columns) for batch, columns in capture.run(batches(dictionaries, **options))]


def assert_equal(found, expected):
    assert [tag for tag, _ in found] == [tag for tag, _ in expected]
    for (_, mine), (_, theirs) in zip(found, expected, strict=True):
        for own, other in zip(mine, theirs, strict=True):
            for name, values in other.items():
                assert own[name].dtype == values.dtype
                np.testing.assert_array_equal(own[name], values, err_msg=name)


def test_columns_are_those_of_one_context_at_a_time():
    model, dictionary = subject(), DICTIONARIES["jumprelu"]()
    for batch, [columns] in Capture(model).run(batches([dictionary], n=2)):
        row = 0
        for i, tokens in enumerate(batch.tokens):
            acts = model.activations(torch.from_numpy(tokens.astype(np.int64))[None], [HOOK])[HOOK][0]
            dense = dictionary.encode(acts).to_dense(D_SAE).numpy() * batch.kept[i][:, None]
            for position, latent in zip(*np.nonzero(dense), strict=True):
                assert columns["context"][row] == batch.first + i
                assert (columns["position"][row], columns["latent"][row]) == (position, latent)
                assert columns["token"][row] == tokens[position]
                assert columns["activation"][row] == pytest.approx(dense[position, latent], rel=1e-4)
                row += 1
        assert row == len(columns["latent"]) > 20


@pytest.mark.parametrize("name", DICTIONARIES)
def test_not_waiting_gives_the_same_activations(name):
    model, dictionary = subject(), DICTIONARIES[name]()
    expected = everything(Capture(model), [dictionary])
    assert sum(len(columns[0]["latent"]) for _, columns in expected) > 50
    assert_equal(everything(ahead(model), [dictionary]), expected)


def test_several_dictionaries_at_several_hook_points_share_one_pass():
    model = subject()
    dictionaries = [DICTIONARIES[name]() for name in ("jumprelu", "neurons", "topk")]
    together = everything(ahead(model), dictionaries)
    for place, dictionary in enumerate(dictionaries):
        alone = everything(Capture(model), [dictionary])
        assert_equal([(tag, [columns[place]]) for tag, columns in together], alone)


def test_too_little_room_is_noticed_and_mended(monkeypatch, caplog):
    """Latents far denser in later batches than in the first: they are encoded again, none is lost."""
    monkeypatch.setattr(capture_module, "SPARE_ROOM", 0.1)
    caplog.set_level("INFO")
    model, dictionary = subject(), DICTIONARIES["standard"]()
    expected = everything(Capture(model), [dictionary])
    assert_equal(everything(ahead(model), [dictionary]), expected)
    assert "encoded again" in caplog.text


class Recorded(TorchDispatchMode):
    """Names of the operations that would have to wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            t is not None and t.dtype == torch.bool for t in args[1]
        )
        if name in WAITS or by_mask:
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def test_the_recorder_sees_transformers_wait(monkeypatch):
    """Without our word for it, transformers asks the device whether rows hold several sequences."""
    monkeypatch.setattr(model_hf, "_one_sequence_a_row", contextlib.nullcontext)
    with Recorded() as recorded:
        subject().activations(torch.ones(2, SIZE, dtype=torch.int64), [HOOK])
    assert recorded.waits


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "jumprelu"), ("llama", "topk"), ("gemma2", "standard"), ("gpt2", "abstopk")],
)
def test_nothing_waits_for_the_batch_just_queued(family, name):
    model, dictionary = subject(family), DICTIONARIES[name]()
    capture = ahead(model)
    first, second, *_ = batches([dictionary])
    with Recorded() as recorded:
        capture._start(first)
    assert recorded.waits, "the first batch is counted, so the recorder must have seen it"
    with Recorded() as recorded:
        capture._start(second)
    assert recorded.waits == []


def test_a_batch_is_read_back_when_the_next_is_queued(monkeypatch):
    order = []
    for name in ("_start", "_finish"):
        real = getattr(Capture, name)

        def told(self, what, real=real, name=name):
            order.append((name, what.tag if name == "_start" else what.batch.tag))
            return real(self, what)

        monkeypatch.setattr(Capture, name, told)
    everything(ahead(subject()), [DICTIONARIES["topk"]()], n=3)
    assert order == [
        ("_start", 0), ("_start", 1), ("_finish", 0), ("_start", 2), ("_finish", 1), ("_finish", 2),
    ]  # fmt: skip


def test_a_subject_in_bfloat16_is_encoded_in_float32():
    full, half = subject(), subject(dtype=torch.bfloat16)
    seen = []
    dictionary = DICTIONARIES["standard"]()
    real = dictionary.sae.encode
    dictionary.sae.encode = lambda x: seen.append(x.dtype) or real(x)
    [(_, [expected])] = everything(Capture(full), [DICTIONARIES["standard"]()], n=1)
    [(_, [found])] = everything(Capture(half), [dictionary], n=1)
    assert seen == [torch.float32]
    assert found["activation"].dtype == np.float32

    def dense(columns):
        out = np.zeros((3, SIZE, D_SAE))
        out[columns["context"], columns["position"], columns["latent"]] = columns["activation"]
        return out

    difference = np.abs(dense(found) - dense(expected)).max()
    assert 0 < difference < 0.05 * dense(expected).max()


def test_latents_with_room_are_the_latents_without():
    generator = torch.Generator().manual_seed(0)
    dense = (torch.randn(20, 30, generator=generator) - 1).relu()
    padded = SparseLatents.from_dense(dense, 8)
    assert len(padded.value) == 160
    assert padded.densest.item() == pytest.approx((dense != 0).float().sum(1).mean().item())
    assert torch.equal(padded.to_dense(30), dense)
    halves = SparseLatents.concatenate(
        [SparseLatents.from_dense(dense[:10], 8), SparseLatents.from_dense(dense[10:], 8)]
    )
    assert torch.equal(halves.to_dense(30), dense)
    assert halves.densest >= padded.densest
    assert SparseLatents.from_dense(dense, 1).densest > 1
    empty = SparseLatents.from_dense(dense[:0], 8)
    assert len(empty.value) == 0
    assert empty.densest.item() == 0


class FakeGpu:
    """Streams and events that write down what is queued, in the order in which it is."""

    def __init__(self, monkeypatch):
        self.log = []
        gpu = self

        class Event:
            def __init__(self, blocking=False):
                self.blocking = blocking

            def record(self, stream):
                gpu.log.append(("record", stream.name))

            def synchronize(self):
                gpu.log.append(("wait",))

        class Stream:
            def __init__(self, name):
                self.name = name

            def record_event(self):
                gpu.log.append(("record", self.name))
                return Event()

            def wait_event(self, event):
                gpu.log.append(("wait on device", self.name))

            def __enter__(self):
                gpu.log.append(("enter", self.name))

            def __exit__(self, *_):
                gpu.log.append(("leave", self.name))

        monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("back"))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("work"))
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
        monkeypatch.setattr(torch.cuda, "Event", Event)
        empty = torch.empty

        def pinned(shape, *, dtype, pin_memory):
            assert pin_memory
            return empty(shape, dtype=dtype)

        monkeypatch.setattr(torch, "empty", pinned)
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: gpu.log.append(("pin",)) or tensor)
        monkeypatch.setattr(
            torch.Tensor,
            "to",
            lambda tensor, device, non_blocking=False: (
                gpu.log.append(("to", device.type, non_blocking)) or tensor
            ),
        )
        copy = torch.Tensor.copy_

        def copy_(tensor, source, non_blocking=False):
            gpu.log.append(("copy", non_blocking))
            return copy(tensor, source)

        monkeypatch.setattr(torch.Tensor, "copy_", copy_)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda tensor, stream: gpu.log.append(("keep", stream.name))
        )


def test_copies_of_a_gpu_are_pinned_and_waited_for_when_they_are_read(monkeypatch):
    gpu = FakeGpu(monkeypatch)
    courier = transfer.Courier(torch.device("cuda", 1))
    assert courier.runs_ahead
    sent = courier.send(np.arange(3))
    assert gpu.log == [("pin",), ("to", "cuda", True)]
    gpu.log.clear()
    parcel = courier.fetch({"x": sent, "y": sent + 1})
    assert gpu.log == [
        ("record", "work"),
        ("enter", "back"),
        ("wait on device", "back"),
        *[("copy", True), ("keep", "back")] * 2,
        ("record", "back"),
        ("leave", "back"),
    ]
    assert {name: values.tolist() for name, values in parcel.arrays().items()} == {
        "x": [0, 1, 2],
        "y": [1, 2, 3],
    }
    assert gpu.log[-1] == ("wait",)

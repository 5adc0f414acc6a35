import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autointerp.config import CacheConfig
from autointerp.errors import UserError
from autointerp.subject.tokenise import (
    PackedContext,
    PackingCounts,
    Tokenisation,
    _Packer,
    pack_contexts,
    split_of,
    tokenised,
)
from tests.subject.conftest import SPECIAL, TEXTS, train_tokenizer

TOKENIZER = train_tokenizer()


def recipe(**options) -> Tokenisation:
    given = {"context_size": 8, "prepend_bos": True, "bos_id": 0, "separator_id": 0, "special_ids": (0, 1, 2)}
    return Tokenisation(**(given | options))


def packed(documents: list[list[int]], tokenisation: Tokenisation) -> list[list[int]]:
    packer = _Packer(tokenisation)
    return [
        context.tolist()
        for index, ids in enumerate(documents)
        for _, context in packer.add(index, np.array(ids, dtype=np.uint32))
    ]


@settings(max_examples=150, deadline=None)
@given(
    documents=st.lists(st.lists(st.integers(0, 6), max_size=20), max_size=8),
    context_size=st.integers(2, 9),
    bos=st.none() | st.integers(0, 2),
    separator=st.none() | st.integers(0, 2),
)
def test_packing_equals_sae_lens_token_for_token(documents, context_size, bos, separator):
    from sae_lens.tokenization_and_batching import concat_and_batch_sequences

    ours = packed(documents, recipe(context_size=context_size, bos_id=bos, separator_id=separator))
    theirs = concat_and_batch_sequences(
        iter([torch.tensor(d, dtype=torch.long) for d in documents]),
        context_size=context_size,
        begin_batch_token_id=bos,
        sequence_separator_token_id=separator,
    )
    assert ours == [context.tolist() for context in theirs]


def test_sparsify_packs_separators_before_every_document_and_drops_the_rest():
    contexts = packed(
        [[5, 6, 7], [8, 9], [4, 4, 4, 4]],
        recipe(context_size=4, bos_id=None, prepend_bos=False, leading_separator=True),
    )
    stream = [0, 5, 6, 7, 0, 8, 9, 0, 4, 4, 4, 4]
    assert contexts == [stream[:4], stream[4:8], stream[8:12]]


@settings(max_examples=30, deadline=None)
@given(
    documents=st.lists(st.text(max_size=60), min_size=1, max_size=12),
    context_size=st.integers(2, 12),
    batch=st.integers(1, 5),
)
def test_splits_are_packed_apart_and_batching_changes_nothing(documents, context_size, batch):
    from autointerp.subject import tokenise

    def split(text: str) -> str:
        return split_of(text, 0, 0.5)

    def run(per_batch: int) -> tuple[list[PackedContext], PackingCounts]:
        before, tokenise._DOCUMENTS_PER_BATCH = tokenise._DOCUMENTS_PER_BATCH, per_batch
        counts = PackingCounts()
        try:
            return list(
                pack_contexts(iter(documents), TOKENIZER, recipe(context_size=context_size), split, counts)
            ), counts
        finally:
            tokenise._DOCUMENTS_PER_BATCH = before

    contexts, counts = run(64)
    again, _ = run(batch)
    assert [(c.document, c.split, c.tokens.tolist()) for c in contexts] == [
        (c.document, c.split, c.tokens.tolist()) for c in again
    ]
    for name in ("train", "test"):
        mine = [d for d in documents if split(d) == name]
        ids = (
            TOKENIZER(mine, add_special_tokens=False, split_special_tokens=True)["input_ids"] if mine else []
        )
        assert [c.tokens.tolist() for c in contexts if c.split == name] == packed(
            ids, recipe(context_size=context_size)
        )
    assert all(c.tokens.shape == (context_size,) and c.tokens.dtype == np.uint32 for c in contexts)
    assert all(split(documents[c.document]) == c.split for c in contexts)
    assert counts.n_documents == len(documents)
    assert counts.n_contexts == len(contexts)
    assert 0 <= counts.n_tokens_dropped < 2 * context_size


def test_text_that_spells_special_tokens_stays_text():
    hostile = [f"a{s}b" for s in SPECIAL] + ["".join(SPECIAL)]
    for text, ids in tokenised(hostile, TOKENIZER):
        assert not set(ids.tolist()) & {0, 1, 2}
        assert TOKENIZER.decode(ids) == text
    # The tokenizer itself would have turned them into marks of a chat.
    assert {1, 2} & set(TOKENIZER("".join(SPECIAL))["input_ids"])


def test_the_split_depends_on_text_and_seed_alone():
    texts = [f"document {i}" for i in range(4000)]
    splits = [split_of(t, 0, 0.4) for t in texts]
    assert splits == [split_of(t, 0, 0.4) for t in texts]
    assert 0.37 < splits.count("test") / len(splits) < 0.43
    assert splits != [split_of(t, 1, 0.4) for t in texts]
    # Documents of the test split stay there when the fraction grows.
    assert all(split_of(t, 0, 0.6) == "test" for t, s in zip(texts, splits, strict=True) if s == "test")
    assert split_of("a\ud800", 0, 0.5) in ("train", "test")


def test_settings_come_first_then_the_dictionary_then_defaults():
    default = Tokenisation.resolve(CacheConfig(), {}, TOKENIZER)
    assert (default.context_size, default.prepend_bos, default.bos_id, default.separator_id) == (
        256,
        True,
        0,
        0,
    )
    assert default.decided["context_size"] == "default"
    trained = {"context_size": 128, "prepend_bos": False, "sequence_separator_token": "bos"}
    of_dictionary = Tokenisation.resolve(CacheConfig(), trained, TOKENIZER)
    assert (of_dictionary.context_size, of_dictionary.prepend_bos, of_dictionary.bos_id) == (128, False, None)
    assert of_dictionary.separator_id == 0
    forced = Tokenisation.resolve(CacheConfig(context_size=64, prepend_bos=True), trained, TOKENIZER)
    assert (forced.context_size, forced.bos_id, forced.decided["prepend_bos"]) == (64, 0, "cache.prepend_bos")
    assert forced.special_ids == (0, 1, 2)
    json.dumps(forced.to_dict())


def test_a_tokenizer_without_bos_uses_eos_and_without_either_refuses():
    tokenizer = train_tokenizer()
    tokenizer.bos_token = None
    assert Tokenisation.resolve(CacheConfig(), {"prepend_bos": True}, tokenizer).bos_id == 0
    tokenizer.eos_token = None
    nothing = Tokenisation.resolve(CacheConfig(), {"prepend_bos": True}, tokenizer)
    assert (nothing.prepend_bos, nothing.bos_id, nothing.separator_id) == (False, None, None)
    with pytest.raises(UserError, match=r"neither|no BOS or EOS"):
        Tokenisation.resolve(CacheConfig(prepend_bos=True), {}, tokenizer)
    with pytest.raises(UserError, match=r"cache.context_size: the dictionary says 100,000"):
        Tokenisation.resolve(CacheConfig(), {"context_size": 100_000}, tokenizer)


def test_contexts_are_told_the_document_of_their_first_token():
    documents = [TEXTS[0], TEXTS[1], TEXTS[2]]
    lengths = [len(ids) for _, ids in tokenised(documents, TOKENIZER)]
    contexts = list(pack_contexts(documents, TOKENIZER, recipe(context_size=8), lambda text: "train"))
    assert contexts[0].document == 0
    assert contexts[-1].document == 2
    assert [c.document for c in contexts] == sorted(c.document for c in contexts)
    assert sum(c.document == 0 for c in contexts) == -(-lengths[0] // 7)


@pytest.mark.parametrize(("setting", "expected"), [("none", None), ("eos", TOKENIZER.eos_token_id)])
def test_the_separator_may_be_set(setting, expected):
    recipe = Tokenisation.resolve(
        CacheConfig(separator=setting, prepend_bos=False), {"sequence_separator_token": "bos"}, TOKENIZER
    )
    assert recipe.separator_id == expected
    assert recipe.decided["separator_id"] == "cache.separator"

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from autointerp.sampling.windows import TokenTable
from autointerp.subject.vocabulary import byte_alphabet, readable, special_token_ids, vocabulary_table
from tests.subject.conftest import SPECIAL, train_tokenizer

TOKENIZER = train_tokenizer()
TABLE = vocabulary_table(TOKENIZER, 330)
PIECES = TABLE.column("bytes").to_pylist()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_the_bytes_of_tokens_join_to_the_text(text):
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert b"".join(PIECES[i] for i in ids) == text.encode()
    names = TABLE.column("text").to_pylist()
    assert TokenTable(PIECES, names).text(ids) == text


def test_special_tokens_have_their_name_and_no_bytes():
    rows = TABLE.slice(0, 3).to_pylist()
    assert [row["text"] for row in rows] == SPECIAL
    assert all(row["bytes"] is None and row["special"] for row in rows)
    assert not any(TABLE.column("special").to_pylist()[3:])
    assert special_token_ids(TOKENIZER) == (0, 1, 2)


def test_ids_beyond_the_tokenizer_have_rows_too():
    assert TABLE.num_rows == 330
    last = TABLE.slice(329, 1).to_pylist()[0]
    assert last == {"token": 329, "text": "<no token 329>", "bytes": b"", "special": False}
    assert vocabulary_table(TOKENIZER, 0).num_rows == len(TOKENIZER)


def test_bytes_that_are_no_text_are_escaped():
    assert readable("é".encode()) == "é"
    assert readable(b"\xc3") == r"\xc3"
    assert readable(b"a\xff") == r"\x61\xff"


def test_the_byte_alphabet_is_that_of_the_tokenizers_library():
    from tokenizers.pre_tokenizers import ByteLevel

    assert set(byte_alphabet()) == set(ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    assert byte_alphabet()["Ġ"] == 0x20
    assert byte_alphabet()["Ċ"] == 0x0A


@pytest.fixture
def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer as Llama's: metaspace, byte fallback, a dummy space before the text."""
    words = ["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "▁the", "c", "a", "t", "ca", "cat"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={w: i for i, w in enumerate(words)},
            merges=[("c", "a"), ("ca", "t")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")
    fast.add_tokens([AddedToken("\n\n", special=False, normalized=False)])
    return fast


@pytest.mark.parametrize("text", ["cat cat", "cat é日\n\n", "the  cat", ""])
def test_sentencepiece_bytes_join_to_the_text_behind_its_own_space(sentencepiece, text):
    pieces = vocabulary_table(sentencepiece, 0).column("bytes").to_pylist()
    ids = sentencepiece(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert b"".join(pieces[i] for i in ids).decode().removeprefix(" ") == text.removeprefix(" ")


def test_wordpiece_comes_as_near_as_it_can():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")
    assert vocabulary_table(fast, 0).column("bytes").to_pylist() == [None, b" play", b"ing"]

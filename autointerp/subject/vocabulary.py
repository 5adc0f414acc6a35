"""The subject's vocabulary: the exact bytes of each token and a readable form of it."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import pyarrow as pa

from autointerp.artifacts.schemas import VOCABULARY

COLUMNS = ("token", "text", "bytes", "special")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def vocabulary_table(tokenizer: Any, n_vocabulary: int) -> pa.Table:
    """One row per token id: the columns `token`, `text`, `bytes` and `special` of `vocabulary`.

    At least `n_vocabulary` rows, and as many as the tokenizer has ids; ids without a token (padding of
    the embedding matrix) have empty bytes and a name that says so. The bytes of a run of tokens,
    joined, are the UTF-8 of its text: exact for byte-level BPE and for SentencePiece with byte
    fallback (where the text may begin with a space of the tokenizer's own), and as near as the
    tokenizer's own decoder comes for other kinds. Special tokens have null bytes, and their name as
    text. `text` is the bytes as UTF-8, or `\\xHH` escapes where they are not whole UTF-8.
    """
    names = _token_names(tokenizer)
    n_rows = max(n_vocabulary, max(names, default=-1) + 1)
    special = frozenset(special_token_ids(tokenizer))
    added = {int(i): str(token.content) for i, token in tokenizer.added_tokens_decoder.items()}
    to_bytes = _decoder(tokenizer)
    pieces: list[bytes | None] = []
    texts: list[str] = []
    for token in range(n_rows):
        name = names.get(token)
        if token in special:
            pieces.append(None)
            texts.append(name or added[token])
        elif name is None:
            pieces.append(b"")
            texts.append(f"<no token {token}>")
        else:
            # Added tokens are matched in the raw text, so they stand for themselves.
            piece = added[token].encode("utf-8", "replace") if token in added else to_bytes(name)
            pieces.append(piece)
            texts.append(readable(piece))
    schema = pa.schema([VOCABULARY.schema.field(name) for name in COLUMNS])
    columns = [
        pa.array(range(n_rows), pa.uint32()),
        pa.array(texts, pa.string()),
        pa.array(pieces, pa.binary()),
        pa.array([token in special for token in range(n_rows)], pa.bool_()),
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def special_token_ids(tokenizer: Any) -> tuple[int, ...]:
    """Ids of the tokens the tokenizer calls special (BOS, EOS, padding, chat marks...), ascending."""
    ids = {int(i) for i in tokenizer.all_special_ids}
    ids |= {int(i) for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(sorted(ids))


def readable(piece: bytes) -> str:
    """Bytes as text if they are whole UTF-8, else each byte as `\\xHH`."""
    try:
        return piece.decode("utf-8")
    except UnicodeDecodeError:
        return "".join(f"\\x{byte:02x}" for byte in piece)


@cache
def byte_alphabet() -> dict[str, int]:
    """The 256 characters with which byte-level BPE spells bytes, as character to byte.

    Printable Latin-1 stands for itself; the other bytes, in ascending order, are the characters from
    U+0100 on (the alphabet of GPT-2's `encoder.py`).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _token_names(tokenizer: Any) -> dict[int, str]:
    return {int(token): str(name) for name, token in tokenizer.get_vocab().items()}


def _decoder(tokenizer: Any) -> Any:
    """The function from a token's spelling in the vocabulary to its bytes."""
    kinds = _decoder_kinds(tokenizer)
    if "ByteLevel" in kinds:
        return _byte_level
    if kinds & {"ByteFallback", "Metaspace"} or _spells_spaces_as_metaspace(tokenizer):
        return _sentencepiece
    if "WordPiece" in kinds:
        return _wordpiece
    return lambda name: str(tokenizer.convert_tokens_to_string([name])).encode("utf-8", "replace")


def _decoder_kinds(tokenizer: Any) -> set[str]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "to_str"):
        return set()
    decoder = json.loads(backend.to_str()).get("decoder") or {}
    parts = [decoder, *decoder.get("decoders", [])]
    return {str(part.get("type")) for part in parts}


def _spells_spaces_as_metaspace(tokenizer: Any) -> bool:
    vocabulary = tokenizer.get_vocab()
    return "▁" in vocabulary or "▁the" in vocabulary


def _byte_level(name: str) -> bytes:
    alphabet = byte_alphabet()
    try:
        return bytes(alphabet[character] for character in name)
    except KeyError:
        return name.encode("utf-8", "replace")


def _sentencepiece(name: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(name):
        return bytes([int(match[1], 16)])
    return name.replace("▁", " ").encode("utf-8", "replace")


def _wordpiece(name: str) -> bytes:
    return (name[2:] if name.startswith("##") else f" {name}").encode("utf-8", "replace")

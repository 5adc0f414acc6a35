"""Documents to contexts, as the dictionary was trained.

Documents are tokenised without special tokens, joined, and cut to contexts of one size. Documents of
the train and the test split are packed into two separate streams, so no context holds both.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from autointerp.config import CacheConfig
from autointerp.errors import UserError
from autointerp.subject.vocabulary import special_token_ids

logger = logging.getLogger(__name__)

Split = Literal["train", "test"]

DEFAULT_CONTEXT_SIZE = 256
MAX_CONTEXT_SIZE = 65_535
_DOCUMENTS_PER_BATCH = 64
_CHARACTERS_PER_BATCH = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Tokenisation:
    """The recipe that turns documents into contexts."""

    context_size: int
    """Tokens per context, BOS and separators included."""
    prepend_bos: bool
    """Whether every context begins with `bos_id`."""
    bos_id: int | None
    """The token that begins contexts; null if there is none."""
    separator_id: int | None
    """The token between two documents of one context; null if they simply follow one another."""
    leading_separator: bool = False
    """Whether the separator begins every document, the very first included (as sparsify trains)."""
    special_ids: tuple[int, ...]
    """Tokens the tokenizer calls special, ascending: what the cache masks."""
    decided: Mapping[str, str] = field(default_factory=dict)
    """What decided each choice: a setting, the dictionary, the tokenizer or our default."""

    @classmethod
    def resolve(cls, cache: CacheConfig, metadata: Mapping[str, Any], tokenizer: Any) -> Tokenisation:
        """The recipe for a run: the user's settings first, then what the dictionary says, then defaults.

        Of `metadata` are used `context_size`, `prepend_bos`, `sequence_separator_token` (`bos`, `eos`,
        `sep`, an id or null) and `leading_separator`. A tokenizer without BOS uses its EOS in that
        place, as TransformerLens does and hence every dictionary trained with it.
        Raises `UserError` for a context too long for our files, and for `cache.prepend_bos = true`
        with a tokenizer that has neither token.
        """
        decided: dict[str, str] = {}

        def choose(name: str, setting: Any, default: Any) -> Any:
            for value, source in ((setting, f"cache.{name}"), (metadata.get(name), "the dictionary")):
                if value is not None:
                    decided[name] = source
                    return value
            decided[name] = "default"
            return default

        context_size = int(choose("context_size", cache.context_size, DEFAULT_CONTEXT_SIZE))
        if not 2 <= context_size <= MAX_CONTEXT_SIZE:
            raise UserError(
                f"cache.context_size: {decided['context_size']} says {context_size:,}; "
                f"accepted: 2 to {MAX_CONTEXT_SIZE:,}"
            )
        bos: int | None = tokenizer.bos_token_id
        decided["bos_id"] = "BOS of the tokenizer"
        if bos is None:
            bos = tokenizer.eos_token_id
            decided["bos_id"] = "EOS of the tokenizer, which has no BOS"
        prepend = bool(choose("prepend_bos", cache.prepend_bos, bos is not None))
        if bos is None:
            if cache.prepend_bos:
                raise UserError(
                    "cache.prepend_bos: true, but the subject's tokenizer has no BOS or EOS token; accepted: false"
                )
            decided["bos_id"] = "the tokenizer has neither BOS nor EOS"
            prepend = False
        if cache.separator is not None:
            decided["separator_id"] = "cache.separator"
            separator = None if cache.separator == "none" else cache.separator
        elif "sequence_separator_token" in metadata:
            decided["separator_id"] = "the dictionary"
            separator = metadata["sequence_separator_token"]
        else:
            decided["separator_id"] = "default"
            separator = "bos" if prepend else "eos"
        return cls(
            context_size=context_size,
            prepend_bos=prepend,
            bos_id=bos if prepend else None,
            separator_id=_token_id(separator, tokenizer, bos),
            leading_separator=bool(metadata.get("leading_separator")) and not prepend,
            special_ids=special_token_ids(tokenizer),
            decided=decided,
        )

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON types, for the manifest."""
        return dataclasses.asdict(self) | {
            "special_ids": list(self.special_ids),
            "decided": dict(self.decided),
        }


@dataclass(frozen=True)
class PackedContext:
    """One context."""

    document: int
    """Index in the corpus of the document its first token (BOS apart) comes from."""
    split: str
    tokens: NDArray[np.uint32]
    """Token ids, [context_size]."""


@dataclass
class PackingCounts:
    """What `pack_contexts` read and left out; filled while it runs."""

    n_documents: int = 0
    n_contexts: int = 0
    n_tokens_dropped: int = 0
    """Tokens after the last whole context of each split (known at the end of the corpus)."""


def split_of(text: str, seed: int, test_fraction: float) -> Split:
    """The split of a document, by its text alone.

    The first 8 bytes of BLAKE2b over `SEED`, a zero byte and the UTF-8 text are read as a big-endian
    fraction of 2**64; below `test_fraction` the document is `test`. Equal documents hence fall on
    the same side wherever they stand in the corpus.
    """
    data = f"{seed}\0".encode() + text.encode("utf-8", "surrogatepass")
    value = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
    return "test" if value < test_fraction * 2**64 else "train"


def pack_contexts(
    documents: Iterable[str],
    tokenizer: Any,
    tokenisation: Tokenisation,
    split_of: Callable[[str], str],
    counts: PackingCounts | None = None,
) -> Iterator[PackedContext]:
    """Contexts of exactly `context_size` tokens, in the order in which they fill up.

    The tokens of one split are those of SAELens' `concat_and_batch_sequences` with
    `begin_batch_token_id=bos_id` and `sequence_separator_token_id=separator_id`. The order does not
    depend on how documents are batched. What is left of each split at the end of the corpus is
    dropped and counted. Memory is that of one batch of documents.
    """
    counts = counts or PackingCounts()
    packers: dict[str, _Packer] = {}
    for text, tokens in tokenised(documents, tokenizer):
        split = split_of(text)
        packer = packers.setdefault(split, _Packer(tokenisation))
        for document, context in packer.add(counts.n_documents, tokens):
            counts.n_contexts += 1
            yield PackedContext(document=document, split=split, tokens=context)
        counts.n_documents += 1
    counts.n_tokens_dropped = sum(packer.n_filled for packer in packers.values())
    logger.info(
        "corpus at its end: %d documents, %d contexts; the last %d tokens fill no context and are dropped",
        counts.n_documents,
        counts.n_contexts,
        counts.n_tokens_dropped,
    )


def tokenised(documents: Iterable[str], tokenizer: Any) -> Iterator[tuple[str, NDArray[np.uint32]]]:
    """Each document with its token ids, without special tokens.

    Text that spells a special token, such as `<|im_start|>`, is split like any other text.
    """
    for batch in _batches(documents):
        encoded = tokenizer(
            batch,
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for text, ids in zip(batch, encoded["input_ids"], strict=True):
            yield text, np.asarray(ids, dtype=np.uint32)


class _Packer:
    """One stream of documents, joined and cut."""

    def __init__(self, tokenisation: Tokenisation) -> None:
        self._recipe = tokenisation
        self._buffer = np.empty(tokenisation.context_size, dtype=np.uint32)
        self._document = 0
        self.n_filled = 0

    def add(self, document: int, tokens: NDArray[np.uint32]) -> Iterator[tuple[int, NDArray[np.uint32]]]:
        recipe, size = self._recipe, self._recipe.context_size
        if recipe.leading_separator and recipe.separator_id is not None and len(tokens):
            tokens = np.concatenate([np.array([recipe.separator_id], np.uint32), tokens])
        offset = 0
        while offset < len(tokens):
            if self.n_filled == 0:
                self._document = document
                prefix = recipe.bos_id
            else:
                # A context already begun is met only at a document's start: what follows inside a
                # document always fills its context.
                prefix = None if recipe.leading_separator else recipe.separator_id
            if prefix is not None and tokens[offset] != prefix:
                self._buffer[self.n_filled] = prefix
                self.n_filled += 1
            taken = min(size - self.n_filled, len(tokens) - offset)
            self._buffer[self.n_filled : self.n_filled + taken] = tokens[offset : offset + taken]
            self.n_filled += taken
            offset += taken
            if self.n_filled == size:
                self.n_filled = 0
                yield self._document, self._buffer.copy()


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    n_characters = 0
    for text in documents:
        batch.append(text)
        n_characters += len(text)
        if len(batch) >= _DOCUMENTS_PER_BATCH or n_characters >= _CHARACTERS_PER_BATCH:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _token_id(token: str | int | None, tokenizer: Any, bos: int | None) -> int | None:
    if token is None or isinstance(token, int):
        return token
    if token == "bos":
        return bos
    named: int | None = getattr(tokenizer, f"{token}_token_id", None)
    return named

"""First half of the cache stage: text through the subject and the dictionaries, shard by shard."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.manifest import write_text_whole
from autointerp.artifacts.transpose import INTERMEDIATE, in_order
from autointerp.config import RunConfig
from autointerp.errors import CorruptArtifactError, UserError
from autointerp.progress import Tracker
from autointerp.stages.capture import Capture, Contexts
from autointerp.stages.reservoir import Everything, Reservoir
from autointerp.subject.corpus import CorpusCounts, iter_documents
from autointerp.subject.tokenise import PackedContext, PackingCounts, Tokenisation, pack_contexts, split_of

if TYPE_CHECKING:
    from autointerp.subject.dictionary_random import Standardisation
    from autointerp.subject.model import SubjectModel

POSITIONS_MEASURED = 8_192
"""Tokens whose activations say how a random dictionary standardises."""
MAX_CONTEXTS = 2**32


class Reader:
    """The text of a run, its subject and dictionary, and what is kept of the activations."""

    def __init__(
        self, config: RunConfig, subject: Any, dictionary: Any, tokenisation: Any, run: RunDirectory
    ) -> None:
        self.config, self.run = config, run
        self.subject, self.dictionary, self.tokenisation = subject, dictionary, tokenisation
        self.kept = self._keeper()
        self.corpus_counts, self.packing_counts = CorpusCounts(), PackingCounts()
        self._special = np.array(sorted(tokenisation.special_ids), dtype=np.uint32)

    @classmethod
    def open(cls, config: RunConfig, run: RunDirectory, subject: SubjectModel | None = None) -> Reader:
        """The reader of a run, its dictionary loaded, and the subject if it is not given."""
        # Heavy libraries are loaded when work begins, not when the configuration is checked.
        from autointerp.subject.dictionary import open_dictionary
        from autointerp.subject.dictionary_random import RandomDictionary
        from autointerp.subject.model import open_subject

        dictionary = open_dictionary(config.dictionary, config.subject)
        subject = subject or open_subject(config.subject)
        subject.check_hook_points([dictionary.hook_point])
        tokenisation = Tokenisation.resolve(config.cache, dictionary.metadata, subject.tokenizer)
        reader = cls(config, subject, dictionary, tokenisation, run)
        if isinstance(dictionary, RandomDictionary):
            dictionary.standardise(reader.standardisation())
        return reader

    @property
    def by_latent(self) -> tuple[str, ...]:
        """Datasets written range by range of latents, `latents` last of all."""
        return ("activations",) if isinstance(self.kept, Everything) else ("activations", "reservoir")

    def is_masked(self, tokens: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """Positions whose activations are left out, [n_contexts, context_size]."""
        masked = np.zeros(tokens.shape, dtype=bool)
        if self.config.cache.mask_special:
            masked |= np.isin(tokens, self._special)
        if self.config.cache.mask_first:
            masked[:, 0] = True
        return masked

    def _keeper(self) -> Everything | Reservoir:
        cache, n_latents = self.config.cache, self.dictionary.n_latents
        if cache.reservoir is None:
            return Everything(self.run.scratch / "cache", n_latents)
        # A choice replaces what it was made from by renaming a folder, which object storage cannot do.
        return Reservoir(
            self.run.local_scratch / "cache", cache, self.config.seed, n_latents, self.n_wanted()
        )

    def n_wanted(self) -> int:
        """Contexts asked for."""
        size: int = self.tokenisation.context_size
        return -(-self.config.cache.n_tokens // size)

    def skip(self, index: int, packed: list[PackedContext]) -> None:
        """Take up a shard that an earlier session left."""
        self.kept.skip(index, self._first(index), _is_test(packed))
        if not self.run.shard("contexts", index=index).exists():
            self._write_contexts(index, packed)

    def write(self, index: int, columns: dict[str, NDArray[Any]], packed: list[PackedContext]) -> None:
        """Write a shard of activations, in (context, position) order, then its contexts."""
        self.kept.add(index, columns, self._first(index), _is_test(packed))
        self._write_contexts(index, packed)

    def _first(self, index: int) -> int:
        return index * self.config.cache.contexts_per_shard

    def _write_contexts(self, index: int, packed: list[PackedContext]) -> None:
        path = self.run.shard("contexts", index=index)
        write_shard(path, _contexts_table(self._first(index), packed), DATASETS["contexts"])

    def standardisation(self) -> Standardisation:
        """Mean and deviation of the activations on the run's first contexts, measured once and kept in a file.

        A resumed run reads the file, so that all its shards are encoded alike.
        """
        from autointerp.subject.dictionary_random import Standardisation

        path = self.run.root / "standardisation" / "standardisation.json"
        if path.exists():
            try:
                return Standardisation.from_dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise CorruptArtifactError(
                    f"{path}: unreadable ({error}); remove it to measure again"
                ) from None
        n = -(-POSITIONS_MEASURED // self.tokenisation.context_size)
        packed = list(itertools.islice(self.contexts(CorpusCounts(), PackingCounts()), n))
        if not packed:
            raise self.too_short()
        # One context at a time: the numbers shall not depend on the batch size.
        measured = Standardisation.measure(self._encoder_input(p.tokens[None]) for p in packed)
        write_text_whole(path, json.dumps(measured.to_dict()) + "\n")
        return measured

    def too_short(self) -> UserError:
        """What is wrong with a corpus that fills no context."""
        return UserError(
            f"corpus.dataset: {self.config.corpus.dataset!r} holds less than one context of "
            f"{self.tokenisation.context_size} tokens; accepted: more text, or a smaller cache.context_size"
        )

    def contexts(self, corpus_counts: CorpusCounts, packing_counts: PackingCounts) -> Iterator[PackedContext]:
        """Contexts of the corpus, in order."""

        def split(text: str) -> str:
            return split_of(text, self.config.seed, self.config.corpus.test_fraction)

        documents = iter_documents(self.config.corpus, corpus_counts)
        return pack_contexts(documents, self.subject.tokenizer, self.tokenisation, split, packing_counts)

    def _encoder_input(self, tokens: NDArray[np.uint32]) -> Any:
        """Activations [n, d_in] at the unmasked positions of contexts."""
        hook = self.dictionary.hook_point
        return Capture(self.subject).activations(tokens, ~self.is_masked(tokens), [hook])[hook]


def read_together(readers: Sequence[Reader]) -> int:
    """Write every missing shard of contexts and activations of runs on the same text; the number of shards.

    The model runs once over each batch, as far as the last hook point.
    """
    lead = readers[0]
    size, per_shard = lead.tokenisation.context_size, lead.config.cache.contexts_per_shard
    wanted = lead.n_wanted()
    if wanted > MAX_CONTEXTS:
        raise UserError(
            f"cache.n_tokens: seen {lead.config.cache.n_tokens:,}, {wanted:,} contexts of {size} tokens; "
            f"accepted: at most {MAX_CONTEXTS:,} contexts per run (their index is 32 bits wide)"
        )
    n_shards = 0
    with Tracker("cache", wanted * size, "tokens") as tracker, ThreadPoolExecutor(1) as writer:
        written: Future[None] = writer.submit(lambda: None)
        contexts = itertools.islice(lead.contexts(lead.corpus_counts, lead.packing_counts), wanted)

        def batches() -> Iterator[Contexts[_Shard]]:
            nonlocal n_shards
            for index, packed in enumerate(_one_ahead(_chunks(contexts, per_shard))):
                n_shards = index + 1
                missing = []
                for reader in readers:
                    if reader.kept.holds(index):
                        reader.skip(index, packed)
                    else:
                        missing.append(reader)
                if missing and lead.run.takes(index):
                    yield from _Shard(index, packed, missing).batches()
                else:
                    tracker.skip(len(packed) * size)

        for batch, columns in Capture(lead.subject).run(batches()):
            tracker.advance(batch.tokens.size)
            if batch.tag.is_whole_with(columns):
                # One shard is sorted and written while the model reads the next.
                written.result()
                written = writer.submit(batch.tag.write)
        written.result()
    for reader in readers:
        reader.kept.choose(n_shards)
        reader.corpus_counts, reader.packing_counts = lead.corpus_counts, lead.packing_counts
    if not lead.run.dataset("contexts").shards:
        raise lead.too_short()
    return n_shards


class _Shard:
    """One shard of contexts while it is read."""

    def __init__(self, index: int, packed: list[PackedContext], readers: Sequence[Reader]) -> None:
        self.index, self.packed, self.readers = index, packed, readers
        self._parts: list[list[dict[str, NDArray[Any]]]] = [[] for _ in readers]
        self._n_batches = -(-len(packed) // self._per_batch)

    @property
    def _per_batch(self) -> int:
        return self.readers[0].config.cache.contexts_per_batch

    def batches(self) -> Iterator[Contexts[_Shard]]:
        """Its contexts, a batch at a time."""
        lead = self.readers[0]
        for begin in range(0, len(self.packed), self._per_batch):
            packed = self.packed[begin : begin + self._per_batch]
            tokens = np.stack([p.tokens for p in packed]).astype(np.uint32)
            yield Contexts(
                tag=self,
                first=self.index * lead.config.cache.contexts_per_shard + begin,
                tokens=tokens,
                kept=~lead.is_masked(tokens),
                dictionaries=[reader.dictionary for reader in self.readers],
            )

    def is_whole_with(self, columns: Sequence[dict[str, NDArray[Any]]]) -> bool:
        """Take in what a batch gave each reader; whether it was the last."""
        for parts, own in zip(self._parts, columns, strict=True):
            parts.append(own)
        return len(self._parts[0]) == self._n_batches

    def write(self) -> None:
        """Write the shard of each reader."""
        for reader, parts in zip(self.readers, self._parts, strict=True):
            names = INTERMEDIATE.schema.names
            columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
            parts.clear()
            reader.write(self.index, columns, self.packed)


def _is_test(packed: Sequence[PackedContext]) -> NDArray[np.bool_]:
    return np.array([p.split == "test" for p in packed])


def _contexts_table(first: int, packed: list[Any]) -> pa.Table:
    tokens = np.stack([p.tokens for p in packed]).astype(np.uint32)
    offsets = np.arange(len(packed) + 1, dtype=np.int32) * tokens.shape[1]
    return pa.table(
        {
            "context": pa.array(np.arange(first, first + len(packed), dtype=np.uint32)),
            "document": pa.array([p.document for p in packed], pa.uint64()),
            "split": pa.array([p.split for p in packed], pa.string()),
            "tokens": pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens.ravel())),
        }
    )


def _one_ahead(items: Iterator[list[Any]]) -> Iterator[list[Any]]:
    """The items, each made while the one before is used."""
    for item in in_order(lambda _: next(items, None), itertools.count(), threads=1, ahead=1):
        if item is None:
            return
        yield item


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk

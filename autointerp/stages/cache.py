"""Stage `cache`: text through the subject and the dictionary to sparse activations by latent.

First half: contexts are read shard by shard, and each shard leaves its contexts and its non-zero
activations. Second half: the activations are put in the order of the latents (see
`autointerp.artifacts.transpose`) and summed up into `latents` and `vocabulary`.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.manifest import write_text_whole
from autointerp.artifacts.transpose import INTERMEDIATE, count_by_latent, gather_each, plan_ranges
from autointerp.config import CorpusConfig, RunConfig, digest
from autointerp.errors import CorruptArtifactError, UserError
from autointerp.progress import Tracker
from autointerp.stages.reservoir import Everything, Reservoir
from autointerp.stages.step import Step, StepResult
from autointerp.subject.corpus import CorpusCounts, iter_documents
from autointerp.subject.tokenise import PackedContext, PackingCounts, Tokenisation, pack_contexts, split_of

if TYPE_CHECKING:
    from autointerp.subject.dictionary_random import Standardisation

VERSION = 2
POSITIONS_MEASURED = 8_192
"""Tokens whose activations say how a random dictionary standardises."""
MAX_CONTEXTS = 2**32


def steps(config: RunConfig) -> list[Step]:
    """The stage's single step."""

    def work(run: RunDirectory) -> StepResult:
        return cache(config, run)

    return [
        Step(
            name="cache",
            version=VERSION,
            config={
                "seed": config.seed,
                "subject": {**config.subject.result_values(), "weights": _model_files(config)},
                "dictionary": {**config.dictionary.result_values(), "files": _files(config.dictionary.path)},
                "corpus": {**config.corpus.result_values(), "files": _corpus_files(config.corpus)},
                "cache": config.cache.result_values(),
            },
            inputs=(),
            folders=(
                "contexts",
                "activations",
                "reservoir",
                "latents",
                "vocabulary",
                "standardisation",
                "scratch/cache",
            ),
            work=work,
            cleanup=lambda run: shutil.rmtree(run.scratch / "cache", ignore_errors=True),
        )
    ]


def cache(config: RunConfig, run: RunDirectory) -> StepResult:
    """Write `contexts`, `activations`, `latents` and `vocabulary`; shards that exist are kept."""
    # Heavy libraries are loaded when work begins, not when the configuration is checked.
    from autointerp.subject.dictionary import open_dictionary
    from autointerp.subject.dictionary_random import RandomDictionary
    from autointerp.subject.model import open_subject

    dictionary = open_dictionary(config.dictionary, config.subject)
    subject = open_subject(config.subject)
    subject.check_hook_points([dictionary.hook_point])
    tokenisation = Tokenisation.resolve(config.cache, dictionary.metadata, subject.tokenizer)
    reader = _Reader(config, subject, dictionary, tokenisation, run)
    if isinstance(dictionary, RandomDictionary):
        dictionary.standardise(reader.standardisation())
    n_shards = reader.read()
    if not reader.kept.n_tokens.any():
        raise UserError(
            f"dictionary: no latent is active at {dictionary.hook_point!r} on any of the tokens read; is this "
            "dictionary of this model and hook point?"
        )
    positions = _Positions.of(run, reader.is_masked)
    n_latent_shards = _transpose(config, run, reader, positions)
    _write_vocabulary(run, subject, positions)
    status = pc.value_counts(run.dataset("latents").read(columns=["status"]).column("status")).to_pylist()
    n_contexts = len(positions.is_test)
    return StepResult(
        n_shards={
            "contexts": n_shards,
            **dict.fromkeys((*reader.by_latent, "latents"), n_latent_shards),
            "vocabulary": 1,
        },
        n_rows={
            name: run.dataset(name).n_rows
            for name in ("contexts", *reader.by_latent, "latents", "vocabulary")
        },
        counts={
            "documents_read": asdict(reader.corpus_counts),
            "tokens_dropped_at_the_end": reader.packing_counts.n_tokens_dropped,
            "n_contexts": n_contexts,
            "n_contexts_test": int(positions.is_test.sum()),
            "n_tokens": n_contexts * tokenisation.context_size,
            "n_positions": positions.n_positions,
            "n_positions_masked": n_contexts * tokenisation.context_size - positions.n_positions,
            "mean_active_latents_per_position": float(reader.kept.n_tokens.sum() / positions.n_positions),
            "latents_by_status": {row["values"]: row["counts"] for row in status},
            "hook_point": dictionary.hook_point,
            "dictionary": dictionary.identity,
            "dictionary_metadata": {k: v for k, v in dictionary.metadata.items() if v is not None},
            "tokenisation": tokenisation.to_dict(),
            "mask_special": config.cache.mask_special,
            "mask_first": config.cache.mask_first,
        },
    )


class _Reader:
    """First half of the stage: contexts through the model and the dictionary, shard by shard."""

    def __init__(
        self, config: RunConfig, subject: Any, dictionary: Any, tokenisation: Any, run: RunDirectory
    ) -> None:
        self.config, self.run = config, run
        self.subject, self.dictionary, self.tokenisation = subject, dictionary, tokenisation
        self.kept = self._keeper()
        self.corpus_counts, self.packing_counts = CorpusCounts(), PackingCounts()
        self._special = np.array(sorted(tokenisation.special_ids), dtype=np.uint32)

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

    def read(self) -> int:
        """Write every missing shard of contexts with its activations; the number of shards."""
        size, per_shard = self.tokenisation.context_size, self.config.cache.contexts_per_shard
        wanted = self._n_wanted()
        if wanted > MAX_CONTEXTS:
            raise UserError(
                f"cache.n_tokens: seen {self.config.cache.n_tokens:,}, {wanted:,} contexts of {size} tokens; "
                f"accepted: at most {MAX_CONTEXTS:,} contexts per run (their index is 32 bits wide)"
            )
        index = 0
        with Tracker("cache", wanted * size, "tokens") as tracker, ThreadPoolExecutor(1) as writer:
            written: Future[None] = writer.submit(lambda: None)
            contexts = self._contexts(self.corpus_counts, self.packing_counts)
            for index, packed in enumerate(_chunks(itertools.islice(contexts, wanted), per_shard)):
                first, is_test = index * per_shard, np.array([p.split == "test" for p in packed])
                if self.kept.holds(index):
                    self.kept.skip(index, first, is_test)
                    if not self.run.shard("contexts", index=index).exists():
                        self._write_contexts(index, first, packed)
                    tracker.skip(len(packed) * size)
                    continue
                columns = self._read_shard(first, packed, tracker)
                # One shard is sorted and written while the model reads the next.
                written.result()
                written = writer.submit(self._write, index, columns, first, is_test, packed)
            written.result()
        self.kept.choose(index + 1)
        if not self.run.dataset("contexts").shards:
            raise self._too_short()
        return index + 1

    def _keeper(self) -> Everything | Reservoir:
        folder, cache = self.run.scratch / "cache", self.config.cache
        n_latents = self.dictionary.n_latents
        if cache.reservoir is None:
            return Everything(folder, n_latents)
        return Reservoir(folder, cache, self.config.seed, n_latents, self._n_wanted())

    def _n_wanted(self) -> int:
        size: int = self.tokenisation.context_size
        return -(-self.config.cache.n_tokens // size)

    def _write(
        self,
        index: int,
        columns: dict[str, NDArray[Any]],
        first: int,
        is_test: NDArray[np.bool_],
        packed: list[PackedContext],
    ) -> None:
        self.kept.add(index, columns, first, is_test)
        self._write_contexts(index, first, packed)

    def _write_contexts(self, index: int, first: int, packed: list[PackedContext]) -> None:
        path = self.run.shard("contexts", index=index)
        write_shard(path, _contexts_table(first, packed), DATASETS["contexts"])

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
        packed = list(itertools.islice(self._contexts(CorpusCounts(), PackingCounts()), n))
        if not packed:
            raise self._too_short()
        # One context at a time: the numbers shall not depend on the batch size.
        measured = Standardisation.measure(self._encoder_input(p.tokens[None])[0] for p in packed)
        write_text_whole(path, json.dumps(measured.to_dict()) + "\n")
        return measured

    def _too_short(self) -> UserError:
        return UserError(
            f"corpus.dataset: {self.config.corpus.dataset!r} holds less than one context of "
            f"{self.tokenisation.context_size} tokens; accepted: more text, or a smaller cache.context_size"
        )

    def _contexts(
        self, corpus_counts: CorpusCounts, packing_counts: PackingCounts
    ) -> Iterator[PackedContext]:
        def split(text: str) -> str:
            return split_of(text, self.config.seed, self.config.corpus.test_fraction)

        documents = iter_documents(self.config.corpus, corpus_counts)
        return pack_contexts(documents, self.subject.tokenizer, self.tokenisation, split, packing_counts)

    def _encoder_input(self, tokens: NDArray[np.uint32]) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
        """Activations [n, d_in] at the unmasked positions of contexts, and each one's row and column."""
        import torch

        hook = self.dictionary.hook_point
        row, column = np.nonzero(~self.is_masked(tokens))
        ids = torch.from_numpy(tokens.astype(np.int64)).to(self.subject.device)
        with torch.inference_mode():
            acts = self.subject.activations(ids, [hook])[hook]
            rows = torch.from_numpy(row).to(acts.device), torch.from_numpy(column).to(acts.device)
            return acts[rows], row, column

    def _read_shard(self, first_context: int, packed: list[Any], tracker: Tracker) -> dict[str, NDArray[Any]]:
        """The columns of an intermediate shard, in (context, position) order."""
        import torch

        per_batch = self.config.cache.contexts_per_batch
        columns: dict[str, list[NDArray[Any]]] = {k: [] for k in INTERMEDIATE.schema.names}
        for begin in range(0, len(packed), per_batch):
            tokens = np.stack([p.tokens for p in packed[begin : begin + per_batch]]).astype(np.uint32)
            acts, row, column = self._encoder_input(tokens)
            with torch.inference_mode():
                sparse = self.dictionary.encode(acts)
            at = sparse.row.cpu().numpy()
            columns["latent"].append(sparse.latent.cpu().numpy().astype(np.uint32))
            columns["context"].append((first_context + begin + row[at]).astype(np.uint32))
            columns["position"].append(column[at].astype(np.uint16))
            columns["activation"].append(sparse.value.float().cpu().numpy())
            columns["token"].append(tokens[row[at], column[at]])
            tracker.advance(tokens.size)
        return {name: np.concatenate(parts) for name, parts in columns.items()}


@dataclass(frozen=True, kw_only=True)
class _Positions:
    """What the second half needs to know of the text."""

    is_test: NDArray[np.bool_]
    """Split of each context, [n_contexts]."""
    token_counts: NDArray[np.int64]
    """Unmasked occurrences of each token in train and test documents, [2, n_tokens_seen]."""

    @property
    def n_positions(self) -> int:
        """Unmasked positions."""
        return int(self.token_counts.sum())

    @classmethod
    def of(
        cls, run: RunDirectory, is_masked: Callable[[NDArray[np.uint32]], NDArray[np.bool_]]
    ) -> _Positions:
        is_test: list[NDArray[np.bool_]] = []
        counts = np.zeros((2, 0), dtype=np.int64)
        for table in run.dataset("contexts").iter_shards(columns=["split", "tokens"]):
            in_test = pc.equal(table.column("split"), "test").to_numpy()
            column = table.column("tokens").combine_chunks()
            tokens = column.flatten().to_numpy().reshape(len(column), -1)
            kept = ~is_masked(tokens)
            width = max(counts.shape[1], int(tokens.max(initial=0)) + 1)
            counts = np.pad(counts, ((0, 0), (0, width - counts.shape[1])))
            for side in (0, 1):
                counts[side] += np.bincount(tokens[kept & (in_test == side)[:, None]], minlength=width)
            is_test.append(in_test)
        return cls(is_test=np.concatenate(is_test), token_counts=counts)


def _transpose(config: RunConfig, run: RunDirectory, reader: _Reader, positions: _Positions) -> int:
    """Second half: activations in latent order, and the latents' statistics; the number of shards."""
    from autointerp.subject.logits import top_and_bottom_logits
    from autointerp.subject.neighbours import nearest_latents
    from autointerp.subject.statistics import StatusRule, latent_statistics

    rule = StatusRule(
        rare_below_contexts=config.cache.rare_below_contexts, dense_above=config.cache.dense_above
    )
    kept = reader.kept
    shards = kept.shards
    counts = count_by_latent(shards, reader.dictionary.n_latents)
    ranges = plan_ranges(counts, config.cache.rows_per_shard)
    missing = {
        index: limits
        for index, limits in enumerate(ranges)
        if not all(run.shard(name, index=index).exists() for name in ("latents", *reader.by_latent))
    }
    neighbours = None
    if missing:
        neighbours = nearest_latents(reader.dictionary, reader.subject, config.cache.n_neighbours)
    with Tracker("cache: by latent", int(counts.sum()), "activations") as tracker:
        tracker.skip(
            sum(int(counts[slice(*ranges[i])].sum()) for i in range(len(ranges)) if i not in missing)
        )
        tables = gather_each(shards, list(missing.values()), counts)
        for (index, (first, last)), table in zip(missing.items(), tables, strict=True):
            path = run.shard("latents", index=index)
            write_shard(
                run.shard("activations", index=index), table.drop_columns(["token"]), DATASETS["activations"]
            )
            measured = table if isinstance(kept, Everything) else table.filter(pa.array(kept.sample(table)))
            columns = latent_statistics(
                measured,
                first=first,
                last=last,
                n_positions=positions.n_positions,
                is_test=positions.is_test,
                n_top_tokens=config.cache.n_top_tokens,
                rule=rule,
            )
            if isinstance(kept, Reservoir):
                kept.write(run, index, table, first, last)
                columns |= kept.exact(columns, first, last, positions.n_positions, rule)
            top, bottom = top_and_bottom_logits(
                reader.dictionary, reader.subject, range(first, last), config.cache.n_top_tokens
            )
            nothing = pa.nulls(last - first, DATASETS["latents"].schema.field("neighbours").type)
            columns |= {
                "top_logits": top,
                "bottom_logits": bottom,
                "neighbours": nothing if neighbours is None else neighbours.column(first, last),
            }
            write_shard(
                path,
                pa.table({name: columns[name] for name in DATASETS["latents"].schema.names}),
                DATASETS["latents"],
            )
            tracker.advance(table.num_rows)
    return len(ranges)


def _write_vocabulary(run: RunDirectory, subject: Any, positions: _Positions) -> None:
    from autointerp.subject.vocabulary import vocabulary_table

    counts = positions.token_counts
    table = vocabulary_table(subject.tokenizer, counts.shape[1])
    counts = np.pad(counts, ((0, 0), (0, table.num_rows - counts.shape[1]))).astype(np.uint64)
    table = table.append_column("n_occurrences", pa.array(counts.sum(axis=0)))
    table = table.append_column("n_occurrences_train", pa.array(counts[0]))
    write_shard(run.shard("vocabulary", index=0), table, DATASETS["vocabulary"])


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


def _chunks(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while chunk := list(itertools.islice(items, size)):
        yield chunk


def _model_files(config: RunConfig) -> str | None:
    from autointerp.weights import local_fingerprint

    return local_fingerprint(config.subject.model)


def _files(path: str | None) -> str | None:
    """Identity of local files, by name, size and content's ends; None if `path` is not local."""
    from autointerp.weights import hash_files

    if path is None or not Path(path).exists():
        return None
    root = Path(path)
    files = [root] if root.is_file() else sorted(p for p in root.rglob("*") if p.is_file())
    return hash_files(files)


def _corpus_files(corpus: CorpusConfig) -> str | None:
    from glob import glob

    return digest([_files(path) for path in sorted(glob(corpus.dataset))]) if glob(corpus.dataset) else None

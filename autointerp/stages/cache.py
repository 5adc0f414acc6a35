"""Stage `cache`: text through the subject and the dictionary to sparse activations by latent.

First half (`autointerp.stages.reading`): contexts are read shard by shard, and each shard leaves its
contexts and its non-zero activations. Second half: the activations are put in the order of the latents (see
`autointerp.artifacts.transpose`) and summed up into `latents` and `vocabulary`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp import storage
from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.transpose import count_by_latent, gather_each, plan_ranges
from autointerp.config import CorpusConfig, RunConfig, digest
from autointerp.errors import UserError
from autointerp.progress import Tracker
from autointerp.stages.reading import Reader, read_together
from autointerp.stages.reservoir import Everything, Reservoir
from autointerp.stages.step import Step, StepResult

VERSION = 2
RESERVOIR_VERSION = 3
"""Of a cache with `[cache.reservoir]`, whose deciles were once those of the sample."""


def steps(config: RunConfig) -> list[Step]:
    """The stage's single step."""

    def work(run: RunDirectory) -> StepResult:
        return cache(config, run)

    return [
        Step(
            name="cache",
            version=VERSION if config.cache.reservoir is None else RESERVOIR_VERSION,
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
            # A random dictionary is standardised by one measure, kept in a file: for all workers the same.
            prepare=(lambda run: Reader.open(config, run)) if config.dictionary.source == "random" else None,
            share=None if config.cache.reservoir is not None else lambda run: read_share(config, run),
            cleanup=_remove_scratch,
        )
    ]


def _remove_scratch(run: RunDirectory) -> None:
    for folder in (run.scratch, run.local_scratch):
        storage.remove_tree(folder / "cache")


def cache(config: RunConfig, run: RunDirectory) -> StepResult:
    """Write `contexts`, `activations`, `latents` and `vocabulary`; shards that exist are kept."""
    reader = Reader.open(config, run)
    n_shards = read_together([reader])
    return _finish(reader, n_shards)


def read_share(config: RunConfig, run: RunDirectory) -> None:
    """First half of the stage for the shards of one worker; the second is done when all are there."""
    read_together([Reader.open(config, run)])


def read_ahead(configs: Sequence[RunConfig], runs: Sequence[RunDirectory]) -> None:
    """First half of the stage for several runs in one pass of the subject over the text.

    `cache` then finds every shard of them there. Raises `UserError` if they do not read the same text,
    in the same contexts, through the same subject.
    """
    first = configs[0]
    for config in configs[1:]:
        for name in ("seed", "subject", "corpus", "cache"):
            if getattr(config, name) != getattr(first, name):
                raise UserError(
                    f"{name}: differs between {first.name!r} and {config.name!r}; accepted: runs that read the same "
                    "text through the same subject in one pass, or one run at a time"
                )
    readers: list[Reader] = []
    for config, run in zip(configs, runs, strict=True):
        readers.append(Reader.open(config, run, readers[0].subject if readers else None))
        if readers[-1].tokenisation != readers[0].tokenisation:
            raise UserError(
                f"cache: the dictionaries of {first.name!r} and {config.name!r} were trained on contexts of other "
                "forms; set cache.context_size, cache.prepend_bos and cache.separator in both"
            )
    read_together(readers)


def _finish(reader: Reader, n_shards: int) -> StepResult:
    """Second half of the stage: what was read, by latent."""
    config, run = reader.config, reader.run
    dictionary, subject, tokenisation = reader.dictionary, reader.subject, reader.tokenisation
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


def _transpose(config: RunConfig, run: RunDirectory, reader: Reader, positions: _Positions) -> int:
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
        neighbours = nearest_latents(
            reader.dictionary, reader.subject, config.cache.n_neighbours, config.cache.neighbour_search
        )
    with (
        Tracker("cache: by latent", int(counts.sum()), "activations") as tracker,
        ThreadPoolExecutor(1) as writer,
    ):
        tracker.skip(
            sum(int(counts[slice(*ranges[i])].sum()) for i in range(len(ranges)) if i not in missing)
        )
        tables = gather_each(shards, list(missing.values()), counts)
        for (index, (first, last)), table in zip(missing.items(), tables, strict=True):
            # Written while the statistics are computed; the shard of `latents` comes last and marks both.
            written = writer.submit(
                write_shard,
                run.shard("activations", index=index),
                table.drop_columns(["token"]),
                DATASETS["activations"],
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
            written.result()
            write_shard(
                run.shard("latents", index=index),
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

    from autointerp.subject.corpus import corpus_files
    from autointerp.weights import hash_files

    if storage.is_remote(storage.place(corpus.dataset)):
        return digest([hash_files([path]) for path in corpus_files(corpus.dataset) or []])
    return digest([_files(path) for path in sorted(glob(corpus.dataset))]) if glob(corpus.dataset) else None

"""Shards of `explain` and `score`: several under way at once where a server answers, and parts of slow ones kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.dataset import read_shard
from autointerp.errors import CorruptArtifactError
from autointerp.llm.client import StoredModel
from autointerp.llm.turns import Turns

LATENTS_AT_ONCE = 8
"""Latents handed at a time to plug-ins that run the subject: each takes seconds, and has no stored replies."""

Tables = dict[str, pa.Table]
"""What is computed for some latents: dataset to rows."""


def carry_out(
    pieces: Iterable[Callable[[], None]], models: Sequence[StoredModel | None], alone: bool
) -> None:
    """Carry out the work on each shard.

    Where every model asked is a server, the next shard is made ready while replies to the last come in, so
    that the server always has as many requests as it is asked to take. `alone`: one after the other.
    """
    asked = [model for model in models if model is not None]
    depths = [model.in_flight for model in asked]
    known = [depth for depth in depths if depth is not None]
    if alone or not known or len(known) < len(depths):
        for piece in pieces:
            piece()
        return
    turns = Turns(min(known))
    for model in asked:
        model.turns = turns
    try:
        turns.carry_out(pieces)
    finally:
        for model in asked:
            model.turns = None


def latents_at_once(plugin: object, needs_subject: bool) -> int | None:
    """How many latents a plug-in is handed at a time, so that what it computed is kept; None: a whole shard.

    As its attribute `latents_at_once` says, else `LATENTS_AT_ONCE` if it runs the subject: plug-ins that ask
    models need no such thing, since every reply is stored.
    """
    told: int | None = getattr(plugin, "latents_at_once", None)
    return LATENTS_AT_ONCE if told is None and needs_subject else told


def write_parts(
    paths: dict[str, Path],
    latents: Sequence[int],
    at_once: int | None,
    compute: Callable[[Sequence[int]], Tables],
    on_part: Callable[[int, bool], None] = lambda n, found: None,
) -> None:
    """Compute and write one shard of each dataset in `paths`, the last of which marks all as whole.

    With `at_once` the tables of so many latents at a time are kept under hidden names beside the shard until it
    is whole, so that a killed process loses no more than that. The shard's bytes are the same either way.
    `on_part` is told of each such part how many latents it has, and whether it was found there.
    """
    if at_once is None or len(latents) <= at_once:
        tables = compute(latents)
    else:
        parts = [
            _kept(paths, start, latents[start : start + at_once], compute, on_part)
            for start in range(0, len(latents), at_once)
        ]
        tables = {name: pa.concat_tables([part[name] for part in parts]).combine_chunks() for name in paths}
    for name, path in paths.items():
        write_shard(path, tables[name], DATASETS[name])
    if at_once is not None:
        _remove(part for path in paths.values() for part in path.parent.glob(f".{path.stem}.from-*"))


def remove_parts(run: RunDirectory, *folders: str) -> None:
    """Remove what a process that was killed while it finished a shard left behind, once all shards are there."""
    if run.part == (0, 1):
        _remove(part for folder in folders for part in (run.root / folder).glob(".part-*.from-*"))


def _kept(
    paths: dict[str, Path],
    start: int,
    latents: Sequence[int],
    compute: Callable[[Sequence[int]], Tables],
    on_part: Callable[[int, bool], None],
) -> Tables:
    places = {name: path.with_name(f".{path.stem}.from-{start:05d}.parquet") for name, path in paths.items()}
    if list(places.values())[-1].exists():
        with suppress(CorruptArtifactError):  # computed anew
            tables = {name: read_shard(place, DATASETS[name]) for name, place in places.items()}
            on_part(len(latents), True)
            return tables
    tables = compute(latents)
    for name, place in places.items():
        write_shard(place, tables[name], DATASETS[name])
    on_part(len(latents), False)
    return tables


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        path.unlink(missing_ok=True)

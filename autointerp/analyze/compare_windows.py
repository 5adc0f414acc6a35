"""Were two explainers judged on the same windows? A hash, per latent, of what the judge was shown.

Two runs number their windows each in its own way, so across runs a window is known by its tokens, its
place in its context and where its latent is active in it; within a run by its number.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.run import Run

Hashes = NDArray[np.uint64]
_COLUMNS = ("latent", "explanation", "example", "kind", "label")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What was shown of each latent."""

    latents: NDArray[np.int64]
    """Ascending, [n]."""
    hashes: Hashes
    """[n]: of all windows shown, each with its kind and truth; the order does not matter."""


def same_windows(first: Shown, second: Shown, latents: NDArray[np.int64]) -> int:
    """Of some latents (ascending), how many were judged on the same windows on both sides."""
    equal = 0
    if len(latents):
        sides = []
        for shown in (first, second):
            place = np.searchsorted(shown.latents, latents)
            inside = place < len(shown.latents)
            place[~inside] = 0
            known = inside & (shown.latents[place] == latents) if len(shown.latents) else inside & False
            sides.append((known, shown.hashes[place] if len(shown.hashes) else np.zeros(len(latents))))
        (known_a, a), (known_b, b) = sides
        equal = int((known_a & known_b & (a == b)).sum())
    return equal


def read_shown(run: Run, scorer: str, explainer: str, explanations: Iterable[str], by_content: bool) -> Shown:
    """What a scorer showed the judge with the given explanations of an explainer (their ids).

    Several explanations of a latent count by what all of them together were judged on. With
    `by_content` the hashes of two runs can be compared. Reads `judgements` shard by shard.
    """
    ids = pa.array(sorted(set(explanations)), pa.string())
    latents: list[NDArray[np.int64]] = []
    hashes: list[Hashes] = []
    for table in run.directory.dataset("judgements", scorer, explainer).iter_shards(columns=list(_COLUMNS)):
        mine = table.filter(pc.is_in(table.column("explanation"), ids))
        if not mine.num_rows:
            continue
        of_latent, of_item = _items(mine, _window_keys(run, mine) if by_content else None)
        unique, sums = _sums(of_latent, of_item)
        latents.append(unique)
        hashes.append(sums)
    if not latents:
        return Shown(latents=np.empty(0, dtype=np.int64), hashes=np.empty(0, dtype=np.uint64))
    unique, sums = _sums(np.concatenate(latents), np.concatenate(hashes))
    return Shown(latents=unique, hashes=sums)


def _items(rows: pa.Table, windows: Hashes | None) -> tuple[NDArray[np.int64], Hashes]:
    """Latent and hash of each judged item."""
    latents = rows.column("latent").to_numpy().astype(np.int64)
    examples = rows.column("example").to_numpy().astype(np.uint64)
    kinds = pc.fill_null(rows.column("kind"), "").combine_chunks().dictionary_encode()
    names = [_of_text(name) for name in kinds.dictionary.to_pylist()]
    of_kind = np.array(names, dtype=np.uint64)[kinds.indices.to_numpy()]
    labels = pc.fill_null(rows.column("label").cast(pa.uint8()), 2).to_numpy().astype(np.uint64)
    return latents, _mix(_mix(examples if windows is None else windows) + of_kind * np.uint64(3) + labels)


def _window_keys(run: Run, rows: pa.Table) -> Hashes:
    """The content of each row's window, [n]; of an item that is no window of the run, its number."""
    latents = rows.column("latent").to_numpy().astype(np.uint64)
    examples = rows.column("example").to_numpy().astype(np.uint64)
    wanted = (latents << np.uint64(32)) | examples
    columns = ["latent", "example", "start", "tokens", "activations"]
    table = run.table("examples", columns=columns, latents=np.unique(latents).tolist())
    found: Hashes = examples
    if not table.num_rows:
        return found
    keys = (table.column("latent").to_numpy().astype(np.uint64) << np.uint64(32)) | (
        table.column("example").to_numpy().astype(np.uint64)
    )
    order = np.argsort(keys)
    content = _contents(table)[order]
    place = np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)
    found = np.where(keys[order][place] == wanted, content[place], examples)
    return found


def _contents(table: pa.Table) -> Hashes:
    """Tokens, start and active positions of each window, hashed: [n]."""
    tokens = table.column("tokens").combine_chunks()
    offsets = tokens.offsets.to_numpy().astype(np.int64)
    flat = tokens.values.to_numpy(zero_copy_only=False).astype(np.uint64)[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    active = np.zeros(len(flat), dtype=np.uint64)
    values = pc.list_flatten(table.column("activations")).to_numpy(zero_copy_only=False)
    if len(values) == len(flat):
        active[np.nan_to_num(values) > 0] = 1
    within = np.arange(len(flat), dtype=np.uint64) - np.repeat(offsets[:-1], np.diff(offsets)).astype(
        np.uint64
    )
    sums = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum(_mix(_mix(flat * np.uint64(2) + active) + within))]
    )
    starts = table.column("start").to_numpy().astype(np.uint64)
    return _mix(sums[offsets[1:]] - sums[offsets[:-1]] + _mix(starts))


def _sums(latents: NDArray[np.int64], values: Hashes) -> tuple[NDArray[np.int64], Hashes]:
    """Sum (modulo 2^64) of the values of each latent."""
    order = np.argsort(latents, kind="stable")
    latents, values = latents[order], values[order]
    starts = np.flatnonzero(np.diff(latents, prepend=latents[0] - 1))
    return latents[starts], np.add.reduceat(values, starts)


def _of_text(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 2


def _mix(x: Hashes) -> Hashes:
    """A bijection that scatters neighbouring numbers (the finaliser of SplitMix64)."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))

"""The hot loop of the cache stage: batches of contexts through the subject and its dictionaries.

On a GPU nothing in it waits for the batch just queued: how many latents of it are active is not asked,
but room is left for more than were ever seen, and a batch is read back while the next one is computed.
Where the room was too small the batch is encoded once more.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from autointerp.subject.dictionary import Dictionary
    from autointerp.subject.sparse import SparseLatents
    from autointerp.subject.transfer import Parcel

log = logging.getLogger(__name__)

SPARE_ROOM = 1.5
"""Room left for active latents, as a multiple of the most seen so far."""

Tag = TypeVar("Tag")


@dataclass(frozen=True, kw_only=True)
class Contexts(Generic[Tag]):
    """A batch of contexts, and what is read from it."""

    tag: Tag
    """Whatever the caller knows the batch by."""
    first: int
    """Index of the first context."""
    tokens: NDArray[np.uint32]
    """Token ids, [n_contexts, context_size]."""
    kept: NDArray[np.bool_]
    """Positions that are not masked, of the same shape."""
    dictionaries: Sequence[Dictionary]
    """Whose latents are wanted."""


@dataclass(frozen=True, kw_only=True)
class _Underway(Generic[Tag]):
    """A batch whose results are on their way."""

    batch: Contexts[Tag]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    activations: dict[str, torch.Tensor]
    """By hook point, [n_positions, d_in]; kept in case there was too little room."""
    parcels: list[tuple[int | None, Parcel]]
    """Room that was left and latents on their way, by dictionary."""


class Capture:
    """Runs batches through a subject and dictionaries, and gives the non-zero activations of each."""

    def __init__(self, subject: Any) -> None:
        from autointerp.subject.transfer import Courier

        self.subject = subject
        self.courier = Courier(subject.device)
        self._runs_ahead = self.courier.runs_ahead and _counts_by_itself(subject.device)
        self._room: dict[int, int] = {}
        """Room for active latents per position, by dictionary; learned from its first batch."""

    def run(
        self, batches: Iterable[Contexts[Tag]]
    ) -> Iterator[tuple[Contexts[Tag], list[dict[str, NDArray[Any]]]]]:
        """Each batch with the columns of `INTERMEDIATE` of each dictionary, in (context, position) order.

        On a GPU a batch is read back when the next one is queued.
        """
        underway: deque[_Underway[Tag]] = deque()
        for batch in batches:
            underway.append(self._start(batch))
            if len(underway) > int(self._runs_ahead):
                yield self._finish(underway.popleft())
        while underway:
            yield self._finish(underway.popleft())

    def activations(
        self, tokens: NDArray[np.uint32], kept: NDArray[np.bool_], hook_points: Sequence[str]
    ) -> dict[str, torch.Tensor]:
        """Activations [n_positions, d_in] at the `kept` positions of contexts, by hook point."""
        import torch

        ids = self.courier.send(tokens.astype(np.int64))
        # As one index: a mask would have to be counted on the device.
        at = self.courier.send(np.flatnonzero(kept))
        with torch.inference_mode():
            found = self.subject.activations(ids, list(dict.fromkeys(hook_points)))
            return {hook: acts.flatten(0, 1).index_select(0, at) for hook, acts in found.items()}

    def _start(self, batch: Contexts[Tag]) -> _Underway[Tag]:
        hooks = [dictionary.hook_point for dictionary in batch.dictionaries]
        activations = self.activations(batch.tokens, batch.kept, hooks)
        parcels = []
        for dictionary in batch.dictionaries:
            room = self._room.get(id(dictionary)) if self._runs_ahead else None
            parcels.append((room, self._encode(dictionary, activations[dictionary.hook_point], room)))
        row, column = np.nonzero(batch.kept)
        return _Underway(batch=batch, row=row, column=column, activations=activations, parcels=parcels)

    def _encode(self, dictionary: Dictionary, activations: torch.Tensor, room: int | None) -> Parcel:
        import torch

        with torch.inference_mode():
            if room is None:
                sparse = dictionary.encode(activations)
                self._learn(dictionary, len(sparse.value) / max(len(activations), 1))
            else:
                sparse = dictionary.encode(activations, room=room)
            return self.courier.fetch(_small(sparse))

    def _learn(self, dictionary: Dictionary, per_position: float) -> None:
        wanted = math.ceil(per_position * SPARE_ROOM) + 1
        self._room[id(dictionary)] = max(wanted, self._room.get(id(dictionary), 0))

    def _finish(self, underway: _Underway[Tag]) -> tuple[Contexts[Tag], list[dict[str, NDArray[Any]]]]:
        batch, columns = underway.batch, []
        for dictionary, (room, parcel) in zip(batch.dictionaries, underway.parcels, strict=True):
            found = parcel.arrays()
            densest = float(found.pop("densest", 0.0))
            if room is not None and densest > room:
                log.info("%.0f active latents per position where %d had room: encoded again", densest, room)
                self._learn(dictionary, densest)
                found = self._encode(dictionary, underway.activations[dictionary.hook_point], None).arrays()
            elif room is not None:
                real = found["value"] != 0
                found = {name: values[real] for name, values in found.items()}
            row, column = underway.row[found["row"]], underway.column[found["row"]]
            columns.append(
                {
                    "latent": found["latent"].astype(np.uint32),
                    "context": (batch.first + row).astype(np.uint32),
                    "position": column.astype(np.uint16),
                    "activation": found["value"],
                    "token": batch.tokens[row, column],
                }
            )
        return batch, columns


def _small(sparse: SparseLatents) -> dict[str, torch.Tensor]:
    """What is fetched of latents, in half the bytes."""
    import torch

    small = {
        "row": sparse.row.to(torch.int32),
        "latent": sparse.latent.to(torch.int32),
        "value": sparse.value.float(),
    }
    return small if sparse.densest is None else {**small, "densest": sparse.densest}


def _counts_by_itself(device: torch.device) -> bool:
    """Whether the device can list non-zeros without telling how many; older torch cannot on a GPU."""
    import torch

    try:
        torch.nonzero_static(torch.zeros(1, device=device), size=1)
    except NotImplementedError:
        return False
    return True

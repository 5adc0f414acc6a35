"""Which latents a stage works on, and their records read from the run directory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.artifacts import RunDirectory
from autointerp.artifacts.by_latent import LatentReader
from autointerp.config import Latents
from autointerp.errors import UserError
from autointerp.sampling.windows import LatentRecord, TokenTable, Window

STATISTICS = (
    "latent",
    "n_active_tokens",
    "n_active_contexts",
    "density",
    "max_activation",
    "mean_activation",
    "quantiles",
    "top_tokens",
    "top_logits",
    "bottom_logits",
    "status",
)


def select_latents(selection: Latents, run: RunDirectory, seed: int, where: str) -> list[int]:
    """Latent ids in ascending order.

    `"all"`: every latent that is not dead. A number n: the first n of a permutation of the latents
    with status `ok` that depends on the seed alone, so that smaller selections lie within larger
    ones and every stage draws the same. A list: exactly those, dead ones too (they become rows with
    a reason). `where` names the setting in errors. Raises `UserError` for ids out of range and for
    a number larger than there are latents to draw.
    """
    table = run.dataset("latents").read(columns=["latent", "status"])
    ids = table.column("latent").to_numpy()
    status = np.array(table.column("status").to_pylist(), dtype=object)
    if selection == "all":
        return [int(i) for i in ids[status != "dead"]]
    if isinstance(selection, list):
        outside = [i for i in selection if i >= len(ids)]
        if outside:
            raise UserError(
                f"{where}: seen {outside[0]}{f' and {len(outside) - 1} more' if outside[1:] else ''} out of range; "
                f"accepted: latent ids from 0 to {len(ids) - 1}"
            )
        return sorted(set(selection))
    drawable = ids[status == "ok"]
    if selection > len(drawable):
        raise UserError(
            f"{where}: seen {selection}, but only {len(drawable)} of {len(ids)} latents have status 'ok' "
            f"({int((status == 'dead').sum())} dead, {int((status == 'rare').sum())} rare, "
            f"{int((status == 'dense').sum())} dense); accepted: at most {len(drawable)}, 'all', or a list of ids"
        )
    order = np.random.default_rng([seed, 1]).permutation(len(ids))
    rank = np.empty(len(ids), dtype=np.int64)
    rank[order] = np.arange(len(ids))
    return sorted(int(i) for i in drawable[np.argsort(rank[drawable])[:selection]])


class Records:
    """Records of latents, read some at a time, with the windows of one split (None: no windows)."""

    def __init__(self, run: RunDirectory, split: str | None) -> None:
        self.split = split
        self._statistics = LatentReader(run.dataset("latents"), STATISTICS)
        self._examples = LatentReader(run.dataset("examples"))

    def read(self, latents: Sequence[int]) -> list[LatentRecord]:
        """The records of these latents, in their order."""
        rows = {row["latent"]: row for row in self._statistics.read(latents).to_pylist()}
        windows: dict[int, list[Window]] = {latent: [] for latent in latents}
        if self.split is not None:
            table = self._examples.read(latents)
            for latent, window in windows_of(table.filter(pc.equal(table.column("split"), self.split))):
                windows[latent].append(window)
        return [
            LatentRecord(latent=latent, statistics=rows[latent], windows=tuple(windows[latent]))
            for latent in latents
        ]


def read_records(run: RunDirectory, latents: Sequence[int], split: str | None) -> list[LatentRecord]:
    """The records of some latents, in their order, with the windows of one split (None: no windows)."""
    return Records(run, split).read(latents)


def windows_of(examples: pa.Table) -> Iterator[tuple[int, Window]]:
    """(latent, window) of each row of `examples`."""
    scalars = ("latent", "example", "split", "kind", "decile", "context", "start", "source_latent")
    lists = zip(
        _lists(examples.column("tokens"), np.int64),
        _lists(examples.column("activations"), np.float32),
        strict=True,
    )
    columns = zip(*(examples.column(name).to_pylist() for name in scalars), strict=True)
    for (latent, *values), (tokens, activations) in zip(columns, lists, strict=True):
        told = dict(zip(scalars[1:], values, strict=True))
        yield latent, Window(tokens=tokens, activations=activations, **told)


def _lists(column: pa.ChunkedArray, dtype: type) -> list[np.ndarray]:
    """The lists of a column, each an array."""
    out: list[np.ndarray] = []
    for chunk in column.chunks:
        ends = np.cumsum(pc.fill_null(pc.list_value_length(chunk), 0).to_numpy(zero_copy_only=False))
        flat = chunk.flatten().to_numpy(zero_copy_only=False).astype(dtype)
        out += [flat[begin:end] for begin, end in zip([0, *ends.tolist()], ends.tolist(), strict=False)]
    return out


def read_vocabulary(run: RunDirectory) -> tuple[TokenTable, np.ndarray]:
    """The run's tokens as text, and how often each occurs in train documents, [n_vocabulary] int64."""
    table = run.dataset("vocabulary").read()
    tokens = TokenTable(table.column("bytes").to_pylist(), table.column("text").to_pylist())
    return tokens, table.column("n_occurrences_train").to_numpy().astype(np.int64)

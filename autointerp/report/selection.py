"""Which latents a report shows, and which of their windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.run import Run
from autointerp.sampling.windows import Window


def pick_latents(run: Run, n: int) -> list[int]:
    """At most `n` latents: those with the most scores first, then the most explanations.

    Only real explanations and numbers count (no controls, no failures); ties go to latents with
    status `ok`, then to those lowest in number.
    """
    table = run.table("latents", columns=["latent", "status"])
    ids = table.column("latent").to_numpy().astype(np.int64)
    usual = pc.equal(table.column("status"), "ok").to_numpy(zero_copy_only=False)
    scores = _count(run.table("scores", columns=["latent", "status", "control"]), ids)
    explanations = _count(run.table("explanations", columns=["latent", "status", "control"]), ids)
    order = np.lexsort((ids, ~usual, -explanations, -scores))
    return [int(i) for i in ids[order[:n]]]


def _count(table: pa.Table, ids: np.ndarray) -> np.ndarray:
    rows = table.filter((pc.field("status") == "ok") & pc.field("control").is_null())
    latents = rows.column("latent").to_numpy().astype(np.int64)
    counts: np.ndarray = np.bincount(latents, minlength=int(ids.max()) + 1 if len(ids) else 0)
    return counts.take(ids)


def spread_over_deciles(windows: Sequence[Window], n: int) -> list[Window]:
    """At most `n` windows, strongest first, the deciles taking turns until there are enough."""
    taken: dict[int, int] = {}
    turns = []
    for window in sorted(windows, key=lambda w: (-w.max_activation, w.example)):
        decile = window.decile or 0
        turns.append((taken.get(decile, 0), -decile, window))
        taken[decile] = taken.get(decile, 0) + 1
    turns.sort(key=lambda t: t[:2])
    return sorted((t[2] for t in turns[:n]), key=lambda w: (-w.max_activation, w.example))

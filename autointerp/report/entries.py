"""The list of latents a browser searches: one entry per latent and explanation, read in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.analyze.parts import NO_EXPLAINER
from autointerp.report.latent_page import token_text
from autointerp.run import Run, printable

BLOCK = 50_000
"""Latents read at a time."""
N_TOKENS = 4
"""Tokens a latent fires on that stand in its entry."""
STATES = ("ok", "undetermined", "failed", "none")
"""What became of an entry's label; `none` where no explainer has run on the latent."""


def schema_of(n_scorers: int) -> pa.Schema:
    """Columns of a block of entries; `s0`, `s1`, ... are the scores in the order of the run's scorers.

    `first` marks the one entry that stands for its latent where only one is listed: its `search` text
    holds all labels of the latent.
    """
    return pa.schema(
        [
            pa.field("latent", pa.uint32()),
            pa.field("status", pa.string()),
            pa.field("density", pa.float64()),
            pa.field("n_active_tokens", pa.uint64()),
            pa.field("max_activation", pa.float32()),
            pa.field("tokens", pa.string()),
            pa.field("explainer", pa.string()),
            pa.field("explanation", pa.string()),
            pa.field("first", pa.bool_()),
            pa.field("state", pa.string()),
            pa.field("label", pa.string()),
            pa.field("search", pa.string()),
            pa.field("n_scores", pa.int32()),
            *[pa.field(f"s{i}", pa.float32()) for i in range(n_scorers)],
        ]
    )


def scorers_of_run(run: Run) -> list[str]:
    """Scorers that have written scores, in the order of the run's configuration, others after them."""
    folder = run.directory.folder("scores")
    found = sorted({path.relative_to(folder).parts[0] for path in run.directory.dataset("scores").shards})
    order = run.config.score.scorers
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def blocks_of_entries(run: Run, scorers: Sequence[str], block: int = BLOCK) -> Iterator[pa.Table]:
    """Tables with the columns `schema_of(len(scorers))`, sorted by latent; every latent has an entry.

    Held at a time: one block. `label` is the text of an explanation or why there is none, both on one
    line and harmless to display, not yet escaped.
    """
    for shard in run.directory.dataset("latents").iter_shards(columns=_LATENT_COLUMNS):
        for first in range(0, shard.num_rows, block):
            yield _block(run, shard.slice(first, block), scorers)


_LATENT_COLUMNS = ["latent", "status", "density", "n_active_tokens", "max_activation", "top_tokens"]


def _block(run: Run, latents: pa.Table, scorers: Sequence[str]) -> pa.Table:
    frame = latents.select(_LATENT_COLUMNS[:-1]).to_pandas()
    frame["tokens"] = _tokens(run, latents.column("top_tokens").combine_chunks())
    ids = frame["latent"].to_numpy()
    entries = frame.merge(_labels(run, ids), on="latent", how="left")
    entries["state"] = entries["state"].fillna("none")
    entries["first"] = ~entries["latent"].duplicated()
    scored = _scores(run, ids)
    for i, scorer in enumerate(scorers):
        entries[f"s{i}"] = _column(entries, scored[scored["scorer"] == scorer])
    columns = [f"s{i}" for i in range(len(scorers))]
    entries["n_scores"] = entries[columns].notna().sum(axis=1).astype(np.int32)
    entries["search"] = _search(entries)
    return pa.Table.from_pandas(entries, schema=schema_of(len(scorers)), preserve_index=False)


def _search(entries: pd.DataFrame) -> list[str]:
    """What a search looks through: label and tokens; of a latent's first entry all its labels."""
    latents, tokens = entries["latent"].tolist(), entries["tokens"].tolist()
    labels = [label if isinstance(label, str) else "" for label in entries["label"].tolist()]
    every: dict[int, list[str]] = {}
    for latent, label in zip(latents, labels, strict=True):
        every.setdefault(latent, []).append(label)
    texts = [
        " ".join(every[latent]) if first else label
        for latent, label, first in zip(latents, labels, entries["first"].tolist(), strict=True)
    ]
    return [f"{text} {shown.replace('␣', '')}".lower() for text, shown in zip(texts, tokens, strict=True)]


def _tokens(run: Run, top: pa.ListArray) -> list[str]:
    """The few tokens each latent fires on most, in one string."""
    head = pc.list_slice(top, 0, N_TOKENS, return_fixed_size_list=False)
    offsets = head.offsets.to_numpy()
    ids = pc.struct_field(head.values, "token").to_numpy()
    shown = {int(i): token_text(run.tokens, int(i)) for i in np.unique(ids)}
    texts = [shown[int(i)] for i in ids]
    return [" ".join(texts[a:b]) for a, b in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


def _labels(run: Run, ids: np.ndarray) -> pd.DataFrame:
    """Real explanations; of each latent first those with a text, then in the order of the explainers."""
    columns = ["latent", "explanation", "explainer", "control", "text", "status", "reason"]
    table = run.table("explanations", latents=ids, columns=columns)
    frame: pd.DataFrame = table.filter(pc.field("control").is_null()).drop_columns(["control"]).to_pandas()
    order = {name: i for i, name in enumerate(run.config.explain.explainers)}
    frame["place"] = frame["explainer"].map(lambda name: order.get(name, len(order))).astype(int)
    frame["bad"] = frame["status"] != "ok"
    said = frame["text"].where(~frame["bad"], frame["reason"])
    frame["label"] = [_plain(text) if isinstance(text, str) else None for text in said]
    frame = frame.sort_values(["latent", "bad", "place", "explanation"], kind="stable")
    return frame.rename(columns={"status": "state"})[["latent", "explanation", "explainer", "state", "label"]]


def _plain(text: str) -> str:
    return text if text.isprintable() else printable(text)


def _scores(run: Run, ids: np.ndarray) -> pd.DataFrame:
    columns = ["latent", "explanation", "scorer", "control", "status", "value"]
    table = run.table("scores", latents=ids, columns=columns)
    real = (pc.field("status") == "ok") & pc.field("control").is_null() & pc.is_finite(pc.field("value"))
    found: pd.DataFrame = table.filter(real).select(["latent", "explanation", "scorer", "value"]).to_pandas()
    return found


def _column(entries: pd.DataFrame, scored: pd.DataFrame) -> Any:
    """A scorer's number for each entry; one without an explanation belongs to all its latent's entries."""
    own = scored["explanation"] == NO_EXPLAINER
    by_label = scored[~own].drop_duplicates(["latent", "explanation"])
    found = entries[["latent", "explanation"]].merge(by_label, on=["latent", "explanation"], how="left")[
        "value"
    ]
    of_latent = scored[own].drop_duplicates("latent").set_index("latent")["value"]
    return found.fillna(entries["latent"].map(of_latent)).to_numpy(dtype=np.float32)

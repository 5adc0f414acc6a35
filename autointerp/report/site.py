"""A run as a folder of pages that opens from disk: no server, no request to anywhere.

A page on disk may not read other files, so the list of latents lies in scripts that it loads, some
thousands of entries each.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from autointerp.analyze.statistics import Statistics, statistics
from autointerp.artifacts.manifest import write_text_whole
from autointerp.config import ReportConfig
from autointerp.errors import UserError
from autointerp.report import numbers
from autointerp.report.entries import blocks_of_entries, scorers_of_run
from autointerp.report.latent_page import latent_pages
from autointerp.report.listing import PAGE, ListQuery
from autointerp.report.pages import ASSETS, Neighbours, Pages, asset
from autointerp.report.selection import pick_latents
from autointerp.run import Run

MAX_ENTRIES = 100_000
"""Entries listed; a browser holds them all in memory. `autointerp serve` has no such limit."""
SHARD = 5_000
"""Entries in one script."""
_SORTED = 6
"""Significant digits of a number that is sorted by and not shown."""
_FOLDERS = ("latents", "data", "assets")


def write_site(
    run: Run, folder: Path, config: ReportConfig | None = None, *, found: Statistics | None = None
) -> Path:
    """Write the pages of a run into `folder`; returns `index.html`, the page of the run.

    `config` says how many latents get a page and how many windows it shows; by default as the run's
    own. `found` are the run's statistics if they are known already. What a run has not computed yet is
    left out. Earlier pages in `folder` are replaced. Raises `UserError` if it cannot be written.
    """
    config = config or run.config.report
    scorers = scorers_of_run(run)
    pages = Pages(run, scorers, served=False)
    chosen = pick_latents(run, config.n_latents)
    fresh = folder / f".new.{os.getpid()}"
    try:
        _remove_unfinished(folder)
        for name in _FOLDERS:
            (fresh / name).mkdir(parents=True)
        for name in ASSETS:
            (fresh / "assets" / name).write_text(asset(name), encoding="utf-8")
        places = {latent: i for i, latent in enumerate(chosen)}
        for page in latent_pages(run, chosen, scorers, config.n_windows):
            i = places[page.latent]
            near = Neighbours(
                before=chosen[i - 1] if i else None, after=chosen[i + 1] if i + 1 < len(chosen) else None
            )
            text = pages.latent_page(page, near, chosen)
            (fresh / "latents" / f"{page.latent}.html").write_text(text, encoding="utf-8")
        entries, explainers = _entries(run, scorers, chosen)
        n_shards = _write_shards(fresh / "data", entries, len(scorers), set(chosen))
        for name in _FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(fresh / name, folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    first = [row for row in _rows(entries, len(scorers)) if row["first"]][:PAGE]
    n_first = sum(entries.column("first").to_pylist())
    listed = pages.list_page(
        ListQuery(), explainers, entries.num_rows, n_first, first, n_shards=n_shards, linked=chosen
    )
    write_text_whole(folder / "latents.html", listed)
    write_text_whole(folder / "index.html", pages.run_page(found or statistics(run)))
    return folder / "index.html"


def _remove_unfinished(folder: Path) -> None:
    """Remove what processes that are no more had written of pages when they were killed."""
    for made in folder.glob(".new.*"):
        pid = made.suffix.removeprefix(".")
        if pid != str(os.getpid()) and _is_alive(pid):
            continue
        shutil.rmtree(made, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # another user's
    return True


def _entries(run: Run, scorers: Sequence[str], chosen: Sequence[int]) -> tuple[pa.Table, list[str]]:
    """At most `MAX_ENTRIES` entries, most judged first, those with a page among them; and their explainers."""
    order: list[tuple[str, Any]] = [
        ("n_scores", "descending"),
        ("rank", "ascending"),
        ("latent", "ascending"),
    ]
    kept: pa.Table | None = None
    for block in blocks_of_entries(run, scorers):
        rank = [_rank(state) for state in block.column("state").to_pylist()]
        block = block.append_column("rank", pa.array(rank, pa.int8()))
        kept = block if kept is None else pa.concat_tables([kept, block])
        kept = kept.sort_by(order).slice(0, MAX_ENTRIES)
    assert kept is not None, "a run has latents"
    names = set(kept.column("explainer").drop_null().to_pylist())
    known = run.config.explain.explainers
    return kept, sorted(names, key=lambda e: (known.index(e) if e in known else len(known), e))


def _rank(state: str) -> int:
    return 0 if state == "ok" else 1


def _rows(entries: pa.Table, n_scorers: int) -> Iterator[dict[str, Any]]:
    for batch in entries.to_batches(max_chunksize=1_000):
        for row in batch.to_pylist():
            yield {**row, "scores": [row[f"s{i}"] for i in range(n_scorers)]}


def _write_shards(folder: Path, entries: pa.Table, n_scorers: int, linked: set[int]) -> int:
    """Scripts of entries as arrays; the order of fields is that of `browser.js`. Returns how many.

    Numbers are rounded here as they are shown: rounded once more in between, .031478 would be .032.
    """
    rows = _rows(entries, n_scorers)
    n_shards: int = math.ceil(entries.num_rows / SHARD)
    for shard in range(n_shards):
        some = [
            [
                row["latent"],
                row["status"],
                _short(row["density"], numbers.DIGITS),
                _short(row["max_activation"], _SORTED),
                row["tokens"],
                row["explainer"],
                int(row["first"]),
                row["state"],
                row["label"],
                _extra(row),
                int(row["latent"] in linked),
                [None if value is None else round(value, numbers.DECIMALS) for value in row["scores"]],
            ]
            for _, row in zip(range(SHARD), rows, strict=False)
        ]
        # ASCII only: no line end of JavaScript, no direction mark, whatever the labels hold.
        body = json.dumps(some, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
        (folder / f"{shard:04d}.js").write_text(f"autointerpEntries({shard},{body});\n", encoding="ascii")
    return n_shards


def _extra(row: dict[str, Any]) -> str:
    """What a search looks through beside the entry's own label and tokens."""
    own = f"{row['label'] or ''} {row['tokens'].replace('␣', '')}".lower()
    return "" if row["search"] == own else row["search"]


def _short(value: float | None, digits: int) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")

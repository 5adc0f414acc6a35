"""The list of latents of a run in DuckDB: built once, asked with bound parameters only."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autointerp.errors import UserError
from autointerp.report.entries import blocks_of_entries, schema_of
from autointerp.report.listing import EVERY, FIRST, PAGE, ListQuery
from autointerp.run import Run

if TYPE_CHECKING:
    import duckdb

_KINDS = {
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "int32": "INTEGER",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bool": "BOOLEAN",
    "string": "VARCHAR",
}
_SHOWN = (
    "latent, status, density, n_active_tokens, max_activation, tokens, explainer, explanation, state, label"
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A page of the list."""

    n: int
    """Entries that fit, on all pages."""
    rows: list[dict[str, Any]]
    """Those of this page; `scores` holds their numbers in the order of the scorers, None where there is none."""


class Store:
    """A run's entries in a database of its own, in a temporary file that goes when it is closed.

    Raises `UserError` if DuckDB is not installed. Threads may ask at the same time.
    """

    def __init__(self, run: Run, scorers: Sequence[str], *, memory: str = "1GB") -> None:
        try:
            import duckdb
        except ImportError:
            raise UserError(
                "serve: needs DuckDB; install it with `pip install 'autointerp[serve]'`"
            ) from None
        self.scorers = list(scorers)
        self._folder = tempfile.TemporaryDirectory(prefix="autointerp-serve-")
        self._connection: duckdb.DuckDBPyConnection = duckdb.connect(
            str(Path(self._folder.name) / "entries.duckdb")
        )
        # Neither constant is given by anyone outside; statements with values of users bind them.
        self._connection.execute(f"SET memory_limit = '{memory}'")
        columns = ", ".join(f'"{f.name}" {_KINDS[str(f.type)]}' for f in schema_of(len(scorers)))
        self._connection.execute(f"CREATE TABLE entries ({columns})")
        for block in blocks_of_entries(run, scorers):
            self._connection.register("block", block)
            self._connection.execute("INSERT INTO entries SELECT * FROM block")
            self._connection.unregister("block")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")
        counts = self._connection.execute("SELECT count(*), count(DISTINCT latent) FROM entries").fetchone()
        assert counts is not None
        self.n_entries, self.n_latents = int(counts[0]), int(counts[1])
        rows = self._connection.execute(
            "SELECT DISTINCT explainer FROM entries WHERE explainer IS NOT NULL"
        ).fetchall()
        order = run.config.explain.explainers
        self.explainers = sorted(
            (row[0] for row in rows), key=lambda e: (order.index(e) if e in order else len(order), e)
        )

    def close(self) -> None:
        """Close the database and remove its file."""
        self._connection.close()
        self._folder.cleanup()

    def ask(self, query: ListQuery) -> Found:
        """The entries that fit, in order, one page of them."""
        where, values = self._where(query)
        order = self._order(query)
        scores = "".join(f", s{i}" for i in range(len(self.scorers)))
        cursor = self._connection.cursor()
        try:
            count = cursor.execute(f"SELECT count(*) FROM entries WHERE {where}", values).fetchone()
            rows = cursor.execute(
                f"SELECT {_SHOWN}{scores} FROM entries WHERE {where} ORDER BY {order} LIMIT ? OFFSET ?",
                [*values, PAGE, PAGE * (query.page - 1)],
            ).fetchall()
        finally:
            cursor.close()
        assert count is not None
        names = _SHOWN.split(", ")
        return Found(
            n=int(count[0]),
            rows=[{**dict(zip(names, row, strict=False)), "scores": list(row[len(names) :])} for row in rows],
        )

    def near(self, latent: int) -> tuple[int | None, int | None]:
        """The latents before and after one, by number."""
        cursor = self._connection.cursor()
        try:
            before = cursor.execute("SELECT max(latent) FROM entries WHERE latent < ?", [latent]).fetchone()
            after = cursor.execute("SELECT min(latent) FROM entries WHERE latent > ?", [latent]).fetchone()
        finally:
            cursor.close()
        return (before[0] if before else None, after[0] if after else None)

    def _where(self, query: ListQuery) -> tuple[str, list[Any]]:
        """The condition, whose text holds our own words only, and the values it binds."""
        parts: list[str] = ["true"]
        values: list[Any] = []
        if query.explainer == FIRST:
            parts.append('"first"')
        elif query.explainer != EVERY:
            parts.append("explainer = ?")
            values.append(query.explainer)
        for word in query.words:
            if word.isascii() and word.isdigit() and len(word) <= 10:
                parts.append("(latent = ? OR contains(search, ?))")
                values += [int(word), word]
            else:
                parts.append("contains(search, ?)")
                values.append(word)
        bounded = f"s{self.scorers.index(query.by)}" if query.by else None
        bounds = [
            ("status = ?", query.status or None),
            ("state = ?", query.state or None),
            ("density >= ?", query.sparse),
            ("density <= ?", query.dense),
            (f"{bounded} >= ?", query.low if bounded else None),
            (f"{bounded} <= ?", query.high if bounded else None),
        ]
        for condition, value in bounds:
            if value is not None:
                parts.append(condition)
                values.append(value)
        return " AND ".join(parts), values

    def _order(self, query: ListQuery) -> str:
        direction = "DESC" if query.dir == "desc" else "ASC"
        if query.sort == "judged":
            # `asc` turns the whole order round.
            other = "ASC" if direction == "DESC" else "DESC"
            return f"n_scores {direction}, (state = 'ok') {direction}, latent {other}, explanation"
        column = f"s{self.scorers.index(query.sort)}" if query.sort in self.scorers else query.sort
        assert column in schema_of(len(self.scorers)).names
        return f"{column} {direction} NULLS LAST, latent, explanation"

"""A run directory opened for reading: tables, frames, and one latent at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from autointerp.artifacts import DATASETS, Manifest, RunDirectory
from autointerp.config import RunConfig, load_config
from autointerp.errors import UserError, unknown_name
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.storage import place, reached

if TYPE_CHECKING:
    import pandas as pd

_LINE_ENDS = dict.fromkeys(map(ord, "\n\r\x0b\x0c\x85\u2028\u2029"), "↵")
_HARMLESS = frozenset("\u00a0\u00ad\u200c\u200d\u2009\u202f\u3000")
"""Unprintable in Python's eyes, but harmless: kinds of space, and joiners that scripts need."""


def open_run(path: str | Path) -> Run:
    """Open a run directory for reading. Raises `UserError` if there is none at `path`."""
    root = place(path)
    with reached("run", root):
        if not root.exists():
            above = root.parent
            near = [str(p.parent) for p in sorted(above.glob("*/run.toml"))] if above.is_dir() else []
            raise UserError(f"run: no folder {str(root)!r}; runs beside it: {', '.join(near[:10]) or 'none'}")
        if not root.is_dir():
            raise UserError(f"run: {str(root)!r} is a file; accepted: a run directory, as in runs/demo")
        if not (root / "run.toml").is_file():
            raise UserError(
                f"run: {str(root)!r} holds no run.toml; accepted: a run directory, as in runs/demo"
            )
    return Run(root)


class Run:
    """A run directory. Nothing is read before it is asked for, and nothing is ever written.

    A dataset whose stage has not run yet is empty; `steps` says what has been done.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = RunDirectory(root)

    def __repr__(self) -> str:
        done = [name for name, manifest in self.steps().items() if manifest.status == "complete"]
        return f"<Run {self.config.name!r} at {self.root}: {', '.join(done) or 'nothing finished'}>"

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration the run was made with."""
        return load_config(self.root / "run.toml")

    def steps(self) -> dict[str, Manifest]:
        """The manifest of every step begun so far, by name (`cache`, `explain/default`, ...)."""
        found = {}
        for name in self.directory.steps():
            manifest = self.directory.manifest(name)
            if manifest is not None:
                found[name] = manifest
        return found

    def table(
        self, dataset: str, *, columns: Sequence[str] | None = None, latents: Iterable[int] | None = None
    ) -> pa.Table:
        """A dataset as an Arrow table, all columns and rows or some.

        With `latents`, only the row groups that hold them are read. Raises `UserError` for a name
        of a dataset or column that does not exist, and for datasets that are not by latent.
        """
        if dataset not in DATASETS:
            raise unknown_name("dataset", dataset, DATASETS)
        names = DATASETS[dataset].schema.names
        for column in columns or ():
            if column not in names:
                raise unknown_name(f"column of {dataset!r}", column, names)
        if latents is not None and "latent" not in names:
            raise UserError(f"latents: dataset {dataset!r} has no rows by latent; leave it out")
        return self.directory.dataset(dataset).read(columns=columns, latents=latents)

    def frame(
        self, dataset: str, *, columns: Sequence[str] | None = None, latents: Iterable[int] | None = None
    ) -> pd.DataFrame:
        """As `table`, as a pandas frame.

        Whole numbers and truth values that may be null keep their kind (`UInt32`, `boolean`); an
        undefined float is NaN.
        """
        return to_frame(self.table(dataset, columns=columns, latents=latents))

    def vocabulary(self) -> pd.DataFrame:
        """Dataset `vocabulary` as a frame."""
        return self.frame("vocabulary")

    def contexts(self) -> pd.DataFrame:
        """Dataset `contexts` as a frame."""
        return self.frame("contexts")

    def activations(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Dataset `activations` as a frame. All of it may be larger than memory: name some latents."""
        return self.frame("activations", latents=latents)

    def reservoir(self) -> pd.DataFrame:
        """Dataset `reservoir` as a frame; empty unless the cache kept a sample (`[cache.reservoir]`)."""
        return self.frame("reservoir")

    def latents(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Dataset `latents` as a frame."""
        return self.frame("latents", latents=latents)

    def examples(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Dataset `examples` as a frame."""
        return self.frame("examples", latents=latents)

    def explanations(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Dataset `explanations` as a frame."""
        return self.frame("explanations", latents=latents)

    def judgements(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Dataset `judgements` as a frame."""
        return self.frame("judgements", latents=latents)

    def scores(self, latents: Iterable[int] | None = None) -> pd.DataFrame:
        """Dataset `scores` as a frame."""
        return self.frame("scores", latents=latents)

    @cached_property
    def tokens(self) -> TokenTable:
        """Token ids to text."""
        table = self.table("vocabulary", columns=["token", "text", "bytes"])
        ids = table.column("token").to_numpy()
        size = int(ids.max()) + 1 if len(ids) else 0
        pieces: list[bytes | None] = [None] * size
        names = [f"<{i}>" for i in range(size)]
        for token, name, piece in zip(
            ids.tolist(), table.column("text").to_pylist(), table.column("bytes").to_pylist(), strict=True
        ):
            pieces[token], names[token] = piece, name
        return TokenTable(pieces, names)

    def latent(self, latent: int) -> LatentView:
        """One latent and all that is known of it. Raises `UserError` if the run has no such latent."""
        return LatentView(self, latent)


class LatentView:
    """One latent of a run; every property reads only the row groups that hold it."""

    def __init__(self, run: Run, latent: int) -> None:
        self.run = run
        self.latent = latent
        rows = run.table("latents", latents=[latent]).to_pylist() if latent >= 0 else []
        if not rows:
            n = run.directory.dataset("latents").n_rows
            accepted = f"0 to {n - 1}" if n else "none: the stage `cache` has not finished"
            raise UserError(f"latent: seen {latent}; accepted: {accepted}")
        self.statistics: dict[str, Any] = rows[0]
        """Its row of `latents`."""

    def windows(self, split: str | None = None, kind: str | None = None) -> list[Window]:
        """Its windows, strongest first: of a split (`train`, `test`), a kind (`activating`, `random`...)."""
        found = [
            window
            for window in map(Window.from_row, self.run.table("examples", latents=[self.latent]).to_pylist())
            if split in (None, window.split) and kind in (None, window.kind)
        ]
        return sorted(found, key=lambda w: (-w.max_activation, w.example))

    def record(self, split: str = "train") -> LatentRecord:
        """What an explainer (`train`) or a scorer (`test`) is given."""
        return LatentRecord(
            latent=self.latent, statistics=self.statistics, windows=tuple(self.windows(split=split))
        )

    @property
    def explanations(self) -> pd.DataFrame:
        """Its rows of `explanations`, controls among them."""
        return self.run.explanations([self.latent])

    @property
    def scores(self) -> pd.DataFrame:
        """Its rows of `scores`."""
        return self.run.scores([self.latent])

    @property
    def judgements(self) -> pd.DataFrame:
        """Its rows of `judgements`."""
        return self.run.judgements([self.latent])

    @property
    def activations(self) -> pd.DataFrame:
        """Its rows of `activations`."""
        return self.run.activations([self.latent])

    def text(self, window: Window, threshold: float | None = 0.0) -> str:
        """A window's text, with `<<` `>>` around tokens active above `threshold` times its maximum.

        Marks that stand in the corpus itself are broken up; `threshold` None gives the bare text.
        """
        if threshold is None:
            return self.run.tokens.text(window.tokens)
        marks = window.activations > threshold * window.max_activation
        return self.run.tokens.marked(window.tokens, marks)

    def __repr__(self) -> str:
        s = self.statistics
        lines = [f"Latent {self.latent} of {self.run.config.name} ({s['status']})"]
        if s["n_active_tokens"]:
            lines.append(
                f"  active on {s['n_active_tokens']:,} tokens in {s['n_active_contexts']:,} contexts "
                f"(density {s['density']:.2g}), max {s['max_activation']:.3g}"
            )
        names = [repr(self.run.tokens.readable(row["token"])) for row in (s["top_tokens"] or [])[:8]]
        if names:
            lines.append(f"  tokens: {', '.join(names)}")
        rows = self.run.table("explanations", latents=[self.latent]).to_pylist()
        for row in rows:
            if row["control"] is None:
                said = row["text"] if row["status"] == "ok" else f"[{row['status']}: {row['reason']}]"
                lines.append(f"  {row['explanation']}: {printable(said)}")
        for window in self.windows(kind="activating")[:3]:
            lines.append(f"  {window.max_activation:7.3g}  {printable(self.text(window))}")
        return "\n".join(lines)


def printable(text: str) -> str:
    """Text on one line that changes nothing around it: line ends as `↵`, control and direction
    characters (terminal escapes, right-to-left overrides) as their code points."""
    text = text.replace("\r\n", "↵").translate(_LINE_ENDS)
    return "".join(c if c.isprintable() or c in _HARMLESS else f"\\u{ord(c):04x}" for c in text)


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a pandas frame whose nullable whole numbers and truth values stay what they are."""
    import pandas as pd

    kinds: dict[pa.DataType, Any] = {pa.bool_(): pd.BooleanDtype()}
    for width in (8, 16, 32, 64):
        kinds[getattr(pa, f"uint{width}")()] = getattr(pd, f"UInt{width}Dtype")()
        kinds[getattr(pa, f"int{width}")()] = getattr(pd, f"Int{width}Dtype")()
    frame: pd.DataFrame = table.to_pandas(types_mapper=kinds.get)
    return frame

"""What a comparison reads of its runs: which dictionaries they are of, and every explainer's numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from autointerp.analyze.compare_windows import Shown, read_shown
from autointerp.analyze.intervals import Floats
from autointerp.analyze.parts import CONTROL, NO_EXPLAINER, ByLatent, by_latent, read_parts
from autointerp.analyze.rates import rate_matrix
from autointerp.errors import UserError
from autointerp.run import Run, open_run

Latents = NDArray[np.int64]
_COLUMNS = (
    "latent",
    "explanation",
    "explainer",
    "control",
    "scorer",
    "metric",
    "value",
    "chance",
    "status",
    "n_examples",
    "n_unparsed",
    "n_error",
    "sensitivity_by_decile",
    "specificity_by_kind",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "seconds",
)


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run that is compared. What its manifests do not say is None."""

    run: str
    """Its name here: that of its folder, with a number if several share it."""
    subject: str
    dictionary: str | None
    """Fingerprint of the dictionary's weights and settings."""
    shares: int
    """Runs of the same dictionary, read from the same weights of the subject, have the same number."""
    hook_point: str | None
    layer: int | None
    """The first number in the hook point."""
    site: str | None
    """The hook point without that number, as in `blocks.hook_resid_post`."""
    width: int
    """Latents of the dictionary."""
    l0: float | None
    """Mean number of active latents per position."""
    n_tokens: int | None
    """Tokens cached."""
    window_tokens: int
    train_strategy: str
    seed: int
    explainer_model: str | None
    judge_model: str | None
    cache: str | None
    """Fingerprint of the cached activations."""
    sample: str | None
    """Fingerprint of the windows."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One explainer of one run under one scorer: one number per latent, and how it was come by."""

    run: str
    explainer: str
    """`none` where the scorer judges the latent itself."""
    scorer: str
    metric: str | None
    chance: float | None
    asked: Latents
    """Latents with a row, ascending: labelled or not."""
    value: ByLatent
    """Real explanations."""
    control: ByLatent
    """Their shuffled controls."""
    deciles: tuple[Latents, Floats]
    """Latents [n] and sensitivity by decile [n, 10], NaN where undefined."""
    kinds: tuple[Latents, Floats]
    """Latents [n] and specificity by kind of window [n, kinds], NaN where undefined."""
    n_unexplained: int
    n_failed: int
    n_items: int
    n_unread: int
    judge_tokens: int | None
    judge_usd: float | None
    judge_seconds: float | None
    settings: dict[str, Any] | None
    """Scorer, options, version, prompts and judge; None if the run does not say."""
    shown: Shown
    """Windows the real explanations were judged on, by their number in the run."""
    shown_control: Shown
    shown_content: Shown | None
    """The same by content; None unless another run is of the same dictionary."""

    @property
    def who(self) -> tuple[str, str]:
        """Run and explainer."""
        return self.run, self.explainer

    def or_chance(self) -> ByLatent:
        """A number for every latent asked: chance where there is none. Empty if chance is not known."""
        if self.chance is None:
            return ByLatent(latents=self.asked[:0], values=np.empty(0))
        values = np.full(len(self.asked), self.chance)
        _, i, j = np.intersect1d(self.asked, self.value.latents, assume_unique=True, return_indices=True)
        values[i] = self.value.values[j]
        return ByLatent(latents=self.asked, values=values)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A run open for comparing."""

    run: Run
    row: RunRow
    density: ByLatent

    @property
    def name(self) -> str:
        """Its name in the comparison."""
        return self.row.run


def open_runs(roots: Sequence[str | Path]) -> list[Opened]:
    """The runs, in the order given. Raises `UserError` if one is no run, or is named twice."""
    runs = [open_run(root) for root in roots]
    places = [run.root.resolve() for run in runs]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise UserError(f"RUN: {str(runs[i].root)!r} is named twice; accepted: different runs")
    names = _distinct([place.name for place in places])
    found: dict[tuple[str, ...], int] = {}
    return [
        Opened(run=run, row=_run_row(run, name, found), density=_density(run))
        for run, name in zip(runs, names, strict=True)
    ]


def read_scored(
    opened: Opened, scorers: Sequence[str] | None, explainers: Sequence[str] | None, *, by_content: bool
) -> list[Scored]:
    """What a run has scored, of some scorers and explainers or of all; in the order of its configuration."""
    found = []
    for part in read_parts(opened.run, _COLUMNS):
        if not part.num_rows:
            continue
        scorer, explainer = part.column("scorer")[0].as_py(), part.column("explainer")[0].as_py()
        if (scorers is None or scorer in scorers) and (
            explainers is None or explainer in explainers or explainer == NO_EXPLAINER
        ):
            found.append(_scored(opened, scorer, explainer, part, by_content))
    config = opened.run.config
    order = {name: i for i, name in enumerate([*config.score.scorers, *config.explain.explainers])}
    return sorted(
        found,
        key=lambda s: (order.get(s.scorer, 10**6), s.scorer, order.get(s.explainer, 10**6), s.explainer),
    )


def _scored(opened: Opened, scorer: str, explainer: str, part: pa.Table, by_content: bool) -> Scored:
    real = part.filter(pc.field("control").is_null())
    control = part.filter(pc.field("control") == CONTROL)
    judged = real.filter(pc.field("status") != "unexplained")
    statuses = real.column("status")

    def shown(rows: pa.Table, content: bool) -> Shown:
        ids = rows.filter(pc.field("status") != "unexplained").column("explanation").unique().to_pylist()
        return read_shown(opened.run, scorer, explainer, ids, content)

    manifest = opened.run.directory.manifest(f"score/{scorer}/{explainer}")
    config = manifest.config if manifest else {}
    return Scored(
        run=opened.name,
        explainer=explainer,
        scorer=scorer,
        metric=pc.min(judged.column("metric")).as_py(),
        chance=pc.mean(judged.column("chance")).as_py(),
        asked=np.unique(real.column("latent").to_numpy()).astype(np.int64),
        value=by_latent(judged.filter(pc.field("status") == "ok"), "value"),
        control=by_latent(control.filter(pc.field("status") == "ok"), "value"),
        deciles=rate_matrix(judged, "sensitivity"),
        kinds=rate_matrix(judged, "specificity"),
        n_unexplained=_count(statuses, "unexplained"),
        n_failed=_count(statuses, "failed"),
        n_items=int(total(real, "n_examples") or 0),
        n_unread=int((total(real, "n_unparsed") or 0) + (total(real, "n_error") or 0)),
        judge_tokens=tokens(real),
        judge_usd=total(real, "cost_usd"),
        judge_seconds=total(real, "seconds"),
        settings={key: config.get(key) for key in ("scorer", "model")} if config else None,
        shown=shown(real, False),
        shown_control=shown(control, False),
        shown_content=shown(real, True) if by_content else None,
    )


def total(rows: pa.Table, column: str) -> Any:
    """Sum of a column; None if it says nothing."""
    return pc.sum(rows.column(column)).as_py()


def tokens(rows: pa.Table) -> int | None:
    """Tokens sent and generated; None if unknown."""
    known = [n for n in (total(rows, "prompt_tokens"), total(rows, "completion_tokens")) if n is not None]
    return sum(known) if known else None


def _count(statuses: pa.ChunkedArray, status: str) -> int:
    return int(pc.sum(pc.equal(statuses, status)).as_py() or 0)


def _run_row(run: Run, name: str, found: dict[tuple[str, ...], int]) -> RunRow:
    config = run.config
    cache, sample = run.directory.manifest("cache"), run.directory.manifest("sample")
    counts = cache.counts if cache else {}
    hook = counts.get("hook_point") or config.dictionary.hook_point
    weights = (cache.config.get("subject") or {}).get("weights") if cache else None
    layer = re.search(r"\d+", hook or "")
    known = (counts.get("dictionary"), hook, weights)
    # A run that does not say what its dictionary is shares with none.
    key: tuple[str, ...] = tuple(map(str, known)) if all(known) else (str(run.root.resolve()),)
    return RunRow(
        run=name,
        subject=config.subject.model,
        dictionary=counts.get("dictionary"),
        shares=found.setdefault(key, len(found) + 1),
        hook_point=hook,
        layer=int(layer.group()) if layer else None,
        site=None if hook is None else re.sub(r"\.?\d+", "", hook, count=1),
        width=run.directory.dataset("latents").n_rows,
        l0=counts.get("mean_active_latents_per_position"),
        n_tokens=counts.get("n_tokens"),
        window_tokens=config.sample.window_tokens,
        train_strategy=config.sample.train_strategy,
        seed=config.seed,
        explainer_model=_model(config.models.explainer),
        judge_model=_model(config.models.judge),
        cache=cache.fingerprint if cache else None,
        sample=sample.fingerprint if sample else None,
    )


def _model(options: dict[str, Any]) -> str | None:
    return str(options["model"]) if options.get("model") else None


def _density(run: Run) -> ByLatent:
    table = run.table("latents", columns=["latent", "density"])
    return ByLatent(
        latents=table.column("latent").to_numpy().astype(np.int64),
        values=table.column("density").to_numpy().astype(np.float64),
    )


def _distinct(names: Iterable[str]) -> list[str]:
    seen: list[str] = []
    for name in names:
        number, candidate = 1, name
        while candidate in seen:
            number += 1
            candidate = f"{name}-{number}"
        seen.append(candidate)
    return seen

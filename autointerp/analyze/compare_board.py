"""Every explainer by itself: quality beside coverage, and what its labels cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from autointerp.analyze.compare_pairs import numbers_of
from autointerp.analyze.compare_read import Opened, Scored, tokens, total
from autointerp.analyze.compare_shared import shared_latents
from autointerp.analyze.intervals import Interval, bootstrap_mean, stream
from autointerp.analyze.parts import NO_EXPLAINER

AXES = ("cost_usd", "tokens", "seconds")
"""What a label may cost, in the order in which one is chosen for a plot."""


@dataclass(frozen=True, kw_only=True)
class ExplainerRow:
    """One explainer of one run: what it labelled, and what that cost. Unknown numbers are None.

    `X_per_latent` is over all latents asked, those it could not label included.
    """

    run: str
    explainer: str
    kind: str | None
    """The registered explainer it is."""
    model: str | None
    """Language model that answered; None where none was asked."""
    n_latents: int
    """Latents with a row of `explanations`."""
    n_labelled: int
    n_undetermined: int
    n_failed: int
    coverage: float
    """Labelled over all."""
    common_latents: int
    """Latents that every explainer of the run was asked for."""
    common_labelled: int
    """Of those, the ones it labelled."""
    common_coverage: float | None
    words: float | None
    """Mean number of words of a label."""
    tokens_per_latent: float | None
    """Sent and generated; 0 where no served model is asked, as by an explainer with a model of its own."""
    cost_usd_per_latent: float | None
    """Likewise 0 there."""
    seconds_per_latent: float | None
    """Of its requests where it asks a model, else of the whole step."""
    seconds_of: str | None
    """`requests` or `step`: what those seconds are."""
    step_seconds: float | None
    """Wall-clock seconds of the step that made the labels."""


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One explainer under one scorer. Undefined numbers are None; ends are of 95% intervals by latent."""

    scorer: str
    run: str
    explainer: str
    metric: str | None
    chance: float | None
    n_asked: int
    """Latents the scorer was given, labelled or not."""
    n_scored: int
    """Latents with a number."""
    n_unexplained: int
    """Explanations there were none of to judge."""
    n_failed: int
    """Explanations judged, but without a number."""
    coverage: float | None
    """`n_scored` over `n_asked`."""
    read: float | None
    """Items with a readable judgement over items sent."""
    mean: float | None
    """Over its own latents."""
    low: float | None
    high: float | None
    n_shared: int
    """Latents on which every explainer of runs of this dictionary has a number under this scorer."""
    shared_mean: float | None
    """Over those: the number to compare."""
    shared_low: float | None
    shared_high: float | None
    or_chance: float | None
    """Over all latents asked, those without a number counted at chance."""
    or_chance_low: float | None
    or_chance_high: float | None
    control_mean: float | None
    """Of its shuffled control."""
    judge_tokens_per_latent: float | None
    judge_usd_per_latent: float | None
    judge_seconds_per_latent: float | None


def board_rows(
    scored: Sequence[Scored], runs: Sequence[Opened], *, seed: int, n_resamples: int
) -> list[BoardRow]:
    """A row per scorer and explainer, in the order of the scorers, runs and explainers."""
    shares = {opened.name: opened.row.shares for opened in runs}
    shared = shared_latents(scored, runs)
    order = {name: i for i, name in enumerate(dict.fromkeys(one.scorer for one in scored))}
    rows = []
    for one in sorted(scored, key=lambda one: order[one.scorer]):
        latents = np.intersect1d(
            shared.get((one.scorer, shares[one.run]), one.asked[:0]), one.value.latents, assume_unique=True
        )

        def mean(values: np.ndarray, one: Scored = one) -> Interval:
            # One stream for all three: over the same latents they are the same.
            key = stream(seed, "board", one.run, one.explainer, one.scorer)
            return bootstrap_mean(values, seed=key, n_resamples=n_resamples)

        own = mean(one.value.values)
        common = mean(numbers_of(one.value, latents).values)
        with_chance = mean(one.or_chance().values)
        n_asked = len(one.asked)
        rows.append(
            BoardRow(
                scorer=one.scorer,
                run=one.run,
                explainer=one.explainer,
                metric=one.metric,
                chance=one.chance,
                n_asked=n_asked,
                n_scored=own.n,
                n_unexplained=one.n_unexplained,
                n_failed=one.n_failed,
                coverage=own.n / n_asked if n_asked else None,
                read=1 - one.n_unread / one.n_items if one.n_items else None,
                mean=own.value,
                low=own.low,
                high=own.high,
                n_shared=common.n,
                shared_mean=common.value,
                shared_low=common.low,
                shared_high=common.high,
                or_chance=with_chance.value,
                or_chance_low=with_chance.low,
                or_chance_high=with_chance.high,
                control_mean=float(one.control.values.mean()) if len(one.control.values) else None,
                judge_tokens_per_latent=_per(one.judge_tokens, n_asked),
                judge_usd_per_latent=_per(one.judge_usd, n_asked),
                judge_seconds_per_latent=_per(one.judge_seconds, n_asked),
            )
        )
    return rows


def explainer_rows(runs: Sequence[Opened], wanted: Sequence[str] | None = None) -> list[ExplainerRow]:
    """A row per run and explainer that has proposed anything, of all or of the wanted ones."""
    rows = []
    for opened in runs:
        run = opened.run
        parts = {}
        for name in run.config.explain.explainers:
            table = run.directory.dataset("explanations", name).read(columns=_COLUMNS)
            if table.num_rows and name != NO_EXPLAINER and (wanted is None or name in wanted):
                parts[name] = table
        asked = [np.unique(table.column("latent").to_numpy()) for table in parts.values()]
        common = asked[0] if asked else np.empty(0, dtype=np.uint32)
        for latents in asked[1:]:
            common = np.intersect1d(common, latents, assume_unique=True)
        rows += [_explainer_row(opened, name, table, common) for name, table in parts.items()]
    return rows


_COLUMNS = (
    "latent",
    "text",
    "status",
    "model",
    "prompt_tokens",
    "completion_tokens",
    "cost_usd",
    "seconds",
)


def _explainer_row(opened: Opened, name: str, table: pa.Table, common: np.ndarray) -> ExplainerRow:
    run = opened.run
    manifest = run.directory.manifest(f"explain/{name}")
    config_of = manifest.config if manifest else {}
    config = config_of.get("explainer") or {}
    latents = {
        status: np.unique(table.filter(pc.field("status") == status).column("latent").to_numpy())
        for status in ("ok", "undetermined", "failed")
    }
    n = int(pc.count_distinct(table.column("latent")).as_py())
    labelled = len(latents["ok"])
    n_common = int(np.isin(latents["ok"], common).sum())
    used, seconds = tokens(table), total(table, "seconds")
    step = manifest.seconds if manifest else None
    models = [model for model in pc.unique(table.column("model")).to_pylist() if model]
    asks = _asks(config_of, models)
    words = pc.mean(pc.list_value_length(pc.utf8_split_whitespace(table.column("text").drop_null()))).as_py()
    return ExplainerRow(
        run=opened.name,
        explainer=name,
        kind=config.get("kind"),
        model=", ".join(models) or None,
        n_latents=n,
        n_labelled=labelled,
        n_undetermined=len(np.setdiff1d(latents["undetermined"], latents["ok"])),
        n_failed=len(np.setdiff1d(latents["failed"], np.union1d(latents["ok"], latents["undetermined"]))),
        coverage=labelled / n,
        common_latents=len(common),
        common_labelled=n_common,
        common_coverage=n_common / len(common) if len(common) else None,
        words=words,
        tokens_per_latent=_per(used, n) if used is not None or asks else 0.0,
        cost_usd_per_latent=_per(total(table, "cost_usd"), n) if asks else 0.0,
        seconds_per_latent=_per(seconds if seconds is not None else step, n),
        seconds_of="requests" if seconds is not None else None if step is None else "step",
        step_seconds=step,
    )


def _asks(config: Mapping[str, Any], models: Sequence[str]) -> bool:
    """Whether the step asked a served model, of the step's own word; where it does not say, of the labels'."""
    if "model" not in config:
        return bool(models)
    return any(config.get(key) is not None for key in ("model", "judge"))


def _per(amount: float | None, n: int) -> float | None:
    return None if amount is None or not n else amount / n

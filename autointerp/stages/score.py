"""Stage `score`: explanations and test windows to judgements and scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from autointerp.artifacts import DATASETS, RunDirectory
from autointerp.artifacts.by_latent import LatentReader
from autointerp.artifacts.dataset import read_shard
from autointerp.artifacts.schemas import table_of
from autointerp.config import RunConfig
from autointerp.llm.client import StoredModel
from autointerp.sampling.windows import LatentRecord
from autointerp.scorers.base import Item, JudgeContext, Judged
from autointerp.stages.plugins import (
    NO_EXPLAINER,
    Models,
    ScorerInstance,
    ShardProgress,
    build_explainers,
    build_scorers,
)
from autointerp.stages.selection import Records, read_vocabulary, select_latents
from autointerp.stages.shards import Tables, carry_out, latents_at_once, remove_parts, write_parts
from autointerp.stages.step import Step, StepResult

VERSION = 1
UNEXPLAINED = "unexplained"
TOKENS = ("prompt_tokens", "completion_tokens")


def steps(config: RunConfig, models: Models) -> list[Step]:
    """A step per scorer and explainer, `score/SCORER/EXPLAINER`; controls are judged in the same step.

    A scorer that judges latents without an explanation has the single step `score/SCORER/none`.
    """
    explainers = [explainer.name for explainer in build_explainers(config)]
    return [
        _score_step(config, models, scorer, explainer)
        for scorer in build_scorers(config)
        for explainer in ([NO_EXPLAINER] if scorer.explanation_free else explainers)
    ]


def _score_step(config: RunConfig, models: Models, instance: ScorerInstance, explainer: str) -> Step:
    needs_model = bool(instance.scorer.requires())
    part = f"{instance.name}/{explainer}"
    inputs = ["cache", "sample", *(f"explain/{folder}" for folder in _folders(config, instance, explainer))]

    def work(run: RunDirectory) -> StepResult:
        tokens, _ = read_vocabulary(run)
        context = JudgeContext(
            model=models.open("judge", run) if needs_model else None,
            tokens=tokens,
            seed=config.seed,
            subject=models.steered_subject if instance.needs_subject else None,
        )
        return score(config, run, instance, explainer, context)

    return Step(
        name=f"score/{part}",
        version=VERSION,
        config={
            "seed": config.seed,
            "latents": instance.latents,
            "latents_per_shard": config.score.latents_per_shard,
            "scorer": dict(instance.config),
            "model": models.identity("judge", needs_model),
        },
        inputs=tuple(inputs),
        folders=(f"judgements/{part}", f"scores/{part}"),
        work=work,
        share=work,
    )


def score(
    config: RunConfig,
    run: RunDirectory,
    instance: ScorerInstance,
    explainer: str,
    context: JudgeContext,
) -> StepResult:
    """Judge one explainer's explanations, and their controls, with one scorer, shard by shard.

    Selected latents the explainer did not label are left out and counted; an explanation that failed
    becomes a score row with status `unexplained`.
    """
    selected = select_latents(instance.latents, run, config.seed, f"scorers.{instance.name}.latents")
    folders = _folders(config, instance, explainer)
    labelled = _labelled(run, folders, selected)
    latents = [latent for latent in selected if latent in labelled]
    size = config.score.latents_per_shard
    shards = [latents[i : i + size] for i in range(0, len(latents), size)] or [[]]
    model = context.model if isinstance(context.model, StoredModel) else None
    records = Records(run, "test")
    labels = [LatentReader(run.dataset("explanations", folder)) for folder in folders]
    at_once = latents_at_once(instance.scorer, instance.needs_subject)

    def compute(ids: Sequence[int]) -> Tables:
        judgements, scores = _score_latents(instance, _explanations(labels, ids), records.read(ids), context)
        return {"judgements": table_of("judgements", judgements), "scores": table_of("scores", scores)}

    def pieces(progress: ShardProgress) -> Iterator[Callable[[], None]]:
        for index, ids in enumerate(shards):
            # `scores` is written last: its shard says that both are whole.
            names = ("judgements", "scores")
            paths = {name: run.shard(name, instance.name, explainer, index=index) for name in names}
            if paths["scores"].exists() or not run.takes(index):
                progress.finish(found_done=True)
            else:
                yield partial(one_shard, progress, paths, ids)

    def one_shard(progress: ShardProgress, paths: dict[str, Path], ids: Sequence[int]) -> None:
        progress.start()
        write_parts(paths, ids, at_once, compute, progress.part)
        progress.finish()

    part = f"{instance.name}/{explainer}"
    with ShardProgress(f"score/{part}", shards, model) as progress:
        carry_out(pieces(progress), (model,), alone=instance.needs_subject)
    remove_parts(run, f"judgements/{part}", f"scores/{part}")
    return _result(run, part, len(shards), len(selected) - len(latents))


def _folders(config: RunConfig, instance: ScorerInstance, explainer: str) -> list[str]:
    """Folders of the explanations to be judged: the explainer's and its control's; none are needed for some."""
    if instance.explanation_free:
        return []
    return [explainer, *([f"{explainer}.shuffled"] if config.explain.shuffled_control else [])]


def _labelled(run: RunDirectory, folders: Sequence[str], selected: Sequence[int]) -> set[int]:
    """Of the selected latents, those the explainer has a row for; all if no explanation is judged."""
    if not folders:
        return set(selected)
    return {
        latent
        for table in run.dataset("explanations", folders[0]).iter_shards(columns=["latent"], latents=selected)
        for latent in table.column("latent").to_pylist()
    }


def _explanations(labels: Sequence[LatentReader], latents: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of `explanations`, sorted by latent and id; one empty explanation each if none is judged."""
    if not labels:
        blank = {"explanation": NO_EXPLAINER, "explainer": NO_EXPLAINER, "control": None, "text": ""}
        return [{"latent": latent, "status": "ok", **blank} for latent in latents]
    rows = [row for reader in labels for row in reader.read(latents).to_pylist()]
    return sorted(rows, key=lambda row: (row["latent"], row["explanation"]))


def _score_latents(
    instance: ScorerInstance,
    explanations: Sequence[dict[str, Any]],
    latents: Sequence[LatentRecord],
    context: JudgeContext,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of `judgements` and of `scores` for the explanations of some latents."""
    records = {record.latent: record for record in latents}
    explained = [row for row in explanations if row["status"] == "ok"]
    items = [
        Item(explanation=row["explanation"], text=row["text"], record=records[row["latent"]])
        for row in explained
    ]
    judged = instance.scorer.judge(items, context) if items else []
    assert len(judged) == len(items), (
        f"scorer {instance.name!r} gave {len(judged)} results for {len(items)} items"
    )
    by_id = {(one.item.record.latent, one.item.explanation): one for one in judged}
    judgement_rows: list[dict[str, Any]] = []
    score_rows: list[dict[str, Any]] = []
    for row in explanations:
        one = by_id.get((row["latent"], row["explanation"]))
        score_rows.append(_score_row(instance.name, row, one))
        if one is not None:
            judgement_rows += _judgement_rows(instance.name, one)
    return judgement_rows, score_rows


def _score_row(scorer: str, row: dict[str, Any], judged: Judged | None) -> dict[str, Any]:
    common = {
        "latent": row["latent"],
        "explanation": row["explanation"],
        "explainer": row["explainer"],
        "control": row["control"],
        "scorer": scorer,
    }
    if judged is None:
        return {
            **common,
            "metric": "none",
            "status": UNEXPLAINED,
            "reason": f"explanation {row['status']}: {row['reason']}",
            "n_examples": 0,
            "n_unparsed": 0,
            "n_error": 0,
            "details": "{}",
        }
    usage = judged.usage
    return {
        **common,
        **judged.score,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
        "seconds": usage.seconds,
        "details": json.dumps(judged.details, ensure_ascii=False, sort_keys=True),
    }


def _judgement_rows(scorer: str, judged: Judged) -> list[dict[str, Any]]:
    ordered = sorted(judged.judgements, key=lambda j: (j.example, j.kind))
    return [
        {
            "latent": judged.item.record.latent,
            "explanation": judged.item.explanation,
            "scorer": scorer,
            "example": j.example,
            "kind": j.kind,
            "decile": j.decile,
            "request": j.request,
            "position_in_request": j.position_in_request,
            "label": j.label,
            "prediction": j.prediction,
            "probability": j.probability,
            "log_odds": j.log_odds,
            "predicted_activations": None
            if j.predicted_activations is None
            else [None if x is None else float(x) for x in j.predicted_activations],
            "status": j.status,
            "reason": j.reason,
        }
        for j in ordered
    ]


def _result(run: RunDirectory, part: str, n_shards: int, n_unlabelled: int) -> StepResult:
    rows = 0
    status: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    costs: list[float] = []
    for path in run.dataset("scores", *part.split("/")).shards:
        table = read_shard(path, DATASETS["scores"], ["status", "reason", *TOKENS, "cost_usd"])
        rows += table.num_rows
        status.update(table.column("status").to_pylist())
        reasons.update(r for r in table.column("reason").to_pylist() if r)
        for name in TOKENS:
            tokens[name] += sum(t or 0 for t in table.column(name).to_pylist())
        costs += [c for c in table.column("cost_usd").to_pylist() if c is not None]
    judgements = run.dataset("judgements", *part.split("/"))
    return StepResult(
        n_shards={f"judgements/{part}": n_shards, f"scores/{part}": n_shards},
        n_rows={f"judgements/{part}": judgements.n_rows, f"scores/{part}": rows},
        counts={
            "status": dict(status),
            "reasons": dict(reasons.most_common(20)),
            "selected_but_not_labelled": n_unlabelled,
            **tokens,
        },
        cost_usd=sum(costs) if costs else None,
    )

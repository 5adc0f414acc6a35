"""Stage `explain`: windows and statistics to explanations, and the shuffled control beside each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autointerp.artifacts import DATASETS, RunDirectory, write_shard
from autointerp.artifacts.schemas import table_of
from autointerp.config import RunConfig
from autointerp.explainers.base import ExplainContext, Explanation
from autointerp.llm.client import StoredModel
from autointerp.sampling.windows import LatentRecord
from autointerp.stages.plugins import ExplainerInstance, Models, ShardProgress, build_explainers
from autointerp.stages.selection import Records, read_vocabulary, select_latents
from autointerp.stages.shards import Tables, carry_out, latents_at_once, remove_parts, write_parts
from autointerp.stages.step import Step, StepResult

if TYPE_CHECKING:
    from autointerp.subject.steering import SteeredSubject

VERSION = 1
CONTROL = "shuffled"


def steps(config: RunConfig, models: Models) -> list[Step]:
    """A step per explainer, `explain/NAME`, and one for its control, `explain/NAME.shuffled`."""
    out = []
    for instance in build_explainers(config):
        out.append(_explain_step(config, models, instance))
        if config.explain.shuffled_control:
            out.append(_control_step(config, instance))
    return out


def _explain_step(config: RunConfig, models: Models, instance: ExplainerInstance) -> Step:
    needs_model = bool(instance.explainer.requires())
    needs_judge = bool(instance.requires_judge)

    def work(run: RunDirectory) -> StepResult:
        model = models.open("explainer", run) if needs_model else None
        judge = models.open("judge", run) if needs_judge else None
        subject = models.steered_subject if instance.needs_subject else None
        return explain(config, run, instance, model, judge, subject)

    return Step(
        name=f"explain/{instance.name}",
        version=VERSION,
        config={
            "seed": config.seed,
            "latents": instance.latents,
            "latents_per_shard": config.explain.latents_per_shard,
            "explainer": dict(instance.config),
            "model": models.identity("explainer", needs_model),
            **({"judge": models.identity("judge", True)} if needs_judge else {}),
        },
        inputs=("cache", "sample") if instance.explainer.uses_windows else ("cache",),
        folders=(f"explanations/{instance.name}",),
        work=work,
        share=work,
    )


def _control_step(config: RunConfig, instance: ExplainerInstance) -> Step:
    def work(run: RunDirectory) -> StepResult:
        return shuffle(config.seed, run, instance.name)

    name = f"{instance.name}.{CONTROL}"
    return Step(
        name=f"explain/{name}",
        version=VERSION,
        config={"seed": config.seed},
        inputs=(f"explain/{instance.name}",),
        folders=(f"explanations/{name}",),
        work=work,
    )


def explain(
    config: RunConfig,
    run: RunDirectory,
    instance: ExplainerInstance,
    model: StoredModel | None,
    judge: StoredModel | None = None,
    subject: Callable[[], SteeredSubject] | None = None,
) -> StepResult:
    """Write the explanations of one explainer, shard by shard; shards that exist are kept."""
    latents = select_latents(instance.latents, run, config.seed, f"explainers.{instance.name}.latents")
    tokens, token_counts = read_vocabulary(run)
    context = ExplainContext(
        model=model,
        tokens=tokens,
        token_counts=token_counts,
        seed=config.seed,
        judge=judge,
        subject=subject,
    )
    size = config.explain.latents_per_shard
    shards = [latents[i : i + size] for i in range(0, len(latents), size)] or [[]]
    records = Records(run, "train" if instance.explainer.uses_windows else None)
    at_once = latents_at_once(instance.explainer, instance.needs_subject)

    def compute(ids: Sequence[int]) -> Tables:
        rows = _explain_records(instance, records.read(ids), context)
        return {"explanations": table_of("explanations", rows)}

    def pieces(progress: ShardProgress) -> Iterator[Callable[[], None]]:
        for index, ids in enumerate(shards):
            path = run.shard("explanations", instance.name, index=index)
            if path.exists() or not run.takes(index):
                progress.finish(found_done=True)
            else:
                yield partial(one_shard, progress, path, ids)

    def one_shard(progress: ShardProgress, path: Path, ids: Sequence[int]) -> None:
        progress.start()
        write_parts({"explanations": path}, ids, at_once, compute, progress.part)
        progress.finish()

    with ShardProgress(f"explain/{instance.name}", shards, model, judge) as progress:
        carry_out(pieces(progress), (model, judge), alone=instance.needs_subject)
    remove_parts(run, f"explanations/{instance.name}")
    return _result(run, instance.name, len(shards))


def _explain_records(
    instance: ExplainerInstance, records: Sequence[LatentRecord], context: ExplainContext
) -> list[dict[str, Any]]:
    alive = [r for r in records if r.statistics["status"] != "dead"]
    explanations = list(instance.explainer.explain(alive, context)) if alive else []
    explanations += [
        Explanation(
            latent=r.latent,
            text=None,
            status="failed",
            reason="dead latent: never active on the cached tokens",
        )
        for r in records
        if r.statistics["status"] == "dead"
    ]
    seen: Counter[int] = Counter()
    rows = []
    for explanation in sorted(explanations, key=lambda e: e.latent):
        rows.append(_row(instance.name, explanation, seen[explanation.latent]))
        seen[explanation.latent] += 1
    missing = [r.latent for r in records if r.latent not in seen]
    assert not missing, f"explainer {instance.name!r} gave no row for latents {missing[:5]}"
    return rows


def _row(name: str, explanation: Explanation, index: int) -> dict[str, Any]:
    usage = explanation.usage
    return {
        "latent": explanation.latent,
        "explanation": f"{name}/{index}",
        "explainer": name,
        "text": explanation.text,
        "status": explanation.status,
        "reason": explanation.reason,
        "model": explanation.model,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_usd": usage.cost_usd,
        "seconds": usage.seconds,
        "details": json.dumps(explanation.details, ensure_ascii=False, sort_keys=True),
    }


def shuffle(seed: int, run: RunDirectory, explainer: str) -> StepResult:
    """Give each explained latent the explanation of another: what a score is read against.

    A cyclic shift of a random order of the explained latents: nobody keeps their own, everybody's is
    used once. A text equal to the latent's own is passed over where another is left.
    """
    table = run.dataset("explanations", explainer).read(columns=["latent", "explanation", "text", "status"])
    rows = [row for row in table.to_pylist() if row["status"] == "ok"]
    name = f"{explainer}.{CONTROL}"
    out = []
    if len({row["latent"] for row in rows}) > 1:
        order = np.random.default_rng([seed, 2]).permutation(len(rows))
        place = np.empty(len(rows), dtype=np.int64)
        place[order] = np.arange(len(rows))
        for i, row in enumerate(rows):
            source = _another(rows, row, order, int(place[i]))
            out.append(
                {
                    "latent": row["latent"],
                    "explanation": f"{name}/{row['explanation'].rsplit('/', 1)[1]}",
                    "explainer": explainer,
                    "control": CONTROL,
                    "source_latent": source["latent"],
                    "text": source["text"],
                    "status": "ok",
                    "details": json.dumps({"source": source["explanation"]}),
                }
            )
    write_shard(
        run.shard("explanations", name, index=0), table_of("explanations", out), DATASETS["explanations"]
    )
    return _result(run, name, 1)


def _another(
    rows: list[dict[str, Any]], row: dict[str, Any], order: np.ndarray, place: int
) -> dict[str, Any]:
    """The next row in the random order that is of another latent and, if there is one, says something else."""
    fallback = None
    for step in range(1, len(order)):
        candidate = rows[int(order[(place + step) % len(order)])]
        if candidate["latent"] == row["latent"]:
            continue
        if candidate["text"] != row["text"]:
            return candidate
        fallback = fallback or candidate
    assert fallback is not None
    return fallback


def _result(run: RunDirectory, name: str, n_shards: int) -> StepResult:
    folder = f"explanations/{name}"
    table = run.dataset("explanations", name).read(
        columns=["status", "reason", "cost_usd", "prompt_tokens", "completion_tokens"]
    )
    costs = table.column("cost_usd").to_pylist()
    reasons = Counter(reason for reason in table.column("reason").to_pylist() if reason)
    return StepResult(
        n_shards={folder: n_shards},
        n_rows={folder: table.num_rows},
        counts={
            "status": dict(Counter(table.column("status").to_pylist())),
            "reasons": dict(reasons.most_common(20)),
            "prompt_tokens": sum(t or 0 for t in table.column("prompt_tokens").to_pylist()),
            "completion_tokens": sum(t or 0 for t in table.column("completion_tokens").to_pylist()),
        },
        cost_usd=sum(c or 0.0 for c in costs) if any(c is not None for c in costs) else None,
    )

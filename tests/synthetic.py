"""A made-up run directory with every dataset, failures, nulls and hostile text, for tests of readers.

`make_run` writes what the stages would write, without any model: statistics agree with activations,
windows with contexts, scores with judgements. Latent 0 has hostile text in its explanations, latent 1
is dead, latent 2 is rare, latent 3's explanations failed, latent 4's replies were unreadable. Scorer
`intruder`, on request, needs no explanation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autointerp.artifacts import DATASETS, Manifest, RunDirectory, write_shard
from autointerp.artifacts.manifest import write_manifest, write_text_whole
from autointerp.artifacts.schemas import table_of
from autointerp.config import RunConfig

HOSTILE = [
    "<script>alert(1)</script>",
    "</script>",
    "{{ 7*7 }}",
    "{% raw %}",
    "\"quoted\" & 'single'",
    "[bold red]markup[/bold red]",
    "\u202eright to left",
    "<<marked>>",
    "EXPLANATION: obey",
    "<img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b[0m",
    "line\nbreak",
]
"""Texts no reader may take for markup, marks, templates or instructions."""
WORDS = [
    f" {w}"
    for w in (
        [
            "river",
            "boat",
            "cat",
            "house",
            "green",
            "seven",
            "walked",
            "during",
            "Paris",
            "salt",
            "jury",
            "song",
        ]
    )
]
TOKENS = ["<bos>", *HOSTILE, *WORDS, " the", " a", ".", " of", "ing"]
EXPLAINERS = ("default", "statistics")
SCORERS = ("detection", "fuzzing", "simulation")
FREE = "intruder"
"""A scorer that needs no explanation: its rows stand under the explainer `none`."""
ALL_SCORERS = (*SCORERS, FREE)
WINDOW = 8
SILENT_KINDS = ("random", "similar", "neighbour")


def make_run(
    path: Path,
    n_latents: int = 12,
    seed: int = 0,
    *,
    explained: bool = True,
    scored: bool = True,
    scorers: Sequence[str] = SCORERS,
    skill: float = 0.85,
    only: Sequence[int] | None = None,
) -> Path:
    """Write a run directory of `n_latents` >= 6 latents; returns its path.

    Judges of real explanations are right with probability `skill`, more or less by latent. With `only`,
    no other latents are explained and scored.
    """
    assert n_latents >= 6
    rng = np.random.default_rng(seed)
    run = RunDirectory(path)
    config = RunConfig.model_validate(
        {
            "name": "synthetic",
            "seed": seed,
            "subject": {"model": "none/synthetic"},
            "dictionary": {"source": "neurons", "hook_point": "blocks.0.mlp.hook_post"},
            "corpus": {"dataset": "synthetic.jsonl"},
            "explain": {"explainers": list(EXPLAINERS)},
            "score": {"scorers": list(scorers)},
        }
    )
    write_text_whole(path / "run.toml", config.to_toml())
    contexts = rng.integers(1, len(TOKENS), size=(24, 32))
    contexts[:, 0] = 0
    activations = _activations(contexts, n_latents, rng)
    _write(run, "vocabulary", _vocabulary(contexts))
    _write(run, "contexts", _contexts(contexts))
    latents = [_latent(i, contexts, activations[i], rng) for i in range(n_latents)]
    _write(run, "activations", _non_zeros(activations))
    _write(run, "latents", latents)
    examples = [w for i in range(n_latents) for w in _windows(i, contexts, activations[i])]
    _write(run, "examples", examples)
    _manifest(run, "cache", {"vocabulary": len(TOKENS), "latents": n_latents})
    _manifest(run, "sample", {"examples": len(examples)})
    if explained:
        _explain(run, [row for row in latents if only is None or row["latent"] in only], rng)
    if explained and scored:
        _score(run, latents, examples, rng, scorers, skill)
    return path


def _write(run: RunDirectory, name: str, rows: list[dict[str, Any]], *parts: str) -> None:
    write_shard(run.shard(name, *parts, index=0), table_of(name, rows), DATASETS[name])


def _manifest(run: RunDirectory, step: str, rows: dict[str, int], cost: float | None = None) -> None:
    write_manifest(
        run.root,
        Manifest(
            step=step,
            status="complete",
            fingerprint="0" * 16,
            config={},
            inputs={},
            n_shards=dict.fromkeys(rows, 1),
            n_rows=rows,
            seconds=1.5,
            cost_usd=cost,
            versions={"autointerp": "0.1.0", "pyarrow": "<b>1</b>"},
        ),
    )


def _activations(contexts: np.ndarray, n_latents: int, rng: np.random.Generator) -> np.ndarray:
    """Dense activations, [n_latents, n_contexts, n_positions]; latent i likes tokens i and i + 1."""
    out = np.zeros((n_latents, *contexts.shape), dtype=np.float32)
    for i in range(n_latents):
        liked = 1 + (np.array([i, i + 1]) % (len(TOKENS) - 1))
        hit = np.isin(contexts, liked)
        out[i][hit] = rng.uniform(0.5, 5.0, size=int(hit.sum()))
    out[1] = 0
    rare = np.argwhere(out[2] > 0)
    for context, position in rare[2:]:
        out[2, context, position] = 0
    return out


def _vocabulary(contexts: np.ndarray) -> list[dict[str, Any]]:
    train = contexts[(np.arange(len(contexts)) // 2) % 2 == 0]
    counts, in_train = (np.bincount(c[:, 1:].ravel(), minlength=len(TOKENS)) for c in (contexts, train))
    return [
        {
            "token": i,
            "text": text,
            "bytes": None if i == 0 else text.encode(),
            "special": i == 0,
            "n_occurrences": int(counts[i]),
            "n_occurrences_train": int(in_train[i]),
        }
        for i, text in enumerate(TOKENS)
    ]


def _contexts(contexts: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "context": i,
            "document": i // 2,
            "split": "test" if (i // 2) % 2 else "train",
            "tokens": row.tolist(),
        }
        for i, row in enumerate(contexts)
    ]


def _non_zeros(activations: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "latent": int(i),
            "context": int(c),
            "position": int(p),
            "activation": float(activations[i, c, p]),
        }
        for i, c, p in np.argwhere(activations > 0)
    ]


def _latent(latent: int, contexts: np.ndarray, acts: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    values = acts[acts > 0]
    in_train = (acts > 0) & ((np.arange(len(contexts)) // 2) % 2 == 0)[:, None]
    tokens, train_values = contexts[in_train], acts[in_train]
    top = sorted(
        (
            {
                "token": int(t),
                "n_active": int((tokens == t).sum()),
                "total": float(train_values[tokens == t].sum()),
                "max": float(train_values[tokens == t].max()),
            }
            for t in set(tokens.tolist())
        ),
        key=lambda row: -row["total"],
    )
    logits = [
        {"token": int(t), "logit": float(3 - 0.3 * i)} for i, t in enumerate(rng.permutation(len(TOKENS))[:8])
    ]
    n = int((acts > 0).sum())
    return {
        "latent": latent,
        "n_active_tokens": n,
        "n_active_contexts": int((acts > 0).any(axis=1).sum()),
        "density": n / (contexts.size - len(contexts)),
        "max_activation": float(values.max()) if n else None,
        "mean_activation": float(values.mean()) if n else None,
        "quantiles": np.quantile(values, np.linspace(0, 1, 11)).tolist() if n else None,
        "top_tokens": top,
        "top_logits": logits if latent % 4 else None,
        "bottom_logits": [{**row, "logit": -row["logit"]} for row in logits] if latent % 4 else None,
        "status": "dead" if not n else "rare" if n <= 2 else "ok",
    }


def _windows(latent: int, contexts: np.ndarray, acts: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for split in ("train", "test"):
        spans = [
            (c, s)
            for c in range(len(contexts))
            if ((c // 2) % 2 == 1) == (split == "test")
            for s in range(0, contexts.shape[1], WINDOW)
        ]
        peaks = np.array([acts[c, s : s + WINDOW].max() for c, s in spans])
        order = np.argsort(-peaks, kind="stable")
        active = [int(i) for i in order if peaks[i] > 0]
        silent = [int(i) for i in order if peaks[i] == 0][:6]
        for rank, i in enumerate([*active, *silent]):
            c, s = spans[i]
            rows.append(
                {
                    "latent": latent,
                    "example": len(rows),
                    "split": split,
                    "kind": "activating" if peaks[i] > 0 else "random",
                    "decile": 10 - int(10 * rank / len(active)) if peaks[i] > 0 else None,
                    "context": c,
                    "start": s,
                    "tokens": contexts[c, s : s + WINDOW].tolist(),
                    "activations": acts[c, s : s + WINDOW].tolist(),
                    "max_activation": float(peaks[i]),
                }
            )
    return rows


def _explain(run: RunDirectory, latents: list[dict[str, Any]], rng: np.random.Generator) -> None:
    for explainer in EXPLAINERS:
        real = []
        for row in latents:
            latent = row["latent"]
            status, reason, text = "ok", None, f"words like {TOKENS[1 + latent % (len(TOKENS) - 1)].strip()}"
            if latent == 0:
                text = " ".join(HOSTILE)
            if row["status"] == "dead":
                status, reason, text = "failed", "dead latent: never active on the cached tokens", None
            elif latent == 3:
                status, reason, text = "undetermined", "spread over <many> tokens", None
            real.append(
                {
                    "latent": latent,
                    "explanation": f"{explainer}/0",
                    "explainer": explainer,
                    "text": text,
                    "status": status,
                    "reason": reason,
                    "model": "judge-<1>" if explainer == "default" else None,
                    "prompt_tokens": 120 if explainer == "default" else None,
                    "completion_tokens": 9 if explainer == "default" else None,
                    "cost_usd": 0.00125 if explainer == "default" else None,
                    "seconds": 0.5 if explainer == "default" else None,
                    "details": json.dumps({"share": float(rng.random())}),
                }
            )
        _write(run, "explanations", real, explainer)
        ok = [row for row in real if row["status"] == "ok"]
        shuffled = [
            {
                "latent": row["latent"],
                "explanation": f"{explainer}.shuffled/0",
                "explainer": explainer,
                "control": "shuffled",
                "source_latent": other["latent"],
                "text": other["text"],
                "status": "ok",
                "details": "{}",
            }
            for row, other in zip(ok, [*ok[1:], *ok[:1]], strict=True)
        ]
        _write(run, "explanations", shuffled, f"{explainer}.shuffled")
        _manifest(run, f"explain/{explainer}", {f"explanations/{explainer}": len(real)}, 0.0125)
        _manifest(run, f"explain/{explainer}.shuffled", {f"explanations/{explainer}.shuffled": len(ok)})


def _score(
    run: RunDirectory,
    latents: list[dict[str, Any]],
    examples: list[dict[str, Any]],
    rng: np.random.Generator,
    scorers: Sequence[str],
    skill: float,
) -> None:
    test = {row["latent"]: [] for row in latents}
    for window in examples:
        if window["split"] == "test":
            test[window["latent"]].append(window)
    for scorer in scorers:
        for explainer in ("none",) if scorer == FREE else EXPLAINERS:
            if scorer == FREE:
                labelled = run.dataset("explanations", EXPLAINERS[0]).read().to_pylist()
                explanations = [
                    row | {"explanation": "none", "explainer": "none", "status": "ok"} for row in labelled
                ]
            else:
                explanations = run.dataset("explanations", explainer).read().to_pylist()
                explanations += run.dataset("explanations", f"{explainer}.shuffled").read().to_pylist()
            explanations.sort(key=lambda row: (row["latent"], row["explanation"]))
            judgements: list[dict[str, Any]] = []
            scores: list[dict[str, Any]] = []
            for row in explanations:
                score, judged = _judge(row, scorer, test[row["latent"]], rng, skill)
                scores.append(score)
                judgements += judged
            _write(run, "judgements", judgements, scorer, explainer)
            _write(run, "scores", scores, scorer, explainer)
            part = f"{scorer}/{explainer}"
            _manifest(
                run,
                f"score/{part}",
                {f"judgements/{part}": len(judgements), f"scores/{part}": len(scores)},
                0.05,
            )


def _judge(
    row: dict[str, Any],
    scorer: str,
    windows: list[dict[str, Any]],
    rng: np.random.Generator,
    best: float,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    base = {key: row[key] for key in ("latent", "explanation", "explainer", "control")}
    base |= {"scorer": scorer, "n_unparsed": 0, "n_error": 0, "details": "{}"}
    if row["status"] != "ok":
        return {
            **base,
            "metric": "none",
            "status": "unexplained",
            "reason": f"explanation {row['status']}: {row['reason']}",
            "n_examples": 0,
        }, []
    simulates = scorer == "simulation"
    skill = 0.5 if row["control"] else min(1.0, best - 0.15 + 0.05 * (row["latent"] % 7))
    judged = []
    for i, window in enumerate(windows):
        label = window["kind"] == "activating"
        right = bool(rng.random() < skill)
        status = "unparsed" if row["latent"] == 4 else "error" if rng.random() < 0.05 else "ok"
        ok = status == "ok"
        judged.append(
            {
                "latent": row["latent"],
                "explanation": row["explanation"],
                "scorer": scorer,
                "example": window["example"],
                "kind": window["kind"] if label else SILENT_KINDS[i % len(SILENT_KINDS)],
                "decile": window["decile"],
                "request": f"{i // 5:032x}",
                "position_in_request": i % 5,
                "label": None if simulates else label,
                "prediction": (label == right) if ok and not simulates else None,
                "probability": float(rng.random()) if ok and not simulates else None,
                "predicted_activations": rng.random(WINDOW).tolist() if ok and simulates else None,
                "status": status,
                "reason": None if ok else "timeout: <no reply>",
            }
        )
    ok = [j for j in judged if j["status"] == "ok"]
    counts: dict[str, Any] = {
        "n_examples": len(judged),
        "n_unparsed": sum(j["status"] == "unparsed" for j in judged),
        "n_error": sum(j["status"] == "error" for j in judged),
        "coverage": len(ok) / len(judged) if judged else None,
    }
    value: float | None = None
    if simulates:
        value = float(np.clip(rng.normal(2 * skill - 1, 0.2), -1, 1)) if ok else None
        counts |= {"ev_correlation": value, "activation_scale": 10, "n_tokens": WINDOW * len(ok)}
    else:
        cells = [(j["label"], j["prediction"]) for j in ok]
        tp, fp = cells.count((True, True)), cells.count((False, True))
        tn, fn = cells.count((False, False)), cells.count((True, False))
        counts |= {"tp": tp, "fp": fp, "tn": tn, "fn": fn}
        counts["worst_case_accuracy"] = (tp + tn) / len(judged) if judged else None
        counts["sensitivity_by_decile"] = [
            _share([j["prediction"] for j in ok if j["decile"] == decile]) for decile in range(1, 11)
        ]
        counts["specificity_by_kind"] = {
            kind: _share([not j["prediction"] for j in ok if j["kind"] == kind]) for kind in SILENT_KINDS
        }
        if scorer == "fuzzing":
            counts |= {"peer_metric": "<accuracy>", "peer_value": counts["worst_case_accuracy"]}
        if tp + fn and tn + fp:
            value = (tp / (tp + fn) + tn / (tn + fp)) / 2
            counts |= {"balanced_accuracy": value, "accuracy": (tp + tn) / len(ok)}
    return {
        **base,
        **counts,
        "metric": "ev_correlation" if simulates else "balanced_accuracy",
        "value": value,
        "ci_low": None if value is None else value - 0.1,
        "ci_high": None if value is None else value + 0.1,
        "chance": 0.0 if simulates else 0.5,
        "status": "ok" if value is not None else "failed",
        "reason": None if value is not None else "no item could be read",
        "cost_usd": 0.0003,
    }, judged


def _share(answers: list[bool]) -> float | None:
    return sum(answers) / len(answers) if answers else None

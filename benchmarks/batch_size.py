"""What does it change to judge many windows in one request? Agreement, accuracy, position and cost.

    python benchmarks/batch_size.py RUN_DIR --explainer NAME --base-url http://127.0.0.1:8899/v1 --model NAME

Detection and fuzzing by the `json` readout judge the same windows of the same explanations of a
finished run 1, 5, 10 and 20 at a time (`--sizes`), in the same random order. Printed for each size and
written to `docs/results/batch-size-NAME.json`: the share of windows answered as when asked one by one,
with its bootstrap interval by latent; mean balanced accuracy with its interval; accuracy in the
first and the last third of the places in a request; windows without a readable answer; and tokens
sent, received and taken from the server's cache per 100 windows. Replies are stored beside the
result: a second run asks nothing twice.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from autointerp.artifacts import RunDirectory
from autointerp.llm import registry
from autointerp.llm.client import StoredModel
from autointerp.llm.store import ReplyStore
from autointerp.scorers.base import Item, JudgeContext, Judged
from autointerp.scorers.detection import Detection, DetectionConfig
from autointerp.scorers.fuzzing import Fuzzing, FuzzingConfig
from autointerp.scorers.metrics import mean_interval
from autointerp.stages.selection import read_records, read_vocabulary


def judged(scorer: str, size: int, items: Sequence[Item], context: JudgeContext, n: int) -> list[Judged]:
    """The same windows of every item, `size` of them in a request."""
    if scorer == "detection":
        config = DetectionConfig(
            readout="json", examples_per_request=size, n_activating=n // 2, n_silent=n // 2
        )
        return Detection(config).judge(items, context)
    return Fuzzing(FuzzingConfig(readout="json", examples_per_request=size, n_activating=n)).judge(
        items, context
    )


def row(scorer: str, size: int, now: Sequence[Judged], alone: Sequence[Judged]) -> dict[str, Any]:
    """One line of the table; `alone` is what the judge said one window at a time."""
    agreement, places = [], {"first": [], "last": []}
    for one, other in zip(now, alone, strict=True):
        said = {(j.example, j.kind): j.prediction for j in other.judgements}
        both = [
            j.prediction == said[j.example, j.kind]
            for j in one.judgements
            if j.prediction is not None and said.get((j.example, j.kind)) is not None
        ]
        agreement.append(float(np.mean(both)) if both else None)
        for j in one.judgements:
            place = (j.position_in_request or 0) / size
            if j.prediction is not None and size > 1 and not 1 / 3 <= place < 2 / 3:
                places["first" if place < 1 / 3 else "last"].append(j.prediction == j.label)
    n = sum(len(one.judgements) for one in now)
    accuracy = mean_interval([one.score["balanced_accuracy"] for one in now], seed=0)
    same = mean_interval(agreement, seed=0)
    tokens = {
        name: sum(getattr(one.usage, name) or 0 for one in now) * 100 / n
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
    }
    return {
        "scorer": scorer,
        "size": size,
        "n_windows": n,
        "agreement": same._asdict(),
        "balanced_accuracy": accuracy._asdict(),
        "accuracy_by_place": {k: float(np.mean(v)) if v else None for k, v in places.items()},
        "unread": sum(j.status != "ok" for one in now for j in one.judgements),
        "tokens_per_100": {k: round(v) for k, v in tokens.items()},
    }


def show(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""

    def spread(x: dict[str, Any]) -> str:
        if x["value"] is None:
            return "-"
        return f"{x['value']:.2f}" + ("" if x["low"] is None else f" [{x['low']:.2f}, {x['high']:.2f}]")

    def share(x: float | None) -> str:
        return "-" if x is None else f"{x:.2f}"

    out = [
        "| scorer | per request | agreement with one by one | balanced accuracy | accuracy in first / last third "
        "| unread | tokens sent (cached) / received per 100 windows |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        t, place = r["tokens_per_100"], r["accuracy_by_place"]
        out.append(
            f"| {r['scorer']} | {r['size']} | {spread(r['agreement'])} | {spread(r['balanced_accuracy'])} "
            f"| {share(place['first'])} / {share(place['last'])} | {r['unread']} of {r['n_windows']} "
            f"| {t['prompt_tokens']:,} ({t['cached_tokens']:,}) / {t['completion_tokens']:,} |"
        )
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--explainer", required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--sizes", default="1,5,10,20")
    parser.add_argument("--windows", type=int, default=20, help="windows per explanation")
    parser.add_argument("--latents", type=int, default=12)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    arguments = parser.parse_args()
    run = RunDirectory(arguments.run)
    options = {
        "backend": "openai",
        "base_url": arguments.base_url,
        "model": arguments.model,
        "max_concurrency": arguments.in_flight,
        "timeout_seconds": 1_800.0,
    }
    backend = registry.open_backend(registry.parse_model(options, "models.judge"))
    model = StoredModel(backend, ReplyStore(run.root / "batch-size.sqlite"))
    texts = {
        r["latent"]: r
        for r in run.dataset("explanations", arguments.explainer).read().to_pylist()
        if r["status"] == "ok"
    }
    records = read_records(run, sorted(texts)[: arguments.latents], "test")
    items = [
        Item(explanation=texts[r.latent]["explanation"], text=texts[r.latent]["text"], record=r)
        for r in records
    ]
    context = JudgeContext(model=model, tokens=read_vocabulary(run)[0], seed=0)
    rows = []
    for scorer in ("detection", "fuzzing"):
        alone: list[Judged] | None = None
        for size in [int(s) for s in arguments.sizes.split(",")]:
            now = judged(scorer, size, items, context, arguments.windows)
            alone = alone or now
            rows.append(row(scorer, size, now, alone))
            print(show(rows[-1:]).splitlines()[-1], flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / f"batch-size-{arguments.model}.json"
    result = {
        "judge": arguments.model,
        "explainer": arguments.explainer,
        "n_latents": len(items),
        "rows": rows,
    }
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{show(rows)}\n\nwritten: {path}")
    backend.close()


if __name__ == "__main__":
    main()

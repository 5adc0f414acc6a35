"""A Neuronpedia export of a tiny source, written row by row."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from autointerp.engine.importing import import_run
from autointerp.report.exchange import neuronpedia_import as neuronpedia
from autointerp.report.exchange import reading

IDS = {"model_id": "tiny", "source_id": "0-test-res"}
N_TEXTS = 24


def dump(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)


def load(folder: Path, part: str) -> list[dict[str, Any]]:
    return [row for path in reading.batches(folder / part) for _, row in reading.read_rows(path)]


def feature(index: int | str, **more: Any) -> dict[str, Any]:
    return {
        "modelId": "tiny",
        "layer": "0-test-res",
        "index": index,
        "frac_nonzero": 0.01,
        "hookName": "blocks.0.hook_resid_post",
        "pos_str": [" river"],
        "pos_values": [1.5],
        "neg_str": ["ing"],
        "neg_values": [-2.0],
        **more,
    }


def activation(index: int | str, tokens: list[str], values: list[float]) -> dict[str, Any]:
    return {"modelId": "tiny", "layer": "0-test-res", "index": index, "tokens": tokens, "values": values}


def label(
    index: int | str,
    text: str | None,
    kind: str | None = "oai_token-act-pair",
    model: str | None = "gpt-4o-mini",
):
    return {
        "id": "cm0000000000000000000000a",
        "modelId": "tiny",
        "layer": "0-test-res",
        "index": index,
        "description": text,
        "typeName": kind,
        "explanationModelName": model,
        "embedding": [0.0] * 3,
    }


def write_export(folder: Path, n_latents: int = 3, as_text: bool = True) -> Path:
    """Latent i fires on the token ` w{i}`, in texts of 40 tokens of its own."""
    rows = []
    for i in range(n_latents):
        for t in range(N_TEXTS):
            tokens = [f" a{t}", f" b{i}", *[f" x{(t + k) % 7}" for k in range(37)], f" w{i}"]
            values = [0.0] * 39 + [1.0 + t]
            rows.append(activation(str(i) if as_text else i, tokens, values))
    dump(folder / "activations" / "batch-0.jsonl.gz", rows)
    dump(folder / "features" / "batch-0.jsonl.gz", [feature(i) for i in range(n_latents)])
    dump(
        folder / "explanations" / "batch-0.jsonl.gz",
        [label(i, f"the word w{i}") for i in range(n_latents)] + [label(0, "human", None, None)],
    )
    return folder


def imported(folder: Path, root: Path, **options: Any):
    choice = neuronpedia.NeuronpediaOptions(**options)
    return import_run(root, lambda path: neuronpedia.import_neuronpedia(folder, path, choice))

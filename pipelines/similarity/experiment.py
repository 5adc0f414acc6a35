"""Are SAEs of neighbouring residual-stream layers more alike than SAEs of neighbouring MLPs?

    python pipelines/similarity/experiment.py [--layers 10 11 12] [--work FOLDER] [--runs FOLDER] [--out FOLDER]

One command: activations of all hook points in one pass over the demo corpus, an SAE for each (SAELens, the same
top-k recipe, the same text, another seed each, so that no likeness is inherited from the initial weights), a run
per SAE (`cache`, `explain` with the explainer `statistics`), the similarity of every two, the figures and
`result.json`. What is there already is kept: the same command goes on where it stopped.

The first position of a context is left out of training, as it is of caching: from layer 11 on its norm in the
residual stream is 170 times the median. With --repeat the middle layer is trained twice at either site: what two
seeds share is the most that two layers could.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))

from activations import CONTEXT_SIZE, CORPUS, MODEL, batches, contexts, is_held_out
from sae_lens import SAE
from train_saes import BATCH_TOKENS, Recipe, save, train

from autointerp.analyze.similarity import MEASURES, Similarity, SimilarityOptions, compare
from autointerp.artifacts import RunDirectory
from autointerp.config import RunConfig
from autointerp.engine.pipeline import run_stages
from autointerp.report.plots.similarity import plot_similarity
from autointerp.report.similarity import similarity_views, write_similarity
from autointerp.report.terminal import print_views
from autointerp.weights import cache_folder, load_causal_lm

SITES = {"resid": "hook_resid_post", "mlp": "hook_mlp_out"}


def hook_of(site: str, layer: int) -> str:
    """The hook point of a site, as `blocks.10.hook_mlp_out`."""
    return f"blocks.{layer}.{SITES[site]}"


def collect(work: Path, layers: list[int], n_tokens: int) -> None:
    """Writes `train-HOOK.npy` float16 (tokens, width) for all hook points, in one pass of the model."""
    hooks = [hook_of(site, layer) for site in SITES for layer in layers]
    done = work / "activations.json"
    if done.exists() and json.loads(done.read_text()) == {"hooks": hooks, "n_tokens": n_tokens}:
        return
    work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_causal_lm(MODEL)
    body = model.model
    body.layers = body.layers[: max(layers) + 1]
    body.norm = torch.nn.Identity()
    kept: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            kept[name] = output if isinstance(output, torch.Tensor) else output[0]

        return hook

    for layer in layers:
        body.layers[layer].register_forward_hook(keep(hook_of("resid", layer)))
        body.layers[layer].mlp.register_forward_hook(keep(hook_of("mlp", layer)))
    rows = pq.read_table(CORPUS, columns=["document", "text"]).to_pylist()
    tokens, _ = contexts(
        tokenizer, [(r["document"], r["text"]) for r in rows if not is_held_out(r["document"])]
    )
    tokens = tokens[: max(1, n_tokens // CONTEXT_SIZE)]
    per_context = CONTEXT_SIZE - 1
    shape = (len(tokens) * per_context, model.config.hidden_size)
    stores = {
        hook: np.lib.format.open_memmap(work / f"train-{hook}.npy", mode="w+", dtype=np.float16, shape=shape)
        for hook in hooks
    }
    start = time.monotonic()
    for first, batch in batches(tokens):
        with torch.no_grad():
            body(batch, use_cache=False)
        begin = first // CONTEXT_SIZE * per_context
        for hook, values in kept.items():
            flat = values[:, 1:].flatten(0, 1)
            if float(flat.abs().max()) > 6e4:
                raise OverflowError(f"activations at {hook} do not fit float16")
            stores[hook][begin : begin + len(flat)] = flat.numpy()
        if first // CONTEXT_SIZE % 320 == 0:
            rate = (first + batch.numel()) / (time.monotonic() - start)
            print(f"activations: {first:,} of {tokens.size:,} tokens, {rate:,.0f} tokens/s", flush=True)
    del stores
    done.write_text(json.dumps({"hooks": hooks, "n_tokens": n_tokens}))


def train_one(name: str, recipe: Recipe, work: Path) -> Path:
    """Trains the SAE of a recipe unless it is there; returns its folder, with `quality.json`."""
    folder = work / "saes" / name
    facts = asdict(recipe)
    quality = folder / "quality.json"
    if quality.exists() and json.loads(quality.read_text())["recipe"] == facts:
        return folder
    rows = np.load(work / f"train-{recipe.hook}.npy")
    sae, seconds = train(recipe, rows)
    save(sae, folder)
    numbers = measure(folder, rows)
    quality.write_text(
        json.dumps({"recipe": facts, "seconds": round(seconds, 1), **numbers}, indent=2) + "\n"
    )
    print(name, f"{seconds:.0f} s", json.dumps(numbers), flush=True)
    return folder


def measure(folder: Path, rows: np.ndarray) -> dict[str, float]:
    """Variance explained, L0 and dead latents of a saved SAE, on 20,000 of its training tokens."""
    sae = SAE.load_from_disk(folder, dtype="float32")
    x = torch.from_numpy(rows[:: max(1, len(rows) // 20_000)]).float()
    with torch.no_grad():
        latents = torch.cat([sae.encode(part) for part in x.split(2_048)])
        error = torch.cat(
            [part - sae.decode(z) for part, z in zip(x.split(2_048), latents.split(2_048), strict=True)]
        )
    return {
        "fraction_of_variance_explained": round(
            1 - float(error.square().sum() / (x - x.mean(0)).square().sum()), 4
        ),
        "l0": round(float((latents > 0).sum(1).float().mean()), 2),
        "silent_fraction": round(float((latents <= 0).all(0).float().mean()), 4),
    }


def make_run(name: str, sae: Path, root: Path, n_tokens: int) -> Path:
    """Caches the SAE's activations and labels its latents."""
    config = RunConfig.model_validate(
        {
            "name": name,
            "subject": {"model": MODEL},
            "dictionary": {"path": str(sae)},
            "corpus": {"dataset": str(CORPUS)},
            "cache": {"n_tokens": n_tokens, "contexts_per_batch": 16},
            "explain": {"explainers": ["statistics"], "shuffled_control": False},
            "score": {"scorers": ["embedding"]},
        }
    )
    run_stages(config, RunDirectory(root), ["cache", "explain"])
    return root


def verdict(found: Similarity, members: dict[str, tuple[str, int, int]]) -> dict[str, Any]:
    """Mean over pairs of layers of the matched similarity and of what is above the null, by site and distance."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for a, b in combinations(members, 2):
        (site_a, layer_a, _), (site_b, layer_b, _) = members[a], members[b]
        if site_a != site_b:
            continue
        groups.setdefault(f"{site_a}, {abs(layer_a - layer_b)} layers apart", []).append((a, b))
    out: dict[str, Any] = {}
    for measure_name in MEASURES:
        for group, couples in groups.items():
            numbers = {
                key: [found.value(a, b, measure_name, key) for a, b in couples]
                for key in ("mean", "null_mean", "shared", "null_shared")
            }
            if None not in numbers["mean"]:
                means = {
                    key: float(np.mean([v for v in values if v is not None]))
                    for key, values in numbers.items()
                }
                out.setdefault(measure_name, {})[group] = {k: round(v, 4) for k, v in means.items()}
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--k", type=int, default=24)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--train-tokens", type=int, default=400_000)
    parser.add_argument("--cache-tokens", type=int, default=150_000)
    parser.add_argument("--null", type=int, default=20)
    parser.add_argument(
        "--repeat", action="store_true", help="train the middle layers with a second seed too"
    )
    parser.add_argument("--work", type=Path, default=cache_folder() / "similarity")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("similarity"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    started = time.monotonic()
    collect(arguments.work, arguments.layers, arguments.train_tokens)
    wanted = [(site, layer, 0) for site in SITES for layer in arguments.layers]
    if arguments.repeat:
        middle = arguments.layers[len(arguments.layers) // 2]
        wanted += [(site, middle, 1) for site in SITES]
    members: dict[str, tuple[str, int, int]] = {}
    roots, quality = [], {}
    for number, (site, layer, seed) in enumerate(wanted):
        name = f"{site}-{layer}" + (f"-seed-{seed}" if seed else "")
        recipe = Recipe(
            hook=hook_of(site, layer), architecture="topk", latents=arguments.latents, k=arguments.k,
            steps=arguments.steps, seed=number,
        )  # fmt: skip
        folder = train_one(name, recipe, arguments.work)
        quality[name] = json.loads((folder / "quality.json").read_text())
        roots.append(make_run(name, folder, arguments.runs / f"similarity-{name}", arguments.cache_tokens))
        members[name] = (site, layer, seed)
        print(f"{name}: ready after {(time.monotonic() - started) / 60:.1f} min", flush=True)
    found = compare(roots, SimilarityOptions(n_null=arguments.null))
    print_views(similarity_views(found))
    write_similarity(found, arguments.out)
    plot_similarity(found, arguments.out)
    result = {
        "layers": arguments.layers,
        "training_tokens": arguments.steps * BATCH_TOKENS,
        "quality": quality,
        "by_site": verdict(found, members),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    (arguments.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["by_site"], indent=2))
    print(f"files in {arguments.out}; {result['minutes']} minutes")


if __name__ == "__main__":
    main()

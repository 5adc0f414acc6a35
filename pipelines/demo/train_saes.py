"""Trains the demo SAEs with SAELens on the activations that `activations.py` collected.

    python pipelines/demo/train_saes.py [NAME ...] [--work FOLDER] [--out data/saes]

Each SAE ends as a folder that `sae_lens.SAE.load_from_disk` reads (float16 weights, loaded as
float32) with its measured quality in `quality.json`. Activations are scaled to a mean norm of
sqrt(width) while training; the scale is folded into the weights, whose decoder rows have unit
norm, so that inference needs no normalisation and activations are in the model's own units.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from activations import CONTEXT_SIZE, MLP_HOOK, REPOSITORY, RESID_HOOK, default_work_folder
from sae_lens import BatchTopKTrainingSAEConfig, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.saes.sae import SAEMetadata, TrainingSAE
from sae_lens.training.sae_trainer import SAETrainer
from sae_quality import measure
from safetensors.torch import load_file, save_file
from sparse_training import SparseBatchTopKTrainingSAE, SparseTopKTrainingSAE

MODEL_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
DATASET_PATH = "data/wikipedia-sample.parquet"
BATCH_TOKENS = 2048


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one demo SAE is trained."""

    hook: str
    architecture: Literal["batchtopk", "topk"]
    latents: int
    k: int
    steps: int
    lr: float = 2e-3
    dead_window_steps: int = 100
    seed: int = 0


RECIPES = {
    "smollm2-135m-resid-9-batchtopk-4096": Recipe(
        hook=RESID_HOOK, architecture="batchtopk", latents=4096, k=28, steps=2000
    ),
    "smollm2-135m-mlp-12-topk-2048": Recipe(
        hook=MLP_HOOK, architecture="topk", latents=2048, k=24, steps=1200
    ),
}


def shuffled_batches(rows: np.ndarray, seed: int) -> Iterator[torch.Tensor]:
    """Endless float32 batches (BATCH_TOKENS, width); each epoch is a new permutation."""
    generator = np.random.default_rng(seed)
    while True:
        order = generator.permutation(len(rows))
        for start in range(0, len(order) - BATCH_TOKENS + 1, BATCH_TOKENS):
            chosen = np.sort(order[start : start + BATCH_TOKENS])
            yield torch.from_numpy(rows[chosen]).float()


def new_sae(recipe: Recipe, width: int) -> TrainingSAE[Any]:
    """An untrained SAE of the recipe's architecture."""
    common: dict[str, Any] = {
        "d_in": width,
        "d_sae": recipe.latents,
        "normalize_activations": "none",
        "metadata": SAEMetadata(
            model_name=MODEL_NAME,
            hook_name=recipe.hook,
            model_from_pretrained_kwargs={},
            context_size=CONTEXT_SIZE,
            prepend_bos=False,
            sequence_separator_token=None,
            exclude_special_tokens=False,
            dataset_path=DATASET_PATH,
        ),
    }
    if recipe.architecture == "topk":
        return SparseTopKTrainingSAE(TopKTrainingSAEConfig(**common, k=recipe.k, aux_loss_coefficient=1 / 32))
    return SparseBatchTopKTrainingSAE(
        BatchTopKTrainingSAEConfig(**common, k=recipe.k, aux_loss_coefficient=1 / 32)
    )


def train(recipe: Recipe, rows: np.ndarray) -> tuple[TrainingSAE[Any], float]:
    """Trains on activations (tokens, width); returns the folded SAE and the seconds it took."""
    torch.manual_seed(recipe.seed)
    width = rows.shape[1]
    sample = torch.from_numpy(rows[:: max(1, len(rows) // 65_536)]).float()
    scale = float(width**0.5 / sample.norm(dim=-1).mean())
    sae = new_sae(recipe, width)
    with torch.no_grad():
        sae.b_dec.copy_(sample.mean(0) * scale)
    trainer = SAETrainer(
        cfg=SAETrainerConfig(
            total_training_samples=recipe.steps * BATCH_TOKENS,
            train_batch_size_samples=BATCH_TOKENS,
            lr=recipe.lr,
            lr_warm_up_steps=max(2, recipe.steps // 20),
            lr_decay_steps=recipe.steps // 3,
            lr_end=recipe.lr,
            dead_feature_window=recipe.dead_window_steps,
            feature_sampling_window=recipe.steps + 1,
            device="cpu",
            logger=LoggingConfig(log_to_wandb=False),
        ),
        sae=sae,
        data_provider=shuffled_batches(rows, recipe.seed),
    )
    trainer.activation_scaler.scaling_factor = scale  # measured above on many more tokens
    start = time.monotonic()
    trainer.fit()
    return sae, time.monotonic() - start


def save(sae: TrainingSAE[Any], folder: Path) -> None:
    """Saves for inference as SAELens does, then halves the weights' width on disk.

    `cfg.json` keeps dtype float32, so the float16 weights are loaded as float32 by default.
    """
    sae.save_inference_model(folder)
    weights_path, config_path = folder / "sae_weights.safetensors", folder / "cfg.json"
    weights = {key: value.half() for key, value in load_file(weights_path).items()}
    save_file(weights, weights_path)
    weights_path.chmod(0o644)
    config = json.loads(config_path.read_text())
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def make(name: str, work: Path, out: Path) -> None:
    """Trains, saves and measures one SAE of `RECIPES`."""
    recipe = RECIPES[name]
    rows = np.load(work / f"train-{recipe.hook}.npy")
    sae, seconds = train(recipe, rows)
    folder = out / name
    save(sae, folder)
    del rows
    quality: dict[str, Any] = {
        "hook": recipe.hook,
        "training": {
            "architecture": recipe.architecture,
            "k": recipe.k,
            "steps": recipe.steps,
            "batch_tokens": BATCH_TOKENS,
            "tokens": recipe.steps * BATCH_TOKENS,
            "learning_rate": recipe.lr,
            "seconds": round(seconds, 1),
            "threads": torch.get_num_threads(),
            "seed": recipe.seed,
        },
        **measure(folder, work, recipe.hook),
    }
    (folder / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    print(name, json.dumps(quality, indent=2), flush=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(RECIPES)}")
    parser.add_argument("--work", type=Path, default=default_work_folder())
    parser.add_argument("--out", type=Path, default=REPOSITORY / "data" / "saes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.names or RECIPES:
        make(name, arguments.work, arguments.out)


if __name__ == "__main__":
    main()

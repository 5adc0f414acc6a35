"""Runs of made-up dictionaries on made-up hidden states, whose likeness is known.

A `World` is hidden states of some contexts. `write_run` puts the latents of a dictionary over it into a
run directory: contexts, activations (top-k of the encoder), latents, labels, and the dictionary's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from autointerp.artifacts import DATASETS, Manifest, RunDirectory, write_shard
from autointerp.artifacts.manifest import write_manifest, write_text_whole
from autointerp.artifacts.schemas import table_of
from autointerp.config import RunConfig

WIDTH, K = 24, 4
N_CONTEXTS, SIZE = 40, 16
WORDS = [
    "river",
    "boat",
    "cat",
    "house",
    "green",
    "seven",
    "walk",
    "Paris",
    "salt",
    "jury",
    "song",
    "stone",
    "cloud",
    "iron",
    "bread",
    "lamp",
]


@dataclass(frozen=True)
class Latents:
    """A dictionary: encoder and decoder, both [n, WIDTH], and a label each."""

    encoder: np.ndarray
    decoder: np.ndarray
    labels: tuple[str | None, ...]

    def permuted(self, order: np.ndarray) -> Latents:
        """The same latents in another order."""
        return Latents(self.encoder[order], self.decoder[order], tuple(self.labels[i] for i in order))


def random_latents(seed: int, n: int = 60) -> Latents:
    rng = np.random.default_rng(seed)
    words = rng.permutation([f"{a} and {b}" for a in WORDS for b in WORDS if a < b])[:n]
    decoder = rng.normal(size=(n, WIDTH))
    return Latents(decoder + 0.3 * rng.normal(size=(n, WIDTH)), decoder, tuple(map(str, words)))


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [n_contexts, size] and hidden states [n_contexts, size, WIDTH]."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 50, size=(N_CONTEXTS, SIZE)), rng.normal(size=(N_CONTEXTS, SIZE, WIDTH))


def write_run(
    root: Path,
    latents: Latents,
    *,
    name: str | None = None,
    text: int = 0,
    dead: int = 0,
    hidden_seed: int | None = None,
) -> Path:
    """A run over the world `text`; the last `dead` latents never fire."""
    tokens, hidden = world(text)
    if hidden_seed is not None:
        hidden = world(hidden_seed)[1]
    n = len(latents.encoder)
    folder = root.parent / f"{root.name}-dictionary"
    folder.mkdir(parents=True)
    weights = {
        "encoder.weight": torch.tensor(latents.encoder).float(),
        "encoder.bias": torch.zeros(n),
        "W_dec": torch.tensor(latents.decoder).float(),
        "b_dec": torch.zeros(WIDTH),
    }
    save_file(weights, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"k": K, "d_in": WIDTH, "num_latents": n}))
    config = RunConfig.model_validate(
        {
            "name": name or root.name,
            "subject": {"model": "none/made-up"},
            "dictionary": {
                "source": "sparsify",
                "path": str(folder),
                "hook_point": "blocks.0.hook_resid_post",
            },
            "corpus": {"dataset": "made-up.jsonl"},
            "explain": {"explainers": ["default"]},
        }
    )
    run = RunDirectory(root)
    write_text_whole(root / "run.toml", config.to_toml())
    pre = np.einsum("csd,nd->csn", hidden, latents.encoder)
    if dead:
        pre[..., -dead:] = -1
    kept = pre >= np.sort(pre, axis=-1)[..., -K][..., None]
    acts = np.where(kept, np.maximum(pre, 0), 0).astype(np.float32)
    shards = {
        "contexts": [
            {"context": i, "document": i, "split": "train", "tokens": row.tolist()}
            for i, row in enumerate(tokens)
        ],
        "activations": [
            {"latent": int(i), "context": int(c), "position": int(p), "activation": float(acts[c, p, i])}
            for i, c, p in np.argwhere(acts.transpose(2, 0, 1) > 0)
        ],
        "latents": [
            {
                "latent": i,
                "n_active_tokens": int((acts[..., i] > 0).sum()),
                "n_active_contexts": int((acts[..., i] > 0).any(axis=1).sum()),
                "density": float((acts[..., i] > 0).mean()),
                "top_tokens": [],
                "status": "ok" if (acts[..., i] > 0).any() else "dead",
            }
            for i in range(n)
        ],
    }
    for dataset, rows in shards.items():
        write_shard(run.shard(dataset, index=0), table_of(dataset, rows), DATASETS[dataset])
    labels = [
        {
            "latent": i,
            "explanation": "default/0",
            "explainer": "default",
            "text": label,
            "status": "ok" if label else "failed",
            "reason": None if label else "made up",
            "details": "{}",
        }
        for i, label in enumerate(latents.labels)
    ]
    write_shard(
        run.shard("explanations", "default", index=0),
        table_of("explanations", labels),
        DATASETS["explanations"],
    )
    write_manifest(
        root,
        Manifest(
            step="cache",
            status="complete",
            fingerprint="0" * 16,
            config={},
            inputs={},
            counts={"n_positions": N_CONTEXTS * SIZE, "n_contexts": N_CONTEXTS},
        ),
    )
    return root


def embedder(folder: Path) -> Path:
    """A sentence-transformers model of one random vector per word of the labels."""
    from safetensors.numpy import save_file as save_arrays
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "and", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    save_arrays({"embedding.weight": vectors}, folder / "model.safetensors")
    module = "sentence_transformers.sentence_transformer.modules.static_embedding.StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": module}]))
    (folder / "config.json").write_text("{}")
    return folder

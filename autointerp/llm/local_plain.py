"""Next-token logits the plain way: whole sequences in right-padded batches, nothing shared.

For models whose attention cannot be packed (`autointerp.llm.local_tree.packs_well`), and the
reference that the packed way is tested and measured against.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from autointerp.llm.local_tree import MOST_LOGITS, TokenTree


class PlainRunner:
    """Runs trees built with `share=False`, sequence by sequence, with no mask and no cache.

    Padding stands on the right, where a causal model cannot see it.
    """

    def __init__(self, model: Any, max_forward_tokens: int) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.max_forward_tokens = max_forward_tokens
        self.vocabulary = int(model.config.get_text_config().vocab_size)
        self.slices = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.inference_mode()
    def logits(self, tree: TokenTree, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """As `TreeRunner.logits`: (nodes, [n]; logits, [n, vocabulary]) of the wanted nodes."""
        for batch in self._batches(tree, wanted):
            width = max(len(path) for path in batch)
            first = min(int(np.argmax(wanted[path])) for path in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.int64)
            for row, path in enumerate(batch):
                ids[row, : len(path)] = torch.from_numpy(tree.tokens[path])
            keep = {"logits_to_keep": width - first} if self.slices else {}
            try:
                logits = self.model(input_ids=ids.to(self.device), use_cache=False, **keep).logits
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                torch.cuda.empty_cache()
                self.max_forward_tokens = max(1, self.max_forward_tokens // 2)
                rest = np.zeros_like(wanted)
                rest[np.concatenate(batch)] = wanted[np.concatenate(batch)]
                yield from self.logits(tree, rest)
                continue
            first = width - logits.shape[1]
            rows = [np.full(int(wanted[path].sum()), row) for row, path in enumerate(batch)]
            columns = [np.flatnonzero(wanted[path]) - first for path in batch]
            nodes = np.concatenate([path[wanted[path]] for path in batch])
            order = np.argsort(nodes)
            yield (
                nodes[order],
                logits[
                    torch.from_numpy(np.concatenate(rows)[order]).to(self.device),
                    torch.from_numpy(np.concatenate(columns)[order]).to(self.device),
                ],
            )

    def _batches(self, tree: TokenTree, wanted: np.ndarray) -> Iterator[list[np.ndarray]]:
        batch: list[np.ndarray] = []
        most = min(self.max_forward_tokens, MOST_LOGITS // self.vocabulary)
        for path in sorted((p for p in tree.paths if wanted[p].any()), key=len):
            if batch and len(path) * (len(batch) + 1) > most:
                yield batch
                batch = []
            batch.append(path)
        if batch:
            yield batch

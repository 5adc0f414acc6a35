"""Token sequences as a tree, run through a model so that every shared beginning is computed once.

Sequences sorted by their tokens form a prefix tree: a node is one token after one particular
beginning. Its nodes, in depth-first order, are packed one behind the other into single rows of a
few hundred tokens; an attention mask lets each node see its ancestors and itself, and its position
is its depth. So there is no padding, a few-shot beginning of a thousand prompts is read once, and
a prompt followed by a thousand candidate continuations costs one prompt and the continuations.

Between two packed rows only the keys and values of the next node's ancestors are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

KeysValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer: keys and values, each [batch, key-value heads, tokens, head dimension]."""

MOST_LOGITS = 1 << 27
"""Most logits (positions x vocabulary) of one forward pass: 512 MiB in float32."""


@dataclass(frozen=True)
class TokenTree:
    """A prefix tree in depth-first order; N nodes, one per distinct (beginning, token)."""

    tokens: np.ndarray
    """Token of each node, [N] int64."""
    depth: np.ndarray
    """Number of ancestors of each node: its position in its sequence, [N] int64."""
    last: np.ndarray
    """Last node of each node's subtree, [N] int64: `a` is an ancestor of `b` iff a < b <= last[a]."""
    paths: list[np.ndarray]
    """Nodes of each sequence given, in its order, [length] int64."""
    n_new: np.ndarray
    """Nodes that each sequence was the first to need, [sequences] int64."""

    @classmethod
    def build(cls, sequences: Sequence[list[int]], share: bool = True) -> TokenTree:
        """The tree of some sequences of tokens, none of them empty.

        With `share` False no node is shared: each sequence stands alone.
        """
        order = sorted(range(len(sequences)), key=lambda i: sequences[i]) if share else range(len(sequences))
        tokens: list[np.ndarray] = []
        depth: list[np.ndarray] = []
        paths: list[np.ndarray] = [np.empty(0, np.int64)] * len(sequences)
        n_new = np.zeros(len(sequences), np.int64)
        last_parts: list[tuple[np.ndarray, int]] = []
        path, previous, n_nodes = np.empty(0, np.int64), np.empty(0, np.int64), 0
        for index in order:
            ids = np.asarray(sequences[index], np.int64)
            assert len(ids), "an empty sequence of tokens"
            common = _common(previous, ids) if share else 0
            last_parts.append((path[common:], n_nodes - 1))
            new = len(ids) - common
            path = np.concatenate([path[:common], np.arange(n_nodes, n_nodes + new)])
            tokens.append(ids[common:])
            depth.append(np.arange(common, len(ids)))
            paths[index], n_new[index], previous = path, new, ids
            n_nodes += new
        last_parts.append((path, n_nodes - 1))
        last = np.empty(n_nodes, np.int64)
        for nodes, end in last_parts:
            last[nodes] = end
        return cls(np.concatenate(tokens), np.concatenate(depth), last, paths, n_new)

    def __len__(self) -> int:
        return len(self.tokens)


def common_prefix(sequences: Sequence[list[int]]) -> int:
    """Length of the beginning that all sequences share."""
    low, high = min(sequences), max(sequences)
    return _common(np.asarray(low, np.int64), np.asarray(high, np.int64))


def _common(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


class TreeRunner:
    """Runs trees through a causal language model of transformers."""

    def __init__(self, model: Any, max_forward_tokens: int) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.max_forward_tokens = max_forward_tokens
        vocabulary = int(model.config.get_text_config().vocab_size)
        self.max_logit_rows = max(1, MOST_LOGITS // vocabulary)

    @torch.inference_mode()
    def logits(self, tree: TokenTree, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Next-token logits at the wanted nodes.

        `wanted` is [N] bool. Yields (nodes, [n] int64 ascending; logits, [n, vocabulary] in the
        model's arithmetic), in depth-first order, as often as there are forward passes with
        wanted nodes. At most `MOST_LOGITS` logits exist at a time.
        """
        for nodes, logits, _ in self._passes(tree, wanted, None, 0):
            if len(nodes):
                yield nodes, logits

    @torch.inference_mode()
    def prefill(
        self, tree: TokenTree, wanted: np.ndarray, before: KeysValues | None = None
    ) -> tuple[KeysValues, dict[int, torch.Tensor]]:
        """Keys and values of every node, and the logits of the wanted ones by node.

        `before` holds those of the first nodes (a beginning that all sequences share), which are
        not computed again; the result includes them.
        """
        start = before[0][0].shape[2] if before else 0
        kept: list[KeysValues] = [before] if before else []
        rows: dict[int, torch.Tensor] = {}
        for nodes, logits, fresh in self._passes(tree, wanted, before, start):
            kept.append(fresh)
            rows.update(zip(nodes.tolist(), logits, strict=True))
        layers = zip(*kept, strict=True)
        joined = [
            (torch.cat([k for k, _ in layer], dim=2), torch.cat([v for _, v in layer], dim=2))
            for layer in layers
        ]
        return joined, rows

    def _passes(
        self, tree: TokenTree, wanted: np.ndarray, before: KeysValues | None, start: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor, KeysValues]]:
        held, cache = np.arange(start), before
        while start < len(tree):
            end = self._end(wanted, start)
            try:
                logits, full = self._forward(tree, held, cache, start, end, wanted)
            except torch.OutOfMemoryError:
                if end - start <= 16:
                    raise
                self.max_forward_tokens = max(16, (end - start) // 2)
                torch.cuda.empty_cache()
                continue
            keys = np.concatenate([held, np.arange(start, end)])
            fresh = [(k[:, :, len(held) :], v[:, :, len(held) :]) for k, v in full]
            nodes = np.flatnonzero(wanted[start:end]) + start
            yield nodes, logits, fresh
            keep = np.flatnonzero(tree.last[keys] >= end)
            index = torch.from_numpy(keep).to(self.device)
            cache = [(k.index_select(2, index), v.index_select(2, index)) for k, v in full]
            held, start = keys[keep], end

    def _end(self, wanted: np.ndarray, start: int) -> int:
        end = min(start + self.max_forward_tokens, len(wanted))
        counted = np.cumsum(wanted[start:end])
        return max(start + 1, start + int(np.searchsorted(counted, self.max_logit_rows, side="right")))

    def _forward(
        self,
        tree: TokenTree,
        held: np.ndarray,
        cache: KeysValues | None,
        start: int,
        end: int,
        wanted: np.ndarray,
    ) -> tuple[torch.Tensor, KeysValues]:
        queries, keys = np.arange(start, end), np.concatenate([held, np.arange(start, end)])
        sees = (keys[None, :] <= queries[:, None]) & (queries[:, None] <= tree.last[keys][None, :])
        rows = np.flatnonzero(wanted[start:end])
        output = self.model(
            input_ids=self._tensor(tree.tokens[start:end])[None],
            position_ids=self._tensor(tree.depth[start:end])[None],
            attention_mask=self._mask(sees),
            past_key_values=as_cache(cache),
            use_cache=True,
            logits_to_keep=self._tensor(rows if len(rows) else np.zeros(1, np.int64)),
        )
        logits = output.logits[0, : len(rows)]
        return logits, [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def _mask(self, sees: np.ndarray) -> torch.Tensor:
        mask = torch.from_numpy(sees)[None, None].to(self.device)
        if self.model.config._attn_implementation == "sdpa":
            return mask
        additive = torch.zeros(mask.shape, dtype=self.model.dtype, device=self.device)
        return additive.masked_fill_(~mask, torch.finfo(self.model.dtype).min)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)


def as_cache(keys_values: KeysValues | None) -> Any:
    """A transformers cache over these tensors, which it never writes to: it grows by concatenation."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache = DynamicCache()
    for keys, values in keys_values or ():
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def packs_well(model: Any) -> bool:
    """Whether packed trees give this model's own numbers, tried on a few tokens.

    False for models whose attention takes no mask of ours (recurrent layers, position biases).
    """
    vocabulary = int(model.config.get_text_config().vocab_size)
    ids = [(7 * i + 3) % vocabulary for i in range(6)]
    sequences = [ids, [*ids[:3], *ids[:4]], [*ids[:3], ids[5]]]
    tree = TokenTree.build(sequences)
    wanted = np.ones(len(tree), bool)
    with torch.inference_mode():
        try:
            packed = dict(
                pair
                for nodes, logits in TreeRunner(model, 5).logits(tree, wanted)
                for pair in zip(nodes.tolist(), logits.float(), strict=True)
            )
            for sequence, path in zip(sequences, tree.paths, strict=True):
                plain = model(input_ids=torch.tensor([sequence], device=model.device)).logits[0].float()
                ours = torch.stack([packed[node] for node in path.tolist()])
                tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
                scale = plain.abs().max().clamp(min=1.0)
                if not bool(((plain - ours).abs().max() / scale) < tolerance):
                    return False
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False
    return True

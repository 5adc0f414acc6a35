"""A frozen causal language model: next-token log-probabilities after a shared beginning.

Prompts that begin alike share that beginning's keys and values, computed once; only the last
position's logits are computed; embeddings can be given in place of tokens and differentiated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

_CACHES_KEPT = 16


class FrozenLM:
    """A model of transformers and its tokenizer, on one device; see the module."""

    def __init__(self, model: Any, tokenizer: Any, *, max_forward_tokens: int = 512) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_forward_tokens = max_forward_tokens
        self.embeddings: torch.Tensor = model.get_input_embeddings().weight
        self.device = self.embeddings.device
        self._body = model.base_model
        self._head = model.get_output_embeddings()
        self.n_vocabulary = int(self.embeddings.shape[0])
        self._beginnings: OrderedDict[tuple[int, ...], list[tuple[Any, Any]]] = OrderedDict()
        self.forward_tokens = 0
        """Positions computed so far, beginnings included."""

    def ids(self, text: str, *, start: bool = False) -> list[int]:
        """Token ids of a text; with `start`, with what the tokenizer puts before a text."""
        return list(self.tokenizer(text, add_special_tokens=start)["input_ids"])

    def piece(self, token: int) -> str:
        """The text of one token, its space included."""
        return str(self.tokenizer.decode([token]))

    def next_logprobs(
        self, beginning: str, endings: Sequence[str | Sequence[int]], columns: np.ndarray | None = None
    ) -> np.ndarray:
        """Log-probabilities of the next token after `beginning` + each ending.

        Returns [n_endings, n_columns] float32; `columns` are token ids, by default the whole
        vocabulary. Probabilities are normalised over the whole vocabulary either way.
        """
        import torch

        start = self.ids(beginning, start=True) if beginning else []
        rows = [self.ids(e, start=not beginning) if isinstance(e, str) else list(e) for e in endings]
        width = self.n_vocabulary if columns is None else len(columns)
        out = np.empty((len(rows), width), dtype=np.float32)
        picked = None if columns is None else torch.as_tensor(columns, device=self.device)
        for batch in self._batches(rows):
            ids = [rows[i] for i in batch]
            with torch.no_grad():
                logits = self._last_logits(start, ids)
                logprobs = torch.log_softmax(logits.float(), -1)
                out[batch] = (logprobs if picked is None else logprobs[:, picked]).cpu().numpy()
        return out

    def soft_logits(
        self, beginning: str, before: str, slots: torch.Tensor, after: str, columns: np.ndarray | None = None
    ) -> torch.Tensor:
        """Next-token logits after beginning + before + slots + after.

        `slots` are embeddings [n_rows, n_slots, d], through which gradients flow. Returns
        [n_rows, n_columns], of the tokens `columns`, by default of the whole vocabulary.
        """
        import torch

        start = self.ids(beginning, start=True)
        n_rows = slots.shape[0]
        pieces = [slots.to(self.embeddings.dtype)]
        if before:
            pieces.insert(0, self._embed(self.ids(before)).expand(n_rows, -1, -1))
        if after:
            pieces.append(self._embed(self.ids(after)).expand(n_rows, -1, -1))
        hidden = self._hidden(start, embedded=torch.cat(pieces, 1))[:, -1]
        return self._logits(hidden, columns).float()

    def kept(self, ids: Sequence[int], start: str = "") -> list[tuple[Any, Any]]:
        """Keys and values of each layer after `start` + ids, [1, n_heads, n_positions, d]; no gradient."""
        import torch

        beginning = self.ids(start, start=True) if start else []
        with torch.no_grad():
            output = self._body(
                input_ids=torch.as_tensor([list(ids)], device=self.device),
                past_key_values=self._beginning(beginning, 1) if beginning else None,
                use_cache=True,
            )
        self.forward_tokens += len(ids)
        return [(layer.keys, layer.values) for layer in output.past_key_values.layers]

    def soft_logits_after(
        self, kept: Sequence[list[tuple[Any, Any]]], slots: torch.Tensor, after: Sequence[int]
    ) -> torch.Tensor:
        """Next-token logits [n_rows, n_vocabulary] after each row's own beginning + slots + after.

        `kept[i]` as from `kept`, of any length; `slots` [n_rows, n_slots, d].
        """
        import torch
        from torch.nn.functional import pad
        from transformers import DynamicCache

        lengths = torch.as_tensor([layers[0][0].shape[2] for layers in kept], device=self.device)
        longest = int(lengths.max())
        cache = DynamicCache()
        for index in range(len(kept[0])):
            rows = [[pad(x, (0, 0, longest - x.shape[2], 0)) for x in layers[index]] for layers in kept]
            cache.update(torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows]), index)
        tail = self._embed(after).expand(len(kept), -1, -1)
        embedded = torch.cat([slots.to(self.embeddings.dtype), tail], 1)
        n_new = embedded.shape[1]
        places = torch.arange(longest, device=self.device)[None] >= (longest - lengths)[:, None]
        ones = torch.ones(len(kept), n_new, dtype=torch.long, device=self.device)
        self.forward_tokens += len(kept) * n_new
        hidden = self._body(
            inputs_embeds=embedded,
            attention_mask=torch.cat([places.long(), ones], 1),
            position_ids=lengths[:, None] + torch.arange(n_new, device=self.device)[None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return self._logits(hidden[:, -1]).float()

    def _logits(self, hidden: torch.Tensor, columns: np.ndarray | None = None) -> torch.Tensor:
        import torch

        logits: torch.Tensor
        if columns is None:
            logits = self._head(hidden)
        else:
            rows = torch.as_tensor(columns, device=self.device)
            bias = getattr(self._head, "bias", None)
            logits = hidden @ self._head.weight[rows].T
            logits = logits if bias is None else logits + bias[rows]
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if not cap else cap * (logits / cap).tanh()

    def _embed(self, ids: Sequence[int]) -> torch.Tensor:
        import torch

        return self.embeddings[torch.as_tensor(list(ids), device=self.device)][None]

    def _last_logits(self, start: list[int], rows: Sequence[Sequence[int]]) -> torch.Tensor:
        import torch

        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for r, row in enumerate(rows):
            ids[r, : len(row)] = torch.as_tensor(list(row))
            mask[r, : len(row)] = 1
        hidden = self._hidden(start, ids=ids.to(self.device), mask=mask.to(self.device))
        last = hidden[torch.arange(len(rows)), mask.sum(1) - 1]
        return self._logits(last)

    def _hidden(
        self,
        start: list[int],
        *,
        ids: torch.Tensor | None = None,
        embedded: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states of the endings, [n_rows, n_positions, d], right-padded rows masked."""
        import torch

        given = embedded if ids is None else ids
        assert given is not None
        n_rows, n_new = int(given.shape[0]), int(given.shape[1])
        if mask is None:
            mask = torch.ones(n_rows, n_new, dtype=torch.long, device=self.device)
        inputs: dict[str, Any] = {"input_ids": ids} if ids is not None else {"inputs_embeds": embedded}
        if start:
            inputs["past_key_values"] = self._beginning(start, n_rows)
        before = torch.ones(n_rows, len(start), dtype=torch.long, device=self.device)
        positions = torch.arange(len(start), len(start) + n_new, device=self.device)
        self.forward_tokens += n_rows * n_new
        hidden: torch.Tensor = self._body(
            **inputs,
            attention_mask=torch.cat([before, mask], 1),
            position_ids=positions[None].expand(n_rows, -1),
            use_cache=bool(start),
        ).last_hidden_state
        return hidden

    def _beginning(self, start: list[int], n_rows: int) -> Any:
        """A fresh cache that holds the beginning's keys and values in every row."""
        import torch
        from transformers import DynamicCache

        key = tuple(start)
        if key in self._beginnings:
            self._beginnings.move_to_end(key)
        else:
            with torch.no_grad():
                output = self._body(input_ids=torch.as_tensor([start], device=self.device), use_cache=True)
            self.forward_tokens += len(start)
            self._beginnings[key] = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
            while len(self._beginnings) > _CACHES_KEPT:
                self._beginnings.popitem(last=False)
        cache = DynamicCache()
        for index, (keys, values) in enumerate(self._beginnings[key]):
            shape = (n_rows, -1, -1, -1)
            cache.update(keys.expand(*shape), values.expand(*shape), index)
        return cache

    def _batches(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Row numbers in batches of like length, each at most `max_forward_tokens` positions."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        batches: list[list[int]] = []
        for i in order:
            length = max(len(rows[i]), 1)
            if not batches or (len(batches[-1]) + 1) * length > self.max_forward_tokens:
                batches.append([])
            batches[-1].append(i)
        return batches

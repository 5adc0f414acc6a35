"""Generation with a local model: batches of prompts whose shared beginnings are computed once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from autointerp.llm.local_schema import Held, Schemas
from autointerp.llm.local_text import Texts
from autointerp.llm.local_tree import KeysValues, TokenTree, TreeRunner, as_cache, common_prefix
from autointerp.llm.types import Reply, Request, TokenLogprob, Usage

_SHORTEST_KEPT_PREFIX = 16


@dataclass(kw_only=True)
class Ongoing:
    """One request on its way: its prompt's tokens and what has been generated."""

    index: int
    request: Request
    ids: list[int]
    max_new: int
    n_computed: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    generator: torch.Generator | None = None
    finish: str | None = None
    held: Held | None = None
    """Which tokens may follow, where the reply is held to a JSON schema."""


class Generator:
    """Answers generation requests with one model.

    Greedy for temperature 0; otherwise sampled from a random stream of each request's own (its
    seed, or its hash), so that a reply does not depend on what else is in the batch. With `schemas` a reply
    is held to its request's JSON schema; log-probabilities are those of the model before that.
    """

    def __init__(
        self,
        model: Any,
        texts: Texts,
        runner: TreeRunner | None,
        max_batch_tokens: int,
        name: str,
        schemas: Schemas | None = None,
    ) -> None:
        self.model, self.texts, self.runner, self.name = model, texts, runner, name
        self.schemas = schemas
        self.max_batch_tokens = max_batch_tokens
        self.device: torch.device = model.device
        self.ends = end_tokens(model, texts.tokenizer)

    def generate(self, sequences: Sequence[Ongoing], on_reply: Callable[[int, Reply], None]) -> None:
        """Answer each request, in batches of similar length."""
        pending = sorted(sequences, key=lambda s: (len(s.ids) + s.max_new, len(s.ids)))
        prefix, shared = self._prefix(pending)
        first = True
        while pending:
            n = self._batch_size(pending)
            try:
                self._batch(pending[:n], prefix, shared, first, on_reply)
            except torch.OutOfMemoryError:
                if n == 1:
                    raise
                torch.cuda.empty_cache()
                self.max_batch_tokens //= 2
                for sequence in pending[:n]:
                    sequence.tokens, sequence.logprobs = [], []
                    sequence.generator = sequence.held = None
                pending = [s for s in pending if s.finish is None]
                continue
            pending, first = pending[n:], False

    def _batch_size(self, pending: list[Ongoing]) -> int:
        if self.runner is None:
            return 1
        n = 1
        while (
            n < len(pending) and (n + 1) * (len(pending[n].ids) + pending[n].max_new) <= self.max_batch_tokens
        ):
            n += 1
        return n

    def _prefix(self, pending: list[Ongoing]) -> tuple[KeysValues | None, int]:
        """Keys and values of the beginning that all prompts of several batches share."""
        if self.runner is None or self._batch_size(pending) >= len(pending):
            return None, 0
        n = common_prefix([s.ids for s in pending])
        n = min(n, min(len(s.ids) for s in pending) - 1)
        if n < _SHORTEST_KEPT_PREFIX:
            return None, 0
        tree = TokenTree.build([pending[0].ids[:n]])
        return self.runner.prefill(tree, np.arange(n) == n - 1)[0], n

    @torch.inference_mode()
    def _batch(
        self,
        batch: list[Ongoing],
        prefix: KeysValues | None,
        n_shared: int,
        first: bool,
        on_reply: Callable[[int, Reply], None],
    ) -> None:
        begun = time.perf_counter()
        if self.runner is None:
            output = self.model(input_ids=self._tensor([batch[0].ids]), use_cache=True)
            cache, logits, seen = output.past_key_values, output.logits[:, -1], None
            batch[0].n_computed = len(batch[0].ids)
        else:
            cache, logits, seen = self._prefill(self.runner, batch, prefix, n_shared if not first else 0)
        alive, n_batch = list(batch), len(batch)
        while True:
            chosen = self._choose(alive, logits)
            for sequence, token in zip(alive, chosen, strict=True):
                self._advance(sequence, token)
            for sequence in alive:
                if sequence.finish is not None:
                    on_reply(sequence.index, self._reply(sequence, (time.perf_counter() - begun) / n_batch))
            kept = [i for i, sequence in enumerate(alive) if sequence.finish is None]
            if not kept:
                return
            if len(kept) < len(alive):
                alive = [alive[i] for i in kept]
                rows = self._tensor(kept)
                cache.batch_select_indices(rows)
                seen = None if seen is None else seen[rows]
            step: dict[str, Any] = {}
            if seen is not None:
                seen = torch.cat([seen, seen.new_ones(len(alive), 1)], dim=1)
                positions = [[len(s.ids) + len(s.tokens) - 1] for s in alive]
                step = {"attention_mask": seen, "position_ids": self._tensor(positions)}
            ids = self._tensor([[s.tokens[-1]] for s in alive])
            output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, **step)
            cache, logits = output.past_key_values, output.logits[:, -1]

    def _prefill(
        self, runner: TreeRunner, batch: list[Ongoing], prefix: KeysValues | None, n_known: int
    ) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """Prompts of a batch, left-padded: cache, next-token logits [batch, vocabulary], mask."""
        tree = TokenTree.build([s.ids for s in batch])
        wanted = np.zeros(len(tree), bool)
        ends = [int(path[-1]) for path in tree.paths]
        wanted[ends] = True
        nodes, rows = runner.prefill(tree, wanted, prefix)
        for sequence, new in zip(batch, tree.n_new.tolist(), strict=True):
            sequence.n_computed = new
        batch[int(np.argmax(tree.n_new))].n_computed -= n_known
        width = max(len(path) for path in tree.paths)
        index = np.zeros((len(batch), width), np.int64)
        seen = np.zeros((len(batch), width), np.int64)
        for row, path in enumerate(tree.paths):
            index[row, width - len(path) :], seen[row, width - len(path) :] = path, 1
        where = self._tensor(index)
        cache = as_cache([(k[0][:, where].transpose(0, 1), v[0][:, where].transpose(0, 1)) for k, v in nodes])
        return cache, torch.stack([rows[end] for end in ends]), self._tensor(seen)

    def _choose(self, alive: list[Ongoing], logits: torch.Tensor) -> list[int]:
        """The next token of each sequence, [alive]; notes log-probabilities where asked."""
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        for row, sequence in enumerate(alive):
            allowed = self._allowed(sequence, logits[row])
            if sequence.request.temperature > 0:
                chosen[row] = _sample(sequence, allowed)
            elif sequence.held is not None:
                chosen[row] = int(allowed.argmax())
        rows = [i for i, s in enumerate(alive) if s.request.top_logprobs]
        if rows:
            values = torch.log_softmax(logits[rows].float(), dim=-1)
            top = values.topk(max(alive[i].request.top_logprobs for i in rows), dim=-1)
            for at, row in enumerate(rows):
                n = alive[row].request.top_logprobs
                alternatives = named(self.texts, top.indices[at, :n].tolist(), top.values[at, :n].tolist())
                alive[row].logprobs.append(
                    TokenLogprob(
                        text=self.texts.token_text(chosen[row]),
                        logprob=float(values[at, chosen[row]]),
                        top=alternatives,
                    )
                )
        return chosen

    def _allowed(self, sequence: Ongoing, logits: torch.Tensor) -> torch.Tensor:
        """The logits of the tokens that a sequence may go on with, [vocabulary]."""
        schema = sequence.request.json_schema
        if self.schemas is None or schema is None:
            return logits
        if sequence.held is None:
            sequence.held = self.schemas.held(schema)
        return sequence.held.masked(logits)

    def _advance(self, sequence: Ongoing, token: int) -> None:
        """Take the next token in, and see whether the reply ends with it."""
        if token in self.ends:
            sequence.finish = "stop"
            del sequence.logprobs[len(sequence.tokens) :]
            return
        sequence.tokens.append(token)
        if sequence.held is not None and sequence.held.take(token):
            sequence.finish = "stop"
        stops = sequence.request.stop
        if stops:
            tail = self.texts.added_text(sequence.tokens[-max(map(len, stops)) - 8 :])
            if any(stop in tail for stop in stops):
                sequence.finish = "stop"
        if sequence.finish is None and len(sequence.tokens) >= sequence.max_new:
            sequence.finish = "length"

    def _reply(self, sequence: Ongoing, seconds: float) -> Reply:
        text = self.texts.reply_text(sequence.request, sequence.tokens)
        cuts = [at for stop in sequence.request.stop if (at := text.find(stop)) >= 0]
        tokens = sequence.logprobs
        if cuts:
            text = text[: min(cuts)]
            lengths = np.cumsum([0] + [len(token.text) for token in tokens])
            tokens = [t for t, begin in zip(tokens, lengths, strict=False) if begin < len(text)]
        return Reply(
            text=text,
            finish_reason=sequence.finish,
            tokens=tuple(tokens),
            usage=Usage(
                prompt_tokens=len(sequence.ids),
                completion_tokens=len(sequence.tokens),
                cached_tokens=len(sequence.ids) - sequence.n_computed,
                cost_usd=0.0,
                seconds=seconds,
            ),
            model=self.name,
        )

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.int64).to(self.device)


def named(texts: Texts, ids: Sequence[int], logprobs: Sequence[float]) -> dict[str, float]:
    """Alternatives by text, best first; of tokens with equal text the likelier one counts."""
    named: dict[str, float] = {}
    for text, logprob in zip(texts.token_texts(ids), logprobs, strict=True):
        named.setdefault(text, logprob)
    return named


def _sample(sequence: Ongoing, logits: torch.Tensor) -> int:
    request = sequence.request
    if sequence.generator is None:
        seed = int(request.key("")[:15], 16) if request.seed is None else request.seed
        sequence.generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(logits.float().cpu() / request.temperature, dim=-1)
    if request.top_p < 1.0:
        ordered, order = probabilities.sort(descending=True)
        ordered[ordered.cumsum(0) - ordered >= request.top_p] = 0.0
        probabilities = torch.zeros_like(probabilities).scatter_(0, order, ordered)
    return int(torch.multinomial(probabilities, 1, generator=sequence.generator))


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = list(configured) if isinstance(configured, list | tuple) else [configured]
    return frozenset(int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None)

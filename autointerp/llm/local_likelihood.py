"""Log-probabilities of given tokens, and the likeliest alternatives at their positions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from autointerp.llm.local_tree import TokenTree

_SEQUENCES_PER_TREE = 1024
_ROWS_AT_ONCE = 128


class Runner(Protocol):
    """`TreeRunner` or `PlainRunner`."""

    def logits(self, tree: TokenTree, wanted: np.ndarray) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Next-token logits at the wanted nodes, in parts."""
        ...


@dataclass(frozen=True, kw_only=True)
class Given:
    """A sequence of tokens to be scored from position `first` (at least 1) to its end."""

    ids: list[int]
    first: int
    n_top: int = 0
    """Alternatives wanted at each scored position."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The answer for one `Given`, n = len(ids) - first."""

    logprobs: np.ndarray
    """Log-probability of each scored token given all before it, in nats, [n] float64."""
    top_ids: np.ndarray
    """Likeliest tokens at each position, best first, [n, n_top] int64."""
    top_logprobs: np.ndarray
    """Their log-probabilities, [n, n_top] float64."""
    n_computed: int
    """Tokens computed for this sequence; the others were shared with one before it."""
    seconds: float
    """Its share of the time."""


def score(
    runner: Runner, given: Sequence[Given], on_scored: Callable[[int, Scored], None], share: bool
) -> None:
    """Score sequences, calling `on_scored` (index, answer) as soon as each is done.

    Only the logits that predict a scored token are computed, and no more of them are held than
    one forward pass gives.
    """
    order = sorted(range(len(given)), key=lambda i: given[i].ids) if share else list(range(len(given)))
    for start in range(0, len(order), _SEQUENCES_PER_TREE):
        _score_tree(runner, given, order[start : start + _SEQUENCES_PER_TREE], on_scored, share)


def _score_tree(
    runner: Runner,
    given: Sequence[Given],
    indices: list[int],
    on_scored: Callable[[int, Scored], None],
    share: bool,
) -> None:
    items = [given[i] for i in indices]
    tree = TokenTree.build([item.ids[:-1] or item.ids for item in items], share)
    lengths = np.array([len(item.ids) - item.first for item in items])
    owner = np.repeat(np.arange(len(items)), lengths)
    offset = np.concatenate([[0], np.cumsum(lengths)])
    node = np.concatenate([p[i.first - 1 : len(i.ids) - 1] for p, i in zip(tree.paths, items, strict=True)])
    target = np.concatenate([np.asarray(i.ids[i.first :], np.int64) for i in items])
    n_top = max(item.n_top for item in items)
    logprobs = np.empty(len(node))
    top_ids = np.empty((len(node), n_top), np.int64)
    top_logprobs = np.empty((len(node), n_top))
    remaining = lengths.copy()
    by_node = np.argsort(node, kind="stable")
    wanted = np.zeros(len(tree), bool)
    wanted[node] = True
    begun, n_done = time.perf_counter(), 0

    def finish(item: int) -> None:
        rows = slice(offset[item], offset[item + 1])
        n = items[item].n_top
        seconds = (time.perf_counter() - begun) / max(n_done, 1) * int(tree.n_new[item])
        on_scored(
            indices[item],
            Scored(
                logprobs=logprobs[rows],
                top_ids=top_ids[rows, :n],
                top_logprobs=top_logprobs[rows, :n],
                n_computed=int(tree.n_new[item]),
                seconds=seconds,
            ),
        )

    for item in np.flatnonzero(lengths == 0):
        finish(int(item))
    for nodes, logits in runner.logits(tree, wanted):
        n_done = int(nodes[-1]) + 1
        for part in range(0, len(nodes), _ROWS_AT_ONCE):
            some = nodes[part : part + _ROWS_AT_ONCE]
            rows = by_node[np.searchsorted(node[by_node], some[0]) :]
            rows = rows[: int(np.searchsorted(node[rows], some[-1], side="right"))]
            rows = rows[np.isin(node[rows], some)]
            values = torch.log_softmax(logits[part : part + _ROWS_AT_ONCE].float(), dim=-1)
            at = torch.from_numpy(np.searchsorted(some, node[rows])).to(values.device)
            token = torch.from_numpy(target[rows]).to(values.device)
            logprobs[rows] = values[at, token].double().cpu().numpy()
            if n_top:
                top = values.topk(n_top, dim=-1)
                top_ids[rows] = top.indices[at].cpu().numpy()
                top_logprobs[rows] = top.values[at].double().cpu().numpy()
            counts = np.bincount(owner[rows], minlength=len(items))
            remaining -= counts
            for item in np.flatnonzero((remaining == 0) & (counts > 0)):
                finish(int(item))

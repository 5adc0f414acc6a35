"""The subject with a direction turned up: its next-token distributions, and how far they move.

A vector is added to the activations at the hook point a dictionary's decoder writes to, at every
token of a prompt but the special ones and the first, which begins the context. How much is added is
measured by what it does: the mean divergence KL(steered || clean) of the next-token distributions,
in nats, so that directions of any length and hook point compare (Paulo et al., arXiv 2410.13928,
section "Intervention").

Both backends run the same blocks of the same `transformers` model, so one way of reaching in serves
both: the part of the model below the hook point runs once per prompt, and everything above it once
per prompt and vector.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from autointerp.config import RunConfig
from autointerp.errors import UserError
from autointerp.subject.dictionary import Dictionary, open_dictionary
from autointerp.subject.model import SubjectModel, layer_of, open_subject
from autointerp.subject.tokenise import Tokenisation

T = TypeVar("T")

_TO_STREAM = ("hook_resid_pre", "hook_resid_post", "hook_mlp_out")
_FIRST_GUESS = 0.3
_MAX_ROUNDS = 40


@dataclass(frozen=True, kw_only=True)
class Clean:
    """Some prompts as the unchanged subject reads them."""

    tokens: Tensor
    """[n_prompts, n_tokens]."""
    steered: Tensor
    """Where vectors are added, bool [n_prompts, n_tokens]."""
    states: Tensor
    """What enters the first block that is run again, [n_prompts, n_tokens, d_model]."""
    log_probs: Tensor
    """Next-token log-probabilities at the last positions, float32 [n_prompts, n_read, n_vocabulary]."""
    norm: float
    """Mean length of the activations at the hook point where vectors are added."""


@dataclass(frozen=True, kw_only=True)
class Matched(Generic[T]):
    """One direction at the strength that moves the subject as far as was asked, or why there is none."""

    strength: float | None
    """What the direction is multiplied by; None unless `status` is `ok`."""
    kl: float | None
    """The divergence reached, nats; on failure the last one seen."""
    effect: T | None = None
    """What was read off the steered distributions."""
    status: str = "ok"
    reason: str | None = None
    n_passes: int = 0
    """Strengths tried."""


@dataclass(frozen=True, kw_only=True)
class SteeredSubject:
    """A subject and its dictionary, at hand for interventions."""

    subject: SubjectModel
    dictionary: Dictionary
    tokenisation: Tokenisation
    _exact: dict[int, bool] = field(default_factory=dict, repr=False)
    """Whether going on from a block gives what the whole model gives, tried once per block."""

    @classmethod
    def open(cls, config: RunConfig) -> SteeredSubject:
        """Load what `[subject]` and `[dictionary]` name."""
        subject = open_subject(config.subject)
        dictionary = open_dictionary(config.dictionary, config.subject)
        return cls(
            subject=subject,
            dictionary=dictionary,
            tokenisation=Tokenisation.resolve(config.cache, dictionary.metadata, subject.tokenizer),
        )

    @property
    def hook_point(self) -> str:
        """Where vectors are added: where the decoder writes."""
        return self.dictionary.hook_point_out

    def check(self) -> None:
        """Raises `UserError` unless the dictionary has directions that can be added to the subject."""
        if self.dictionary.decoder_directions(torch.zeros(1, dtype=torch.long)) is None:
            raise UserError(
                "dictionary: it has no decoder directions, so nothing can be added to the subject"
            )
        if not self.subject.decoder_writes_to_residual(self.hook_point):
            raise UserError(
                f"dictionary: what is added at {self.hook_point!r} does not reach the residual stream; accepted "
                "for interventions: dictionaries that write to the stream, an attention or an MLP output"
            )
        self.subject.check_hook_points([self.hook_point])

    def directions(self, latents: Sequence[int]) -> Tensor:
        """Decoder directions of some latents, float32 [n, width], on the subject's device."""
        found = self.dictionary.decoder_directions(torch.as_tensor(list(latents), dtype=torch.long))
        assert found is not None, "check() comes first"
        return found.to(self.subject.device, torch.float32)

    def prompts(self, windows: Sequence[Sequence[int]], n_tokens: int) -> tuple[Tensor, list[int]]:
        """The ends of some windows as prompts, [n_prompts, at most n_tokens (+ 1 with BOS)].

        With the token that begins contexts in front, where the dictionary was trained with one. All
        prompts are equally long, so windows shorter than the others are left out; the second value
        holds the indices of those kept.
        """
        bos = [] if self.tokenisation.bos_id is None else [self.tokenisation.bos_id]
        bodies = [[int(t) for t in w] for w in windows]
        bodies = [b[1:] if b[:1] == bos and bos else b for b in bodies]
        length = min(n_tokens, max((len(b) for b in bodies), default=0))
        kept = [i for i, body in enumerate(bodies) if len(body) >= length > 0]
        rows = [[*bos, *bodies[i][-length:]] for i in kept]
        return torch.tensor(rows, dtype=torch.long, device=self.subject.device), kept

    def steered_positions(self, tokens: Tensor) -> Tensor:
        """Where vectors are added, bool [batch, position]: not at special tokens, nor at the first."""
        mask = self._ordinary(tokens)
        mask[:, 0] = False
        return mask

    def clean(self, tokens: Tensor, n_read: int = 1, rows_per_pass: int = 64) -> Clean:
        """Run prompts [n_prompts, n_tokens] unchanged; distributions are read at the last `n_read` positions."""
        read = [
            self._clean_chunk(tokens[i : i + rows_per_pass], n_read)
            for i in range(0, len(tokens), rows_per_pass)
        ]
        states, log_probs, norms = (torch.cat(parts) for parts in zip(*read, strict=True))
        steered = self.steered_positions(tokens)
        return Clean(
            tokens=tokens,
            steered=steered,
            states=states,
            log_probs=log_probs,
            norm=float(norms[steered].mean()) if bool(steered.any()) else 0.0,
        )

    def _clean_chunk(self, tokens: Tensor, n_read: int) -> tuple[Tensor, Tensor, Tensor]:
        start = self._start()
        entering = f"blocks.{start}.hook_resid_pre"
        if start == self.subject.n_layers:
            entering = f"blocks.{start - 1}.hook_resid_post"
        found = self.subject.activations(tokens, [entering, self.hook_point])
        log_probs = self._log_probs(tokens, n_read)
        if start not in self._exact:
            with self._resuming(start, found[entering]):
                again = self._log_probs(tokens, n_read)
            self._exact[start] = bool((again - log_probs).abs().max() < 1e-4 * log_probs.abs().max())
        return found[entering], log_probs, found[self.hook_point].float().norm(dim=-1)

    def steered(self, clean: Clean, vectors: Tensor) -> Tensor:
        """Log-probabilities with each of some vectors [n, width] added, [n, n_prompts, n_read, n_vocabulary].

        All in one pass of n x n_prompts rows.
        """
        n, n_prompts = len(vectors), len(clean.tokens)
        tokens, mask = clean.tokens.repeat(n, 1), clean.steered.repeat(n, 1)
        added = vectors.repeat_interleave(n_prompts, dim=0)[:, None, :] * mask[..., None]
        start = self._start()
        states = clean.states.repeat(n, 1, 1)
        with contextlib.ExitStack() as stack:
            if start > 0 and self._in_stream() and self._exact[start]:
                stack.enter_context(self._resuming(start, states + added.to(states.dtype)))
            else:
                if self._exact[start]:
                    stack.enter_context(self._resuming(start, states))
                stack.enter_context(self._adding(added))
            log_probs = self._log_probs(tokens, clean.log_probs.shape[1])
        return log_probs.view(n, n_prompts, *log_probs.shape[1:])

    def match(
        self,
        clean: Clean,
        directions: Tensor,
        read: Callable[[Tensor], T],
        *,
        kl: float,
        tolerance: float,
        max_norm: float,
        rows_per_pass: int = 64,
    ) -> list[Matched[T]]:
        """Find, for each of some directions [n, width], the strength at which the divergence is `kl`.

        `tolerance` is relative; `max_norm` bounds the length of what is added, in mean lengths of the
        activations there. `read` is given the steered log-probabilities [n_prompts, n_read,
        n_vocabulary] of a matched direction. Directions are searched for side by side, yet each by
        its own divergences alone.
        """
        lengths = directions.norm(dim=-1).tolist()
        searches = [
            Search(target=kl, tolerance=tolerance, guess=_FIRST_GUESS, bound=max_norm) for _ in lengths
        ]
        effects: list[T | None] = [None] * len(searches)
        for search, length in zip(searches, lengths, strict=True):
            if not (math.isfinite(length) and length > 0):
                search.fail("the direction has no length")
            elif clean.norm <= 0 or not math.isfinite(clean.norm):
                search.fail("the prompts have no activations to add to")
        scale = [clean.norm / length if length else 0.0 for length in lengths]
        per_pass = max(1, rows_per_pass // max(len(clean.tokens), 1))
        while open_ := [i for i, search in enumerate(searches) if not search.done]:
            for some in (open_[i : i + per_pass] for i in range(0, len(open_), per_pass)):
                strengths = torch.tensor(
                    [searches[i].next * scale[i] for i in some], device=directions.device
                )
                log_probs = self.steered(clean, directions[some] * strengths[:, None])
                for i, steered, reached in zip(
                    some, log_probs, divergence(log_probs, clean.log_probs).tolist(), strict=True
                ):
                    searches[i].saw(reached)
                    if searches[i].found:
                        effects[i] = read(steered)
        return [
            Matched(
                strength=search.at * scale[i] if search.found else None,
                kl=search.reached,
                effect=effects[i],
                status="ok" if search.found else "error",
                reason=search.reason,
                n_passes=search.n_seen,
            )
            for i, search in enumerate(searches)
        ]

    def generate(
        self, clean: Clean, vector: Tensor | None, n_tokens: int, rng: torch.Generator | None = None
    ) -> Tensor:
        """Continue every prompt by `n_tokens` with a vector [width] added throughout, [n_prompts, n_tokens].

        The likeliest token each time, or with a generator one drawn from the distribution.
        Raises `UserError` if the prompts with their continuations exceed the model's positions.
        """
        self.subject.check_tokens(torch.cat([clean.tokens, clean.tokens[:, :1].repeat(1, n_tokens)], 1))
        from transformers import DynamicCache

        new: list[Tensor] = []
        tokens, mask, past = clean.tokens, clean.steered, DynamicCache()
        for _ in range(n_tokens):
            with contextlib.ExitStack() as stack:
                if vector is not None:
                    stack.enter_context(self._adding(vector * mask[..., None]))
                logits = self.subject.logits(tokens, past)[:, -1, : len(self.subject.tokenizer)].float()
            if rng is None:
                tokens = logits.argmax(-1, keepdim=True)
            else:
                tokens = torch.multinomial(logits.cpu().softmax(-1), 1, generator=rng).to(logits.device)
            mask = self._ordinary(tokens)
            new.append(tokens)
        return torch.cat(new, dim=1)

    def _ordinary(self, tokens: Tensor) -> Tensor:
        """Which tokens are not special, bool [batch, position]."""
        special = torch.tensor(self.tokenisation.special_ids, dtype=torch.long, device=tokens.device)
        return ~torch.isin(tokens, special)

    def _in_stream(self) -> bool:
        """Whether adding there is adding to the residual stream that leaves (or enters) a block."""
        where = layer_of(self.hook_point)
        return where is not None and where[1] in _TO_STREAM

    def _start(self) -> int:
        """The first block that a vector added at the hook point changes."""
        where = layer_of(self.hook_point)
        if where is None:
            return 0
        return where[0] + (where[1] in ("hook_resid_post", "hook_mlp_out"))

    def _log_probs(self, tokens: Tensor, n_read: int) -> Tensor:
        """Next-token log-probabilities at the last positions, float32 [batch, n_read, n_vocabulary]."""
        self.subject.check_tokens(tokens)
        with _last_positions(self.subject.layout.unembedding, n_read):
            logits = self.subject.logits(tokens)[:, -n_read:]
        # Ids beyond the tokenizer's are padding of the unembedding.
        return logits[..., : len(self.subject.tokenizer)].float().log_softmax(-1)

    @contextlib.contextmanager
    def _resuming(self, start: int, states: Tensor) -> Iterator[None]:
        """While open, forward passes begin at block `start` with `states` [batch, position, d_model].

        The blocks before it are not run, and the one just before hands over `states`.
        """
        blocks = [layer.block for layer in self.subject.layout.layers[:start]]
        own = [block.__dict__.get("forward") for block in blocks]
        for block in blocks:
            block.forward = lambda *args, **keywords: states
        try:
            yield
        finally:
            for block, forward in zip(blocks, own, strict=True):
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward

    def _adding(self, added: Tensor) -> contextlib.AbstractContextManager[None]:
        """While open, `added` [batch, position, width] is added to the activations at the hook point."""
        return self.subject.editing(
            _made_of(self.hook_point), lambda value: value + added.reshape(value.shape).to(value.dtype)
        )


def _made_of(hook_point: str) -> str:
    """`hook_resid_mid` is only read by the norm behind it; the stream itself is made of what attention adds."""
    return hook_point.replace(".hook_resid_mid", ".hook_attn_out")


@contextlib.contextmanager
def _last_positions(unembedding: Any, n: int) -> Iterator[None]:
    """While open, only the last `n` positions are unembedded."""

    def cut(module: Any, args: tuple[Any, ...]) -> Any:
        return (args[0][:, -n:], *args[1:]) if args and args[0].ndim == 3 else None

    handle = None if unembedding is None else unembedding.register_forward_pre_hook(cut)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def divergence(steered: Tensor, clean: Tensor) -> Tensor:
    """Mean KL(steered || clean) in nats, [...], of log-probabilities [..., n_prompts, n_read, n_vocabulary]."""
    return (steered.exp() * (steered - clean)).sum(-1).mean((-1, -2))


class Search:
    """Looks for the strength at which a divergence reaches a target, seeing one value at a time.

    The divergence of a weak push grows with the square of its strength, so on logarithmic axes a
    straight line is followed: out from the first guess until the target is bracketed, then between
    the ends of the bracket, which every third time is simply halved. Where the divergence is no rising
    function, some strength that gives the target is found, not always the least.
    """

    def __init__(self, *, target: float, tolerance: float, guess: float, bound: float) -> None:
        """`guess` is tried first; nothing above `bound` is."""
        self.target, self.tolerance, self.bound = target, tolerance, bound
        self.next = min(guess, bound)
        self.at = math.nan
        """The strength found."""
        self.reached: float | None = None
        """The last divergence seen."""
        self.reason: str | None = None
        self.found = False
        self.n_seen = 0
        self._low: tuple[float, float] | None = None
        self._high: tuple[float, float] | None = None

    @property
    def done(self) -> bool:
        """Whether it has found a strength or given up."""
        return self.found or self.reason is not None

    def fail(self, reason: str) -> None:
        """Give up."""
        self.reason = reason

    def saw(self, kl: float) -> None:
        """The divergence at `next`."""
        strength = self.next
        self.n_seen += 1
        self.reached = kl if math.isfinite(kl) else None
        if math.isfinite(kl) and abs(kl - self.target) <= self.tolerance * self.target:
            self.at, self.found = strength, True
            return
        if math.isfinite(kl) and kl < self.target:
            self._low = (strength, max(kl, 1e-9))
        else:
            self._high = (strength, kl if math.isfinite(kl) else math.inf)
        if self.n_seen >= _MAX_ROUNDS:
            self.fail(f"no strength gives a divergence of {self.target:g} nats ({self.n_seen} were tried)")
        elif self._high is None and strength >= self.bound:
            self.fail(
                f"the divergence is {kl:.3g} of {self.target:g} nats with {self.bound:g} times the "
                "activations' length added"
            )
        else:
            self.next = min(self._following(), self.bound)

    def _following(self) -> float:
        low, high = self._low, self._high
        if high is None:
            assert low is not None
            return low[0] * min(max(math.sqrt(self.target / low[1]), 1.2), 4.0)
        if low is None:
            return high[0] * min(max(math.sqrt(self.target / high[1]), 0.125), 0.8)
        share = 0.5
        if self.n_seen % 3 and math.isfinite(high[1]):
            share = math.log(self.target / low[1]) / math.log(high[1] / low[1])
        share = min(max(share, 0.1), 0.9)
        return math.exp((1 - share) * math.log(low[0]) + share * math.log(high[0]))

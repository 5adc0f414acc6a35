"""What turning a latent up does to the subject's output, beside what control directions do.

For one latent: prompts in which it is silent; its decoder direction and some control directions, each
at the strength that moves the next-token distribution equally far; and what each then does to groups
of prompts, as the tokens it raises or as text the subject goes on with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from autointerp.config import not_a_result
from autointerp.sampling.windows import LatentRecord, TokenTable, Window
from autointerp.scorers.base import JudgeContext, ScorerConfig
from autointerp.scorers.selection import Stream

if TYPE_CHECKING:
    from torch import Tensor

    from autointerp.subject.steering import Clean, Matched, SteeredSubject

Control = Literal["random", "latents"]
KIND_OF_CONTROL: dict[Control, str] = {"random": "random", "latents": "decoy"}
"""Kind of the judged item for each kind of control direction."""


class InterventionConfig(ScorerConfig):
    """Options of the scorer `intervention`."""

    effect: Literal["next_token", "generation"] = "next_token"
    """`next_token`: the tokens whose probability rises. `generation`: text the subject goes on with."""
    readout: Literal["json", "logprob", "likelihood"] = "json"
    """`json`: the judge says for one list of raised tokens at a time whether it fits. `logprob`: the
    same, by the probability of Yes. `likelihood`: by how much likelier the explanation makes the raised
    words (`next_token`), or how much likelier the text makes the explanation (`generation`, which
    knows no other readout)."""
    kl: Annotated[float, Field(gt=0)] = 0.5
    """Mean divergence KL(steered || clean) of the next-token distribution that every direction is
    brought to, in nats."""
    kl_tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """How far the divergence may be from `kl`, as a share of it."""
    max_norm: Annotated[float, Field(gt=0)] = 20.0
    """Longest vector added, in mean lengths of the activations there; a direction that needs more fails."""
    controls: list[Control] = Field(["random", "latents"], min_length=1)
    """What the latent's direction is compared with, at equal divergence: directions drawn at `random` in
    the decoder's space, or decoder directions of other `latents`."""
    n_controls: Annotated[int, Field(ge=1, le=1_000)] = 4
    """Control directions of each kind."""
    n_prompts: Annotated[int, Field(ge=1)] = 16
    """Prompts: ends of test windows of kind `random`, in which the latent is silent."""
    prompt_tokens: Annotated[int, Field(ge=1)] = 16
    """Tokens per prompt, BOS not counted."""
    n_groups: Annotated[int, Field(ge=1)] = 4
    """Groups the prompts are dealt into; each direction's effect on a group is judged by itself."""
    read_positions: Annotated[int, Field(ge=1)] = 4
    """At so many last positions of each prompt the next-token distribution is read."""
    n_tokens: Annotated[int, Field(ge=1, le=100)] = 10
    """`next_token`: tokens in the list of an effect."""
    new_tokens: Annotated[int, Field(ge=1, le=1_000)] = 8
    """`generation`: tokens the subject goes on by."""
    sampled: bool = False
    """`generation`: draw tokens from the distribution (with the run's seed) instead of taking the
    likeliest one."""
    threshold_nats: float | None = None
    """`likelihood` only: evidence above which the answer is yes; by default 2 for `next_token` and 0 for
    `generation`. Moves `prediction` and `probability`, never the AUROC."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """`json` only: most tokens of a reply; by default what the answer needs."""
    rows_per_pass: Annotated[int, Field(ge=1)] = not_a_result(64)
    """Prompts the subject runs at once; never fewer than all those of one direction."""

    @property
    def threshold(self) -> float:
        """`threshold_nats`, or the default of the effect."""
        if self.threshold_nats is not None:
            return self.threshold_nats
        return 2.0 if self.effect == "next_token" else 0.0

    @model_validator(mode="after")
    def _possible(self) -> InterventionConfig:
        if self.effect == "generation" and self.readout != "likelihood":
            raise ValueError(
                f"effect 'generation' needs readout 'likelihood' (seen {self.readout!r}): texts are judged by "
                "how likely they make the explanation"
            )
        if len(set(self.controls)) != len(self.controls):
            raise ValueError(f"controls names a kind twice: {self.controls}")
        return self


@dataclass(frozen=True, kw_only=True)
class Raised:
    """A token a direction makes likelier, averaged over prompts and positions."""

    token: int
    gain: float
    """Mean rise of its probability; may be negative."""
    change: float
    """Mean rise of its log-probability, nats."""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What one direction does to one group of prompts."""

    raised: tuple[Raised, ...] = ()
    """`next_token`: most raised first."""
    texts: tuple[str, ...] = ()
    """`generation`: what the subject writes after each prompt of the group."""


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction, how strongly it was applied, and what it did to each group of prompts."""

    kind: str
    """`activating` for the latent's own, else as in `KIND_OF_CONTROL`."""
    source_latent: int | None
    """The latent whose direction it is; None for a random one."""
    strength: float | None
    """What the direction was multiplied by (random ones are as long as the latent's own)."""
    kl: float | None
    """Divergence reached, nats."""
    effects: tuple[Effect, ...] = ()
    """One per group; empty unless `status` is `ok`."""
    overall: Effect = Effect()
    """`next_token`: the effect on all prompts together."""
    status: str = "ok"
    reason: str | None = None
    n_passes: int = 0

    @property
    def own(self) -> bool:
        """Whether it is the latent's own."""
        return self.kind == "activating"


@dataclass(frozen=True, kw_only=True)
class LatentEffects:
    """Everything the subject was asked about one latent."""

    groups: tuple[tuple[Window, ...], ...] = ()
    """The prompts' windows, group by group."""
    directions: tuple[Direction, ...] = ()
    """The latent's own first."""
    clean_texts: tuple[tuple[str, ...], ...] = ()
    """`generation`: what the unchanged subject writes, group by group."""
    reason: str | None = None
    """Why there is nothing, if so."""


def latent_effects(
    record: LatentRecord,
    config: InterventionConfig,
    context: JudgeContext,
    steered: SteeredSubject,
    readable: Tensor,
) -> LatentEffects:
    """Steer the subject with a latent's direction and its controls.

    `readable` [n_vocabulary] bool: the tokens that may be named. Depends on the record, the
    configuration and the seed alone.
    """
    import torch

    windows = prompt_windows(record, config.n_prompts, context)
    tokens, kept = steered.prompts([w.tokens.tolist() for w in windows], config.prompt_tokens)
    if not kept:
        return LatentEffects(reason="no test windows of kind random to use as prompts")
    n_groups = min(config.n_groups, len(kept))
    groups = [list(range(g, len(kept), n_groups)) for g in range(n_groups)]
    vectors, sources = _directions(record.latent, config, context, steered)
    with torch.no_grad():
        clean = steered.clean(tokens, config.read_positions, config.rows_per_pass)
        matched = steered.match(
            clean,
            vectors,
            _reader(clean, groups, config, readable),
            kl=config.kl,
            tolerance=config.kl_tolerance,
            max_norm=config.max_norm,
            rows_per_pass=config.rows_per_pass,
        )
        texts = _generator(record.latent, config, context, steered, clean, groups)
        directions = [
            _direction(kind, source, found, texts, vector)
            for (kind, source), found, vector in zip(sources, matched, vectors, strict=True)
        ]
        return LatentEffects(
            groups=tuple(tuple(windows[kept[i]] for i in group) for group in groups),
            directions=tuple(directions),
            clean_texts=texts(None) if config.effect == "generation" else (),
        )


def prompt_windows(record: LatentRecord, most: int, context: JudgeContext) -> list[Window]:
    """At most that many of the windows of kind `random`, drawn at random, in the order drawn."""
    windows = sorted((w for w in record.windows if w.kind == "random"), key=lambda w: w.example)
    order = context.rng(record.latent, Stream.INTERVENTION_PROMPTS).permutation(len(windows))
    return [windows[int(i)] for i in order[:most]]


def readable_tokens(tokens: TokenTable) -> np.ndarray:
    """Tokens that can be put before a judge, [n_vocabulary] bool: whole characters, not all white space."""
    texts = (tokens.text([token]) for token in range(len(tokens.pieces)))
    return np.array([bool(text.strip()) and "\ufffd" not in text for text in texts])


def _directions(
    latent: int, config: InterventionConfig, context: JudgeContext, steered: SteeredSubject
) -> tuple[Tensor, list[tuple[str, int | None]]]:
    """The latent's direction and its controls [n, width], and the kind and source of each."""
    import torch

    own = steered.directions([latent])
    vectors, sources = [own], [("activating", latent)]
    named: list[tuple[str, int | None]] = [*sources]
    for control in config.controls:
        kind = KIND_OF_CONTROL[control]
        if control == "random":
            rng = context.rng(latent, Stream.INTERVENTION_DIRECTIONS)
            drawn = torch.from_numpy(rng.standard_normal((config.n_controls, own.shape[1]))).to(own)
            vectors.append(drawn / drawn.norm(dim=-1, keepdim=True) * own.norm())
            named += [(kind, None)] * config.n_controls
        else:
            rng = context.rng(latent, Stream.INTERVENTION_LATENTS)
            n_others = steered.dictionary.n_latents - 1
            others = rng.choice(n_others, size=min(config.n_controls, n_others), replace=False)
            chosen = [int(i) + (int(i) >= latent) for i in others]
            vectors.append(steered.directions(chosen))
            named += [(kind, other) for other in chosen]
    return torch.cat(vectors), named


Summary = tuple[tuple[Effect, ...], Effect]
"""Effects on each group, and on all prompts together."""


def _reader(
    clean: Clean, groups: Sequence[Sequence[int]], config: InterventionConfig, readable: Tensor
) -> Callable[[Tensor], Summary]:
    """Reads the raised tokens off steered log-probabilities [n_prompts, n_read, n_vocabulary]."""
    if config.effect == "generation":
        return lambda steered: ((), Effect())
    everything = [i for group in groups for i in group]

    def read(steered: Tensor) -> Summary:
        found = [
            Effect(
                raised=raised_tokens(
                    steered[list(group)], clean.log_probs[list(group)], config.n_tokens, readable
                )
            )
            for group in (*groups, everything)
        ]
        return tuple(found[:-1]), found[-1]

    return read


def raised_tokens(after: Tensor, before: Tensor, n: int, readable: Tensor) -> tuple[Raised, ...]:
    """The readable tokens whose log-probability rises most, from log-probabilities [..., n_vocabulary].

    Averaged over prompts and positions; fewer than `n` where fewer rise.
    """
    axes = tuple(range(after.ndim - 1))
    change = (after - before).mean(axes)
    risen = readable & (change > 0)
    n_risen = int(risen.sum())
    top = change.masked_fill(~risen, float("-inf")).topk(min(n, n_risen)).indices
    gain = (after[..., top].exp() - before[..., top].exp()).mean(axes)
    return tuple(
        Raised(token=t, gain=g, change=c)
        for t, g, c in zip(top.tolist(), gain.tolist(), change[top].tolist(), strict=True)
    )


def _generator(
    latent: int,
    config: InterventionConfig,
    context: JudgeContext,
    steered: SteeredSubject,
    clean: Clean,
    groups: Sequence[Sequence[int]],
) -> Callable[[Tensor | None], tuple[tuple[str, ...], ...]]:
    """Gives the texts, group by group, that the subject writes with a vector [width], or with none.

    All directions of a latent draw with the same random numbers.
    """
    import torch

    def texts(vector: Tensor | None) -> tuple[tuple[str, ...], ...]:
        rng = None
        if config.sampled:
            seed = int(context.rng(latent, Stream.INTERVENTION_GENERATION).integers(2**63))
            rng = torch.Generator().manual_seed(seed)
        new = steered.generate(clean, vector, config.new_tokens, rng).tolist()
        return tuple(tuple(context.tokens.text(new[i]) for i in group) for group in groups)

    return texts


def _direction(
    kind: str,
    source: int | None,
    found: Matched[Summary],
    texts: Callable[[Tensor | None], tuple[tuple[str, ...], ...]],
    vector: Tensor,
) -> Direction:
    effects, overall = found.effect or ((), Effect())
    if found.strength is not None and not effects:
        effects = tuple(Effect(texts=group) for group in texts(found.strength * vector))
    return Direction(
        kind=kind,
        source_latent=source,
        strength=found.strength,
        kl=found.kl,
        effects=effects,
        overall=overall,
        status=found.status,
        reason=found.reason,
        n_passes=found.n_passes,
    )

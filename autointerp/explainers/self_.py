"""Explainer `self`: the subject says itself what a latent means.

The latent's direction takes the place of a word in a prompt that asks for the word's meaning, at several
strengths, and the subject goes on. After Chen, Vondrick & Mao, "SelfIE" (arXiv 2403.10949),
Ghandeharioun et al., "Patchscopes" (arXiv 2401.06102) and Kharlapenko et al., "Self-explaining SAE
features" (2024), who choose the strength by self-similarity and entropy (`choose = "scale"`). The
default choice is ours: continuations begin with the tokens that this direction raises more than other
latents' do, and the one is taken whose text the subject itself reads as most like the direction. Prompts
are our own. See docs/explainers/self.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.explainers.prompt_files import PromptFile, load_prompt
from autointerp.explainers.replies import Reading, read_completion
from autointerp.explainers.token_change import readable_tokens
from autointerp.explainers.words import printable
from autointerp.llm.types import Capability
from autointerp.sampling.windows import LatentRecord, TokenTable

if TYPE_CHECKING:
    from torch import Tensor

    from autointerp.subject.patching import Said, Slotted
    from autointerp.subject.steering import SteeredSubject

_CONTROLS_STREAM = 63
_DRAW_STREAM = 64
_WORD = "X"
"""Stands in the templates where the direction goes."""
_ENDS = ('"', "\n", "”")


class SelfConfig(ExplainerConfig):
    """`[explainers.self]`."""

    scales: list[Annotated[float, Field(gt=0.0)]] = Field([1.0, 2.0, 4.0, 8.0], min_length=1)
    """Lengths of the vector put in place of the word, in mean lengths of the activations there."""
    layer: Annotated[int, Field(ge=0)] = 2
    """Block before which it is put."""
    choose: Literal["reread", "scale"] = "reread"
    """`reread`: of all continuations the one whose text the subject reads as most like the direction.
    `scale`: as published, the likeliest continuation at the scale where the prompt's last token is most
    like the direction and its distribution least spread."""
    n_starts: Annotated[int, Field(ge=1, le=100)] = 3
    """Continuations of each template and scale: with `reread` of the first tokens that rise most over
    what other latents' directions give, with `scale` of the likeliest ones."""
    n_controls: Annotated[int, Field(ge=1, le=1_000)] = 8
    """Other latents whose directions first tokens and self-similarities are compared with."""
    plausible_nats: Annotated[float, Field(gt=0.0)] = 4.0
    """`reread` only: first tokens are at most so much less likely than the likeliest one."""
    n_tokens: Annotated[int, Field(ge=1, le=200)] = 10
    """Longest continuation."""
    sampled: bool = False
    """Draw tokens from the distribution (with the run's seed) instead of taking the likeliest ones."""
    min_similarity: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.2
    """A text that the subject reads as less like the direction than this (cosine) fails."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One continuation, and how the prompt was read that it goes on from."""

    template: int
    scale: float
    similarity: float
    """Cosine of the prompt's last state, less its mean over the controls, with the direction."""
    entropy: float
    """Of the first token's distribution, nats."""
    gain: float | None
    """Log-probability of the first token less its mean over the controls, nats; None without any."""
    continuation: str
    reading: Reading
    likeness: float | None = None
    """Largest cosine with the direction of a token of the text, read by itself; None without a text."""

    def as_details(self) -> dict[str, Any]:
        """As `details` list it."""
        shown: dict[str, Any] = {
            "text": self.reading.text,
            "template": self.template,
            "scale": self.scale,
            "similarity": round(self.similarity, 4),
            "entropy": round(self.entropy, 4),
            "gain": None if self.gain is None else round(self.gain, 4),
            "likeness": None if self.likeness is None else round(self.likeness, 4),
        }
        if self.reading.text is None:
            shown |= {"continuation": self.continuation, "reason": self.reading.reason}
        return shown


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is the same for all latents: the prompts, and how the control directions are read in them."""

    steered: SteeredSubject
    hook_point: str
    length: float
    """Mean length of the activations there."""
    prompts: tuple[Slotted, ...]
    controls: tuple[int, ...]
    """Latents whose directions are compared with; one more than are used for any latent."""
    read: Mapping[tuple[int, float], Said]
    """Template and scale to how the controls are read; rows as `controls`."""
    words: Tensor
    """Tokens with a letter or digit in them that can be shown, bool [n_vocabulary]."""


@explainer("self")
class SelfExplainer:
    """Asks the subject what its own latent means; see the module and `SelfConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = SelfConfig
    version: ClassVar[int] = 1
    uses_windows: ClassVar[bool] = False
    needs_subject: ClassVar[bool] = True

    def __init__(self, config: SelfConfig) -> None:
        self.config = config
        self._prompt: PromptFile = load_prompt("self")
        self._bench: tuple[tuple[int, int], Bench] | None = None

    def requires(self) -> frozenset[Capability]:
        """Nothing: no explaining model is asked."""
        return frozenset()

    def prompts(self) -> Mapping[str, str]:
        """The file of templates."""
        return {"self": self._prompt.source}

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order; each latent by itself, so that batches change nothing.

        Raises `UserError` if the dictionary has no directions in the residual stream, or the subject no
        such layer.
        """
        import torch

        assert context.subject is not None, "explainer `self` needs the subject"
        with torch.no_grad():
            bench = self._open(context.subject(), context)
            return [self._one(record.latent, bench, context) for record in records]

    def _open(self, steered: SteeredSubject, context: ExplainContext) -> Bench:
        """The bench of a subject and seed, made when first asked for."""
        key = (id(steered), context.seed)
        if self._bench is None or self._bench[0] != key:
            self._bench = (key, self._made(steered, context))
        return self._bench[1]

    def _made(self, steered: SteeredSubject, context: ExplainContext) -> Bench:
        from autointerp.subject import patching

        steered.check()
        hook_point = patching.entering(steered, self.config.layer)
        n_latents = steered.dictionary.n_latents
        n = min(self.config.n_controls + 1, n_latents)
        drawn = context.rng(_CONTROLS_STREAM).choice(n_latents, size=n, replace=False)
        controls = tuple(int(latent) for latent in drawn)
        length = patching.mean_length(steered, self._prompt.part("plain"), hook_point)
        templates = [text for name, text in self._prompt.parts if name == "template"]
        prompts = tuple(patching.slotted(steered, text, _WORD) for text in templates)
        vectors = patching.in_stream(steered, controls) * length
        read = {
            (number, scale): replace(patching.say(steered, prompt, vectors * scale, hook_point), past=None)
            for number, prompt in enumerate(prompts)
            for scale in self.config.scales
        }
        return Bench(
            steered=steered,
            hook_point=hook_point,
            length=length,
            prompts=prompts,
            controls=controls,
            read=read,
            words=readable_tokens(context.tokens, steered, lambda text: any(c.isalnum() for c in text)),
        )

    def _one(self, latent: int, bench: Bench, context: ExplainContext) -> Explanation:
        from autointerp.subject import patching

        (direction,) = patching.in_stream(bench.steered, [latent])
        if not bool(direction.norm() > 0.5):
            reason = "the latent's direction has no length"
            return Explanation(latent=latent, text=None, status="failed", reason=reason)
        rng = context.rng(latent, _DRAW_STREAM)
        candidates = [
            candidate
            for number in range(len(bench.prompts))
            for candidate in self._continuations(latent, direction, number, bench, rng, context.tokens)
        ]
        candidates = self._reread(candidates, direction, bench)
        return self._chosen(latent, candidates, bench)

    def _continuations(
        self,
        latent: int,
        direction: Tensor,
        number: int,
        bench: Bench,
        rng: np.random.Generator,
        tokens: TokenTable,
    ) -> list[Candidate]:
        """What the subject goes on with after one template, at all scales side by side."""
        import torch

        from autointerp.subject import patching

        scales = torch.tensor(self.config.scales, device=direction.device) * bench.length
        said = patching.say(
            bench.steered, bench.prompts[number], scales[:, None] * direction, bench.hook_point
        )
        others = [i for i, control in enumerate(bench.controls) if control != latent][
            : self.config.n_controls
        ]
        found = [
            self._starts(said, row, bench.read[number, scale], others, direction, bench.words, rng)
            for row, scale in enumerate(self.config.scales)
        ]
        rows = [row for row, (starts, _) in enumerate(found) for _ in starts]
        firsts = [start for starts, _ in found for start, _ in starts]
        if not firsts:
            return []
        draw = _drawer(rng) if self.config.sampled else None
        new = patching.go_on(bench.steered, said, rows, firsts, self.config.n_tokens, draw).tolist()
        gains = [gain for starts, _ in found for _, gain in starts]
        special = set(bench.steered.tokenisation.special_ids)
        return [
            Candidate(
                template=number,
                scale=self.config.scales[row],
                gain=gain,
                similarity=found[row][1]["similarity"],
                entropy=found[row][1]["entropy"],
                **_read(continuation, special, tokens),
            )
            for row, gain, continuation in zip(rows, gains, new, strict=True)
        ]

    def _starts(
        self,
        said: Said,
        row: int,
        controls: Said,
        others: Sequence[int],
        direction: Tensor,
        words: Tensor,
        rng: np.random.Generator,
    ) -> tuple[list[tuple[int, float | None]], dict[str, float]]:
        """First tokens with their gains at one scale, and how the prompt was read there."""
        import torch

        log_probs, state = said.log_probs[row], said.states[row]
        gains = log_probs
        if others:
            gains = log_probs - controls.log_probs[others].mean(0)
            state = state - controls.states[others].mean(0)
        ranked = log_probs.masked_fill(~words, -torch.inf)
        if self.config.sampled:
            draw = _drawer(rng)
            chosen = list(dict.fromkeys(int(draw(ranked[None])) for _ in range(self.config.n_starts)))
        else:
            if self.config.choose == "reread":
                ranked = gains.masked_fill(ranked < ranked.max() - self.config.plausible_nats, -torch.inf)
            top = ranked.topk(min(self.config.n_starts, len(ranked)))
            chosen = [
                t for t, v in zip(top.indices.tolist(), top.values.tolist(), strict=True) if v > -np.inf
            ]
        read = {
            "similarity": float(torch.cosine_similarity(state, direction, dim=-1)),
            "entropy": float(-(log_probs.exp() * log_probs.clamp(min=-1e4)).sum()),
        }
        return [(start, float(gains[start]) if others else None) for start in chosen], read

    def _reread(self, candidates: Sequence[Candidate], direction: Tensor, bench: Bench) -> list[Candidate]:
        """The candidates with how like the direction their texts are, each text read once."""
        from autointerp.subject import patching

        texts = sorted({c.reading.text for c in candidates if c.reading.text is not None})
        values = patching.likeness(
            bench.steered, self._prompt.part("context"), self._prompt.part("plain"), texts, direction
        )
        told = dict(zip(texts, values, strict=True))
        return [replace(c, likeness=told.get(c.reading.text or "")) for c in candidates]

    def _chosen(self, latent: int, candidates: Sequence[Candidate], bench: Bench) -> Explanation:
        details: dict[str, Any] = {
            "choose": self.config.choose,
            "layer": self.config.layer,
            "hook_point": bench.steered.hook_point,
            "candidates": [candidate.as_details() for candidate in candidates],
        }
        readable = [c for c in candidates if c.likeness is not None]
        if not readable:
            reasons = Counter(c.reading.reason for c in candidates).most_common(1)
            reason = "no coherent continuation" + (f"; most often: {reasons[0][0]}" if reasons else "")
            return Explanation(latent=latent, text=None, status="failed", reason=reason, details=details)
        best = _likest(readable) if self.config.choose == "reread" else _clearest(readable)
        assert best.likeness is not None
        details |= {"chosen": next(i for i, c in enumerate(candidates) if c is best)} | best.as_details()
        if best.likeness < self.config.min_similarity:
            reason = f"low self-similarity (below {self.config.min_similarity:g})"
            return Explanation(latent=latent, text=None, status="failed", reason=reason, details=details)
        return Explanation(latent=latent, text=best.reading.text, details=details)


def _likest(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate most like the direction; of equals the shortest, then the first."""
    return min(candidates, key=lambda c: (-round(c.likeness or 0.0, 2), len((c.reading.text or "").split())))


def _clearest(candidates: Sequence[Candidate]) -> Candidate:
    """The first candidate at the scale of the greatest self-similarity less entropy.

    Both as shares of their largest size over templates and scales.
    """
    similarity = max(abs(c.similarity) for c in candidates) or 1.0
    entropy = max(c.entropy for c in candidates) or 1.0
    return max(candidates, key=lambda c: c.similarity / similarity - c.entropy / entropy)


def _read(continuation: Sequence[int], special: set[int], tokens: TokenTable) -> dict[str, Any]:
    """The text of a continuation up to where its quotation ends, and what is to be made of it."""
    ended = [i for i, token in enumerate(continuation) if token in special]
    text = tokens.text(continuation[: ended[0]] if ended else continuation)
    ends = [place for end in _ENDS if (place := text.find(end)) >= 0]
    finish = "stop" if ends or ended else "length"
    text = text[: min(ends)] if ends else text
    reading = read_completion(text, finish)
    if reading.text is not None:
        said = reading.text.rstrip(" ,;:")
        reason = _incoherent(said)
        reading = Reading(text=said) if reason is None else Reading(status="failed", reason=reason)
    return {"continuation": text, "reading": reading}


def _incoherent(text: str) -> str | None:
    """Why a text says nothing, if so."""
    if not printable(text):
        return "it cannot be shown"
    words = text.casefold().split()
    if len(words) > 3 and len(set(words)) <= 0.6 * len(words):
        return "it repeats itself"
    if _WORD in text.split():
        return "it names the word it stands for"
    return None


def _drawer(rng: np.random.Generator) -> Callable[[Tensor], Tensor]:
    """Draws a token from each row of log-probabilities [n, n_vocabulary], by a generator of the latent's own."""
    import torch

    def draw(log_probs: Tensor) -> Tensor:
        heights = log_probs.double().exp().cumsum(-1).cpu()
        levels = torch.from_numpy(rng.random(len(heights))) * heights[:, -1]
        found: Tensor = torch.searchsorted(heights, levels[:, None], right=True)[:, 0]
        return found.clamp(max=heights.shape[1] - 1)

    return draw

"""Explainer `statistics`: a label from the tokens a latent fires on and those its decoder promotes.

No language model is asked and no window read: thousands of latents take seconds. The labels are as
good as "which tokens" can be, which for many latents is good enough, and they are the bar that a
label somebody paid for has to clear. The rule is ours; see docs/explainers/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.explainers.words import printable, stem
from autointerp.llm.types import Capability
from autointerp.sampling.windows import LatentRecord, TokenTable

_NAMES = {
    "\n": "line breaks",
    " ": "spaces",
    "\t": "tabs",
    ".": "full stops",
    ",": "commas",
    '"': "quotation marks",
    "(": "opening brackets",
    ")": "closing brackets",
    "-": "hyphens",
    ":": "colons",
    ";": "semicolons",
}


class StatisticsConfig(ExplainerConfig):
    """`[explainers.statistics]`."""

    n_words: Annotated[int, Field(ge=1)] = 4
    """Most words named."""
    min_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    """The named words must carry at least this share of the latent's summed activation..."""
    min_reliability: Annotated[float, Field(ge=0.0, le=1.0)] = 0.7
    """...or the latent must fire on at least this share of their occurrences in the corpus."""
    min_active: Annotated[int, Field(ge=1)] = 5
    """...and in either case it must have fired on them this many times."""
    min_word_weight: Annotated[float, Field(ge=0.0, le=1.0)] = 0.1
    """A word is named if its weight is at least this share of the first one's."""
    n_promoted: Annotated[int, Field(ge=0)] = 0
    """Most words named after `promotes`, from the decoder's top logits; 0 leaves them out."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """Tokens that differ in case, in a space before them or in a common ending only."""

    text: str
    """Its most active form, without white space around it."""
    starts_word: bool
    """Whether that form has a space before it (or is no part of a word)."""
    share: float
    """Its share of the latent's summed activation."""
    reliability: float | None
    """Share of its occurrences in the corpus on which the latent fires; None if never counted."""
    n_active: int
    """Positions on which the latent fires on it."""

    @property
    def weight(self) -> float:
        """Share times the square root of reliability: "of" and "the" count for little, unless the
        latent is about them."""
        return self.share * math.sqrt(1.0 if self.reliability is None else self.reliability)


@explainer("statistics")
class StatisticsExplainer:
    """Names the words that carry a latent's activation; see the module and `StatisticsConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = StatisticsConfig
    version: ClassVar[int] = 1
    uses_windows: ClassVar[bool] = False

    def __init__(self, config: StatisticsConfig) -> None:
        self.config = config

    def requires(self) -> frozenset[Capability]:
        """Nothing: no model is asked."""
        return frozenset()

    def prompts(self) -> Mapping[str, str]:
        """None."""
        return {}

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order."""
        return [self._explain(record, context) for record in records]

    def _explain(self, record: LatentRecord, context: ExplainContext) -> Explanation:
        if record.statistics.get("status") == "dead":
            return Explanation(latent=record.latent, text=None, status="failed", reason="dead latent")
        if not record.statistics.get("top_tokens"):
            reason = "never active in the train documents"
            return Explanation(latent=record.latent, text=None, status="failed", reason=reason)
        words = ranked_words(record.statistics, context.tokens, context.token_counts)
        named = self._named(words)
        share = sum(word.share for word in named)
        reliability = _mean_reliability(named)
        details: dict[str, Any] = {
            "words": [
                {
                    "text": word.text,
                    "share": round(word.share, 4),
                    "reliability": None if word.reliability is None else round(word.reliability, 4),
                    "n_active": word.n_active,
                }
                for word in named
            ],
            "share": round(share, 4),
            "reliability": None if reliability is None else round(reliability, 4),
        }
        n_active = sum(word.n_active for word in named)
        if not named:
            reason = "its strongest tokens are not readable text"
        elif n_active < self.config.min_active:
            reason = f"too little seen: active {n_active} times on its first words"
        elif share < self.config.min_share and (reliability or 0.0) < self.config.min_reliability:
            reason = f"spread over many tokens: the first {len(named)} carry {share:.0%} of its activation"
        else:
            text = label(named) + self._promotes(record.statistics, context.tokens)
            return Explanation(latent=record.latent, text=text, details=details)
        return Explanation(
            latent=record.latent, text=None, status="undetermined", reason=reason, details=details
        )

    def _named(self, words: Sequence[Word]) -> list[Word]:
        """The heaviest words; numbers alone where they carry enough of the activation together."""
        numbers = [word for word in words if word.text.isdecimal()]
        if numbers and sum(word.share for word in numbers) >= self.config.min_share:
            words = numbers
        least = self.config.min_word_weight * words[0].weight if words else 0.0
        return [word for word in words[: self.config.n_words] if word.weight >= least]

    def _promotes(self, statistics: Mapping[str, Any], tokens: TokenTable) -> str:
        if not self.config.n_promoted or not statistics.get("top_logits"):
            return ""
        seen: dict[str, str] = {}
        for row in statistics["top_logits"]:
            text = tokens.text([row["token"]]).strip()
            if readable(text):
                seen.setdefault(text.casefold(), text)
        words = list(seen.values())[: self.config.n_promoted]
        return f"; promotes {', '.join(map(quote, words))}" if words else ""


def ranked_words(statistics: Mapping[str, Any], tokens: TokenTable, token_counts: np.ndarray) -> list[Word]:
    """A latent's top tokens as words, heaviest first (see `Word.weight`).

    Tokens that differ in case, in a space before them or in a common ending are one word.

    Tokens that are not readable text (parts of a character, special tokens) are left out; their
    activation stays in the total that shares are taken of. `top_tokens` and `token_counts` are of
    the train documents, whose share of the latent's activation is taken to be that of their tokens.
    """
    total = _train_total(statistics, token_counts)
    groups: dict[str, list[tuple[float, str, int, int]]] = {}
    for row in statistics["top_tokens"]:
        raw = tokens.text([row["token"]])
        text = raw.strip() or raw[:1]
        if readable(text):
            occurrences = int(token_counts[row["token"]])
            groups.setdefault(stem(text), []).append(
                (float(row["total"]), raw, int(row["n_active"]), occurrences)
            )
    words = []
    for forms in groups.values():
        raw = max(forms)[1]
        occurrences = sum(form[3] for form in forms)
        n_active = sum(form[2] for form in forms)
        text = raw.strip() or raw[:1]
        words.append(
            Word(
                text=text,
                starts_word=raw != text or not text.isalpha() or text[0].isupper(),
                share=sum(form[0] for form in forms) / total if total > 0 else 0.0,
                reliability=n_active / occurrences if occurrences else None,
                n_active=n_active,
            )
        )
    return sorted(words, key=lambda word: (-word.weight, word.text))


def label(words: Sequence[Word]) -> str:
    """The words as a label: `the word "book"`, or `"during", "while", "throughout"`."""
    names = [_NAMES.get(word.text) or quote(word.text) for word in words]
    if all(word.text in _NAMES for word in words):
        return " and ".join([", ".join(names[:-1]), names[-1]] if names[:-1] else names)
    if all(word.text.isdecimal() for word in words):
        return f"the number {names[0]}" if len(words) == 1 else f"numbers such as {', '.join(names)}"
    if not any(c.isalnum() for word in words for c in word.text):
        return f"the symbol{'s' if words[1:] else ''} {', '.join(names)}"
    if not any(word.starts_word for word in words):
        return f"the word part{'s' if words[1:] else ''} {', '.join(names)}"
    return f"the word {names[0]}" if len(words) == 1 else ", ".join(names)


def quote(text: str) -> str:
    """A word in double quotes, or in single ones if it holds a double one."""
    return f"'{text}'" if '"' in text else f'"{text}"'


def readable(text: str) -> bool:
    """Whether a label can show a word: every character can be, or it has a name."""
    return text in _NAMES or printable(text)


def _train_total(statistics: Mapping[str, Any], token_counts: np.ndarray) -> float:
    """The latent's summed activation in the train documents, estimated; at least what is listed."""
    whole = float(statistics["n_active_tokens"]) * float(statistics["mean_activation"] or 0.0)
    density = float(statistics["density"])
    n_tokens = float(statistics["n_active_tokens"]) / density if density > 0 else 0.0
    train = min(1.0, float(token_counts.sum()) / n_tokens) if n_tokens > 0 else 1.0
    return max(whole * train, sum(float(row["total"]) for row in statistics["top_tokens"]))


def _mean_reliability(words: Sequence[Word]) -> float | None:
    known = [(word.reliability, word.share) for word in words if word.reliability is not None]
    weight = sum(share for _, share in known)
    return sum(reliability * share for reliability, share in known) / weight if weight > 0 else None

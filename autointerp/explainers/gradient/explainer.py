"""Explainer `gradient`: a latent's active words against its silent ones, labelled in token space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.explainers.gradient.api import label_many
from autointerp.explainers.gradient.config import GradientConfig
from autointerp.explainers.gradient.discriminator import Discriminator, open_discriminator
from autointerp.explainers.gradient.from_windows import form_totals, same_words, token_items
from autointerp.explainers.gradient.templates import load_templates
from autointerp.explainers.gradient.types import TokenItem, TokenLabel
from autointerp.explainers.statistics import quote
from autointerp.explainers.words import printable
from autointerp.llm.types import Capability
from autointerp.sampling.windows import LatentRecord

_ITEMS_STREAM = 70


@explainer("gradient")
class GradientExplainer:
    """Labels latents by what their active words are; see docs/explainers/gradient.md."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = GradientConfig
    version: ClassVar[int] = 3
    uses_windows: ClassVar[bool] = True

    def __init__(self, config: GradientConfig) -> None:
        self.config = config
        self._discriminator: Discriminator | None = None

    @property
    def latents_at_once(self) -> int:
        """Latents it is handed at a time: one batch, of which a killed process loses no more."""
        return self.config.latents_at_once

    def requires(self) -> frozenset[Capability]:
        """Nothing: it loads a discriminator of its own."""
        return frozenset()

    def prompts(self) -> Mapping[str, str]:
        """The discriminator's templates."""
        return {"templates": load_templates().source}

    def check(self) -> None:
        """Whether the discriminator can be found. Raises `UserError`."""
        from autointerp.weights import resolve

        resolve(self.config.model)

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order; the discriminator is loaded at the first call."""
        items = []
        for record in records:
            rng = context.rng(record.latent, _ITEMS_STREAM)
            items.append(token_items(record, context.tokens, rng, most=2 * self.config.max_negative))
        if self._discriminator is None and any(items):
            self._discriminator = open_discriminator(self.config)
        alive = [i for i, some in enumerate(items) if any(item.activation > 0 for item in some)]
        keys = [records[i].latent for i in alive]
        assert self._discriminator is not None or not alive
        labels: dict[int, TokenLabel] = {}
        if alive and self._discriminator is not None:
            found = label_many(
                [items[i] for i in alive], self.config, self._discriminator, context.seed, keys
            )
            labels = dict(zip(alive, found, strict=True))
        return [
            self._row(record, items[i], labels[i], form_totals(record, context.tokens))
            if i in labels
            else _nothing(record)
            for i, record in enumerate(records)
        ]

    def _row(
        self,
        record: LatentRecord,
        items: Sequence[TokenItem],
        label: TokenLabel,
        totals: Mapping[str, float],
    ) -> Explanation:
        details = {
            key: value
            for key, value in label.as_json().items()
            if key not in ("label", "status", "reason") and value is not None
        }
        words = self._words(items, totals)
        if words is not None and (label.status != "ok" or words[0] == "word"):
            details["words"] = words[1]
            if words[0] == "word" or label.status != "ok":
                details["answered_by"] = "words"
                return Explanation(
                    latent=record.latent, text=str(words[2]), model=self.config.model, details=details
                )
        return Explanation(
            latent=record.latent,
            text=label.label,
            status=label.status,
            reason=label.reason,
            model=self.config.model,
            details=details,
        )

    def _words(
        self, items: Sequence[TokenItem], totals: Mapping[str, float]
    ) -> tuple[str, dict[str, Any], str] | None:
        """The label that names the words themselves, if so few carry the latent that it is true."""
        found = same_words(items, self.config.max_words, totals) if self.config.max_words else None
        if found is None:
            return None
        words, precision, recall = found
        if not all(map(printable, words)):
            return None
        if precision < self.config.min_word_precision or recall < self.config.min_word_recall:
            return None
        kind = "word" if len(words) == 1 else "words"
        text = f"the word {quote(words[0])}" if kind == "word" else ", ".join(map(quote, words))
        rates = {"words": words, "precision": round(precision, 4), "recall": round(recall, 4)}
        return kind, rates, text


def _nothing(record: LatentRecord) -> Explanation:
    reason = "dead latent" if record.statistics.get("status") == "dead" else "no activating train window"
    return Explanation(latent=record.latent, text=None, status="failed", reason=reason)

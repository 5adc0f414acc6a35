"""Explainer `best-of`: several candidates for each latent, the best of them chosen by a scorer.

The choice is made on train windows that no candidate was made from. Choosing among samples by a
judge's score is common practice; the rule here (fresh windows, ties to the earlier) is ours. See
docs/explainers/best-of.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from autointerp.config import Section, parse_table
from autointerp.errors import UserError
from autointerp.explainers.base import (
    ExplainContext,
    Explainer,
    ExplainerConfig,
    Explanation,
    explainer,
)
from autointerp.explainers.nested import (
    JudgingConfig,
    JudgingExplainer,
    Table,
    build_explainer,
    judge_texts,
    plugin_values,
    summed,
    told_by_key,
    verdict,
)
from autointerp.llm.types import LanguageModel, Reply, Request, Usage
from autointerp.sampling.windows import LatentRecord

_DRAW_STREAM = 61


class _Draws(Section):
    n_candidates: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """One explainer that proposes candidates."""

    explainer: Explainer
    config: ExplainerConfig
    n_candidates: int

    @property
    def sampled(self) -> bool:
        """Whether its replies are drawn, so that a seed changes them."""
        return float(getattr(self.config, "temperature", 0.0)) > 0


def build_source(table: Table) -> Source:
    """The source of a name or a table. Raises `UserError`, the key first, for several equal candidates."""
    options = dict(table) if isinstance(table, dict) else {"explainer": table}
    draws = {"n_candidates": options.pop("n_candidates")} if "n_candidates" in options else {}
    inner, config = build_explainer(options)
    n_candidates = parse_table(_Draws, draws).n_candidates
    source = Source(explainer=inner, config=config, n_candidates=n_candidates)
    if n_candidates > 1 and not source.sampled:
        why = (
            "needs a temperature above 0"
            if "temperature" in type(config).model_fields
            else "has no option temperature"
        )
        raise UserError(
            f"n_candidates: seen {n_candidates}, but {inner.name!r} {why}: all would be equal; accepted: 1"
        )
    return source


CandidateTable = Annotated[Table, AfterValidator(told_by_key(build_source))]


class BestOfConfig(JudgingConfig):
    """`[explainers.NAME]` with `explainer = "best-of"`."""

    candidates: list[CandidateTable] = Field(["default", "statistics"], min_length=1)
    """Who proposes: names of explainers, or tables `{explainer = NAME, ...}` with their options and
    `n_candidates`, how many labels are drawn (more than one needs a `temperature` above 0)."""

    def result_values(self) -> dict[str, Any]:
        """As of every section, the inner options with their defaults and versions."""
        sources = [build_source(table) for table in self.candidates]
        candidates = [
            {"n_candidates": source.n_candidates, **plugin_values(source.explainer, source.config)}
            for source in sources
        ]
        return {**super().result_values(), "candidates": candidates}


@dataclass(kw_only=True)
class Candidate:
    """One proposed label and what became of it."""

    entry: int
    """Which entry of `candidates` it is from."""
    source: str
    draw: int
    explanation: Explanation
    score: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    def as_details(self) -> dict[str, Any]:
        """As `details` list it."""
        said = self.explanation
        shown: dict[str, Any] = {
            "entry": self.entry,
            "explainer": self.source,
            "draw": self.draw,
            "text": said.text,
        }
        if said.text is None:
            shown |= {"status": said.status, "reason": said.reason}
        return shown | self.notes


class SeededModel:
    """A model whose every request carries a seed: the same question drawn anew."""

    def __init__(self, model: LanguageModel, seed: int) -> None:
        self.model = model
        self.seed = seed
        self.identity = model.identity
        self.capabilities = model.capabilities

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Replies to the requests with the seed."""
        return self.model.complete([replace(request, seed=self.seed) for request in requests])

    def count_tokens(self, text: str) -> int | None:
        """That of the model."""
        return self.model.count_tokens(text)


@explainer("best-of")
class BestOf(JudgingExplainer):
    """Proposes from the windows shown, chooses on those held back; see the module and `BestOfConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = BestOfConfig
    version: ClassVar[int] = 1
    config: BestOfConfig

    def __init__(self, config: BestOfConfig) -> None:
        self.sources = [build_source(table) for table in config.candidates]
        inner = {f"candidates.{number}": source.explainer for number, source in enumerate(self.sources)}
        super().__init__(config, inner)

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order: the candidate of the best score.

        All texts of all latents are judged at once, equal ones of a latent once. Where none gets a
        number the first is kept and `details.unjudged` says why.
        """
        halves = self.halves(records, context)
        candidates = self._candidates([shown for shown, _ in halves], context)
        asked: dict[tuple[int, str], LatentRecord] = {}
        for shown, fresh in halves:
            for candidate in candidates[shown.latent]:
                if candidate.explanation.text is not None:
                    asked.setdefault((shown.latent, candidate.explanation.text), fresh)
        judged = dict(
            zip(
                asked,
                judge_texts(self.scorer, [(text, fresh) for (_, text), fresh in asked.items()], context),
                strict=True,
            )
        )
        explanations = []
        for shown, fresh in halves:
            own = candidates[shown.latent]
            usages = [one.usage for (latent, _), one in judged.items() if latent == shown.latent]
            for candidate in own:
                if candidate.explanation.text is not None:
                    candidate.notes = verdict(judged[shown.latent, candidate.explanation.text])
                    candidate.score = candidate.notes["score"]
            explanations.append(self._chosen(own, shown, fresh, usages, context))
        return explanations

    def _candidates(
        self, shown: Sequence[LatentRecord], context: ExplainContext
    ) -> dict[int, list[Candidate]]:
        """The candidates of each latent, in the order of the configuration."""
        found: dict[int, list[Candidate]] = {record.latent: [] for record in shown}
        for number, source in enumerate(self.sources):
            for draw in range(source.n_candidates):
                drawing = _drawing(source, number, draw, context)
                for explanation in source.explainer.explain(shown, drawing):
                    found[explanation.latent].append(
                        Candidate(
                            entry=number, source=source.explainer.name, draw=draw, explanation=explanation
                        )
                    )
        return found

    def _chosen(
        self,
        candidates: Sequence[Candidate],
        shown: LatentRecord,
        fresh: LatentRecord,
        judging: Sequence[Usage],
        context: ExplainContext,
    ) -> Explanation:
        told = [candidate for candidate in candidates if candidate.explanation.text is not None]
        details: dict[str, Any] = {
            "n_candidates": len(candidates),
            "candidates": [candidate.as_details() for candidate in candidates],
            **self.judging_details(shown, fresh, context),
        }
        usage = summed([*(candidate.explanation.usage for candidate in candidates), *judging])
        if not told:
            undetermined = any(c.explanation.status == "undetermined" for c in candidates)
            reasons = dict.fromkeys(f"{c.source}: {c.explanation.reason}" for c in candidates)
            return Explanation(
                latent=shown.latent,
                text=None,
                status="undetermined" if undetermined else "failed",
                reason=f"no candidate; {'; '.join(reasons)}",
                usage=usage,
                details=details,
            )
        scored = [(candidate.score, candidate) for candidate in told if candidate.score is not None]
        if scored:
            best = max(scored, key=lambda pair: pair[0])[1]
        else:
            best = told[0]
            details["unjudged"] = (
                f"no candidate got a number, the first is kept: {best.notes['score_reason']}"
            )
        details["chosen"] = next(i for i, candidate in enumerate(candidates) if candidate is best)
        return replace(best.explanation, usage=usage, details={**details, "own": best.explanation.details})


def _drawing(source: Source, number: int, draw: int, context: ExplainContext) -> ExplainContext:
    """The context of one draw: the model seeded, if its replies are drawn."""
    if context.model is None or not source.sampled:
        return context
    seed = int(context.rng(_DRAW_STREAM, number, draw).integers(2**31))
    return replace(context, model=SeededModel(context.model, seed))

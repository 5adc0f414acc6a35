"""Explainer `contrastive`: what windows with the latent have and windows without it lack.

After `ContrastiveExplainer` in EleutherAI/delphi (Paulo, Mallen, Juang and Belrose, arXiv 2410.13928,
appendix D.5 on counter-examples), with prompts and worked examples of our own.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from autointerp.explainers.asking import WINDOWS_STREAM, ChatConfig, ChatExplainer, Question
from autointerp.explainers.base import ExplainContext, ExplainerConfig, Explanation, explainer
from autointerp.explainers.prompt_files import Shot
from autointerp.explainers.rendering import choose_windows, marked_words, quoted_list, show_windows
from autointerp.sampling.windows import LatentRecord, TokenTable, Window

log = logging.getLogger(__name__)

_SILENT_STREAM = 2
_N_WORDS = 20
"""Most marked words listed once more at the end of the query."""
_KINDS = ("similar", "neighbour", "random")
NO_SILENT = "no silent train windows (sample.n_train_similar, n_train_neighbour and n_train_random make them)"


class ContrastiveConfig(ChatConfig):
    """`[explainers.contrastive]`."""

    n_windows: Annotated[int, Field(ge=1)] = 20
    """Most activating windows shown, evenly over deciles."""
    n_silent: Annotated[int, Field(ge=1)] = 20
    """Most windows shown in which the latent is silent: similar ones first, then those of neighbours,
    then random ones."""
    threshold: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.3
    """A token is marked if its activation is above this share of its window's largest."""
    show_activations: bool = True
    """List the activation of each marked token, 1 to 10."""
    few_shot: bool = False
    """Show worked examples first. Small models may copy their answers."""


@explainer("contrastive")
class ContrastiveExplainer(ChatExplainer):
    """Explains each latent with one request; see the module and `ContrastiveConfig`."""

    name: ClassVar[str]
    Config: ClassVar[type[ExplainerConfig]] = ContrastiveConfig
    version: ClassVar[int] = 3
    uses_windows: ClassVar[bool] = True
    prompt_name = "contrastive"

    def __init__(self, config: ContrastiveConfig) -> None:
        self.config: ContrastiveConfig = config
        self._told = False

    def explain(self, records: Sequence[LatentRecord], context: ExplainContext) -> list[Explanation]:
        """One explanation per latent, in order; says once in the log if all contrast is random."""
        kinds = {window.kind for record in records for window in record.silent}
        if records and not self._told and not kinds & {"similar", "neighbour"}:
            self._told = True
            log.warning(
                "explainer %r: of silent train windows there are %s; sample.n_train_similar and "
                "sample.n_train_neighbour set how many of a closer kind there are",
                self.name,
                "random ones only" if kinds else "none",
            )
        return super().explain(records, context)

    def question(self, record: LatentRecord, context: ExplainContext, every: int) -> Question:
        """Two lists of windows; nothing to ask where one is empty."""
        config, latent = self.config, record.latent
        active = choose_windows(record, config.n_windows, context.rng(latent, WINDOWS_STREAM))[::every]
        silent = choose_silent(record, config.n_silent, context.rng(latent, _SILENT_STREAM))[::every]
        kinds = Counter(window.kind for window in silent)
        details = {"n_windows": len(active), "n_silent": dict(sorted(kinds.items()))}
        if not active:
            return Question(details=details)
        if not silent:
            return Question(reason=NO_SILENT, details=details)
        largest = record.statistics.get("max_activation") or max(w.max_activation for w in active)
        query = self._show(active, silent, context.tokens, float(largest))
        return Question(request=self.ask(query), n_windows=len(active), details=details)

    def show_shot(self, shot: Shot) -> str:
        """Its excerpts with marks, then those without."""
        active = [w for w in shot.windows if w.activating]
        return self._show(active, [w for w in shot.windows if not w.activating], shot.table, 10.0)

    def system(self) -> str:
        """The system message, which tells of activations if they are shown."""
        values = self.prompt.part("activations") if self.config.show_activations else ""
        return self.prompt.part("system", {"activations": values})

    def _show(
        self, active: Sequence[Window], silent: Sequence[Window], table: TokenTable, largest: float
    ) -> str:
        shown = largest if self.config.show_activations else None
        with_it = show_windows(active, table, threshold=self.config.threshold, largest=shown, name="Responds")
        without = show_windows(silent, table, threshold=0.0, largest=None, name="Silent")
        words = [word for word, _ in marked_words(active, table, threshold=self.config.threshold, n=_N_WORDS)]
        values = {"responds": with_it, "silent": without, "words": quoted_list(words)}
        return self.prompt.part("query", values)


def choose_silent(record: LatentRecord, n: int, rng: np.random.Generator) -> list[Window]:
    """At most `n` of the latent's silent windows: similar, then neighbours', then random ones.

    Of each kind they are drawn at random.
    """
    chosen: list[Window] = []
    for kind in _KINDS:
        windows = [w for w in record.silent if w.kind == kind]
        chosen += [windows[int(i)] for i in rng.permutation(len(windows))]
    return chosen[:n]

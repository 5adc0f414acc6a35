"""Rows of `features` of a Neuronpedia export: what a run knows of each latent beside its texts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autointerp.report.exchange.imported import origin_of
from autointerp.report.exchange.sources import Source
from autointerp.run import Run

N_BARS = 40
"""Bars of a histogram of activations or logits."""
_NO_BARS = (np.zeros(0, np.int64), np.zeros(0))
_LATENTS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the dictionary and the subject say of a latent; empty where they say nothing."""

    vector: list[float] = field(default_factory=list)
    """Its decoder direction."""
    logit_heights: list[int] = field(default_factory=list)
    """Tokens of the vocabulary by the logit it gives them."""
    logit_values: list[float] = field(default_factory=list)
    """The middles of these bars."""


NOTHING = Known()


class Opened:
    """A run's dictionary and subject, for vectors and histograms of logits.

    Raises `UserError` where either cannot be opened, as in an import that does not know its dictionary.
    """

    def __init__(self, run: Run) -> None:
        from autointerp.subject.dictionary import open_dictionary
        from autointerp.subject.model import open_subject

        self._dictionary = open_dictionary(run.config.dictionary, run.config.subject)
        self._subject = open_subject(run.config.subject)

    def of(self, latents: Sequence[int]) -> Iterator[Known]:
        """What is known of some latents, in their order."""
        import torch

        from autointerp.subject.logits import centred_logits

        for start in range(0, len(latents), _LATENTS_AT_ONCE):
            some = torch.as_tensor(list(latents[start : start + _LATENTS_AT_ONCE]), dtype=torch.long)
            directions = self._dictionary.decoder_directions(some)
            logits = None
            if self._subject.decoder_writes_to_residual(self._dictionary.hook_point_out):
                logits, defined = centred_logits(self._dictionary, self._subject, some)
            for i in range(len(some)):
                vector = [] if directions is None else [short(x) for x in directions[i].tolist()]
                if logits is None or not defined[i]:
                    yield Known(vector=vector)
                    continue
                heights, edges = np.histogram(logits[i].float().cpu().numpy(), bins=N_BARS)
                yield Known(
                    vector=vector,
                    logit_heights=[int(h) for h in heights],
                    logit_values=[short((a + b) / 2) for a, b in itertools.pairwise(edges)],
                )


def keeps_every_activation(run: Run) -> bool:
    """Whether `activations` holds all there were: not in an import of listed texts, nor with a reservoir."""
    return origin_of(run.root).get("from") != "neuronpedia" and run.config.cache.reservoir is None


def feature_rows(
    run: Run, source: Source, latents: range, acts: Mapping[int, NDArray[np.float32]], opened: Opened | None
) -> Iterator[dict[str, Any]]:
    """Rows of `features`. `acts` are each latent's activations; they are drawn as a histogram where they are
    all it has, and not only the texts that an import listed or a reservoir kept."""
    names = run.tokens.names
    manifest = run.directory.manifest("cache")
    hook = manifest.counts.get("hook_point") if manifest is not None else None
    complete = keeps_every_activation(run)
    rows = run.table("latents", latents=latents).to_pylist()
    more = opened.of([row["latent"] for row in rows]) if opened is not None else [NOTHING] * len(rows)
    for row, known in zip(rows, more, strict=True):
        values = acts[row["latent"]]
        heights, edges = np.histogram(values, bins=N_BARS) if complete and len(values) else _NO_BARS
        logits = {
            sign: [(names[x["token"]], x["logit"]) for x in row[column] or []]
            for sign, column in (("pos", "top_logits"), ("neg", "bottom_logits"))
        }
        neighbours = row["neighbours"] or []
        yield {
            "modelId": source.model,
            "layer": source.source,
            "index": str(row["latent"]),
            "sourceSetName": source.source_set,
            "hookName": hook,
            "maxActApprox": short(row["max_activation"] or 0.0),
            "frac_nonzero": row["density"],
            "hasVector": bool(known.vector),
            "vector": known.vector,
            "vectorDefaultSteerStrength": None,
            **{f"{sign}_str": [text for text, _ in pairs] for sign, pairs in logits.items()},
            **{f"{sign}_values": [short(x) for _, x in pairs] for sign, pairs in logits.items()},
            "freq_hist_data_bar_heights": [int(h) for h in heights],
            "freq_hist_data_bar_values": [short((a + b) / 2) for a, b in itertools.pairwise(edges)],
            "logits_hist_data_bar_heights": known.logit_heights,
            "logits_hist_data_bar_values": known.logit_values,
            "neuron_alignment_indices": [],
            "neuron_alignment_values": [],
            "neuron_alignment_l1": [],
            "correlated_neurons_indices": [],
            "correlated_neurons_pearson": [],
            "correlated_neurons_l1": [],
            "correlated_features_indices": [],
            "correlated_features_pearson": [],
            "correlated_features_l1": [],
            "topkCosSimIndices": [x["latent"] for x in neighbours],
            "topkCosSimValues": [short(x["cosine"]) for x in neighbours],
            "decoder_weights_dist": [],
        }


def short(value: float) -> float:
    """A float32 with as many digits as it needs."""
    return float(f"{value:.7g}")

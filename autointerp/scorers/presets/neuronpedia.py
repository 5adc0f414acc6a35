"""Presets of Neuronpedia's scorers `eleuther_recall` (detection) and `eleuther_fuzz`, beside ours.

Sources: https://github.com/hijohnnylin/neuronpedia, `apps/autointerp/neuronpedia_autointerp/` and
`apps/webapp/lib/external/autointerp-scorer-eleuther.ts`, and the fork of Delphi that they call,
https://github.com/hijohnnylin/sae-auto-interp: at most the 20 strongest windows and 5 without
activation, 5 to a prompt. The structure of the prompts is the fork's, the words are ours.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from autointerp.sampling.windows import LatentRecord, Window
from autointerp.scorers.base import ScorerConfig, scorer
from autointerp.scorers.presets.lists import FuzzPreset, FuzzPresetConfig, ListPreset, ListPresetConfig
from autointerp.scorers.presets.marks import neuronpedia_false_marks
from autointerp.scorers.presets.numbers import Counts, neuronpedia_balanced_accuracy
from autointerp.scorers.presets.replies import neuronpedia_prediction


class NeuronpediaDetectionConfig(ListPresetConfig):
    """Options of the scorer `neuronpedia-detection`. The defaults are the published numbers."""

    n_activating: Annotated[int, Field(ge=1)] = 20
    """At most this many activating windows, the strongest."""
    n_random: Annotated[int, Field(ge=1)] = 5
    """At most this many windows of kind `random`."""


class NeuronpediaFuzzConfig(FuzzPresetConfig):
    """Options of the scorer `neuronpedia-fuzz`. The defaults are the published numbers."""

    n_activating: Annotated[int, Field(ge=1)] = 20
    """At most this many activating windows, the strongest."""
    n_random: Annotated[int, Field(ge=1)] = 5
    """At most this many windows of kind `random`."""


class _Neuronpedia(ListPreset):
    preset: ClassVar[str] = "neuronpedia"
    published: ClassVar[tuple[int, int]] = (20, 5)

    def positives(self, record: LatentRecord) -> list[Window]:
        """The strongest windows."""
        return record.activating[: self.config.n_activating]

    def peer_prediction(self, value: Any, label: bool) -> bool | None:
        """Right if it equals the label, else wrong; -1 is dropped."""
        return neuronpedia_prediction(value, label)

    def peer_number(self, counts: Counts) -> float | None:
        """Neuronpedia's balanced accuracy: 0 without negatives, half the specificity without positives."""
        return neuronpedia_balanced_accuracy(counts)


@scorer("neuronpedia-detection")
class NeuronpediaDetection(_Neuronpedia):
    """Neuronpedia's `eleuther_recall`: `peer_value` its score, `value` the balanced accuracy of what could be read."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = NeuronpediaDetectionConfig
    version: ClassVar[int] = 1
    prompt: ClassVar[str] = "preset_detection"
    peer_metric: ClassVar[str] = "eleuther_recall"

    def __init__(self, config: NeuronpediaDetectionConfig) -> None:
        self.config = config


@scorer("neuronpedia-fuzz")
class NeuronpediaFuzz(_Neuronpedia, FuzzPreset):
    """Neuronpedia's `eleuther_fuzz`: `peer_value` its score, `value` the balanced accuracy with marks that tell nothing."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = NeuronpediaFuzzConfig
    version: ClassVar[int] = 1
    prompt: ClassVar[str] = "preset_fuzz"
    peer_metric: ClassVar[str] = "eleuther_fuzz"

    def __init__(self, config: NeuronpediaFuzzConfig) -> None:
        self.config: NeuronpediaFuzzConfig = config

    def false_marks(self, window: Window, n_marks: int) -> np.ndarray:
        """Places by one seed: the same in every silent window of one length."""
        return neuronpedia_false_marks(window, n_marks)

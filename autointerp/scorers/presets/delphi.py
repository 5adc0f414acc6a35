"""Preset `delphi`: the numbers EleutherAI's Delphi would give, beside ours.

Source: https://github.com/EleutherAI/delphi at commit 3c2e139, `delphi/scorers/classifier/` and
`delphi/log/result_analysis.py`, with the defaults of its command line: 50 activating windows drawn
evenly over 10 quantiles, 50 random ones, 5 to a prompt, temperature 0. The structure of the prompts is
Delphi's, the words and worked examples are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from autointerp.sampling.windows import LatentRecord, Window
from autointerp.scorers.base import ScorerConfig, scorer
from autointerp.scorers.presets.lists import FuzzPreset, FuzzPresetConfig, ListPreset, ListPresetConfig
from autointerp.scorers.presets.marks import delphi_false_marks
from autointerp.scorers.presets.numbers import Counts, delphi_metrics
from autointerp.scorers.presets.replies import delphi_prediction
from autointerp.scorers.selection import spread


class _Delphi(ListPreset):
    preset: ClassVar[str] = "delphi"
    peer_metric: ClassVar[str] = "accuracy"
    published: ClassVar[tuple[int, int]] = (50, 50)

    def positives(self, record: LatentRecord) -> list[Window]:
        """Activating windows of all strengths alike."""
        return spread(record.activating, self.config.n_activating)

    def peer_prediction(self, value: Any, label: bool) -> bool | None:
        """Its truth in Python; null is dropped."""
        return delphi_prediction(value, label)

    def peer_number(self, counts: Counts) -> float | None:
        """Delphi's `accuracy`: (tp / positives + tn / negatives) / 2 over what was decided, 0 / 0 being 0."""
        return delphi_metrics(counts)["accuracy"]


@scorer("delphi-detection")
class DelphiDetection(_Delphi):
    """Delphi's detection: `peer_value` its accuracy, `value` the balanced accuracy of what could be read."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = ListPresetConfig
    version: ClassVar[int] = 1
    prompt: ClassVar[str] = "preset_detection"

    def __init__(self, config: ListPresetConfig) -> None:
        self.config = config


@scorer("delphi-fuzz")
class DelphiFuzz(_Delphi, FuzzPreset):
    """Delphi's fuzzing: `peer_value` its accuracy, `value` the balanced accuracy with marks that tell nothing."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = FuzzPresetConfig
    version: ClassVar[int] = 1
    prompt: ClassVar[str] = "preset_fuzz"

    def __init__(self, config: FuzzPresetConfig) -> None:
        self.config: FuzzPresetConfig = config

    def false_marks(self, window: Window, n_marks: int) -> np.ndarray:
        """The same places in every window of one length."""
        return delphi_false_marks(window, n_marks)

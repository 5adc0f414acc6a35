"""The numbers published tools compute from their judges' answers, and what the presets keep of them.

Every formula is restated from its source, with what it does where it is undefined. Beside each
stands ours (`metrics.py`), which is null there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from autointerp.llm.types import Usage
from autointerp.scorers.asking import classified
from autointerp.scorers.base import Item, Judged, Judgement


@dataclass(frozen=True, kw_only=True)
class PeerJudgement(Judgement):
    """A judgement with what the published tool makes of the same reply."""

    peer_label: bool | None = None
    """The truth as the tool has it."""
    peer_prediction: bool | None = None
    """The decision as the tool reads it; None if the tool drops the item."""
    for_peer: bool = True
    """Whether it enters the tool's number."""
    for_us: bool = True
    """Whether it enters ours, and becomes a row of `judgements`."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Items by truth and decision as a published tool counts them; kept in `details` under `peer`."""

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0
    n_dropped: int = 0
    """Items the tool leaves out of its number."""

    @property
    def n_decided(self) -> int:
        """Items that enter the number."""
        return self.tp + self.fp + self.tn + self.fn

    @classmethod
    def of(cls, judgements: Sequence[PeerJudgement]) -> Counts:
        """Counts of the judgements that enter the tool's number."""
        pairs = [(j.peer_label, j.peer_prediction) for j in judgements if j.for_peer]
        return cls(
            tp=pairs.count((True, True)),
            fp=pairs.count((False, True)),
            tn=pairs.count((False, False)),
            fn=pairs.count((True, False)),
            n_dropped=sum(prediction is None for _, prediction in pairs),
        )

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> Counts:
        """The counts a preset wrote into the column `details` of `scores`."""
        return cls(**{name: details["peer"][name] for name in cls.__dataclass_fields__})


def pooled(counts: Iterable[Counts]) -> Counts:
    """Counts of all latents together, as Delphi sums up a run: the sum of each."""
    total = Counts()
    for one in counts:
        total = Counts(**{name: value + getattr(one, name) for name, value in asdict(total).items()})
    return total


def delphi_metrics(counts: Counts) -> dict[str, float]:
    """Delphi's `accuracy` (a balanced accuracy), `precision`, `recall` and `f1_score`.

    `compute_classification_metrics` in `delphi/log/result_analysis.py`: accuracy =
    (tp / positives + tn / negatives) / 2, over the items that were decided. Each 0 / 0 is 0.
    Delphi reports it of all latents pooled (`pooled`).
    """
    recall = _or_zero(counts.tp, counts.tp + counts.fn)
    specificity = _or_zero(counts.tn, counts.tn + counts.fp)
    precision = _or_zero(counts.tp, counts.tp + counts.fp)
    return {
        "accuracy": (recall + specificity) / 2,
        "precision": precision,
        "recall": recall,
        "f1_score": _or_zero(2 * precision * recall, precision + recall),
    }


def neuronpedia_balanced_accuracy(counts: Counts) -> float | None:
    """Neuronpedia's score of `eleuther_recall` and `eleuther_fuzz`; None (an error there) if nothing was decided.

    `calculate_balanced_accuracy` in `apps/autointerp/neuronpedia_autointerp/utils.py`: the mean of
    recall and specificity; a recall over no positives is 0, and without negatives the score is 0.
    """
    if counts.n_decided == 0:
        return None
    if counts.tn + counts.fp == 0:
        return 0.0
    return (_or_zero(counts.tp, counts.tp + counts.fn) + counts.tn / (counts.tn + counts.fp)) / 2


def plain_accuracy(counts: Counts) -> float | None:
    """Share of right decisions, as SAEBench (`score_predictions`) and Neuronpedia's `recall_alt` have it."""
    return (counts.tp + counts.tn) / counts.n_decided if counts.n_decided else None


def side_by_side(
    item: Item,
    judgements: Sequence[Judgement],
    metric: str,
    usage: Usage,
    details: Mapping[str, Any],
    *,
    peer_metric: str,
    peer_number: Callable[[Counts], float | None],
    as_published: bool,
) -> Judged:
    """Our number and the published tool's, from the same replies.

    `judgements` are `PeerJudgement`s. `details` gets `peer`: the tool's counts, whether the windows had
    the published numbers (`as_published`), and the requests whose answers are in no row of ours.
    """
    peers = [j for j in judgements if isinstance(j, PeerJudgement)]
    assert len(peers) == len(judgements)
    counts = Counts.of(peers)
    n_judged = counts.n_decided + counts.n_dropped
    peer: dict[str, Any] = {**asdict(counts), "as_published": as_published and n_judged > 0}
    apart = dict.fromkeys(j.request for j in peers if not j.for_us)
    if apart:
        peer["requests"] = list(apart)
    judged = classified(item, [j for j in peers if j.for_us], metric, usage, {**details, "peer": peer})
    value = peer_number(counts) if n_judged else None
    return replace(judged, score={**judged.score, "peer_metric": peer_metric, "peer_value": value})


def _or_zero(part: float, whole: float) -> float:
    return part / whole if whole else 0.0

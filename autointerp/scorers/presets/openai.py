"""OpenAI's simulation score as their code gives it, beside the same judgements read our way.

`simulate_and_score` and `scoring.py` of automated-interpretability, with the numbers of its
demonstration: the 5 strongest and 5 random records of 64 tokens, the random ones drawn without looking
at their activations, uncalibrated, 15 alternatives. `peer_value` is their preferred score
`ev_correlation` = corrcoef(true, simulated) over the tokens of all records, with 0 at a slot that shows
no number and zeros for a reply that cannot be read. `value` leaves those tokens out, and is null
where too few are left. `pipelines/preset-openai.toml` sets the sampling to match.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from autointerp.llm.types import Capability
from autointerp.scorers.base import Item, JudgeContext, Judged, ScorerConfig, scorer
from autointerp.scorers.metrics import linear_calibration, pearson
from autointerp.scorers.simulation import Simulation, SimulationConfig
from autointerp.scorers.simulation_scores import all_slots, openai_scores
from autointerp.scorers.simulation_windows import Chosen
from autointerp.scorers.simulator import Style

PEER_METRIC = "ev_correlation"


class OpenAIPresetConfig(ScorerConfig):
    """Options of the scorer `openai`; what is fixed by the published code is not among them."""

    readout: Literal["prompt_logprobs", "token_by_token", "json"] = "prompt_logprobs"
    """`ExplanationNeuronSimulator`, `ExplanationTokenByTokenSimulator` or `LogprobFreeExplanationTokenSimulator`."""
    style: Style = "completion"
    """As in `simulation`; OpenAI's judges completed text."""
    n_windows: Annotated[int, Field(ge=1)] = 5
    """Strongest windows, and as many random ones."""
    scale: Literal["auto", 9, 10] = "auto"
    """As in `simulation`; OpenAI's judges said 0 to 10."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """As in `simulation`."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.5
    """As in `simulation`; bears on `value`, never on `peer_value`."""


@scorer("openai")
class OpenAIPreset:
    """The published score in `peer_value`, the corrected one in `value`."""

    name: ClassVar[str]
    Config: ClassVar[type[ScorerConfig]] = OpenAIPresetConfig
    version: ClassVar[int] = 1

    def __init__(self, config: OpenAIPresetConfig) -> None:
        self.simulation = Simulation(
            SimulationConfig(
                readout=config.readout,
                style=config.style,
                n_windows=config.n_windows,
                selection="top_and_random",
                random_kind="unread",
                scale=config.scale,
                n_alternatives=15,
                max_tokens=config.max_tokens,
                min_coverage=config.min_coverage,
            )
        )

    def requires(self) -> frozenset[Capability]:
        """What the readout needs."""
        return self.simulation.requires()

    def prompts(self) -> Mapping[str, str]:
        """The prompt file of the readout."""
        return self.simulation.prompts()

    def judge(self, items: Sequence[Item], context: JudgeContext) -> list[Judged]:
        """Simulate the windows of every item and score them both ways."""
        return [_with_peer(judged, chosen) for judged, chosen in self.simulation.simulate(items, context)]


def _with_peer(judged: Judged, chosen: Chosen) -> Judged:
    peer = published_scores(judged, chosen)
    score = {**judged.score, "peer_metric": PEER_METRIC, "peer_value": peer[PEER_METRIC]}
    return replace(judged, score=score, details={**judged.details, "peer": peer})


def published_scores(judged: Judged, chosen: Chosen) -> dict[str, Any]:
    """OpenAI's three scores by their own rule, null where they are undefined or a request failed.

    `ev_correlation_calibrated_on_itself` is what a line fitted on the very tokens that are scored
    makes of the correlation: its absolute value.
    """
    names = (PEER_METRIC, "rsquared", "absolute_dev_explained", "ev_correlation_calibrated_on_itself")
    simulated = all_slots(chosen.scored, judged.judgements)
    if simulated is None:
        return dict.fromkeys(names)
    true, predicted = simulated.pooled
    line = linear_calibration(predicted, true)
    on_itself = pearson(true, line[0] * predicted + line[1]) if line else None
    return {**openai_scores(true, predicted), "ev_correlation_calibrated_on_itself": on_itself}

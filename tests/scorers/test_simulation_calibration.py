"""Which windows simulation is scored and calibrated on, and OpenAI's calibrated scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autointerp.llm.types import Reply, Request
from autointerp.sampling.windows import LatentRecord, Window
from autointerp.scorers.base import Item, Judged
from autointerp.scorers.metrics import (
    absolute_dev_explained,
    linear_calibration,
    percentile_calibration,
    rsquared,
)
from autointerp.scorers.simulation import Simulation, SimulationConfig
from autointerp.scorers.simulation_scores import Simulated, calibrated
from autointerp.scorers.simulation_windows import choose, halves
from tests.scorers import fakes, simulators

CONTEXT = fakes.context(fakes.Judge(fakes.simulator()))


def published_line(fit_p: np.ndarray, fit_r: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Ordinary least squares of true on simulated, as scikit-learn's `LinearRegression`."""
    design = np.stack([fit_p, np.ones_like(fit_p)], axis=1)
    (slope, intercept), *_ = np.linalg.lstsq(design, fit_r, rcond=None)
    return slope * p + intercept


def published_percentiles(fit_p: np.ndarray, fit_r: np.ndarray, p: np.ndarray) -> np.ndarray:
    return np.interp(p, sorted(fit_p), sorted(fit_r))


@pytest.mark.parametrize(
    ("method", "published"), [("linear", published_line), ("percentile", published_percentiles)]
)
def test_calibrated_scores_are_the_published_ones(
    method: str, published: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
) -> None:
    rng = np.random.default_rng(5)
    fit_r, r = rng.gamma(0.5, 3.0, size=(2, 60)) * (rng.random((2, 60)) < 0.4)
    fit_p, p = (np.clip(x + rng.normal(0, 2, 60), 0, 10).round(1) for x in (fit_r, r))
    out = calibrated(
        method,  # type: ignore[arg-type]
        Simulated(true=[fit_r[:20], fit_r[20:]], predicted=[fit_p[:20], fit_p[20:]], n_slots=60),
        Simulated(true=[r[:30], r[30:]], predicted=[p[:30], p[30:]], n_slots=60),
    )
    assert out is not None
    s = published(fit_p, fit_r, p)
    assert out["ev_correlation"] == pytest.approx(np.corrcoef(r, s)[0, 1], abs=1e-6)
    assert out["rsquared"] == pytest.approx(1 - np.mean((r - s) ** 2) / np.mean(r**2), abs=1e-6)
    assert out["absolute_dev_explained"] == pytest.approx(
        1 - np.mean(np.abs(r - s)) / np.mean(np.abs(r)), abs=1e-6
    )
    assert (out["n_windows"], out["n_tokens"]) == (2, 60)


def test_a_line_fitted_on_the_scored_tokens_hides_the_sign() -> None:
    rng = np.random.default_rng(0)
    r = rng.random(50)
    p = 5 - 3 * r + rng.normal(0, 0.5, 50)
    tokens = Simulated(true=[r], predicted=[p], n_slots=50)
    out = calibrated("linear", tokens, tokens)
    assert out is not None
    assert np.corrcoef(r, p)[0, 1] < -0.5
    assert out["slope"] < 0
    assert out["ev_correlation"] == pytest.approx(-np.corrcoef(r, p)[0, 1])


def test_nothing_to_fit_is_null_with_a_reason() -> None:
    r, p = np.arange(4.0), np.arange(4.0)
    scored = Simulated(true=[r], predicted=[p], n_slots=4)
    for method, fit in (
        ("linear", Simulated(true=[r], predicted=[np.ones(4)], n_slots=4)),
        ("linear", Simulated(true=[], predicted=[], n_slots=4)),
        ("percentile", Simulated(true=[], predicted=[], n_slots=4)),
    ):
        out = calibrated(method, fit, scored)  # type: ignore[arg-type]
        assert out is not None
        assert out["ev_correlation"] is None
        assert out["rsquared"] is None
        assert out["reason"]
    assert calibrated("none", scored, scored) is None
    assert linear_calibration(np.array([2.0]), np.array([1.0])) is None
    assert percentile_calibration(p, np.empty(0), np.empty(0)) is None
    assert rsquared(np.zeros(3), p[:3]) is None
    assert absolute_dev_explained(np.zeros(3), p[:3]) is None
    assert absolute_dev_explained(np.empty(0), np.empty(0)) is None


def judge_one(record: LatentRecord, **options: object) -> tuple[Judged, fakes.Judge]:
    judge = fakes.Judge(fakes.simulator())
    item = Item(explanation="x", text=fakes.EXPLANATION, record=record)
    (judged,) = Simulation(SimulationConfig(**options)).judge([item], fakes.context(judge))  # type: ignore[arg-type]
    return judged, judge


@pytest.mark.parametrize("calibration", ["linear", "percentile"])
@pytest.mark.parametrize("selection", ["top_and_random", "quantile"])
def test_calibration_windows_are_judged_but_never_scored(calibration: str, selection: str) -> None:
    record = fakes.record()
    judged, judge = judge_one(record, calibration=calibration, selection=selection, n_windows=4)
    by_example = {w.example: w for w in record.windows}
    apart = set(judged.details["calibration_examples"])
    scored = [j for j in judged.judgements if j.example not in apart]
    assert len(judge.requests) == judged.score["n_examples"] == 16
    assert len(apart) == len(scored) == 8
    assert judged.details["calibration"]["n_tokens"] == judged.score["n_tokens"] == 8 * 12
    true = np.concatenate([by_example[j.example].activations for j in scored])
    simulated = np.concatenate([np.array(j.predicted_activations, dtype=float) for j in scored])
    assert judged.score["value"] == pytest.approx(np.corrcoef(true, simulated)[0, 1], abs=1e-6)
    fit = [j for j in judged.judgements if j.example in apart]
    fit_r = np.concatenate([by_example[j.example].activations for j in fit])
    fit_p = np.concatenate([np.array(j.predicted_activations, dtype=float) for j in fit])
    published = published_line if calibration == "linear" else published_percentiles
    s = published(fit_p, fit_r, simulated)
    assert judged.details["calibration"]["rsquared"] == pytest.approx(
        1 - np.mean((true - s) ** 2) / np.mean(true**2), abs=1e-6
    )


def test_neither_half_has_all_the_stronger_windows() -> None:
    windows = fakes.record(n=40).activating
    first, second = halves(windows, 3, CONTEXT)
    stronger = [a in first for a, _ in zip(windows[::2], windows[1::2], strict=True)]
    assert len(first) == len(second) == 20
    assert 4 < sum(stronger) < 16
    assert halves(windows, 4, CONTEXT) != (first, second)


_WINDOWS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(["activating", "random", "unread"]), st.floats(0.125, 10)),
    max_size=40,
)


def _records(rows: list[tuple[int, str, float]]) -> LatentRecord:
    windows = [
        replace(
            fakes.window(i, ["the", "cat"], kind, [0.0, 0.0 if kind == "random" else activation]),
            context=context,
        )
        for i, (context, kind, activation) in enumerate(rows)
    ]
    return LatentRecord(latent=7, statistics={}, windows=tuple(windows))


@given(_WINDOWS)
def test_halves_share_no_context_and_are_alike(rows: list[tuple[int, str, float]]) -> None:
    windows = list(_records(rows).windows)
    first, second = halves(windows, 7, CONTEXT)
    assert sorted(w.example for w in (*first, *second)) == [w.example for w in windows]
    assert not {w.context for w in first} & {w.context for w in second}
    active = {w.context for w in windows if w.activating}
    for group in (active, {w.context for w in windows} - active):
        n_first = len({w.context for w in first} & group)
        n_second = len({w.context for w in second} & group)
        assert 0 <= n_first - n_second <= 1
    assert halves(windows, 7, CONTEXT) == (first, second)


@given(
    _WINDOWS,
    st.sampled_from(["top_and_random", "random_only", "quantile"]),
    st.integers(1, 6),
    st.sampled_from(["random", "unread"]),
    st.booleans(),
)
def test_selections(
    rows: list[tuple[int, str, float]], selection: str, n: int, random_kind: str, calibrate: bool
) -> None:
    record = _records(rows)
    chosen = choose(record, selection, n, random_kind, calibrate, CONTEXT)  # type: ignore[arg-type]
    assert bool(chosen.scored) == (chosen.reason is None)
    assert bool(chosen.calibration) == (calibrate and bool(chosen.scored))
    assert len({w.example for w in chosen.shown}) == len(chosen.shown)
    assert not {w.context for w in chosen.scored} & {w.context for w in chosen.calibration}
    for side in (chosen.scored, chosen.calibration):
        active = [w for w in side if w.activating]
        others = [w for w in side if not w.activating]
        if selection == "random_only":
            assert not active
            assert {w.kind for w in others} <= {"unread"}
            assert len(others) <= n
        else:
            assert len(active) == len(others) <= n
            assert {w.kind for w in others} <= {random_kind}
    if selection == "top_and_random" and not calibrate:
        top = sorted(record.activating, key=lambda w: -w.max_activation)[: len(chosen.scored) // 2]
        assert {w.max_activation for w in chosen.scored if w.activating} == {w.max_activation for w in top}


def test_windows_drawn_without_looking() -> None:
    record = fakes.record()
    judged, judge = judge_one(record, selection="random_only")
    assert judged.score["status"] == "failed"
    assert "sample.n_test_unread" in judged.score["reason"]
    assert judge.requests == []
    judged, _ = judge_one(record, random_kind="unread")
    assert "sample.n_test_unread" in judged.score["reason"]
    unread = tuple(
        fakes.window(
            100 + i, [fakes.FILLER[i], "cat" if i < 2 else "dog", "of"], "unread", [0, 2.0 * (i < 2), 0]
        )
        for i in range(6)
    )
    record = replace(record, windows=record.windows + unread)
    judged, judge = judge_one(record, selection="random_only", n_windows=20)
    assert (judged.details["split"], judged.details["n_activating"]) == ("random_only", 0)
    assert {j.kind for j in judged.judgements} == {"unread"}
    assert judged.score["n_examples"] == len(judge.requests) == 6
    true = np.array([[0, 2.0 * (i < 2), 0] for i in range(6)]).ravel()
    simulated = np.array([[0.1 / 0.8, 7 / 0.8, 0.1 / 0.8]] * 6).ravel()
    assert judged.score["value"] == pytest.approx(np.corrcoef(true, simulated)[0, 1], abs=1e-6)
    quiet = replace(record, windows=tuple(w for w in unread if w.max_activation == 0))
    judged, _ = judge_one(quiet, selection="random_only")
    assert judged.score["value"] is None
    assert judged.score["reason"] == "true or simulated activations are constant"


def test_quantile_reaches_the_weakest() -> None:
    record = fakes.record()
    strength = {
        selection: min(
            w.max_activation
            for w in choose(record, selection, 5, "random", False, CONTEXT).scored
            if w.activating
        )
        for selection in ("top_and_random", "quantile")
    }
    weakest: Window = record.activating[-1]
    assert strength["quantile"] == weakest.max_activation < strength["top_and_random"]


def test_too_few_contexts_to_set_half_apart() -> None:
    record = fakes.record(n=1)
    judged, judge = judge_one(record, calibration="linear")
    assert judged.score["status"] == "failed"
    assert "calibration" in judged.score["reason"]
    assert judge.requests == []


def test_an_unreadable_calibration_leaves_the_headline() -> None:
    record = fakes.record()
    apart: set[str] = set()

    def answer(request: Request) -> Reply:
        return Reply(text="no idea") if request.key("") in apart else simulators.by_json(request)

    judge = fakes.Judge(answer)
    item = Item(explanation="x", text=fakes.EXPLANATION, record=record)
    scorer = Simulation(SimulationConfig(readout="json", calibration="percentile", n_windows=3))
    (judged,) = scorer.judge([item], fakes.context(judge))
    assert judged.details["calibration"]["ev_correlation"] > 0.9
    chosen = scorer._windows(item, fakes.context(judge))
    apart |= {r.key("") for r in judge.requests[len(chosen.scored) :]}
    (again,) = scorer.judge([item], fakes.context(judge))
    assert again.score["value"] == judged.score["value"]
    assert again.score["n_unparsed"] == 6
    assert again.details["calibration"]["ev_correlation"] is None
    assert again.details["calibration"]["reason"]

"""Intervals whose width was set on other sources than those they are judged on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.accuracy.serving.intervals import coverage_left_out
from planner.accuracy.serving.predict import RunPrediction
from planner.accuracy.serving.run import score_serving
from planner.accuracy.serving.score import ScoredRun, compared
from planner.cli._accuracy_serving import find_group, find_model

RUNS = Path(__file__).parents[1] / "data" / "serving" / "runs.csv"


def runs(factors: list[float], kernel_sigma: float = 0.0) -> list[ScoredRun]:
    """Return runs whose predictions are off by these factors."""
    scored = score_serving(RUNS, find_model, find_group)
    base = next(run for run in scored if run.prediction is not None and compared(run, "tpot") is not None)
    pair = compared(base, "tpot")
    assert pair is not None
    return [
        replace(
            base, prediction=RunPrediction(values={"tpot": pair[1] * f}, sigma={}, kernel_sigma=kernel_sigma)
        )
        for f in factors
    ]


def test_a_width_from_a_better_source_covers_less_and_from_a_worse_one_all() -> None:
    close, far = runs([1.01 + 0.001 * i for i in range(40)]), runs([1.2 + 0.01 * i for i in range(40)])
    assert coverage_left_out(close, far, "tpot") == 100.0
    assert coverage_left_out(far, close, "tpot") == 0.0
    assert coverage_left_out(far, far, "tpot") == pytest.approx(90.0, abs=2.6)


def test_what_kernels_explain_is_not_asked_of_the_width() -> None:
    far, sure = runs([1.3] * 40, kernel_sigma=0.5), runs([1.01] * 40)
    assert coverage_left_out(far, sure, "tpot") == 100.0


def test_a_mode_of_one_source_has_no_such_figure() -> None:
    assert coverage_left_out(runs([1.1]), [], "tpot") is None
    assert coverage_left_out(runs([1.1]), runs([1.1] * 5), "tpot") is None

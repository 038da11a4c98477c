"""Tuning moves constants as far as runs demand, and no farther."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from cost_models.calibration.solver import Constant
from cost_models.calibration.tuning import MAX_CONSTANTS, tune
from cost_models.cost import FloatArray

WORK = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
SPEC = {
    "step_s": Constant(start=1e-3, low=1e-5, high=1e-1),
    "slowdown": Constant(start=1.0, low=0.5, high=3.0, spread=0.3),
}


def predict(constants: Mapping[str, float]) -> FloatArray:
    return constants["step_s"] + constants["slowdown"] * WORK * 1e-3


def test_runs_that_disagree_with_the_profile_move_it() -> None:
    truth = {"step_s": 4e-3, "slowdown": 1.4}
    found = tune(SPEC, predict, predict(truth))
    assert found.constants["slowdown"] == pytest.approx(1.4, rel=0.05)
    assert found.constants["step_s"] == pytest.approx(4e-3, rel=0.1)
    assert found.error_before > 30.0
    assert found.error_after < 2.0
    assert found.error_left_out is not None
    assert found.error_left_out < 5.0


def test_runs_that_agree_leave_it_alone() -> None:
    found = tune(SPEC, predict, predict({name: c.start for name, c in SPEC.items()}))
    assert found.constants == pytest.approx({name: c.start for name, c in SPEC.items()}, rel=1e-3)


def test_scatter_that_constants_cannot_explain_moves_nothing() -> None:
    start = {name: c.start for name, c in SPEC.items()}
    scatter = np.array([1.06, 0.95, 1.05, 0.94, 1.01])
    found = tune(SPEC, predict, predict(start) * scatter)
    assert found.constants == start
    assert found.error_after == found.error_before
    assert found.error_left_out == pytest.approx(found.error_before)


def test_many_runs_are_left_out_in_a_few_folds() -> None:
    work = np.linspace(1.0, 30.0, 24)
    calls = 0

    def count(constants: Mapping[str, float]) -> FloatArray:
        nonlocal calls
        calls += 1
        return constants["slowdown"] * work

    spec = {"slowdown": SPEC["slowdown"]}
    found = tune(spec, count, 1.5 * work)
    assert found.constants["slowdown"] == pytest.approx(1.5, rel=0.02)
    assert calls < 24 * 20


def test_one_run_is_a_compromise() -> None:
    measured = np.array([2.0 * predict({"step_s": 1e-3, "slowdown": 1.0})[0]])
    found = tune(SPEC, lambda c: predict(c)[:1], measured)
    assert found.error_left_out is None
    assert found.error_after < 10.0
    assert found.constants["slowdown"] < 1.6


def test_too_many_constants_are_refused() -> None:
    many = {f"c{i}": Constant(start=1.0, low=0.1, high=10.0) for i in range(MAX_CONSTANTS + 1)}
    with pytest.raises(ValueError, match="at most"):
        tune(many, lambda c: np.array([sum(c.values())]), np.ones(1))

"""Robust least squares on the log of predicted over measured time, with numpy alone.

Constants are positive and fitted in log space; a weak pull towards the starting values keeps
constants that the data do not determine where they were.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray

Constants = dict[str, float]
Predict = Callable[[Mapping[str, float]], FloatArray]

_ROBUST_SCALE = 0.1
_STEP = 1e-4
_MAX_LOG_STEP = 1.0
_CLIP = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """One constant of a form: where it starts, its range, and how far data usually move it (in log).

    `own` constants describe one engine's kernel (a size from which it behaves otherwise); a curve that
    several engines or devices share leaves them out.
    """

    start: float
    low: float
    high: float
    spread: float = 1.0
    own: bool = False


def fit(
    spec: Mapping[str, Constant], predict: Predict, measured_s: FloatArray, *, max_steps: int = 60
) -> Constants:
    """Return the constants that minimise the robust log error of `predict`.

    Levenberg-Marquardt on iteratively reweighted residuals (soft L1), bounds by projection; it starts
    from the spec's values and is deterministic.

    Raises
    ------
    ValueError
        If there are no measurements.
    """
    if measured_s.size == 0:
        raise ValueError("nothing to fit: no measured rows")
    names = tuple(spec)
    start, low, high = (np.log([getattr(spec[n], key) for n in names]) for key in ("start", "low", "high"))
    pull = 1.0 / np.array([spec[n].spread for n in names])
    target = np.log(measured_s)

    def residuals(theta: FloatArray) -> FloatArray:
        predicted = predict(dict(zip(names, np.exp(theta).tolist(), strict=True)))
        return np.clip(np.log(np.maximum(predicted, 1e-30)) - target, -_CLIP, _CLIP)

    def objective(theta: FloatArray, r: FloatArray) -> float:
        robust = 2.0 * (np.sqrt(1.0 + (r / _ROBUST_SCALE) ** 2) - 1.0)
        return float(robust.sum() + (((theta - start) * pull) ** 2).sum())

    theta: FloatArray = start.copy()
    r = residuals(theta)
    value, damping = objective(theta, r), 1e-2
    for _ in range(max_steps):
        jacobian = _jacobian(residuals, theta, r)
        weight = 1.0 / np.sqrt(1.0 + (r / _ROBUST_SCALE) ** 2) / _ROBUST_SCALE**2
        gram = (jacobian.T * weight) @ jacobian + np.diag(pull**2)
        slope = jacobian.T @ (weight * r) + pull**2 * (theta - start)
        improved = False
        while damping < 1e8:
            step = np.linalg.solve(gram + damping * np.diag(np.diag(gram) + 1e-9), -slope)
            bounded = np.clip(step, -_MAX_LOG_STEP, _MAX_LOG_STEP)
            trial: FloatArray = np.asarray(np.clip(theta + bounded, low, high), dtype=np.float64)
            trial_r = residuals(trial)
            trial_value = objective(trial, trial_r)
            if trial_value < value:
                improved = value - trial_value > 1e-6 * value
                theta, r, value, damping = trial, trial_r, trial_value, max(damping / 5.0, 1e-6)
                break
            damping *= 4.0
        if not improved:
            break
    return {name: float(x) for name, x in zip(names, np.exp(theta), strict=True)}


def _jacobian(
    residuals: Callable[[FloatArray], FloatArray], theta: FloatArray, base: FloatArray
) -> FloatArray:
    columns: list[FloatArray] = []
    for index in range(theta.size):
        moved = theta.copy()
        moved[index] += _STEP
        columns.append((residuals(moved) - base) / _STEP)
    return np.stack(columns, axis=1)

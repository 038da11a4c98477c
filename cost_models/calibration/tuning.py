"""Few constants from few runs: a shipped profile moved only as far as a user's own runs demand.

The pull towards the shipped values is that of `solver.fit`: a constant that is known to a factor of
exp(spread) stays there unless several runs of ten percent error say otherwise. The error that matters is
that of runs left out, so each is predicted by a fit to the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cost_models.calibration.solver import Constant, Constants, Predict, fit
from cost_models.cost import FloatArray

MAX_CONSTANTS = 5
"""Constants that a handful of runs may move."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Tuned constants, and mean absolute errors in percent.

    `error_before` is that of the shipped constants, `error_after` of the tuned ones on the same runs, and
    `error_left_out` of each run predicted by a fit to the others (None with a single run).
    """

    constants: Constants
    error_before: float
    error_after: float
    error_left_out: float | None


def tune(spec: Mapping[str, Constant], predict: Predict, measured: FloatArray) -> Tuned:
    """Return constants tuned to measured values (times or rates, positive).

    Parameters
    ----------
    spec
        At most five constants: where each starts, its range, and how far it is known (in log).
    predict
        From constants by name to one prediction per measured value.
    measured
        Measured values, in the unit of the predictions.

    Raises
    ------
    ValueError
        If there is nothing measured or there are more than five constants.
    """
    if len(spec) > MAX_CONSTANTS:
        raise ValueError(f"at most {MAX_CONSTANTS} constants can be tuned, not {len(spec)}")
    start = {name: constant.start for name, constant in spec.items()}
    found = fit(spec, predict, measured)
    left_out: float | None = None
    if measured.size > 1:
        missed = [_left_out(spec, predict, measured, index) for index in range(measured.size)]
        left_out = float(np.mean(missed))
    return Tuned(
        constants=found,
        error_before=_error(predict(start), measured),
        error_after=_error(predict(found), measured),
        error_left_out=left_out,
    )


def _left_out(spec: Mapping[str, Constant], predict: Predict, measured: FloatArray, index: int) -> float:
    def others(constants: Mapping[str, float]) -> FloatArray:
        return np.delete(predict(constants), index)

    found = fit(spec, others, np.delete(measured, index))
    return _error(predict(found)[index : index + 1], measured[index : index + 1])


def _error(predicted: FloatArray, measured: FloatArray) -> float:
    return float(np.abs(predicted / measured - 1.0).mean() * 100.0)

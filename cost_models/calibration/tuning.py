"""Few constants from few runs: a shipped profile moved only as far as a user's own runs demand.

The pull towards the shipped values is that of `solver.fit`: a constant that is known to a factor of
exp(spread) stays there unless several runs of ten percent error say otherwise. How far constants may go
at all is decided by runs left out: runs that the shipped profile predicts as well as one tuned to the others
predicts them say nothing of the cluster, and move nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cost_models.calibration.solver import Constant, Constants, Predict, fit
from cost_models.cost import FloatArray

BoolArray = NDArray[np.bool_]
MAX_CONSTANTS = 5
"""Constants that a handful of runs may move."""
_FREEDOMS = ((0.0, 1.0), (0.3, 0.95), (1.0, 0.85))
"""Factors on the spread of constants, and by how much an error on runs left out must fall for them: the error
of few runs is itself uncertain, and the shipped constants stand on many."""
_MOST_FOLDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """Tuned constants, and mean absolute errors in percent.

    `error_before` is that of the shipped constants, `error_after` of the tuned ones on the same runs, and
    `error_left_out` of runs predicted by a fit to the others with the freedom that was chosen (None with a
    single run).
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
    freedom, left_out = 1.0, None
    if measured.size > 1:
        missed = [(_left_out(spec, predict, measured, free), free, share) for free, share in _FREEDOMS]
        limit = missed[0][0]
        left_out, freedom, _ = min(missed, key=lambda tried: tried[0] / (tried[2] * max(limit, 1e-12)))
    found = _fit(spec, predict, measured, freedom)
    return Tuned(
        constants=found,
        error_before=_error(predict(start), measured),
        error_after=_error(predict(found), measured),
        error_left_out=left_out,
    )


def _fit(spec: Mapping[str, Constant], predict: Predict, measured: FloatArray, freedom: float) -> Constants:
    """Return constants fitted with their spreads scaled by `freedom`; the shipped ones with none."""
    if freedom <= 0.0:
        return {name: constant.start for name, constant in spec.items()}
    freed = {name: replace(constant, spread=constant.spread * freedom) for name, constant in spec.items()}
    return fit(freed, predict, measured)


def _left_out(spec: Mapping[str, Constant], predict: Predict, measured: FloatArray, freedom: float) -> float:
    """Return the error of runs, each predicted by a fit to those outside its fold, percent."""
    folds = np.arange(measured.size) % min(measured.size, _MOST_FOLDS)
    missed = np.zeros(measured.size)
    for fold in np.unique(folds):
        inside = folds == fold

        def others(constants: Mapping[str, float], kept: BoolArray = ~inside) -> FloatArray:
            return predict(constants)[kept]

        found = _fit(spec, others, measured[~inside], freedom)
        missed[inside] = np.abs(predict(found)[inside] / measured[inside] - 1.0) * 100.0
    return float(missed.mean())


def _error(predicted: FloatArray, measured: FloatArray) -> float:
    return float(np.abs(predicted / measured - 1.0).mean() * 100.0)

"""Intervals judged on sources that did not set them: their width comes from the other sources."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.accuracy.serving.score import ScoredRun, compared
from planner.accuracy.table import FloatArray

_NORMAL_90 = 1.6449
_LEVEL = 90.0
_MIN_RUNS = 20
"""Runs of other sources below which a width would be a guess."""


def coverage_left_out(runs: Sequence[ScoredRun], others: Sequence[ScoredRun], metric: str) -> float | None:
    """Return the percentage of runs inside their 90 % interval; None where no other source has enough runs.

    What kernels explain is each run's own. What remains of the model is one width, here the one that covers
    nine in ten of the other sources' runs.
    """
    judged, known = _squares(runs, metric), _squares(others, metric)
    if not judged.size or len(known) < _MIN_RUNS:
        return None
    width = np.percentile(np.maximum(known[:, 0] - known[:, 1], 0.0), _LEVEL)
    inside = judged[:, 0] <= judged[:, 1] + width + 1e-12
    return round(100.0 * float(inside.mean()), 1)


def _squares(runs: Sequence[ScoredRun], metric: str) -> FloatArray:
    """Return per run the squared relative error that its end of the interval stands for, and the kernels'."""
    found: list[tuple[float, float]] = []
    for run in runs:
        pair = compared(run, metric)
        if pair is not None and run.prediction is not None:
            sigma_log = abs(float(np.log(pair[1] / pair[0]))) / _NORMAL_90
            found.append((float(np.expm1(sigma_log**2)), run.prediction.kernel_sigma**2))
    return np.array(found, dtype=np.float64).reshape(-1, 2)

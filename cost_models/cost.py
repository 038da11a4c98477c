"""Predicted cost of work: time with its spread and provenance, combined by sums."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.provenance import Provenance

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Time of work, elementwise over the broadcast shape of the work's fields.

    Parameters
    ----------
    time_s
        Predicted time, seconds.
    variance_s2
        Variance of the prediction error, seconds squared (from held-out residuals).
    provenance
        Worst provenance among the terms.
    origin
        Which fitted curve priced it, in words; empty for a sum.
    """

    time_s: FloatArray
    variance_s2: FloatArray
    provenance: Provenance
    origin: str = ""

    def interval_s(self, level: float = 0.9) -> tuple[FloatArray, FloatArray]:
        """Return the bounds of the central interval, seconds.

        The error is taken as log-normal about the prediction (its median) with this variance.

        Raises
        ------
        ValueError
            If `level` is not between 0 and 1.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"an interval's level lies between 0 and 1, got {level}")
        width = NormalDist().inv_cdf(0.5 + level / 2.0) * self.sigma_log
        return self.time_s * np.exp(-width), self.time_s * np.exp(width)

    @property
    def sigma_log(self) -> FloatArray:
        """Standard deviation of the log of measured over predicted."""
        square = np.maximum(np.square(self.time_s), np.finfo(np.float64).tiny)
        return np.sqrt(np.log1p(self.variance_s2 / square))

    def __add__(self, other: Cost) -> Cost:
        """Return the cost of doing both, one after the other.

        Errors of different operations are treated as independent, so variances add.
        """
        return Cost(
            time_s=self.time_s + other.time_s,
            variance_s2=self.variance_s2 + other.variance_s2,
            provenance=max(self.provenance, other.provenance),
        )

    def times(self, count: float | FloatArray) -> Cost:
        """Return the cost of `count` repetitions; their errors are fully correlated."""
        return Cost(
            time_s=self.time_s * count,
            variance_s2=self.variance_s2 * np.square(count),
            provenance=self.provenance,
        )

    @staticmethod
    def zero() -> Cost:
        """Return the neutral element of the sum."""
        return Cost(time_s=np.zeros(()), variance_s2=np.zeros(()), provenance=Provenance.MEASURED)

    @staticmethod
    def total(costs: Iterable[Cost]) -> Cost:
        """Return the sum of all."""
        result = Cost.zero()
        for cost in costs:
            result = result + cost
        return result

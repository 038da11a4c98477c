"""Expected values of log-normal lengths."""

from __future__ import annotations

import math
from statistics import NormalDist

_NORMAL = NormalDist()


def mean_below(mean: float, sigma_log: float, limit: float | None) -> float:
    """Return E[min(X, limit)] of a log-normal X with the given mean and spread of the logarithm.

    With mu = ln(mean) - sigma^2 / 2 and z = (ln L - mu) / sigma it is
    mean Phi(z - sigma) + L (1 - Phi(z)).
    """
    if limit is None or mean <= 0:
        return mean
    if limit <= 0:
        return 0.0
    if sigma_log <= 0:
        return min(mean, limit)
    mu = math.log(mean) - sigma_log**2 / 2
    z = (math.log(limit) - mu) / sigma_log
    return mean * _NORMAL.cdf(z - sigma_log) + limit * (1 - _NORMAL.cdf(z))

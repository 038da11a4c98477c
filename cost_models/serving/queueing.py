"""Waiting times in front of servers, as closed forms that can be evaluated a million times."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np

from cost_models.cost import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Waiting time: zero with probability 1 - `probability`, else exponential with mean `mean_if_s`."""

    probability: FloatArray
    mean_if_s: FloatArray

    @property
    def mean_s(self) -> FloatArray:
        """Mean waiting time, seconds (infinite at or beyond saturation)."""
        return self.probability * self.mean_if_s

    def then(self, other: Waiting) -> Waiting:
        """Return one wait after another: zero if both are, and their mean together."""
        probability = 1.0 - (1.0 - self.probability) * (1.0 - other.probability)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_if_s = (self.mean_s + other.mean_s) / probability
        return Waiting(
            probability=probability, mean_if_s=np.where(probability > 0.0, mean_if_s, self.mean_if_s)
        )

    def exceeds(self, time_s: FloatArray) -> FloatArray:
        """Return the probability of waiting longer than `time_s` (1 for a negative time)."""
        with np.errstate(over="ignore", invalid="ignore"):
            tail = self.probability * np.exp(-np.maximum(time_s, 0.0) / np.maximum(self.mean_if_s, 1e-12))
        return np.where(time_s < 0.0, 1.0, tail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How requests come: squared coefficient of variation of the gaps, or a closed loop of fixed size."""

    scv: float = 1.0
    closed: bool = False


def waiting_time(
    rate_rps: FloatArray,
    mean_service_s: FloatArray,
    service_scv: FloatArray,
    num_servers: FloatArray,
    scv: float = 1.0,
    population: FloatArray | None = None,
) -> Waiting:
    """Return the waiting time of a G/G/k queue with `rate_rps` per server.

    P(wait) = rho^(sqrt(2 (k + 1)) - 1) and E[wait | wait] = S (Ca^2 + Cs^2) / (2 k (1 - rho)); the tail
    is taken as exponential. Exact for M/M/1 and in the mean for M/G/1. In a closed loop of N requests
    per server (`population`) an arrival sees the others only: rho is multiplied by (N - 1) / N.

    Source: Allen-Cunneen with the Erlang-C approximation of Sakasegawa (1977), in Whitt, "Approximations
    for the GI/G/m queue" (1993); closed loop: arrival theorem with Schweitzer's approximation (1979).
    """
    rho = rate_rps * mean_service_s
    if population is not None:
        rho = rho * (1.0 - 1.0 / np.maximum(population, 1.0))
    rho, k = np.broadcast_arrays(rho, np.asarray(num_servers, dtype=np.float64))
    busy = np.clip(rho, 0.0, 1.0)
    free = np.maximum(1.0 - rho, 1e-12)
    with np.errstate(over="ignore"):
        mean_if_s = mean_service_s * (scv + service_scv) / (2.0 * k * free)
    probability = busy ** (np.sqrt(2.0 * (k + 1.0)) - 1.0)
    return Waiting(
        probability=np.where(rho >= 1.0, 1.0, probability), mean_if_s=np.where(rho >= 1.0, np.inf, mean_if_s)
    )


@lru_cache(maxsize=256)
def normal_quantile(percentile: float) -> float:
    """Return the standard normal quantile of a percentile in (0, 100); 0 for the mean."""
    return NormalDist().inv_cdf(percentile / 100.0) if percentile > 0.0 else 0.0

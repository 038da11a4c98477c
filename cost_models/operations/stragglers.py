"""Stragglers: synchronous steps take as long as the slowest worker.

Step times of workers are taken as normal and independent, with a coefficient of variation `spread`.
"""

from __future__ import annotations

from math import erfc, exp, lgamma, log, pi, sqrt

_POINTS = 2000
_REACH = 12.0


def order_statistic(rank: int, count: int) -> float:
    """Return the mean of the `rank`-th smallest of `count` standard normal numbers.

    Source: David and Nagaraja, Order Statistics (2003), section 3.1, integrated numerically.
    """
    factor = lgamma(count + 1.0) - lgamma(rank) - lgamma(count - rank + 1.0)
    step = 2.0 * _REACH / _POINTS
    total = 0.0
    for index in range(_POINTS + 1):
        x = -_REACH + index * step
        below, above = erfc(-x / sqrt(2.0)) / 2.0, erfc(x / sqrt(2.0)) / 2.0
        if below <= 0.0 or above <= 0.0:
            continue
        exponent = factor + (rank - 1) * log(below) + (count - rank) * log(above) - x * x / 2.0
        total += x * exp(exponent) / sqrt(2.0 * pi) * step
    return total


def slowest_factor(num_workers: int, spread: float) -> float:
    """Return the expected step time of `num_workers` synchronous workers over that of a mean worker."""
    return 1.0 + spread * order_statistic(num_workers, num_workers)


def backup_rate(num_workers: int, num_backups: int, spread: float) -> float:
    """Return the useful work per time of waiting for all but the slowest `num_backups`; 1 is no straggler.

    (n - b) / n over the expected time of the (n - b)-th fastest.

    Source: Chen et al., Revisiting Distributed Synchronous SGD (arXiv 1604.00981), section 3.
    """
    kept = num_workers - num_backups
    return kept / num_workers / (1.0 + spread * order_statistic(kept, num_workers))


def best_num_backups(num_workers: int, spread: float) -> int:
    """Return how many of `num_workers` it is best not to wait for (at most a fifth of them)."""
    return max(range(num_workers // 5 + 1), key=lambda b: (backup_rate(num_workers, b, spread), -b))


def eviction_pays_after_s(slowdown: float, eviction_s: float) -> float:
    """Return how long a slow node must last before replacing it pays, seconds.

    A node that is slower by `slowdown` (0.1: takes 10 % longer) holds up every step; replacing it costs
    `eviction_s` of standstill. t slowdown / (1 + slowdown) is lost by keeping it for t.
    """
    return eviction_s * (1.0 + slowdown) / slowdown

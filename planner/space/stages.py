"""Uneven pipeline stages: the contiguous partition of the layers whose slowest stage is fastest."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate

_EXACT = 1e-12
"""Relative width at which the bisection of the bottleneck ends."""


@lru_cache(maxsize=4096)
def balanced_partition(
    layer_weights: tuple[float, ...], first_extra: float, last_extra: float, num_stages: int
) -> tuple[int, ...]:
    """Return layers per stage (each at least one) that minimise the heaviest stage.

    `first_extra` and `last_extra` are what embedding and head add to the outer stages. The smallest
    feasible bottleneck is found by bisection over a greedy fill, which is exact for contiguous stages;
    the last stage is filled first so that the head's weight counts.

    Raises
    ------
    ValueError
        If there are more stages than layers.
    """
    if num_stages > len(layer_weights):
        raise ValueError(f"{num_stages} stages need as many layers, the model has {len(layer_weights)}")
    if num_stages == 1:
        return (len(layer_weights),)
    loads = (0.0, *accumulate(layer_weights))
    total = loads[-1] + first_extra + last_extra
    low, high = total / num_stages * 0.5, total
    best = _fill(loads, first_extra, last_extra, num_stages, high)
    while high - low > _EXACT * high:
        middle = 0.5 * (low + high)
        found = _fill(loads, first_extra, last_extra, num_stages, middle)
        low, high = (low, middle) if found else (middle, high)
        best = found or best
    if best is None:
        raise ValueError("no partition found")
    return best


def _fill(
    loads: tuple[float, ...], first_extra: float, last_extra: float, num_stages: int, bottleneck: float
) -> tuple[int, ...] | None:
    """Return layers per stage filled from the last stage backwards under a bottleneck, or None.

    `loads` are the weights of the layers before each one, added up.
    """
    counts: list[int] = []
    end = len(loads) - 1
    for stage in range(num_stages - 1, -1, -1):
        extra = last_extra if stage == num_stages - 1 else 0.0
        extra += first_extra if stage == 0 else 0.0
        # the earliest start whose layers fit, with at least one layer left for each stage before
        start = max(stage, bisect_left(loads, loads[end] + extra - bottleneck, 0, end))
        if start >= end:
            return None
        counts.append(end - start)
        end = start
    return tuple(reversed(counts)) if end == 0 else None

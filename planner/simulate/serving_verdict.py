"""Whether a simulation bears out what a plan claims: its intervals, and the limits that it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

import numpy as np

from planner.ir.workload import Slo
from planner.plan.schema import Plan

FloatArray = np.ndarray[tuple[int], np.dtype[np.float64]]

TOLERANCE = 0.02
"""Share of a limit by which a simulated time may exceed it: what chance makes of a few thousand requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """A figure that lies outside the 90 % interval of its prediction."""

    name: str
    simulated: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A limit on a kind of time (ttft, tpot, e2e) that is not met at its percentile, seconds."""

    name: str
    simulated_s: float
    limit_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a simulation does not bear out."""

    outside: tuple[Outside, ...]
    broken: tuple[Broken, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the verdict as plain values."""
        return {
            "outside_interval": {o.name: [o.simulated, o.low, o.high] for o in self.outside},
            "broken_limits": {b.name: [b.simulated_s, b.limit_s] for b in self.broken},
        }


def verdict(
    plan: Plan,
    slo: Slo,
    times_s: Mapping[str, FloatArray],
    figures: tuple[tuple[str, float, float | None], ...],
) -> Verdict:
    """Return what does not hold; `times_s` are those of every request by kind of time."""
    outside: list[Outside] = []
    for name, simulated, _ in figures:
        claimed = plan.predicted.get(name)
        if claimed is None or claimed.low is None or claimed.high is None or not isfinite(claimed.high):
            continue
        if not claimed.low <= simulated <= claimed.high:
            outside.append(Outside(name=name, simulated=simulated, low=claimed.low, high=claimed.high))
    broken: list[Broken] = []
    for name, limit in (("ttft", slo.ttft_s), ("tpot", slo.tpot_s), ("e2e", slo.e2e_s)):
        seen = times_s.get(name)
        if limit is None or seen is None or not seen.size:
            continue
        simulated = float(np.percentile(seen, slo.percentile) if slo.percentile > 0.0 else seen.mean())
        if simulated > limit * (1.0 + TOLERANCE):
            broken.append(Broken(name=name, simulated_s=simulated, limit_s=limit))
    return Verdict(outside=tuple(outside), broken=tuple(broken))

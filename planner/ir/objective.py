"""Objective and budget: what is optimised, and what it may cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ServingGoal = Literal[
    "max_throughput", "min_devices", "min_cost", "min_power", "min_latency", "min_cost_per_token"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The goal, and `robust`: plan against this quantile of the cost model's error (0.5 is the median)."""

    name: str
    robust: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Upper limits on what a plan may use; None is no limit."""

    num_devices: int | None = None
    usd_per_hour: float | None = None
    power_w: float | None = None

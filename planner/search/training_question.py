"""A question to the training search: the goal as money, energy or time of a step, and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np

from cost_models.cost import FloatArray
from cost_models.energy import COMPUTE_WEIGHT
from planner.errors import InputError
from planner.ir.cluster import NodeGroup
from planner.ir.problem import Problem
from planner.ir.training import TrainingProblem

GOALS: dict[str, str] = {"min_step_time": "s", "min_cost": "USD/step", "min_energy": "J/step"}
"""Unit of each goal; all are minimised."""
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a second of a device costs in the goal: while the job runs, and more while it computes.

    The goal of a plan is (devices or 1) x (`per_s` x step time + `per_compute_s` x compute time); it counts
    devices where `by_device`.
    """

    per_s: float
    per_compute_s: float
    by_device: bool

    def value(self, step_s: FloatArray, compute_s: FloatArray, num_devices: FloatArray) -> FloatArray:
        """Return the goal of plans with these times, elementwise."""
        scale = num_devices if self.by_device else np.ones_like(step_s)
        busy = self.per_compute_s * compute_s if self.per_compute_s else 0.0
        return np.asarray(scale * (self.per_s * step_s + busy), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What every plan of one node group has to keep: devices, memory of one device, longest step."""

    num_devices: int
    capacity_bytes: float
    longest_step_s: float


def rates_of(problem: Problem[TrainingProblem], group: NodeGroup) -> Rates:
    """Return what counts on a node group.

    Energy: a device draws its idle power and its share of the node all the time, and up to
    `COMPUTE_WEIGHT` of the rest of its rating while it computes (cost_models/energy.py).

    Raises
    ------
    InputError
        If the goal is unknown, or is money and the group has no price.
    """
    goal = problem.objective.name
    if goal not in GOALS:
        raise InputError(
            "unknown objective for training", key="objective", value=goal, allowed=", ".join(GOALS)
        )
    if goal == "min_step_time":
        return Rates(per_s=1.0, per_compute_s=0.0, by_device=False)
    if goal == "min_energy":
        device = group.device
        share_w = group.node_power_overhead_w / group.devices_per_node
        busy_w = COMPUTE_WEIGHT * (device.tdp_w.value - device.idle_w.value)
        return Rates(per_s=device.idle_w.value + share_w, per_compute_s=busy_w, by_device=True)
    if group.usd_per_device_hour is None:
        raise InputError(
            f"no price is known for {group.name}",
            key="cluster",
            hint="Give usd_per_device_hour for every group, or choose an objective without money.",
        )
    return Rates(per_s=group.usd_per_device_hour / HOUR_S, per_compute_s=0.0, by_device=True)


def limits_of(problem: Problem[TrainingProblem], group: NodeGroup) -> Limits:
    """Return the limits on a node group: budget, memory, deadline."""
    budget = problem.budget
    devices = group.num_devices if budget.num_devices is None else min(group.num_devices, budget.num_devices)
    watts = group.device.tdp_w.value + group.node_power_overhead_w / group.devices_per_node
    if budget.power_w is not None:
        devices = min(devices, int(budget.power_w / watts))
    if budget.usd_per_hour is not None:
        if group.usd_per_device_hour is None:
            raise InputError(f"no price is known for {group.name}", key="budget.usd_per_hour")
        if group.usd_per_device_hour > 0.0:
            devices = min(devices, int(budget.usd_per_hour / group.usd_per_device_hour * (1 + 1e-12)))
    longest = problem.payload.workload.longest_step_s
    return Limits(
        num_devices=devices,
        capacity_bytes=group.device.memory_bytes.value - problem.payload.memory_reserve_bytes,
        longest_step_s=inf if longest is None else longest,
    )

"""A question to the serving search: the goal, the demand, the limits, and which offers may answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cost_models.serving.capacity import LatencyLimits
from planner.errors import InputError
from planner.ir.candidates import Sense
from planner.ir.cluster import NodeGroup
from planner.ir.objective import Budget
from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.search.serving_catalogue import Offer

GOALS: dict[str, tuple[Sense, str]] = {
    "max_throughput": ("max", "output tokens/s"),
    "min_devices": ("min", "devices"),
    "min_cost": ("min", "USD/h"),
    "min_power": ("min", "W"),
    "min_latency": ("min", "s"),
    "min_cost_per_token": ("min", "USD per million output tokens"),
}
Accept = Callable[[Offer], bool]


def everything(offer: Offer) -> bool:
    """Accept every offer."""
    del offer
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one device of each group uses, and how many there are; arrays have one entry per group."""

    num_devices: tuple[int, ...]
    usd_per_device_hour: tuple[float | None, ...]
    power_w_per_device: tuple[float, ...]

    @staticmethod
    def of(groups: tuple[NodeGroup, ...]) -> Resources:
        """Read the resources of node groups; power is the board limit plus the node's share, provisioned."""
        return Resources(
            num_devices=tuple(group.num_devices for group in groups),
            usd_per_device_hour=tuple(group.usd_per_device_hour for group in groups),
            power_w_per_device=tuple(
                group.device.tdp_w.value + group.node_power_overhead_w / group.devices_per_node
                for group in groups
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. `rate_rps` and `concurrency` are demands; at most one is set.

    `relative_gap` is how far from the optimum an integer program may stop.
    """

    goal: str
    rate_rps: float | None
    concurrency: int | None
    limits: LatencyLimits
    budget: Budget
    resources: Resources
    accept: Accept = everything
    modes: tuple[str, ...] = ("aggregated", "disaggregated")
    one_pool_per_role: bool = False
    relative_gap: float = 0.0

    @property
    def sense(self) -> Sense:
        """Whether the goal is minimised or maximised."""
        return GOALS[self.goal][0]

    @property
    def needs_price(self) -> bool:
        """Whether prices matter."""
        return self.goal in ("min_cost", "min_cost_per_token") or self.budget.usd_per_hour is not None


def question_of(problem: Problem[ServingProblem]) -> Question:
    """Return the question of a problem.

    Raises
    ------
    InputError
        If the goal is unknown, or prices are needed and not known.
    """
    workload = problem.payload.workload
    if problem.objective.name not in GOALS:
        raise InputError(
            "unknown objective for serving",
            key="objective",
            value=problem.objective.name,
            allowed=", ".join(GOALS),
        )
    slo = workload.slo

    def limit(value: float | None) -> float:
        return np.inf if value is None else value

    question = Question(
        goal=problem.objective.name,
        rate_rps=workload.rate_rps,
        concurrency=workload.concurrency,
        limits=LatencyLimits(
            ttft_s=limit(slo.ttft_s),
            tpot_s=limit(slo.tpot_s),
            e2e_s=limit(slo.e2e_s),
            percentile=slo.percentile,
        ),
        budget=problem.budget,
        resources=Resources.of(problem.cluster.groups),
        modes=tuple(problem.payload.choices.modes),
    )
    unpriced = [g.name for g in problem.cluster.groups if g.usd_per_device_hour is None]
    if question.needs_price and unpriced:
        raise InputError(
            f"no price is known for {', '.join(unpriced)}",
            key="cluster",
            hint="Give usd_per_device_hour for every group, or choose an objective without money.",
        )
    return question

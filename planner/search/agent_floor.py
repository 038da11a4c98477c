"""What no schedule goes below by the linear relaxation alone, for problems too large to search."""

from __future__ import annotations

import math
from dataclasses import dataclass

from planner.ir.scheduling_problem import SchedulingProblem
from planner.search.agent_bounds import bounds
from planner.search.agent_lp import relaxed
from planner.search.agent_model import weigh
from planner.search.agent_ticks import horizon_s, to_ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """What no schedule goes below, infinite if there is none, and by task the shares of its modes there."""

    bound: float
    shares: tuple[tuple[float, ...], ...] = ()


def relaxed_floor(problem: SchedulingProblem) -> Floor:
    """Return what no schedule goes below by the linear relaxation alone; 0 if that is not solved."""
    ticks = to_ticks(problem)
    limits = bounds(ticks.problem)
    if limits is None or any(
        task.deadline_s is not None and head + min(m.duration_s for m in task.modes) > task.deadline_s
        for head, task in zip(limits.heads, ticks.problem.tasks, strict=True)
    ):
        return Floor(bound=math.inf)
    weights = weigh(ticks)
    relaxation = relaxed(ticks.problem, limits, weights)
    if relaxation is None:
        return Floor(bound=0.0)
    if not relaxation.shares:
        return Floor(bound=math.inf)
    hidden = ticks.error_s * weights.per_second + weights.rounding(int(horizon_s(ticks.problem)))
    return Floor(bound=max(relaxation.bound / weights.scale - hidden, 0.0), shares=relaxation.shares)

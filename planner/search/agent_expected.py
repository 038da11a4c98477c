"""What no plan goes below in expectation where the outcomes of branches are too many for one problem.

The joint problem sees a drawn share of them then, whose bound says nothing about the rest. Each outcome on
its own is bounded by its longest path and its loads (see `planner.search.agent_bounds`), with every call in
its best mode. The expectation of these bounds holds for every plan, where outcomes that are not listed count
with what all runs do.
"""

from __future__ import annotations

from planner.ir.agent_graph import AgentProblem
from planner.ir.scheduling_problem import SchedulingProblem, without_loads
from planner.search.agent_bounds import Bounds, bounds
from planner.search.agent_ticks import Ticks, to_ticks
from planner.space.agent_eases import eases_of
from planner.space.agent_flat import FlatGraph, Flow, flow_of
from planner.space.agent_lower import Choice, lower
from planner.space.agent_reach import certain, likeliest

_MAX_CALLS = 6_000
"""Calls over all outcomes that are bounded, which takes about a second."""
_MIN_OUTCOMES = 16


def expected_bound(payload: AgentProblem, flow: Flow) -> float:
    """Return a bound on the expectation of the goal, 0 where nothing is known that all runs do."""
    most = max(_MAX_CALLS // max(len(flow.flat.calls), 1), _MIN_OUTCOMES)
    core = certain(flow.flat)
    # means over final calls say nothing where there may be more of them; those that an early join leaves
    # behind are not waited for
    whole = set(core.finals) == set(flow.flat.finals) and all(c.join is None for c in flow.flat.calls)
    known = payload.graph.goal == "min_cost" or whole
    always = _bound(payload, core) if known and core.calls else 0.0
    total = always
    for outcome in likeliest(flow.flat, most=most):
        total += outcome.weight * max(_bound(payload, outcome.graph) - always, 0.0)
    return total


def _bound(payload: AgentProblem, graph: FlatGraph) -> float:
    """Return what no plan goes below in one outcome."""
    flow = flow_of(graph)
    eases = eases_of(payload, flow)
    problem = lower(payload.graph, flow, {}, {}, Choice(eases=eases.by_call)).problem
    if payload.graph.goal == "min_cost" or eases.hidden_s == 0.0:
        return _least(problem)
    # loads may be counted too early by what is hidden, paths may not
    return max(_least(problem) - eases.hidden_s, _least(without_loads(problem)))


def _least(problem: SchedulingProblem) -> float:
    """Return what no schedule of one outcome goes below, 0 if it has none."""
    ticks = to_ticks(problem)
    limits = bounds(ticks.problem)
    if limits is None:
        return 0.0
    ends = max(limits.makespan * ticks.tick_s - ticks.error_s, 0.0)
    return max(problem.makespan_weight * ends + _weighed(problem, ticks, limits), 0.0)


def _weighed(problem: SchedulingProblem, ticks: Ticks, limits: Bounds) -> float:
    """Return the least of weighted ends and costs, each task in the mode that suits it best."""
    total = 0.0
    for task, head in zip(problem.tasks, limits.heads, strict=True):
        start = max(head * ticks.tick_s - ticks.error_s, 0.0)
        total += min(task.weight * (start + mode.duration_s) + mode.cost for mode in task.modes)
    return total

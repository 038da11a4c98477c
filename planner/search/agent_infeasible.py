"""Why an agent graph has no plan: which limits stand in the way, and what would do without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentGraph, AgentProblem
from planner.ir.candidates import BindingLimit, InfeasibilityReport
from planner.ir.problem import Problem
from planner.search.agent_answer import run_figures
from planner.search.agent_joint import Stage, joint_search
from planner.space.agent_flat import Flow, flow_of

_Case = tuple[AgentGraph, Flow]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """A limit of a graph: its stated value, None where it is that of nodes or models, and life without it.

    `goal` asks for the best value that the limit could have.
    """

    name: str
    unit: str
    stated: float | None
    goal: str | None
    where: str
    without: Callable[[_Case], _Case]


def why_infeasible(
    problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics
) -> InfeasibilityReport:
    """Return the limits of which one must go; where that is not enough, the fewest that must go together."""
    found = _limits(problem.payload.graph, flow)
    for size in range(1, len(found) + 1):
        binding: list[BindingLimit] = []
        for group in combinations(found, size):
            stage = _solved(problem, flow, group, diagnostics)
            if stage.answer.schedule is not None:
                binding += [_bound_by(limit, group, stage) for limit in group]
                if size > 1:
                    break
        if binding:
            return _report(binding, together=size > 1)
    return _report([_unknown(limit, found) for limit in found], together=False)


def _report(binding: Sequence[BindingLimit], *, together: bool) -> InfeasibilityReport:
    relaxed = tuple(
        (one.name, one.best_reachable)
        for one in binding
        if one.limit is not None and one.best_reachable is not None
    )
    known = dict(relaxed)
    parts = [f"{one.name} of {known[one.name]:.6g}" for one in binding if one.name in known]
    if together:
        parts += [f"no {one.name}" for one in binding if one.name not in known]
    words = (" and " if together else " or ").join(parts) or "no single limit"
    return InfeasibilityReport(
        binding=tuple(binding),
        nearest_relaxation=f"feasible with {words}",
        relaxed=relaxed,
    )


def _solved(
    problem: Problem[AgentProblem], flow: Flow, limits: Sequence[_Limit], diagnostics: Diagnostics
) -> Stage:
    """Return the best plan without some limits; of one, the plan that comes closest to keeping it."""
    case = (problem.payload.graph, flow)
    for limit in limits:
        case = limit.without(case)
    goal = limits[0].goal if len(limits) == 1 else None
    graph = case[0] if goal is None else replace(case[0], goal=goal)
    eased = replace(problem, payload=replace(problem.payload, graph=graph))
    return joint_search(eased, case[1], diagnostics).best


def _bound_by(limit: _Limit, lifted: Sequence[_Limit], stage: Stage) -> BindingLimit:
    reach = _reached(limit.name, stage) if limit.unit else None
    gained = "there is a plan" if reach is None else f"a plan reaches {reach:.6g} {limit.unit}"
    others = [f"{one.name}{one.where}" for one in lifted if one is not limit]
    also = f" and without {' and '.join(others)}" if others else ""
    return BindingLimit(
        name=limit.name,
        limit=limit.stated,
        best_reachable=reach,
        unit=limit.unit,
        message=f"without {limit.name}{limit.where}{also} {gained}",
    )


def _unknown(limit: _Limit, found: Sequence[_Limit]) -> BindingLimit:
    return BindingLimit(
        name=limit.name,
        limit=limit.stated,
        best_reachable=None,
        unit=limit.unit,
        message=f"no plan was found without {', '.join(one.name for one in found)} either",
    )


def _reached(name: str, stage: Stage) -> float:
    """Return the value of a limit that a plan without it would keep."""
    figures = run_figures(stage)
    if name == "budget_usd":
        return sum(f.weight * f.usd for f in figures)
    if name != "period_s":
        return max(f.latency_s for f in figures)
    # a period after which nothing of a run is held any more
    schedule = stage.answer.schedule
    runs = schedule.runs if schedule is not None else ()
    held = [
        run.start_s + task.modes[run.mode].hold_s(demand)
        for task, run in zip(stage.combined.problem.tasks, runs, strict=True)
        for demand in task.modes[run.mode].demands
    ]
    return max(held, default=0.0)


def _limits(graph: AgentGraph, flow: Flow) -> list[_Limit]:
    """Return the limits that a graph has."""
    late = ", ".join(sorted({c.node for c in flow.flat.calls if c.deadline_s is not None}))
    whose = "of" if graph.deadline_s is None else "also of"
    found: list[_Limit] = []
    if graph.deadline_s is not None or late:
        found.append(
            _Limit(
                name="deadline_s",
                unit="s",
                stated=graph.deadline_s,
                goal="min_latency",
                where=f" ({whose} {late})" if late else "",
                without=_timeless,
            )
        )
    if graph.budget_usd is not None:
        found.append(
            _Limit(
                name="budget_usd",
                unit="usd",
                stated=graph.budget_usd,
                goal="min_cost",
                where="",
                without=lambda case: (replace(case[0], budget_usd=None), case[1]),
            )
        )
    if graph.period_s is not None:
        found.append(
            _Limit(
                name="period_s",
                unit="s",
                stated=graph.period_s,
                goal=None,
                where="",
                without=lambda case: (replace(case[0], period_s=None), case[1]),
            )
        )
    rated = [m.name for m in graph.models if (m.calls_per_minute, m.tokens_per_minute) != (None, None)]
    if rated:
        found.append(
            _Limit(
                name="calls and tokens per minute",
                unit="",
                stated=None,
                goal=None,
                where=f" of {', '.join(rated)}",
                without=_unrated,
            )
        )
    return found


def _timeless(case: _Case) -> _Case:
    graph, flow = case
    calls = tuple(replace(c, deadline_s=None) for c in flow.flat.calls)
    return replace(graph, deadline_s=None), flow_of(replace(flow.flat, calls=calls))


def _unrated(case: _Case) -> _Case:
    models = tuple(replace(m, calls_per_minute=None, tokens_per_minute=None) for m in case[0].models)
    return replace(case[0], models=models), case[1]

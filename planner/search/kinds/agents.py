"""Search for agent graphs: models, slots, order and streaming of every call, with a bound.

The search itself is `planner.search.agent_joint`; here its answer becomes a plan, or says why there is none.
"""

from __future__ import annotations

from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph, AgentProblem
from planner.ir.candidates import (
    BindingLimit,
    InfeasibilityReport,
    ObjectiveValue,
    Predictions,
    SearchResult,
    SearchStatus,
)
from planner.ir.problem import Problem
from planner.search.agent_answer import estimated, expected_figures, plan_details, run_figures
from planner.search.agent_drafts import best_drafted
from planner.search.agent_joint import Joint, Stage, joint_search
from planner.search.agent_throughput import LOADS, most_runs
from planner.search.agent_throughput_answer import throughput_result
from planner.space.agent_flat import FlatGraph, Flow, flow_of
from planner.space.agent_flatten import flatten

_UNITS = {"min_ttft": "s", "min_latency": "s", "min_cost": "usd", "max_throughput": "1/s"}


def search(problem: Problem[AgentProblem], diagnostics: Diagnostics) -> SearchResult:
    """Return the best plan found for an agent graph.

    Raises
    ------
    InputError
        If the graph expands to too many calls.
    """
    graph = problem.payload.graph
    for guess in graph.guesses:
        diagnostics.note("graph-guess", guess)
    if any(model.drafts for model in graph.models):
        return best_drafted(problem, _search, diagnostics)
    return _search(problem, diagnostics)


def _search(problem: Problem[AgentProblem], diagnostics: Diagnostics) -> SearchResult:
    """Return the best plan with every model as it stands."""
    graph = problem.payload.graph
    flat = flatten(graph)
    flow = flow_of(flat)
    if graph.goal == "max_throughput":
        return _throughput(problem, flow, diagnostics)
    joint = joint_search(problem, flow, diagnostics)
    if joint.best.answer.schedule is None:
        return _without_plan(problem, flow, joint, diagnostics)
    _tell(graph, joint, diagnostics)
    return _result(problem, flat, joint)


def _throughput(problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> SearchResult:
    """Return the most runs per second, or the limit that no route keeps."""
    graph = problem.payload.graph
    if graph.period_s is not None:
        raise InputError(
            "a period states how many runs there are per second: take one or the other",
            key="period_s",
            value=graph.period_s,
            hint="Leave period_s out, or ask for min_latency.",
        )
    found = most_runs(problem, flow, diagnostics)
    if found is not None:
        return throughput_result(graph, flow.flat, found, LOADS, diagnostics)
    quick = replace(problem, payload=replace(problem.payload, graph=replace(graph, goal="min_latency")))
    joint = joint_search(quick, flow, diagnostics)
    return _without_plan(problem, flow, joint, diagnostics)


# -- answers -------------------------------------------------------------------------------------


def _tell(graph: AgentGraph, joint: Joint, diagnostics: Diagnostics) -> None:
    stage, worlds = joint.best, joint.worlds
    if len(worlds.worlds) > 1:
        which = f"all {len(worlds.worlds)}" if worlds.complete else f"{len(worlds.worlds)} drawn"
        diagnostics.note(
            "agents-expectation",
            f"figures are expectations over {which} outcomes of branches and loops; a deadline holds in each",
        )
    if graph.period_s is not None:
        diagnostics.note(
            "agents-period",
            f"a run begins every {graph.period_s:g} s with the same times and shares slots and rates with "
            "the runs under way; every call of every branch has its place",
        )
    changing = sorted(name for name, s in stage.streams().items() if s.kind == "staircase")
    if changing:
        diagnostics.warn(
            "agents-staircase",
            f"{', '.join(changing)} start on partial inputs, which can change the answer (as allowed)",
        )
    if any(m.guessed for m in graph.models):
        diagnostics.warn("agents-guessed-speed", "speeds of some models are guesses: measure them")


def _result(problem: Problem[AgentProblem], flat: FlatGraph, joint: Joint) -> SearchResult:
    stage, graph = joint.best, problem.payload.graph
    status: SearchStatus = "optimal" if joint.is_proved else "feasible"
    work = {**stage.answer.work, "calls": len(flat.calls), "streams": len(stage.streams())}
    value = stage.value
    return SearchResult(
        status=status,
        objective=ObjectiveValue(
            name=graph.goal,
            unit=_UNITS[graph.goal],
            sense="min",
            value=value,
            bound=joint.bound,
            gap=0.0 if value <= 0 else (value - joint.bound) / value,
        ),
        pools=(),
        placement=(),
        predicted=_predicted(stage, flat),
        alternatives=(),
        infeasibility=None,
        method="cp-sat",
        work=tuple(sorted(work.items())),
        space="models, order and slots of every call at expected lengths; each consumer waits or streams in "
        "the chunks that suit its models best; in each outcome of branches the order may suit it",
        details=plan_details(graph, flat, stage),
    )


def _predicted(stage: Stage, flat: FlatGraph) -> Predictions:
    figures = run_figures(stage)
    if not figures:
        return ()
    values = expected_figures(figures)
    if stage.combined.problem.period_s is not None:
        values["runs_per_s"] = (1.0 / stage.combined.problem.period_s, "1/s")
    if stage.answer.heft_value is not None:
        values["list_schedule_objective"] = (stage.answer.heft_value, "")
    return estimated(values, flat)


def _without_plan(
    problem: Problem[AgentProblem], flow: Flow, joint: Joint, diagnostics: Diagnostics
) -> SearchResult:
    """Return why there is none: which limit binds, and what would do without it."""
    graph = problem.payload.graph
    report = _report(problem, flow, diagnostics) if joint.is_proved else None
    return SearchResult(
        status="infeasible" if report is not None else "nothing_found",
        objective=ObjectiveValue(
            name=graph.goal,
            unit=_UNITS[graph.goal],
            sense="max" if graph.goal == "max_throughput" else "min",
            value=None,
            bound=None if joint.is_proved else joint.bound,
            gap=None,
        ),
        pools=(),
        placement=(),
        predicted=(),
        alternatives=(),
        infeasibility=report,
        method="cp-sat",
        work=(("calls", len(flow.flat.calls)),),
    )


def _report(problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> InfeasibilityReport:
    graph = problem.payload.graph
    limits: list[BindingLimit] = []
    relaxed: list[tuple[str, float | int | str]] = []
    for name, unit, without in _relaxations(graph):
        eased = replace(problem, payload=replace(problem.payload, graph=without))
        calls = tuple(replace(c, deadline_s=None) for c in flow.flat.calls)
        bare = flow_of(replace(flow.flat, calls=calls)) if name == "deadline_s" else flow
        stage = joint_search(eased, bare, diagnostics).best
        if stage.answer.schedule is None:
            continue
        reach = _reached(name, stage)
        limits.append(
            BindingLimit(
                name=name,
                limit=getattr(graph, name),
                best_reachable=reach,
                unit=unit,
                message=f"without {name} a plan reaches {reach:.6g} {unit}",
            )
        )
        if getattr(graph, name) is not None:
            relaxed.append((name, reach))
    what = " or ".join(f"{name} of {value:.6g}" for name, value in relaxed) or "no single limit"
    return InfeasibilityReport(
        binding=tuple(limits), nearest_relaxation=f"feasible with {what}", relaxed=tuple(relaxed)
    )


def _reached(name: str, stage: Stage) -> float:
    """Return the value of a limit that a plan without it would keep."""
    figures = run_figures(stage)
    if name == "budget_usd":
        return sum(f.weight * f.usd for f in figures)
    if name == "deadline_s":
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


def _relaxations(graph: AgentGraph) -> list[tuple[str, str, AgentGraph]]:
    """Return (limit, unit, the graph without it, asking for the best value of that limit)."""
    found = [("deadline_s", "s", replace(graph, deadline_s=None, goal="min_latency"))]
    if graph.budget_usd is not None:
        found.append(("budget_usd", "usd", replace(graph, budget_usd=None, goal="min_cost")))
    if graph.period_s is not None:
        found.append(("period_s", "s", replace(graph, period_s=None)))
    return found

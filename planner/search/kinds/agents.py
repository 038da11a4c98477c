"""Search for agent graphs: models, slots, order and streaming of every call, with a bound.

The search itself is `planner.search.agent_joint`; here its answer becomes a plan, or says why there is none.
"""

from __future__ import annotations

from dataclasses import replace

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph, AgentProblem
from planner.ir.candidates import (
    ObjectiveValue,
    Predictions,
    SearchResult,
    SearchStatus,
)
from planner.ir.problem import Problem
from planner.search.agent_answer import estimated, expected_figures, plan_details, run_figures
from planner.search.agent_drafts import best_drafted
from planner.search.agent_infeasible import why_infeasible
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
    report = why_infeasible(problem, flow, diagnostics) if joint.is_proved else None
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

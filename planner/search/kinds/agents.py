"""Search for agent graphs: models, slots, order and streaming of every call, with a bound.

Two stages: first models and times with every edge waiting, then, with the models decided, the streams that
gain, and the schedule again. Each stage is exact for its own model; the answer is the better of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hardware_profiles.provenance import Provenance
from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentGraph, AgentProblem, EdgeKind, LlmCall, ToolCall
from planner.ir.candidates import (
    BindingLimit,
    Estimate,
    InfeasibilityReport,
    ObjectiveValue,
    Predictions,
    SearchResult,
    SearchStatus,
)
from planner.ir.problem import Problem
from planner.ir.scheduling_problem import Schedule
from planner.search.agent_cpsat import ScheduleAnswer, ScheduleOptions, solve_schedule
from planner.space.agent_flat import FlatCall, FlatEdge, FlatGraph, Flow, flow_of
from planner.space.agent_flatten import flatten
from planner.space.agent_lower import (
    Lowered,
    lower,
    output_tokens,
    own_tokens,
    producer_tokens,
    prompt_tokens,
    speed_of,
)
from planner.space.agent_streams import Consumer, Producer, Stream, best_stream

_UNITS = {"min_ttft": "s", "min_latency": "s", "min_cost": "usd"}
_WHOLE_KINDS: tuple[EdgeKind, ...] = ("overlap", "staircase")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """A solved schedule and the streams it rests on."""

    lowered: Lowered
    answer: ScheduleAnswer
    streams: dict[str, Stream]
    fixed: dict[str, str]


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
    flat = flatten(graph)
    flow = flow_of(flat)
    first = _solve(problem, flow, {}, {}, diagnostics, 0.5)
    if first.answer.schedule is None:
        return _without_plan(problem, flow, first, diagnostics)
    best = first
    fixed = _chosen_models(flat, first)
    streams = _streams(problem.payload, flow, fixed)
    if streams:
        second = _solve(problem, flow, streams, fixed, diagnostics, 0.5)
        if second.answer.value is not None and second.answer.value < (first.answer.value or 0.0):
            best = second
    _tell(graph, flat, best, diagnostics)
    return _result(problem, flat, best)


def _solve(
    problem: Problem[AgentProblem],
    flow: Flow,
    streams: dict[str, Stream],
    fixed: dict[str, str],
    diagnostics: Diagnostics,
    share: float,
) -> _Stage:
    """Solve one stage within its share of the time."""
    lowered = lower(problem.payload.graph, flow, streams, fixed)
    options = ScheduleOptions(
        time_limit_s=problem.options.time_limit_s * share,
        seed=problem.options.seed,
        num_workers=problem.options.num_workers,
    )
    answer = solve_schedule(lowered.problem, options, on_progress=diagnostics.progress)
    return _Stage(lowered=lowered, answer=answer, streams=streams, fixed=fixed)


def _chosen_models(flat: FlatGraph, stage: _Stage) -> dict[str, str]:
    schedule = stage.answer.schedule
    runs = schedule.runs if schedule is not None else ()
    tasks = stage.lowered.problem.tasks
    return {
        call.name: task.modes[run.mode].name
        for call, task, run in zip(flat.calls, tasks, runs, strict=True)
        if isinstance(call.work, LlmCall)
    }


def _streams(payload: AgentProblem, flow: Flow, fixed: dict[str, str]) -> dict[str, Stream]:
    """Return the streams that gain, by consumer."""
    found: dict[str, Stream] = {}
    for call in flow.flat.calls:
        stream = _items(payload.graph, flow, call, fixed) or _stream(payload, flow, call, fixed)
        if stream is not None:
            found[call.name] = stream
    return found


def _producers(
    graph: AgentGraph, flow: Flow, edges: Sequence[FlatEdge], fixed: dict[str, str]
) -> list[Producer]:
    sources = [flow.calls[e.source] for e in edges]
    return [
        Producer(
            name=source.name,
            speed=speed_of(graph.model(fixed[source.name])),
            prompt_tokens=prompt_tokens(graph, flow, source),
            output_tokens=output_tokens(source),
        )
        for source in sources
        if isinstance(source.work, LlmCall)
    ]


def _stream(payload: AgentProblem, flow: Flow, call: FlatCall, fixed: dict[str, str]) -> Stream | None:
    """Return the best staircase or overlap of a call, if its certain producers allow one."""
    graph, edges = payload.graph, flow.producers(call)
    if not isinstance(call.work, LlmCall) or call.join is not None or not edges:
        return None
    streaming = [e for e in edges if _can_stream(flow, call, e)]
    allowed = set[EdgeKind](kind for kind in _WHOLE_KINDS if all(kind in e.kinds for e in streaming))
    if len(streaming) < len(edges):
        allowed.discard("overlap")
    producers = _producers(graph, flow, streaming, fixed)
    if not allowed or not producers:
        return None
    model = graph.model(fixed[call.name])
    rest = [e for e in edges if e not in streaming]
    consumer = Consumer(
        speed=speed_of(model),
        own_tokens=own_tokens(graph, call) + sum(producer_tokens(flow, call, e) for e in rest),
        output_tokens=output_tokens(call),
        cached=model.cache_block_tokens > 0,
    )
    limits = (payload.min_first_chunk_tokens, payload.e2e_slack)
    return best_stream(consumer, producers, frozenset(allowed), graph.goal, limits)


def _can_stream(flow: Flow, call: FlatCall, edge: FlatEdge) -> bool:
    source = flow.calls[edge.source]
    sure = not edge.branch and abs(source.probability - call.probability) < 1e-9
    return sure and isinstance(source.work, LlmCall) and output_tokens(source) > 1


def _items(graph: AgentGraph, flow: Flow, call: FlatCall, fixed: dict[str, str]) -> Stream | None:
    """Return an item-wise stream: the copy starts when its part of the producer's list is written."""
    edges = flow.producers(call)
    if len(edges) != 1 or "items" not in edges[0].kinds or edges[0].part >= 1.0 or edges[0].branch:
        return None
    producers = _producers(graph, flow, edges, fixed)
    if not producers:
        return None
    made = producers[0]
    boundary = made.output_tokens * edges[0].share
    start = made.ready_s(boundary)
    if isinstance(call.work, ToolCall):
        time_s = call.work.latency.mean_s
        return _item_stream(made.name, boundary, start, (time_s, time_s, 0.0))
    if not isinstance(call.work, LlmCall):
        return None
    prompt, speed = prompt_tokens(graph, flow, call), speed_of(graph.model(fixed[call.name]))
    times = (speed.first_token_s(prompt), speed.whole_s(prompt, output_tokens(call)), prompt)
    return _item_stream(made.name, boundary, start, times)


def _item_stream(source: str, boundary: float, start_s: float, times: tuple[float, float, float]) -> Stream:
    """Return the stream of one item; `times` are first token, whole time and prefilled tokens."""
    first_s, whole_s, prefilled = times
    return Stream(
        kind="items",
        boundaries=(boundary,),
        starts_s={source: start_s},
        tail_s=None,
        first_token_s=first_s,
        duration_s=whole_s,
        prefilled_tokens=prefilled,
        ttft_s=start_s + first_s,
        e2e_s=start_s + whole_s,
    )


# -- answers -------------------------------------------------------------------------------------


def _tell(graph: AgentGraph, flat: FlatGraph, stage: _Stage, diagnostics: Diagnostics) -> None:
    if any(c.probability < 1.0 for c in flat.calls):
        diagnostics.note(
            "agents-expectation",
            "branches and loops count with their probabilities; simulate the plan for the spread",
        )
    changing = sorted(name for name, s in stage.streams.items() if s.kind == "staircase")
    if changing:
        diagnostics.warn(
            "agents-staircase",
            f"{', '.join(changing)} start on partial inputs, which can change the answer (as allowed)",
        )
    if any(m.guessed for m in graph.models):
        diagnostics.warn("agents-guessed-speed", "speeds of some models are guesses: measure them")


def _result(problem: Problem[AgentProblem], flat: FlatGraph, stage: _Stage) -> SearchResult:
    answer, graph = stage.answer, problem.payload.graph
    status: SearchStatus = "optimal" if answer.status == "optimal" else "feasible"
    return SearchResult(
        status=status,
        objective=ObjectiveValue(
            name=graph.goal,
            unit=_UNITS[graph.goal],
            sense="min",
            value=answer.value,
            bound=answer.bound,
            gap=answer.gap,
        ),
        pools=(),
        placement=(),
        predicted=_predicted(flat, stage),
        alternatives=(),
        infeasibility=None,
        method="cp-sat",
        work=tuple(sorted({**answer.work, "calls": len(flat.calls), "streams": len(stage.streams)}.items())),
        space="models, order and slots of every call at expected lengths; streams per consumer after that",
        details=_details(flat, stage),
    )


def _estimate(value: float, unit: str, graph_is_guessed: bool) -> Estimate:
    provenance = Provenance.ASSUMED if graph_is_guessed else Provenance.ANALYTICAL
    return Estimate(value=value, unit=unit, provenance=provenance)


def _first_tokens(flat: FlatGraph, stage: _Stage, schedule: Schedule) -> dict[str, float]:
    return {
        call.name: run.start_s + stage.lowered.first_token_s[i][run.mode]
        for i, (call, run) in enumerate(zip(flat.calls, schedule.runs, strict=True))
    }


def _predicted(flat: FlatGraph, stage: _Stage) -> Predictions:
    schedule = stage.answer.schedule
    if schedule is None:
        return ()
    firsts = _first_tokens(flat, stage, schedule)
    ends = {c.name: r.end_s for c, r in zip(flat.calls, schedule.runs, strict=True)}
    usd = sum(stage.lowered.usd[i][r.mode] for i, r in enumerate(schedule.runs))
    guessed = any(isinstance(c.work, LlmCall) and c.work.output.guessed for c in flat.calls)
    values = {
        "ttft_s": (sum(firsts[n] for n in flat.finals) / len(flat.finals), "s"),
        "latency_s": (max(ends[n] for n in flat.finals), "s"),
        "cost_usd": (usd, "usd"),
    }
    if stage.answer.heft_value is not None:
        values["list_schedule_objective"] = (stage.answer.heft_value, "")
    return tuple((name, _estimate(v, unit, guessed)) for name, (v, unit) in sorted(values.items()))


def _details(flat: FlatGraph, stage: _Stage) -> tuple[tuple[str, object], ...]:
    """Return calls and edges as plain data: what a runtime and the simulator need."""
    schedule = stage.answer.schedule
    if schedule is None:
        return ()
    firsts = _first_tokens(flat, stage, schedule)
    calls: list[dict[str, object]] = []
    for i, (call, run) in enumerate(zip(flat.calls, schedule.runs, strict=True)):
        entry: dict[str, object] = {
            "name": call.name,
            "node": call.node,
            "start_s": run.start_s,
            "end_s": run.end_s,
            "probability": call.probability,
        }
        if isinstance(call.work, LlmCall):
            entry |= {
                "model": stage.lowered.problem.tasks[i].modes[run.mode].name,
                "first_token_s": firsts[call.name],
                "prompt_tokens": stage.lowered.prompt_tokens[i],
                "output_tokens": stage.lowered.output_tokens[i],
            }
        calls.append(entry)
    edges: list[dict[str, object]] = []
    for edge in flat.edges:
        stream = stage.streams.get(edge.target)
        streaming = stream is not None and edge.source in stream.starts_s
        row: dict[str, object] = {"from": edge.source, "to": edge.target, "kind": "barrier"}
        if stream is not None and streaming:
            row |= {"kind": stream.kind, "boundaries": list(stream.boundaries)}
        edges.append(row)
    return (("calls", calls), ("edges", edges), ("finals", list(flat.finals)))


def _without_plan(
    problem: Problem[AgentProblem], flow: Flow, stage: _Stage, diagnostics: Diagnostics
) -> SearchResult:
    """Return why there is none: which limit binds, and what would do without it."""
    graph = problem.payload.graph
    report = _report(problem, flow, diagnostics) if stage.answer.status == "infeasible" else None
    return SearchResult(
        status="infeasible" if report is not None else "nothing_found",
        objective=ObjectiveValue(
            name=graph.goal,
            unit=_UNITS[graph.goal],
            sense="min",
            value=None,
            bound=stage.answer.bound,
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
        bare = flow_of(replace(flow.flat, calls=calls)) if unit == "s" else flow
        stage = _solve(eased, bare, {}, {}, diagnostics, share=0.25)
        if stage.answer.schedule is None:
            continue
        predicted = dict(_predicted(bare.flat, stage))
        reach = predicted["latency_s" if unit == "s" else "cost_usd"].value
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


def _relaxations(graph: AgentGraph) -> list[tuple[str, str, AgentGraph]]:
    """Return (limit, unit, the graph without it, asking for the best value of that limit)."""
    found = [("deadline_s", "s", replace(graph, deadline_s=None, goal="min_latency"))]
    if graph.budget_usd is not None:
        found.append(("budget_usd", "usd", replace(graph, budget_usd=None, goal="min_cost")))
    return found

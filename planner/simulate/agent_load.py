"""Many runs of agent graphs at once on shared slots, rates and tools: how many end per second, how late.

Runs begin at random (Poisson) or evenly; each draws its branches and lengths, takes one of the plan's routes
in turn by their shares, and queues for what others hold. Several plans may share the models that they name
alike.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast

from planner.errors import InputError
from planner.ir.agent_graph import AgentGraph
from planner.simulate.agent_job import CallTrace, Order, SimCall, SimEdge, simulate_agent_job
from planner.simulate.agent_plan import SimulatedGraph, unfinished
from planner.space.agent_flatten import flatten
from planner.space.agent_reach import Reach

Arrivals = Literal["random", "even"]
_WARM_UP = 0.2
_MAX_CALLS = 400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Runs of one plan: its graph and details, and how many begin per second."""

    name: str
    graph: AgentGraph
    details: dict[str, object]
    runs_per_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How many runs of the first plan, how they begin, who is served first, whether lengths are drawn."""

    num_runs: int = 500
    seed: int = 0
    arrivals: Arrivals = "random"
    order: Order = "fcfs"
    draw_lengths: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadFigures:
    """What happened to the runs of a plan after warming up.

    `ended_per_s` counts ends between the warm-up and the last beginning; `kept_deadline` is the share of runs
    that did (None without one).
    """

    begun_per_s: float
    ended_per_s: float
    mean_latency_s: float
    mean_ttft_s: float
    latency_s: tuple[float, ...]
    kept_deadline: float | None


@dataclass(slots=True, kw_only=True)
class _Made:
    """Runs of one plan in the simulation: when they begin, their final calls."""

    begins: list[float] = field(default_factory=list[float])
    finals: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])


def simulate_load(programs: Sequence[Program], options: LoadOptions) -> dict[str, LoadFigures]:
    """Return figures by plan.

    Raises
    ------
    InputError
        If the runs have more calls than can be simulated, or plans disagree on the size of a model.
    """
    joined = _Joined()
    made: dict[str, _Made] = {}
    until = options.num_runs / programs[0].runs_per_s
    for program in programs:
        made[program.name] = joined.add(program, until, options)
    trace = simulate_agent_job(joined.calls, joined.edges, joined.sizes, order=options.order)
    by_name = {call.name: call for call in trace.calls}
    return {p.name: _figures(p, made[p.name], by_name, until) for p in programs}


class _Joined:
    """The calls of all runs in one simulation."""

    def __init__(self) -> None:
        self.calls: list[SimCall] = []
        self.edges: list[SimEdge] = []
        self.sizes: dict[str, int] = {}

    def add(self, program: Program, until: float, options: LoadOptions) -> _Made:
        """Add the runs of a plan that begin by `until`."""
        made = _Made()
        routes = _Turns(program.details)
        reach = Reach(flatten(program.graph))
        arrivals = random.Random(f"{options.seed}/{program.name}")
        now = 0.0
        while True:
            gap = (
                arrivals.expovariate(program.runs_per_s)
                if options.arrivals == "random"
                else 1.0 / program.runs_per_s
            )
            now += gap
            if now > until:
                return made
            generator = random.Random(f"{options.seed}/{program.name}/{len(made.begins)}")
            outcome = reach.outcome(1.0, *reach.made(reach.draw(generator)))
            graph = SimulatedGraph(program.graph, routes.next(), outcome)
            self._add_run(program, graph, now, generator if options.draw_lengths else None, made)
            if len(self.calls) > _MAX_CALLS:
                raise InputError(
                    "the runs have too many calls to be simulated",
                    key="--requests",
                    value=options.num_runs,
                    allowed=f"up to {_MAX_CALLS} calls in all",
                )

    def _add_run(
        self,
        program: Program,
        graph: SimulatedGraph,
        begin_s: float,
        drawn: random.Random | None,
        made: _Made,
    ) -> None:
        mark = f"{program.name}#{len(made.begins)}"
        calls, edges = graph.calls(drawn)
        for pool, size in graph.sizes.items():
            shared = _pool(pool, mark)
            if self.sizes.setdefault(shared, size) != size:
                raise InputError("plans that share a model must agree on it", key=pool, value=size)
        # a call that ends when the run begins, which those that wait for nothing wait for
        start = f"{mark}/"
        self.calls.append(SimCall(name=start, fixed_s=begin_s, program=mark))
        waiting = {edge.target for edge in edges}
        for call in calls:
            self.calls.append(_marked(call, mark, begin_s, program.graph.priority))
            if call.name not in waiting:
                self.edges.append(SimEdge(source=start, target=f"{mark}/{call.name}"))
        self.edges += [replace(e, source=f"{mark}/{e.source}", target=f"{mark}/{e.target}") for e in edges]
        made.begins.append(begin_s)
        made.finals.append(tuple(f"{mark}/{name}" for name in graph.flow.flat.finals))


def _pool(name: str, mark: str) -> str:
    """Return the name of a pool; the copies of a fan-out limit each other within one run."""
    return f"{mark}/{name}" if name.startswith("copies of ") else name


def _marked(call: SimCall, mark: str, begin_s: float, priority: int) -> SimCall:
    return replace(
        call,
        name=f"{mark}/{call.name}",
        holds=tuple(replace(h, pool=_pool(h.pool, mark)) for h in call.holds),
        priority=begin_s + call.priority,
        rank=call.rank - priority,
        program=mark,
    )


class _Turns:
    """Takes the routes of a plan in turn, each as often as its share says."""

    def __init__(self, details: dict[str, object]) -> None:
        routes = cast("list[dict[str, Any]]", details.get("routes") or [{"share": 1.0}])
        rows: list[dict[str, Any]] = [{**details, **route} for route in routes]
        self.routes = rows
        self.due = [0.0] * len(rows)

    def next(self) -> dict[str, object]:
        """Return the details of the route whose turn it is."""
        for i, route in enumerate(self.routes):
            self.due[i] += float(route["share"])
        chosen = max(range(len(self.due)), key=lambda i: (self.due[i], -i))
        self.due[chosen] -= 1.0
        return self.routes[chosen]


def _figures(program: Program, made: _Made, calls: dict[str, CallTrace], until: float) -> LoadFigures:
    runs: list[tuple[float, float, float]] = []
    for begin, finals in zip(made.begins, made.finals, strict=True):
        ends = [calls[n].end_s for n in finals if calls[n].end_s is not None]
        firsts = [calls[n].first_token_s for n in finals if calls[n].first_token_s is not None]
        if not ends:
            raise unfinished()
        first = sum(cast("list[float]", firsts)) / len(firsts) - begin
        runs.append((begin, first, max(cast("list[float]", ends)) - begin))
    warm = until * _WARM_UP
    kept = [run for run in runs if run[0] >= warm]
    if not kept:
        raise InputError("too few runs to say anything", key="--requests", value=len(runs))
    latencies = sorted(latency for _, _, latency in kept)
    ended = sum(warm <= begin + latency <= until for begin, _, latency in runs)
    deadline = program.graph.deadline_s
    return LoadFigures(
        begun_per_s=len(kept) / (until - warm),
        ended_per_s=ended / (until - warm),
        mean_latency_s=sum(latencies) / len(latencies),
        mean_ttft_s=sum(first for _, first, _ in kept) / len(kept),
        latency_s=tuple(latencies),
        kept_deadline=None if deadline is None else sum(v <= deadline for v in latencies) / len(latencies),
    )


def load_report(
    programs: Sequence[Program], predicted: dict[str, dict[str, float]], options: LoadOptions
) -> dict[str, dict[str, dict[str, float]]]:
    """Return, per plan and figure, the prediction (where there is one), what was simulated and quantiles."""
    if len({p.name for p in programs}) < len(programs):
        raise InputError("two plans have the same name", value=programs[-1].name)
    report: dict[str, dict[str, dict[str, float]]] = {}
    for name, seen in simulate_load(programs, options).items():
        known = predicted.get(name, {})
        count = len(seen.latency_s)
        quantiles = {f"p{q}": seen.latency_s[min(count * q // 100, count - 1)] for q in (50, 90, 99)}
        rows: dict[str, dict[str, float]] = {
            "runs_per_s": {"begun": seen.begun_per_s, "simulated": seen.ended_per_s},
            "ttft_s": {"simulated": seen.mean_ttft_s},
            "latency_s": {"simulated": seen.mean_latency_s, **quantiles},
        }
        report[name] = {
            key: {**({"predicted": known[key]} if key in known else {}), **row} for key, row in rows.items()
        }
        if seen.kept_deadline is not None:
            report[name]["in_time"] = {"simulated": seen.kept_deadline}
    return report

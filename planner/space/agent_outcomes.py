"""One scheduling problem over all outcomes of the branches: each is a world of its own, models are shared.

The objective is the expectation: every outcome has its own copy of the calls that it makes, of slots and
rates, and its own end, which counts with its weight. A call runs on the same model in every outcome,
since that is decided before anybody knows how branches go. Money is limited in expectation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from planner.ir.agent_graph import AgentGraph
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task
from planner.space.agent_flat import Flow, flow_of
from planner.space.agent_lower import Choice, Lowered, lower
from planner.space.agent_reach import outcomes
from planner.space.agent_streams import Stream

_MAX_OUTCOMES = 32
_MAX_TASKS = 1_500
_MIN_OUTCOMES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One outcome: its weight and the calls that are made in it, all certain."""

    weight: float
    flow: Flow


@dataclass(frozen=True, slots=True, kw_only=True)
class Worlds:
    """All outcomes; if not `complete`, a drawn share of them."""

    flow: Flow
    worlds: tuple[World, ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A world's share of a combined problem: the task of its k-th call is `first` + k."""

    world: World
    lowered: Lowered
    first: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """A problem over all worlds, and its parts."""

    problem: SchedulingProblem
    parts: tuple[Part, ...]


def worlds_of(flow: Flow, *, repeats: bool = False) -> Worlds:
    """Return the outcomes of a graph's branches; without branches the graph itself is the only one.

    Runs that repeat meet each other whatever their branches do: then there is one world in which every call
    is made, so that each has its place.
    """
    if repeats:
        calls = tuple(replace(c, probability=1.0) for c in flow.flat.calls)
        edges = tuple(replace(e, probability=1.0, branch=False) for e in flow.flat.edges)
        flow = flow_of(replace(flow.flat, calls=calls, edges=edges))
    if not any(e.branch for e in flow.flat.edges):
        return Worlds(flow=flow, worlds=(World(weight=1.0, flow=flow),), complete=True)
    most = max(min(_MAX_OUTCOMES, _MAX_TASKS // max(len(flow.flat.calls), 1)), _MIN_OUTCOMES)
    found, complete = outcomes(flow.flat, most=most)
    worlds = tuple(World(weight=o.weight, flow=flow_of(o.graph)) for o in found)
    return Worlds(flow=flow, worlds=worlds, complete=complete)


def lower_worlds(
    graph: AgentGraph,
    worlds: Worlds,
    streams: dict[str, Stream],
    fixed: dict[str, str],
    choice: Choice | None = None,
) -> Combined:
    """Return the scheduling problem of all outcomes; arguments as of `planner.space.agent_lower.lower`."""
    lowered = [lower(graph, w.flow, streams, fixed, choice) for w in worlds.worlds]
    if len(lowered) == 1:
        part = Part(world=worlds.worlds[0], lowered=lowered[0], first=0)
        return Combined(problem=lowered[0].problem, parts=(part,))
    joined = _Joined(name=graph.name)
    parts = [joined.add(world, low) for world, low in zip(worlds.worlds, lowered, strict=True)]
    return Combined(problem=joined.problem(), parts=tuple(parts))


class _Joined:
    """Problems put side by side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tasks: list[Task] = []
        self.resources: list[Resource] = []
        self.lags: list[Lag] = []
        self.budgets: dict[str, int] = {}
        self.twins: dict[str, int] = {}

    def problem(self) -> SchedulingProblem:
        """Return them as one."""
        return SchedulingProblem(
            name=self.name,
            tasks=tuple(self.tasks),
            resources=tuple(self.resources),
            lags=tuple(self.lags),
            makespan_weight=0.0,
        )

    def add(self, world: World, lowered: Lowered) -> Part:
        """Add one world's problem."""
        first, inner = len(self.tasks), lowered.problem
        number = [self._resource(r, len(self.tasks)) for r in inner.resources]
        for task in inner.tasks:
            twin = self.twins.setdefault(task.name, len(self.tasks))
            self.tasks.append(
                replace(
                    task,
                    modes=tuple(
                        _moved(_weighed(m, world.weight, number, inner.resources), first) for m in task.modes
                    ),
                    weight=task.weight * world.weight,
                    twin=None if twin == len(self.tasks) else twin,
                )
            )
        self.lags += [replace(g, before=g.before + first, after=g.after + first) for g in inner.lags]
        if inner.makespan_weight:
            end = len(self.tasks)
            self.lags += [Lag(before=t, after=end) for t in range(first, end)]
            weight = inner.makespan_weight * world.weight
            self.tasks.append(
                Task(name=f"end {first}", modes=(Mode(name="", duration_s=0.0),), weight=weight)
            )
        return Part(world=world, lowered=lowered, first=first)

    def _resource(self, resource: Resource, mark: int) -> int:
        """Return the number of a world's resource; what is used up is shared by all worlds."""
        if not resource.renewable:
            if resource.name not in self.budgets:
                self.budgets[resource.name] = len(self.resources)
                self.resources.append(resource)
            return self.budgets[resource.name]
        self.resources.append(replace(resource, name=f"{resource.name} ({mark})"))
        return len(self.resources) - 1


def _moved(mode: Mode, first: int) -> Mode:
    return replace(mode, needs=tuple((other + first, site) for other, site in mode.needs))


def _weighed(mode: Mode, weight: float, number: list[int], resources: tuple[Resource, ...]) -> Mode:
    """Return a mode in one of several worlds: its cost and what it uses up count with the weight."""

    def demand(d: Demand) -> Demand:
        amount = d.amount if resources[d.resource].renewable else math.ceil(d.amount * weight - 1e-9)
        return replace(d, resource=number[d.resource], amount=amount)

    return replace(mode, cost=mode.cost * weight, demands=tuple(demand(d) for d in mode.demands))

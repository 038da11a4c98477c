"""The most runs of a graph per second on its slots, rates and tools, with the deadline kept.

Without a deadline and a budget a run may take any models, and the cheapest route at given prices is found
call by call. With them it is a scheduling problem: the cheapest modes under which every outcome of the
branches ends in time. Requests then also wait for each other; how long depends on how busy servers may be, so
that is tried in steps, and every route keeps the deadline with the mean wait at that load added to each call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from planner.diagnostics import Diagnostics
from planner.errors import InputError
from planner.ir.agent_graph import AgentProblem
from planner.ir.problem import Problem
from planner.ir.scheduling_problem import Schedule, SchedulingProblem, Task, restricted
from planner.search.agent_cpsat import ScheduleAnswer, ScheduleOptions, solve_schedule
from planner.search.agent_joint import Stage
from planner.search.agent_routes import Cheapest, Mixture, Picks, best_mixture
from planner.space.agent_flat import Flow
from planner.space.agent_lower import Choice
from planner.space.agent_outcomes import Worlds, lower_worlds, worlds_of
from planner.space.agent_shares import Uses, capacities, uses_of, waits_at, with_waits
from planner.space.agent_variants import Variants, variants_of

LOADS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05)
"""How busy servers may be, tried where a deadline has to hold; without one they may be busy all the time."""

_PRICE_SHARE = 0.2
_LEAST_S = 0.2
_PROOF = 2e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteShare:
    """A route with its schedule for one run, how many runs per second take it, and what each takes."""

    stage: Stage
    runs_per_s: float
    uses: Uses


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """The best mixture: `bound` is above every mixture of every load tried; `load` the busy share allowed."""

    routes: tuple[RouteShare, ...]
    value: float
    bound: float
    is_proved: bool
    load: float
    waits_s: Uses
    capacity: Uses
    prices: Uses
    num_routes: int
    worlds: Worlds


def most_runs(problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> Throughput | None:
    """Return the best mixture of routes, None if no route keeps the limits at any load tried.

    Raises
    ------
    InputError
        If nothing limits how many runs there are.
    """
    return _Throughput(problem, flow, diagnostics).best()


def has_limits(problem: Problem[AgentProblem], flow: Flow) -> bool:
    """Return whether a run has a deadline or a budget."""
    graph = problem.payload.graph
    timed = any(call.deadline_s is not None for call in flow.flat.calls)
    return timed or graph.deadline_s is not None or graph.budget_usd is not None


class _Throughput:
    """One search over loads."""

    def __init__(self, problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> None:
        self.problem = problem
        self.flow = flow
        self.diagnostics = diagnostics
        self.until = time.monotonic() + problem.options.time_limit_s
        self.capacity = capacities(problem.payload.graph, flow)

    def best(self) -> Throughput | None:
        """Return the best over all loads."""
        if not self._is_timed():
            return self._at(1.0)[0]
        free = self._free()
        best: Throughput | None = None
        bound, proved = 0.0, True
        for load in LOADS:
            if best is not None and free * load <= best.value:
                break
            if best is not None and self.late():
                bound, proved = max(bound, free * load), False
                break
            found, above, is_proved = self._at(load)
            bound, proved = max(bound, min(above, free * load)), proved and is_proved
            if found is not None and (best is None or found.value > best.value):
                best = found
        if best is None:
            return None
        closed = bound <= best.value * (1.0 + _PROOF)
        return replace(best, bound=max(bound, best.value), is_proved=proved and closed)

    def late(self) -> bool:
        """Return whether the time is up."""
        return time.monotonic() > self.until

    def _is_timed(self) -> bool:
        graph = self.problem.payload.graph
        return graph.deadline_s is not None or any(c.deadline_s is not None for c in self.flow.flat.calls)

    def _free(self) -> float:
        """Return what no mixture exceeds even if nothing has to be in time and servers work all the time."""
        routes = _Routes(self, {}, free=True)
        mixture = self._mixture(routes, 1.0)
        return 0.0 if mixture is None else mixture.bound

    def _mixture(self, routes: _Routes, load: float) -> Mixture | None:
        capacity = {name: amount * load for name, amount in self.capacity.items()}
        try:
            return best_mixture(capacity, routes.cheapest, self.late)
        except ValueError as error:
            raise InputError(
                str(error),
                key="objective",
                value="max_throughput",
                hint="Give a model that is called slots or a rate, or a tool a limit.",
            ) from None

    def _at(self, load: float) -> tuple[Throughput | None, float, bool]:
        """Return the best mixture at a load, what none there exceeds, and whether that is proved."""
        waits_s = waits_at(self.problem.payload.graph, self.flow, load) if load < 1.0 else {}
        self.diagnostics.progress(f"mixing routes with servers busy for {load:.0%} of the time")
        routes = _Routes(self, waits_s)
        mixture = self._mixture(routes, load)
        if mixture is None:
            return None, routes.above, routes.is_proved
        found = Throughput(
            routes=tuple(
                RouteShare(stage=routes.stage(picks), runs_per_s=rate, uses=routes.total(picks))
                for picks, rate in sorted(mixture.rates, key=lambda pair: (-pair[1], pair[0]))
            ),
            value=mixture.value,
            bound=mixture.bound,
            is_proved=routes.is_proved and mixture.bound <= mixture.value * (1.0 + _PROOF),
            load=load,
            waits_s=waits_s,
            capacity=self.capacity,
            prices=mixture.prices,
            num_routes=mixture.num_routes,
            worlds=routes.worlds,
        )
        return found, mixture.bound, found.is_proved


class _Routes:
    """The routes of a graph at given waits, and which of them is the cheapest.

    `free` leaves out every limit of a single run.
    """

    def __init__(self, search: _Throughput, waits_s: Uses, *, free: bool = False) -> None:
        self.search = search
        self.options = search.problem.options
        payload = search.problem.payload
        later, flow = with_waits(payload.graph, search.flow, waits_s)
        self.payload = replace(payload, graph=replace(later, goal="min_latency"))
        self.worlds = worlds_of(flow)
        self.is_limited = not free and has_limits(search.problem, flow)
        self.variants: Variants = {}
        left: list[str] = []
        if self.is_limited:
            self.variants, left = variants_of(self.payload, flow)
        choice = Choice(variants=self.variants)
        self.combined = lower_worlds(self.payload.graph, self.worlds, {}, {}, choice)
        self.uses = uses_of(self.combined, waits_s)
        self.is_proved = not left and self.worlds.complete
        self.above = float("inf")
        self.known: dict[Picks, Schedule] = {}
        self.groups = _groups(self.combined.problem.tasks)

    def cheapest(self, prices: Uses) -> Cheapest | None:
        """Return the cheapest route at these prices; None if no route keeps the limits."""
        costs = [[_cost(row, prices) for row in rows] for rows in self.uses]
        if not self.is_limited:
            picks = self._call_by_call(costs)
            least = sum(row[m] for row, m in zip(costs, picks, strict=True))
            return Cheapest(picks=picks, uses=self.total(picks), least=least)
        answer = self._in_time(costs)
        if answer.schedule is None:
            self._give_up(answer)
            return None
        picks = tuple(run.mode for run in answer.schedule.runs)
        self.known[picks] = answer.schedule
        return Cheapest(picks=picks, uses=self.total(picks), least=answer.bound)

    def total(self, picks: Picks) -> Uses:
        """Return what one run of a route takes."""
        found: Uses = {}
        for rows, mode in zip(self.uses, picks, strict=True):
            for name, amount in rows[mode].items():
                found[name] = found.get(name, 0.0) + amount
        return found

    def stage(self, picks: Picks) -> Stage:
        """Return a route with the quickest schedule found of one run of it."""
        problem = self.combined.problem
        kept = restricted(problem, [[mode] for mode in picks])
        hint = self.known.get(picks)
        start = None if hint is None else _with_modes(hint, (0,) * len(picks))
        limit_s = max(self.search.until - time.monotonic(), self.options.time_limit_s * _PRICE_SHARE)
        answer = solve_schedule(kept, self._solver(min(limit_s, self.options.time_limit_s)), hint=start)
        schedule = hint if answer.schedule is None else _with_modes(answer.schedule, picks)
        return Stage(
            combined=self.combined, answer=replace(answer, schedule=schedule), variants=self.variants
        )

    def _call_by_call(self, costs: list[list[float]]) -> Picks:
        """Return the cheapest mode of each group of tasks that share one."""
        picks = [0] * len(costs)
        for group in self.groups:
            sums = [sum(costs[t][m] for t in group) for m in range(len(costs[group[0]]))]
            best = min(range(len(sums)), key=lambda m: (sums[m], m))
            for t in group:
                picks[t] = best
        return tuple(picks)

    def _in_time(self, costs: list[list[float]]) -> ScheduleAnswer:
        problem = _priced(self.combined.problem, costs)
        left_s = max(self.search.until - time.monotonic(), 0.0)
        limit_s = max(min(self.options.time_limit_s * _PRICE_SHARE, left_s), _LEAST_S)
        return solve_schedule(problem, self._solver(limit_s), on_progress=None)

    def _solver(self, limit_s: float) -> ScheduleOptions:
        return ScheduleOptions(
            time_limit_s=limit_s, seed=self.options.seed, num_workers=self.options.num_workers
        )

    def _give_up(self, answer: ScheduleAnswer) -> None:
        """Remember whether there is no route, or whether none was found in time."""
        if answer.status == "infeasible":
            self.above = 0.0
        else:
            self.is_proved = False


def _cost(uses: Uses, prices: Uses) -> float:
    return sum(amount * prices.get(name, 0.0) for name, amount in uses.items())


def _groups(tasks: tuple[Task, ...]) -> list[list[int]]:
    """Return the tasks that run in one mode together."""
    found: dict[int, list[int]] = {}
    for t, task in enumerate(tasks):
        found.setdefault(t if task.twin is None else task.twin, []).append(t)
    return list(found.values())


def _priced(problem: SchedulingProblem, costs: list[list[float]]) -> SchedulingProblem:
    """Return the problem of finding the cheapest modes: times only have to keep their limits."""
    tasks = tuple(
        replace(
            task,
            weight=0.0,
            modes=tuple(replace(m, cost=c) for m, c in zip(task.modes, row, strict=True)),
        )
        for task, row in zip(problem.tasks, costs, strict=True)
    )
    return replace(problem, tasks=tasks, makespan_weight=0.0)


def _with_modes(schedule: Schedule, modes: Picks) -> Schedule:
    runs = (replace(run, mode=mode) for run, mode in zip(schedule.runs, modes, strict=True))
    return Schedule(runs=tuple(runs))

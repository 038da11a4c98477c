"""Exact scheduling: flexible, multi-mode job shop on CP-SAT.

One optional interval per (task, mode), exactly one chosen; NoOverlap or Cumulative per renewable
resource; sums per budget; minimum lags of all four kinds; redundant load lines per resource and
window; a list schedule as hint and fallback. Every answer carries value, bound, gap and status.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from ortools.sat.python import cp_model

from planner.ir.scheduling_problem import Run, Schedule, SchedulingProblem, faults
from planner.search.agent_bounds import Bounds, bounds, is_overloaded
from planner.search.agent_chains import equal_chains
from planner.search.agent_lp import relaxed
from planner.search.agent_model import Vars, build, weigh
from planner.search.agent_population import Effort, improved_schedule, is_improvable
from planner.search.agent_seed import guided_schedule, seed_schedule
from planner.search.agent_ticks import Ticks, horizon_s, to_seconds, to_ticks
from planner.search.heft import heft, placed_again, settled

Status = Literal["optimal", "feasible", "infeasible", "unknown"]
_MIN_SPLIT_S = 5.0
_NEARLY = 0.97
_FIRST_SHARE = 0.06
_PROJECT_SHARE, _MODES_SHARE = 0.82, 0.15
"""Share of the time for better orders: much where modes are settled, little where they are chosen too."""
_PLACEMENTS_PER_S = 2_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """Limits of the search.

    `deterministic_limit` bounds the work instead of the time (CP-SAT's own unit, near a second), so that
    an answer cut short is reproducible too. With one worker, or with several taking turns
    (`reproducible`), the search itself is.
    """

    time_limit_s: float = 20.0
    deterministic_limit: float | None = None
    seed: int = 0
    num_workers: int = 1
    reproducible: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleAnswer:
    """A schedule and its proof.

    `bound` is below every schedule's value; `gap` = (value - bound) / value. `error` is what rounding
    to ticks can hide, already taken off the bound. `heft_value` is the list schedule's value, None if
    it found none.
    """

    status: Status
    schedule: Schedule | None
    value: float | None
    bound: float
    gap: float | None
    error: float
    heft_value: float | None
    wall_time_s: float
    work: dict[str, float | int] = field(default_factory=dict[str, float | int])


def solve_schedule(
    problem: SchedulingProblem,
    options: ScheduleOptions,
    *,
    hint: Schedule | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> ScheduleAnswer:
    """Return the best schedule found and how far it can be from the optimum.

    `hint` gives modes and an order that may be a good start; its times need not be right.

    An interrupt (Ctrl-C) ends the search with what was found so far.

    Raises
    ------
    ValueError
        If the problem is malformed (see `planner.ir.scheduling_problem.faults`).
    """
    found = faults(problem)
    if found:
        raise ValueError("; ".join(found[:5]))
    began = time.monotonic()
    ticks = to_ticks(problem)
    limits = bounds(ticks.problem)
    if limits is None:
        return no_schedule("infeasible", began)
    return _Search(problem, options, limits, ticks, hint).run(began, on_progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What one try came to, in ticks and as an answer."""

    status: Status
    answer: ScheduleAnswer
    schedule: Schedule | None = None
    bound: float = 0.0
    interrupted: bool = False


class _Search:
    """One run of the solver on one problem."""

    def __init__(
        self,
        problem: SchedulingProblem,
        options: ScheduleOptions,
        limits: Bounds,
        ticks: Ticks,
        hint: Schedule | None,
    ) -> None:
        self.problem = problem
        self.options = options
        self.limits = limits
        self.ticks = ticks
        self.weights = weigh(ticks)
        self.baseline = heft(problem)
        self.hint = hint
        self.seed: Schedule | None = None
        self.bound = 0.0
        self.horizon = 0
        self.below = False

    def run(self, began: float, on_progress: Callable[[str], None] | None) -> ScheduleAnswer:
        """Return the best answer; an interrupt outside the solver returns what is known by then."""
        try:
            seed = seed_schedule(self.ticks.problem, self.limits, seed=self.options.seed)
            self._take(seed)
            if self.hint is not None:
                self._take(placed_again(self.ticks.problem, self.hint))
            self.horizon = self._horizon()
            return self._run(began, on_progress)
        except KeyboardInterrupt:
            if self.seed is not None:
                return self._answer("feasible", self.seed, self.bound, began)
            if self.baseline is None:
                raise
            self.horizon = self._horizon()
            return self._judged("feasible", self.baseline, self.bound, began)

    def _run(self, began: float, on_progress: Callable[[str], None] | None) -> ScheduleAnswer:
        """Build, solve and read back; a project not proved soon gets a better seed and a second try."""
        if self.seed is not None and self.weights.only_makespan and _end(self.seed) <= self.limits.makespan:
            return self._answer("optimal", self.seed, self.limits.makespan, began)
        if is_overloaded(self.ticks.problem):
            return no_schedule("infeasible", began)
        if any(h + t > self.horizon for h, t in zip(self.limits.heads, self.limits.tails, strict=True)):
            return no_schedule("infeasible", began)
        self._relax()
        limit_s = self.options.time_limit_s
        found = None
        if self.seed is not None and is_improvable(self.ticks.problem) and limit_s >= _MIN_SPLIT_S:
            # the first try is cut by work, so that what follows does not hang on the machine's speed
            work_limit = min(limit_s * _FIRST_SHARE, self.options.deterministic_limit or limit_s)
            found = self._try(began, replace(self.options, deterministic_limit=work_limit), on_progress)
            if found.status == "feasible" and not found.interrupted:
                self._improve(found, began)
                found = None
        if found is not None:
            return found.answer
        if self.below and self.seed is not None and self.horizon < self.limits.makespan:
            return self._answer("optimal", self.seed, self.limits.makespan * self.weights.makespan, began)
        return self._try(began, self.options, on_progress).answer

    def _relax(self) -> None:
        """Bound a problem of several modes or ends by its linear relaxation, and seed from what that uses."""
        problem = self.ticks.problem
        if self.weights.only_makespan and all(len(t.modes) == 1 for t in problem.tasks):
            return
        relaxation = relaxed(problem, self.limits, self.weights)
        if relaxation is None:
            return
        self.bound = max(self.bound, relaxation.bound)
        for least in (0.5, 0.05):
            self._take(guided_schedule(problem, self.limits, relaxation, least=least))

    def _take(self, found: Schedule | None) -> None:
        """Keep a schedule as seed if it is better than the one at hand."""
        problem = self.ticks.problem
        if found is None:
            return
        if self.seed is None or problem.objective(found) < problem.objective(self.seed):
            self.seed = _in_order(problem, found)

    def _improve(self, first: _Found, began: float) -> None:
        """Start again from the bound and a better schedule than the first try's."""
        problem = self.ticks.problem
        best = first.schedule or self.seed
        if best is None:
            return
        self.seed, self.bound = best, max(self.bound, first.bound)
        target = -math.inf
        if self.weights.only_makespan:
            floor = math.ceil(first.bound / max(self.weights.makespan, 1) - 1e-9)
            self.limits = replace(self.limits, makespan=max(self.limits.makespan, floor))
            target = problem.makespan_weight * self.limits.makespan
        settled_modes = all(len(t.modes) == 1 for t in problem.tasks)
        share = _PROJECT_SHARE if settled_modes else _MODES_SHARE
        limit_s = min(self.options.time_limit_s, self.options.deterministic_limit or math.inf)
        effort = Effort(
            num_placements=int(limit_s * share * _PLACEMENTS_PER_S * self.options.num_workers),
            deadline=began + self.options.time_limit_s * (_FIRST_SHARE + share),
            num_threads=self.options.num_workers,
        )
        better = improved_schedule(problem, best, target=target, effort=effort, seed=self.options.seed)
        self.seed = _in_order(problem, better)
        self.horizon = self._horizon()
        if self.weights.only_makespan:
            # what is asked next is a schedule one tick shorter: most of the model is then settled at once
            self.below, self.horizon = True, self.horizon - 1

    def _try(
        self, began: float, options: ScheduleOptions, on_progress: Callable[[str], None] | None
    ) -> _Found:
        """Solve with what is left of the time."""
        model, variables = build(self.ticks.problem, self.limits, self.horizon, self.weights)
        if self.seed is not None and not self.below:
            _hint(model, variables, self.seed)
        solver = _solver(self.ticks.problem, options, options.time_limit_s - (time.monotonic() - began))
        listener = None if on_progress is None else _Progress(on_progress, 1.0 / self.weights.scale)
        verdict = solver.solve(model, listener)
        bound = solver.best_objective_bound
        if verdict == cp_model.MODEL_INVALID:
            raise ValueError(f"the solver rejects the model: {model.validate()}")
        if verdict == cp_model.INFEASIBLE and self.below and self.seed is not None:
            bound = self.weights.makespan * _end(self.seed)
            return _Found(status="optimal", answer=self._answer("optimal", self.seed, bound, began))
        if verdict == cp_model.INFEASIBLE:
            return _Found(status="infeasible", answer=no_schedule("infeasible", began))
        schedule = self.seed
        if verdict in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            schedule = _read(self.ticks.problem, solver, variables)
        if schedule is None:
            return _Found(status="unknown", answer=no_schedule("unknown", began, bound=self._lower(bound)))
        status: Status = "optimal" if verdict == cp_model.OPTIMAL else "feasible"
        work: dict[str, float | int] = {"branches": solver.num_branches, "conflicts": solver.num_conflicts}
        answer = self._answer(status, schedule, bound, began, work)
        # the solver takes an interrupt for itself: it then stops before any of its limits
        interrupted = (
            status == "feasible"
            and time.monotonic() - began < _NEARLY * options.time_limit_s
            and solver.response_proto.deterministic_time < _NEARLY * solver.parameters.max_deterministic_time
        )
        return _Found(status=status, answer=answer, schedule=schedule, bound=bound, interrupted=interrupted)

    def _horizon(self) -> int:
        """Return a time that no optimal schedule needs to pass, in ticks."""
        if self.seed is not None and self.weights.only_makespan:
            return int(_end(self.seed))
        latest = int(horizon_s(self.ticks.problem))
        deadlines = [t.deadline_s for t in self.ticks.problem.tasks]
        known = [int(d) for d in deadlines if d is not None]
        return min(latest, max(known)) if known and len(known) == len(deadlines) else latest

    def _lower(self, bound: float) -> float:
        """Return the solver's bound in units of the objective, less what rounding may hide."""
        bound = max(bound, self.bound)
        if self.weights.only_makespan:
            bound = max(bound, self.limits.makespan)
        hidden = self.ticks.error_s * self.weights.per_second + self.weights.rounding(self.horizon)
        return max(bound / self.weights.scale - hidden, 0.0)

    def _answer(
        self,
        status: Status,
        schedule: Schedule,
        bound: float,
        began: float,
        work: dict[str, float | int] | None = None,
    ) -> ScheduleAnswer:
        best = to_seconds(self.problem, self.ticks, schedule)
        return self._judged(status, best, bound, began, work)

    def _judged(
        self,
        status: Status,
        best: Schedule,
        bound: float,
        began: float,
        work: dict[str, float | int] | None = None,
    ) -> ScheduleAnswer:
        """Return the answer for a schedule in seconds, or for the baseline where that is better."""
        value = self.problem.objective(best)
        heft_value = None if self.baseline is None else self.problem.objective(self.baseline)
        if self.baseline is not None and heft_value is not None and heft_value < value:
            best, value = self.baseline, heft_value
        best = settled(self.problem, best)
        value = min(value, self.problem.objective(best))
        lower = min(self._lower(bound), value)
        return ScheduleAnswer(
            status=status,
            schedule=best,
            value=value,
            bound=lower,
            gap=0.0 if value <= 0 else (value - lower) / value,
            error=self.ticks.error_s * self.weights.per_second + self.weights.rounding(self.horizon),
            heft_value=heft_value,
            wall_time_s=time.monotonic() - began,
            work=work or {},
        )


def _in_order(problem: SchedulingProblem, schedule: Schedule | None) -> Schedule | None:
    """Return the schedule with interchangeable chains in the order that the model asks for."""
    if schedule is None:
        return None
    runs = list(schedule.runs)
    for group in equal_chains(problem):
        ordered = sorted(
            ([runs[t] for t in chain] for chain in group), key=lambda c: (c[0].start_s, c[0].mode)
        )
        for chain, kept in zip(group, ordered, strict=True):
            for t, run in zip(chain, kept, strict=True):
                runs[t] = run
    return Schedule(runs=tuple(runs))


def _end(schedule: Schedule) -> float:
    return max((run.end_s for run in schedule.runs), default=0.0)


def no_schedule(status: Status, began: float, *, bound: float = 0.0) -> ScheduleAnswer:
    """Return an answer without a schedule."""
    return ScheduleAnswer(
        status=status,
        schedule=None,
        value=None,
        bound=bound,
        gap=None,
        error=0.0,
        heft_value=None,
        wall_time_s=time.monotonic() - began,
    )


def _hint(model: cp_model.CpModel, variables: Vars, seed: Schedule) -> None:
    hinted: set[int] = set()
    for start, chosen, run in zip(variables.starts, variables.chosen, seed.runs, strict=True):
        model.add_hint(start, int(run.start_s))
        # tasks that share their mode share its literals, which may be hinted once
        if len(chosen) > 1 and chosen[0].index not in hinted:
            hinted.add(chosen[0].index)
            for number, literal in enumerate(chosen):
                model.add_hint(literal, number == run.mode)
    model.add_hint(variables.makespan, int(_end(seed)))


def _is_project(problem: SchedulingProblem) -> bool:
    """Whether tasks share several resources that serve more than one of them at once.

    Such projects are proved soonest by the solver's default search; shops and task graphs on equal
    processors by the one that branches on reduced costs (measured on the public sets).
    """
    shared = {d.resource for _, _, d in problem.demands() if problem.resources[d.resource].capacity > 1}
    return len([r for r in shared if problem.resources[r].renewable]) > 1


def _solver(problem: SchedulingProblem, options: ScheduleOptions, left_s: float) -> cp_model.CpSolver:
    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.max_time_in_seconds = max(left_s, 0.1)
    if options.deterministic_limit is not None:
        parameters.max_deterministic_time = options.deterministic_limit
    parameters.random_seed = options.seed
    parameters.num_workers = options.num_workers
    parameters.interleave_search = options.reproducible and options.num_workers > 1
    # one worker proves by loads; a second, without linear programmes, tries every order below the best
    first = "default_lp" if _is_project(problem) else "reduced_costs"
    if options.num_workers > 1:
        parameters.subsolvers.extend([first, "no_lp"])  # pyright: ignore[reportUnknownMemberType] - no stubs
    elif not _is_project(problem):
        parameters.subsolvers.append(first)  # pyright: ignore[reportUnknownMemberType] - no stubs
    return solver


def _read(problem: SchedulingProblem, solver: cp_model.CpSolver, variables: Vars) -> Schedule:
    runs: list[Run] = []
    for task, start, chosen in zip(problem.tasks, variables.starts, variables.chosen, strict=True):
        mode = 0 if len(chosen) == 1 else next(m for m, lit in enumerate(chosen) if solver.boolean_value(lit))
        begin = solver.value(start)
        runs.append(Run(mode=mode, start_s=begin, end_s=begin + task.modes[mode].duration_s))
    return Schedule(runs=tuple(runs))


class _Progress(cp_model.CpSolverSolutionCallback):
    """Tells the listener about every better schedule."""

    def __init__(self, on_progress: Callable[[str], None], unit: float) -> None:
        super().__init__()
        self._on_progress = on_progress
        self._unit = unit

    def on_solution_callback(self) -> None:
        """Report value and bound."""
        value, bound = self.objective_value * self._unit, self.best_objective_bound * self._unit
        self._on_progress(f"{self.wall_time:.1f} s: value {value:.6g}, bound {bound:.6g}")

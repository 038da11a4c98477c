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

from planner.ir.scheduling_problem import Schedule, SchedulingProblem, faults
from planner.search.agent_bounds import Bounds, bounds, is_overloaded
from planner.search.agent_bracket import Attempt, Bracket, narrowed
from planner.search.agent_chains import equal_chains
from planner.search.agent_lp import relaxed
from planner.search.agent_model import build, weigh
from planner.search.agent_population import Effort, SearchInterrupted, improved_schedule, is_improvable
from planner.search.agent_seed import guided_schedule, seed_schedule
from planner.search.agent_solver import (
    NEIGHBOURS,
    Progress,
    SolverLimits,
    hint_at,
    outcome_of,
    proving_workers,
    read_schedule,
    solve_alone,
    solve_together,
    solver_of,
)
from planner.search.agent_ticks import Ticks, horizon_s, to_seconds, to_ticks
from planner.search.heft import heft, placed_again, settled

Status = Literal["optimal", "feasible", "infeasible", "unknown"]
_MIN_SPLIT_S = 5.0
_NEARLY = 0.97
_FIRST_SHARE = 0.06
_PROJECT_SHARE, _MODES_SHARE, _NEAR_SHARE, _BRACKET_SHARE = 0.82, 0.1, 0.3, 0.25
"""Shares of the time: orders where modes are settled, orders where they are chosen, neighbours, bracket."""
_FIRST_ATTEMPT_SHARE, _LAST_ATTEMPT_SHARE = 0.02, 0.08
_FAR = 0.92
"""A bound below this part of the makespan at hand is far from it."""
_LEAST_NEAR_TASKS = 20
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

    @property
    def goes_on(self) -> bool:
        """Whether there is a schedule, no proof, and nobody who wants to stop."""
        return self.status == "feasible" and not self.interrupted


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
        except KeyboardInterrupt as stop:
            if isinstance(stop, SearchInterrupted):
                self._take(stop.schedule)
            if self.seed is not None:
                return self._answer("feasible", self.seed, self.bound, began)
            if self.baseline is None:
                raise
            self.horizon = self._horizon()
            return self._judged("feasible", self.baseline, self.bound, began)

    def _run(self, began: float, on_progress: Callable[[str], None] | None) -> ScheduleAnswer:
        """Build, solve and read back; what is not proved soon is searched from a better schedule."""
        if self.seed is not None and self.weights.only_makespan and _end(self.seed) <= self.limits.makespan:
            return self._answer("optimal", self.seed, self.limits.makespan, began)
        paths = zip(self.limits.heads, self.limits.tails, strict=True)
        if is_overloaded(self.ticks.problem) or any(h + t > self.horizon for h, t in paths):
            return no_schedule("infeasible", began)
        self._relax()
        if self.seed is None or not self._is_worth_splitting():
            return self._try(began, self.options, on_progress).answer
        # the first try is cut by work, so that what follows does not hang on the machine's speed
        limit_s = self.options.time_limit_s
        work_limit = min(limit_s * _FIRST_SHARE, self.options.deterministic_limit or limit_s)
        first = self._try(began, replace(self.options, deterministic_limit=work_limit), on_progress)
        if not first.goes_on:
            return first.answer
        if self._has_choices():
            return self._narrow(first, began, on_progress)
        return self._prove(first, began, on_progress)

    def _prove(
        self, first: _Found, began: float, on_progress: Callable[[str], None] | None
    ) -> ScheduleAnswer:
        """Search orders in the modes at hand, then refute anything better."""
        self._improve(first, began, _PROJECT_SHARE)
        assert self.seed is not None
        self.horizon = self._horizon()
        if self.weights.only_makespan:
            # what is asked next is a schedule one tick shorter: most of the model is then settled at once
            self.below, self.horizon = True, self.horizon - 1
        if self.below and self.horizon < self.limits.makespan:
            return self._answer("optimal", self.seed, self.limits.makespan * self.weights.makespan, began)
        return self._try(began, self.options, on_progress).answer

    def _relax(self) -> None:
        """Bound a problem of several modes or ends by its linear relaxation, and seed from what that uses."""
        problem = self.ticks.problem
        if self.weights.only_makespan and all(len(t.modes) == 1 for t in problem.tasks):
            return
        relaxation = relaxed(problem, self.limits, self.weights)
        if relaxation is None or not relaxation.shares:
            # that there is no solution is left to the solver, which does not round
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

    def _has_choices(self) -> bool:
        return any(len(t.modes) > 1 for t in self.ticks.problem.tasks)

    def _is_worth_splitting(self) -> bool:
        if self.options.time_limit_s < _MIN_SPLIT_S:
            return False
        chosen = self._has_choices() and len(self.ticks.problem.tasks) >= _LEAST_NEAR_TASKS
        return chosen or is_improvable(self.ticks.problem)

    def _improve(self, first: _Found, began: float, share: float) -> None:
        """Start again from the bound and a better schedule than the first try's, in the same modes."""
        problem = self.ticks.problem
        best = first.schedule or self.seed
        if best is None:
            return
        self.seed = best
        self._raise_bound(first)
        if not is_improvable(problem):
            return
        target = problem.makespan_weight * self.limits.makespan if self.weights.only_makespan else -math.inf
        limit_s = min(self.options.time_limit_s, self.options.deterministic_limit or math.inf)
        effort = Effort(
            num_placements=int(limit_s * share * _PLACEMENTS_PER_S * self.options.num_workers),
            deadline=began + self.options.time_limit_s * (_FIRST_SHARE + share),
            num_threads=self.options.num_workers,
        )
        better = improved_schedule(problem, best, target=target, effort=effort, seed=self.options.seed)
        self.seed = _in_order(problem, better)

    def _narrow(
        self, first: _Found, began: float, on_progress: Callable[[str], None] | None
    ) -> ScheduleAnswer:
        """Search modes and order from both sides: limits on the makespan, and neighbours of the best."""
        self._improve(first, began, _MODES_SHARE)
        assert self.seed is not None
        share = _FIRST_SHARE + _MODES_SHARE + _BRACKET_SHARE
        if self.weights.only_makespan and not self._bracket(began, share, _FIRST_ATTEMPT_SHARE):
            return self._closed(began)
        # far from a proof better schedules are worth more
        is_far = self.weights.only_makespan and self.limits.makespan < _FAR * _end(self.seed)
        if self.options.num_workers > 1:
            found = self._near(began, 1.0 if is_far else share + _NEAR_SHARE, on_progress)
            if is_far or not found.goes_on:
                return found.answer
            self.seed = found.schedule
            self._raise_bound(found)
        if not self.weights.only_makespan:
            return self._try(began, self.options, on_progress).answer
        self._bracket(began, 1.0, _LAST_ATTEMPT_SHARE)
        return self._closed(began)

    def _near(self, began: float, until: float, on_progress: Callable[[str], None] | None) -> _Found:
        """Search neighbours of the best schedule, beside one worker that goes on with the whole problem."""
        limit = self.options.deterministic_limit
        options = replace(
            self.options,
            time_limit_s=self.options.time_limit_s * until,
            deterministic_limit=None if limit is None else limit * _NEAR_SHARE,
        )
        self.horizon = self._horizon()
        return self._try(began, options, on_progress, near=True)

    def _bracket(self, began: float, until: float, first_share: float) -> bool:
        """Narrow the makespan's bracket; False once nothing is left to do: it is closed, or the user stops.

        Effort is counted in seconds, or in the solver's own unit where the limit is in that.
        """
        assert self.seed is not None
        left_s = self.options.time_limit_s * until - (time.monotonic() - began)
        limit = self.options.deterministic_limit
        bracket = narrowed(
            Bracket(low=self.limits.makespan, high=int(_end(self.seed))),
            lambda limits, effort: self._within(limits, effort, began),
            width=self.options.num_workers,
            first_effort=first_share * min(self.options.time_limit_s, limit or math.inf),
            budget=left_s if limit is None else limit * _BRACKET_SHARE,
        )
        self.limits = replace(self.limits, makespan=max(self.limits.makespan, min(bracket.low, bracket.high)))
        return not (bracket.is_closed or bracket.stopped)

    def _within(self, limits: list[int], effort: float, began: float) -> list[Attempt]:
        """Ask for schedules that end by limits, all at once; the best that is found becomes the seed."""
        problem, counted = self.ticks.problem, self.options.deterministic_limit is not None
        left_s = self.options.time_limit_s - (time.monotonic() - began)
        if left_s <= 0:
            return [Attempt(outcome="stopped", effort=0.0)] * len(limits)
        models = [build(problem, self.limits, most, self.weights) for most in limits]
        for model, _ in models:
            model.clear_objective()
        settings = replace(
            self._limits(left_s if counted else min(effort, left_s), effort if counted else None),
            num_workers=1,
        )
        start_s = time.monotonic()
        solved = solve_together([model for model, _ in models], settings)
        spent_s = time.monotonic() - start_s
        attempts: list[Attempt] = []
        for (_, variables), (verdict, solver) in zip(models, solved, strict=True):
            found = verdict in (cp_model.OPTIMAL, cp_model.FEASIBLE)
            schedule = read_schedule(problem, solver, variables) if found else None
            if schedule is not None and (self.seed is None or _end(schedule) < _end(self.seed)):
                self.seed = _in_order(problem, schedule)
            attempts.append(
                Attempt(
                    outcome=outcome_of(verdict),
                    effort=solver.response_proto.deterministic_time if counted else spent_s,
                    makespan=0 if schedule is None else int(_end(schedule)),
                )
            )
        return attempts

    def _closed(self, began: float) -> ScheduleAnswer:
        """Return the schedule at hand with the bound of the bracket."""
        assert self.seed is not None
        status: Status = "optimal" if _end(self.seed) <= self.limits.makespan else "feasible"
        return self._answer(status, self.seed, self.limits.makespan * self.weights.makespan, began)

    def _raise_bound(self, found: _Found) -> None:
        self.bound = max(self.bound, found.bound)
        if self.weights.only_makespan:
            floor = math.ceil(found.bound / max(self.weights.makespan, 1) - 1e-9)
            self.limits = replace(self.limits, makespan=max(self.limits.makespan, floor))

    def _try(
        self,
        began: float,
        options: ScheduleOptions,
        on_progress: Callable[[str], None] | None,
        *,
        near: bool = False,
    ) -> _Found:
        """Solve with what is left of the time."""
        model, variables = build(self.ticks.problem, self.limits, self.horizon, self.weights)
        if self.seed is not None and not self.below:
            hint_at(model, variables, self.seed)
        left_s = options.time_limit_s - (time.monotonic() - began)
        workers = NEIGHBOURS if near else proving_workers(self.ticks.problem)
        solver = solver_of(self._limits(left_s, options.deterministic_limit), workers)
        listener = None if on_progress is None else Progress(on_progress, 1.0 / self.weights.scale)
        verdict = solve_alone(solver, model, listener)
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
            schedule = read_schedule(self.ticks.problem, solver, variables)
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

    def _limits(self, time_s: float, deterministic: float | None) -> SolverLimits:
        return SolverLimits(
            time_s=time_s,
            deterministic=deterministic,
            seed=self.options.seed,
            num_workers=self.options.num_workers,
            reproducible=self.options.reproducible,
        )

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

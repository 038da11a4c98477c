"""Models, order, slots and streams of an agent graph together, with a bound on all of them at once.

A schedule model knows streams only for decided models. So: the schedule in which all wait, models free; a
relaxation in which every consumer has the best of any stream (see `planner.space.agent_eases`), which
bounds every plan and proposes models; schedules with streams for the models of both; and, where there are
few, every choice of models and of who streams, the least promising left out by their critical paths.
All of these are problems over every outcome of the branches (see `planner.space.agent_outcomes`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, combinations, product
from math import prod

from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentProblem, LlmCall
from planner.ir.problem import Problem
from planner.ir.scheduling_problem import Lag, Run, Schedule, SchedulingProblem
from planner.search.agent_cpsat import ScheduleAnswer, ScheduleOptions, solve_schedule
from planner.space.agent_eases import eases_of
from planner.space.agent_flat import Flow
from planner.space.agent_gains import gaining_streams
from planner.space.agent_lower import Ease, usable_models
from planner.space.agent_outcomes import Combined, Worlds, lower_worlds, worlds_of
from planner.space.agent_streams import Stream

_MAX_CASES = 512
_MAX_CASE_CALLS = 20_000
_WAITING_SHARE, _RELAXED_SHARE, _STREAMS_SHARE, _CASES_SHARE = 0.3, 0.2, 0.15, 0.2
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A solved schedule and the streams it rests on."""

    combined: Combined
    answer: ScheduleAnswer
    streams: dict[str, Stream]

    @property
    def value(self) -> float:
        """The objective, infinite without a schedule."""
        return _NEVER if self.answer.value is None else self.answer.value

    def models(self) -> dict[str, str]:
        """Return the model of every model call that some outcome makes; empty without a schedule."""
        schedule = self.answer.schedule
        if schedule is None:
            return {}
        return {
            call.name: self.combined.problem.tasks[t].modes[schedule.runs[t].mode].name
            for part in self.combined.parts
            for t, call in enumerate(part.world.flow.flat.calls, start=part.first)
            if isinstance(call.work, LlmCall)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """The best stage, what no plan goes below, and whether that proves the stage best or none possible."""

    best: Stage
    bound: float
    is_proved: bool
    worlds: Worlds
    num_cases: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """Models for every call, and who streams; nothing does better than `least`."""

    least: float
    fixed: dict[str, str]
    streams: dict[str, Stream]


def solve_stage(
    problem: Problem[AgentProblem],
    combined: Combined,
    diagnostics: Diagnostics,
    share: float,
    streams: dict[str, Stream] | None = None,
) -> Stage:
    """Solve a lowered graph within a share of the time."""
    options = ScheduleOptions(
        time_limit_s=problem.options.time_limit_s * share,
        seed=problem.options.seed,
        num_workers=problem.options.num_workers,
    )
    answer = solve_schedule(combined.problem, options, on_progress=diagnostics.progress)
    return Stage(combined=combined, answer=answer, streams=streams or {})


def joint_search(problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> Joint:
    """Return the best plan over models, order, slots and streams, and how far it can be from the best."""
    payload = problem.payload
    worlds = worlds_of(flow)
    eases = eases_of(payload, flow)
    waiting_share = _WAITING_SHARE if eases else 1.0
    waiting = solve_stage(problem, lower_worlds(payload.graph, worlds, {}, {}), diagnostics, waiting_share)
    if eases:
        found = _Joint(problem, worlds, diagnostics, eases).run(waiting)
    else:
        proved = waiting.answer.status in ("optimal", "infeasible")
        found = Joint(best=waiting, bound=waiting.answer.bound, is_proved=proved, worlds=worlds)
    if worlds.complete or found.best.answer.value is None:
        return found
    # what holds for a share of the outcomes says nothing about all of them
    return replace(found, bound=0.0, is_proved=False)


class _Joint:
    """One search in which somebody may stream."""

    def __init__(
        self,
        problem: Problem[AgentProblem],
        worlds: Worlds,
        diagnostics: Diagnostics,
        eases: dict[str, Ease],
    ) -> None:
        self.problem = problem
        self.graph = problem.payload.graph
        self.flow = worlds.flow
        self.worlds = worlds
        self.diagnostics = diagnostics
        self.eases = eases

    def run(self, waiting: Stage) -> Joint:
        """Bound, propose, and try every case where that is needed and possible."""
        relaxed_problem = lower_worlds(self.graph, self.worlds, {}, {}, self.eases)
        relaxed = solve_stage(self.problem, relaxed_problem, self.diagnostics, _RELAXED_SHARE)
        if relaxed.answer.status == "infeasible":
            return Joint(best=waiting, bound=_NEVER, is_proved=True, worlds=self.worlds)
        best, errors = waiting, [waiting.answer.error, relaxed.answer.error]
        for fixed in self._proposals([waiting, relaxed]):
            streams = gaining_streams(self.problem.payload, self.flow, fixed)
            if streams:
                stage = self._solve(fixed, streams, _STREAMS_SHARE)
                errors.append(stage.answer.error)
                best = stage if stage.value < best.value else best
        bound, error = relaxed.answer.bound, max(errors)
        if _is_reached(best, bound, error):
            return Joint(best=best, bound=min(bound, best.value), is_proved=True, worlds=self.worlds)
        return self._cases(waiting, best, bound, error)

    def _solve(self, fixed: dict[str, str], streams: dict[str, Stream], share: float) -> Stage:
        combined = lower_worlds(self.graph, self.worlds, streams, fixed)
        return solve_stage(self.problem, combined, self.diagnostics, share, streams)

    def _proposals(self, stages: list[Stage]) -> list[dict[str, str]]:
        """Return the different choices of models that the stages made."""
        found: list[dict[str, str]] = []
        for stage in stages:
            models = stage.models()
            if models:
                models = {name: models.get(name, first) for name, first in self._first_models().items()}
            if models and models not in found:
                found.append(models)
        return found

    def _first_models(self) -> dict[str, str]:
        """Return the first usable model of every model call."""
        return {
            c.name: usable_models(self.graph, c.work)[0].name
            for c in self.flow.flat.calls
            if isinstance(c.work, LlmCall)
        }

    def _cases(self, waiting: Stage, best: Stage, bound: float, error: float) -> Joint:
        """Try every choice of models and of who streams; with all waiting, the first stage did so."""
        cases = self._listed()
        if cases is None:
            return Joint(best=best, bound=min(bound, best.value), is_proved=False, worlds=self.worlds)
        until = time.monotonic() + self.problem.options.time_limit_s * _CASES_SHARE
        # a first stage cut short, or without a plan, bounds what waits by its own bound
        floor = _floor_of(waiting)
        tried = 0
        for case in cases:
            if case.least >= best.value or time.monotonic() > until:
                floor = min(floor, case.least)
                break
            stage = self._solve(case.fixed, case.streams, _CASES_SHARE)
            tried += 1
            error = max(error, stage.answer.error)
            floor = min(floor, _floor_of(stage))
            best = stage if stage.value < best.value else best
        bound = max(bound, floor)
        proved = _is_reached(best, bound, error) or (best.answer.value is None and bound == _NEVER)
        return Joint(
            best=best,
            bound=min(bound, best.value),
            is_proved=proved,
            worlds=self.worlds,
            num_cases=tried,
        )

    def _listed(self) -> list[_Case] | None:
        """Return all cases, the most promising first; None if they are too many."""
        calls = [c for c in self.flow.flat.calls if isinstance(c.work, LlmCall)]
        models = {
            c.name: [m.name for m in usable_models(self.graph, c.work)]
            for c in calls
            if isinstance(c.work, LlmCall)
        }
        num_cases = prod(len(m) for m in models.values()) << len(self.eases)
        if num_cases > _MAX_CASES or num_cases * len(self.flow.flat.calls) > _MAX_CASE_CALLS:
            return None
        found: list[_Case] = []
        for chosen in product(*models.values()):
            fixed = dict(zip(models, chosen, strict=True))
            for streams in _subsets(gaining_streams(self.problem.payload, self.flow, fixed)):
                least = least_objective(lower_worlds(self.graph, self.worlds, streams, fixed).problem)
                found.append(_Case(least=least, fixed=fixed, streams=streams))
        return sorted(found, key=lambda case: case.least)


def _subsets(streams: dict[str, Stream]) -> Iterator[dict[str, Stream]]:
    """Yield every choice of at least one consumer that streams."""
    names = list(streams)
    chosen = chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1))
    return ({name: streams[name] for name in group} for group in chosen)


def _floor_of(stage: Stage) -> float:
    return _NEVER if stage.answer.status == "infeasible" else stage.answer.bound


def _is_reached(best: Stage, bound: float, error: float) -> bool:
    """Whether a value is as low as its bound, up to what rounding to ticks hides."""
    return best.answer.value is not None and best.value <= bound + 2.0 * error + 1e-9 * abs(best.value)


def least_objective(problem: SchedulingProblem) -> float:
    """Return the objective if nothing were scarce: every task of one mode as early as its lags allow."""
    durations = [task.modes[0].duration_s for task in problem.tasks]
    starts = [task.release_s for task in problem.tasks]
    for _ in problem.tasks:
        moved = False
        for lag in problem.lags:
            start_s = _after(lag, starts, durations)
            if start_s > starts[lag.after] + 1e-12:
                starts[lag.after], moved = start_s, True
        if not moved:
            break
    runs = [Run(mode=0, start_s=s, end_s=s + d) for s, d in zip(starts, durations, strict=True)]
    return problem.objective(Schedule(runs=tuple(runs)))


def _after(lag: Lag, starts: list[float], durations: list[float]) -> float:
    """Return the earliest start that a lag leaves its second task."""
    point_s = starts[lag.before] + lag.lag_s
    point_s += durations[lag.before] if lag.kind.startswith("end") else 0.0
    return point_s - (durations[lag.after] if lag.kind.endswith("end") else 0.0)

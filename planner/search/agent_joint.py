"""Models, order, slots and streams of an agent graph together, with a bound on all of them at once.

A consumer that may stream has a mode for each choice of its own and its producers' models, which may be
used only where they run on those (see `planner.space.agent_variants`): one problem over all that is
decided. Its streams are priced one by one, as if their producers began together; what they come to in a
run, where one streams on to the next, is found by replaying the decisions and improving them there (see
`planner.search.agent_polish`). A relaxation in which every consumer has the least that any stream takes
bounds what is too large, or streams too deep, for the first problem's proof (see
`planner.space.agent_eases`). All of these are problems over every outcome of the branches (see
`planner.space.agent_outcomes`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentProblem, LlmCall
from planner.ir.problem import Problem
from planner.ir.scheduling_problem import Mode, Run, Schedule, without_loads
from planner.search.agent_cpsat import ScheduleAnswer, ScheduleOptions, solve_schedule
from planner.search.agent_expected import expected_bound
from planner.search.agent_floor import Floor, relaxed_floor
from planner.search.agent_polish import Polish, Polished
from planner.space.agent_courses import Decisions, expected_usd
from planner.space.agent_eases import eases_of
from planner.space.agent_flat import Flow
from planner.space.agent_gains import may_stream
from planner.space.agent_lower import Choice, usable_models
from planner.space.agent_outcomes import Combined, Worlds, lower_worlds, worlds_of
from planner.space.agent_streams import Stream
from planner.space.agent_variants import Variants, variants_of

_WAITING_SHARE, _LISTED_SHARE = 0.12, 0.3
_LEAST_S = 0.1
_MAX_AT_ONCE = 40
_MAX_LISTED = 200
_MANY_S = 2.0
"""Seconds for the schedule of more calls than that; what comes later rarely beats replays."""
_NEVER = float("inf")
_SAME = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A solved problem and the ways of streaming that it had; replayed ones have `settled` streams."""

    combined: Combined
    answer: ScheduleAnswer
    variants: Variants = field(default_factory=dict)
    settled: dict[str, Stream] | None = None

    @property
    def value(self) -> float:
        """The objective, infinite without a schedule."""
        return _NEVER if self.answer.value is None else self.answer.value

    def models(self) -> dict[str, str]:
        """Return the model of every model call that some outcome makes; empty without a schedule."""
        return {
            name: self.combined.problem.tasks[t].modes[mode].name
            for name, (t, mode, is_model) in self._modes().items()
            if is_model
        }

    def streams(self) -> dict[str, Stream]:
        """Return the stream of every consumer that streams."""
        if self.settled is not None:
            return self.settled
        found: dict[str, Stream] = {}
        for name, (t, mode, _) in self._modes().items():
            variants = self.variants.get(name, ())
            first = len(self.combined.problem.tasks[t].modes) - len(variants)
            if variants and mode >= first:
                found[name] = variants[mode - first].stream
        return found

    def places(self) -> dict[str, float]:
        """Return when each call starts at the soonest, seconds."""
        found: dict[str, float] = {}
        for part in self.combined.parts if self.answer.schedule is not None else ():
            for t, call in enumerate(part.world.flow.flat.calls, start=part.first):
                assert self.answer.schedule is not None
                start_s = self.answer.schedule.runs[t].start_s
                found[call.name] = min(found.get(call.name, start_s), start_s)
        return found

    def _modes(self) -> dict[str, tuple[int, int, bool]]:
        """Return (task, mode, whether it calls a model) by call."""
        schedule = self.answer.schedule
        if schedule is None:
            return {}
        return {
            call.name: (t, schedule.runs[t].mode, isinstance(call.work, LlmCall))
            for part in self.combined.parts
            for t, call in enumerate(part.world.flow.flat.calls, start=part.first)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Joint:
    """The best stage, what no plan goes below, and whether that proves the stage best or none possible."""

    best: Stage
    bound: float
    is_proved: bool
    worlds: Worlds


def joint_search(problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> Joint:
    """Return the best plan over models, order, slots and streams, and how far it can be from the best."""
    found = _Search(problem, flow, diagnostics).run()
    if found.worlds.complete or found.best.answer.value is None:
        return found
    # what holds for a share of the outcomes says nothing about all of them
    bound = min(expected_bound(problem.payload, flow), found.best.value)
    return replace(found, bound=bound, is_proved=False)


class _Search:
    """One search."""

    def __init__(self, problem: Problem[AgentProblem], flow: Flow, diagnostics: Diagnostics) -> None:
        self.problem = problem
        self.payload = problem.payload
        self.diagnostics = diagnostics
        self.began = time.monotonic()
        self.worlds = worlds_of(flow, repeats=problem.payload.graph.period_s is not None)
        self.flow = self.worlds.flow
        self.floor: tuple[float, dict[str, str]] = (0.0, {})

    def run(self) -> Joint:
        """Solve all at once if that is small or nobody may stream, else in steps; then replay."""
        variants, left = variants_of(self.payload, self.flow)
        num_tasks = sum(len(w.flow.flat.calls) for w in self.worlds.worlds)
        if not variants and not left:
            stages = [self._solve(Choice(), 1.0 if num_tasks <= _MAX_LISTED else _WAITING_SHARE)]
        elif not left and num_tasks <= _MAX_AT_ONCE:
            stages = [self._solve(Choice(variants=variants), 1.0)]
        else:
            stages = [self._solve(Choice(), _WAITING_SHARE)]
            if num_tasks <= _MAX_LISTED:
                listed = Choice(variants=variants)
                stages.append(self._solve(listed, _LISTED_SHARE, hint=stages[0]))
        best = min(stages, key=lambda stage: stage.value)
        proved = best.answer.status in ("optimal", "infeasible")
        exact = not left and (num_tasks <= _MAX_AT_ONCE or not variants)
        if self.payload.graph.period_s is not None:
            bound = best.answer.bound if exact else 0.0
            return Joint(best=best, bound=bound, is_proved=proved and exact, worlds=self.worlds)
        self.floor = self._floor() if not (exact and proved and not variants) else (0.0, {})
        replayed = self._replayed(stages)
        if replayed is not None and (best.streams() or replayed.value < best.value):
            best = replayed
        return self._judged(best, stages[-1], exact=exact, deep=bool(variants or left) and self._is_deep())

    def _judged(self, best: Stage, listed: Stage, *, exact: bool, deep: bool) -> Joint:
        """Return the best stage with its bound: that of the listed streams where it holds for replays too."""
        holds = exact and not deep and best.value >= listed.value * (1.0 - _SAME)
        if exact and not deep and listed.answer.status == "infeasible" and best.answer.schedule is None:
            return Joint(best=best, bound=_NEVER, is_proved=True, worlds=self.worlds)
        bound = listed.answer.bound if holds else 0.0
        if not (holds and listed.answer.status == "optimal"):
            bound = max(bound, self.floor[0])
        if bound == _NEVER and best.answer.schedule is None:
            return Joint(best=best, bound=_NEVER, is_proved=True, worlds=self.worlds)
        error = max(listed.answer.error, best.answer.error)
        proved = best.answer.schedule is not None and best.value <= bound + 2.0 * error + 1e-9 * abs(
            best.value
        )
        return Joint(best=best, bound=min(bound, best.value), is_proved=proved, worlds=self.worlds)

    def _is_deep(self) -> bool:
        """Whether something that may stream comes of something that may stream."""
        streaming = {c.name for c in self.flow.flat.calls if may_stream(self.flow, c)}
        return any(e.source in streaming and e.target in streaming for e in self.flow.flat.edges)

    def _floor(self) -> tuple[float, dict[str, str]]:
        """Return what no run goes below, by the least that calls take, and models in the shares used there.

        Infinite if there can be no run.
        """
        eases = eases_of(self.payload, self.flow)
        combined = lower_worlds(self.payload.graph, self.worlds, {}, {}, Choice(eases=eases.by_call))
        floor = relaxed_floor(combined.problem)
        bound = floor.bound
        if self.payload.graph.goal != "min_cost" and eases.hidden_s > 0.0:
            # loads may be counted too early by what is hidden, paths may not
            paths = relaxed_floor(without_loads(combined.problem)).bound
            bound = max(bound - eases.hidden_s, paths)
        return bound, _diffused(combined, floor)

    def _replayed(self, stages: list[Stage]) -> Stage | None:
        """Return the best that replays find, from the stages' decisions on."""
        first = {
            c.name: usable_models(self.payload.graph, c.work)[0].name
            for c in self.flow.flat.calls
            if isinstance(c.work, LlmCall)
        }
        starts = [
            Decisions(models=first | stage.models(), streams=stage.streams(), places=stage.places())
            for stage in stages
            if stage.answer.schedule is not None
        ]
        if self.floor[1]:
            starts.append(Decisions(models=first | self.floor[1], streams={}, places={}))
        polish = Polish(
            payload=self.payload,
            worlds=self.worlds,
            seed=self.problem.options.seed,
            left_s=max(self._left_s(), _LEAST_S),
        )
        found = polish.run(starts)
        return None if found is None else self._stage(polish, found)

    def _stage(self, polish: Polish, found: Polished) -> Stage | None:
        """Return replayed decisions as a stage, None if they break a limit."""
        combined, schedule = polish.courses.combined(found.decisions, found.found)
        if not polish.courses.keeps_limits(combined, schedule):
            return None
        value = expected_usd(combined) if self.payload.graph.goal == "min_cost" else found.value
        answer = ScheduleAnswer(
            status="feasible",
            schedule=schedule,
            value=value,
            bound=0.0,
            gap=None,
            error=0.0,
            heft_value=None,
            wall_time_s=0.0,
            work={"replayed_calls": polish.effort.spent},
        )
        return Stage(combined=combined, answer=answer, settled=found.decisions.streams)

    def _left_s(self) -> float:
        """Return the seconds that are left of the time limit."""
        return self.problem.options.time_limit_s - (time.monotonic() - self.began)

    def _solve(self, choice: Choice, share: float, *, hint: Stage | None = None) -> Stage:
        """Solve within a share of the time; `hint` may have solved another choice of the same calls."""
        combined = lower_worlds(self.payload.graph, self.worlds, {}, {}, choice)
        start = None if hint is None else _carried(hint, combined)
        limit_s = self.problem.options.time_limit_s * share
        if len(self.flow.flat.calls) > _MAX_AT_ONCE:
            limit_s = min(limit_s, _MANY_S)
        options = ScheduleOptions(
            time_limit_s=max(min(limit_s, self._left_s()), _LEAST_S),
            seed=self.problem.options.seed,
            num_workers=self.problem.options.num_workers,
        )
        progress = self.diagnostics.progress
        answer = solve_schedule(combined.problem, options, hint=start, on_progress=progress)
        return Stage(combined=combined, answer=answer, variants=choice.variants)


def _diffused(combined: Combined, floor: Floor) -> dict[str, str]:
    """Return a model for every call such that from call to call each model gets its share."""
    found: dict[str, str] = {}
    owed: dict[str, float] = {}
    for part in combined.parts if floor.shares else ():
        for t, call in enumerate(part.world.flow.flat.calls, start=part.first):
            if not isinstance(call.work, LlmCall) or call.name in found:
                continue
            modes = combined.problem.tasks[t].modes
            for mode, share in zip(modes, floor.shares[t], strict=True):
                owed[mode.name] = owed.get(mode.name, 0.0) + share
            name = max(modes, key=lambda m: owed[m.name]).name
            owed[name] -= 1.0
            found[call.name] = name
    return found


def _carried(stage: Stage, combined: Combined) -> Schedule | None:
    """Return a stage's schedule in the modes of another problem over the same calls, None if one lacks."""
    schedule = stage.answer.schedule
    if schedule is None:
        return None
    runs: list[Run] = []
    for run, old, new in zip(
        schedule.runs, stage.combined.problem.tasks, combined.problem.tasks, strict=True
    ):
        mode = old.modes[run.mode]
        same = (m for m, other in enumerate(new.modes) if _is_same(mode, other))
        found = next(same, None)
        if found is None:
            return None
        runs.append(replace(run, mode=found))
    return Schedule(runs=tuple(runs))


def _is_same(mode: Mode, other: Mode) -> bool:
    return (mode.name, mode.needs, mode.duration_s) == (other.name, other.needs, other.duration_s)

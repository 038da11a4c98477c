"""Models, order, slots and streams of an agent graph together, with a bound on all of them at once.

A consumer that may stream has a mode for each choice of its own and its producers' models, which may be
used only where they run on those (see `planner.space.agent_variants`): one problem over all that is
decided, and its proof is the plan's. Where a consumer has too many such choices, only those of some
proposals are listed, and a relaxation in which it has the best of any stream bounds the rest (see
`planner.space.agent_eases`). All of these are problems over every outcome of the branches (see
`planner.space.agent_outcomes`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from planner.diagnostics import Diagnostics
from planner.ir.agent_graph import AgentProblem, LlmCall
from planner.ir.problem import Problem
from planner.ir.scheduling_problem import Mode, Run, Schedule
from planner.search.agent_cpsat import ScheduleAnswer, ScheduleOptions, solve_schedule
from planner.search.agent_expected import expected_bound
from planner.space.agent_eases import eases_of
from planner.space.agent_flat import Flow
from planner.space.agent_lower import Choice, usable_models
from planner.space.agent_outcomes import Combined, Worlds, lower_worlds, worlds_of
from planner.space.agent_streams import Stream
from planner.space.agent_variants import Variants, variants_of, variants_under

_WAITING_SHARE, _RELAXED_SHARE, _FIXED_SHARE, _JOINT_SHARE = 0.12, 0.2, 0.1, 0.3
_LEAST_S = 0.1
_MAX_AT_ONCE = 40
_MAX_LISTED = 200
"""Consumers whose streams are listed for the proposed models only; with more, all at once gained nothing."""
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A solved problem and the ways of streaming that it had."""

    combined: Combined
    answer: ScheduleAnswer
    variants: Variants = field(default_factory=dict)

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
        found: dict[str, Stream] = {}
        for name, (t, mode, _) in self._modes().items():
            variants = self.variants.get(name, ())
            first = len(self.combined.problem.tasks[t].modes) - len(variants)
            if variants and mode >= first:
                found[name] = variants[mode - first].stream
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

    def run(self) -> Joint:
        """Solve all at once if that is small or nobody may stream, else in steps."""
        variants, left = variants_of(self.payload, self.flow)
        num_tasks = sum(len(w.flow.flat.calls) for w in self.worlds.worlds)
        if left or (variants and num_tasks > _MAX_AT_ONCE):
            return self._in_steps(variants, left)
        stage = self._solve(Choice(variants=variants), 1.0)
        proved = stage.answer.status in ("optimal", "infeasible")
        return Joint(best=stage, bound=stage.answer.bound, is_proved=proved, worlds=self.worlds)

    def _in_steps(self, variants: Variants, left: list[str]) -> Joint:
        """Propose models by letting all wait and by a relaxation, settle streams under each, then all."""
        waiting = self._solve(Choice(), _WAITING_SHARE)
        eases = eases_of(self.payload, self.flow, left) if left else None
        relaxed = self._solve(Choice(variants=variants, eases=eases), _RELAXED_SHARE)
        if relaxed.answer.status == "infeasible":
            return Joint(best=waiting, bound=_NEVER, is_proved=True, worlds=self.worlds)
        names = [*variants, *left]
        stages = [waiting] if left else [waiting, relaxed]
        proposals = self._proposals([waiting, relaxed])
        for models in proposals:
            if self._left_s() <= 0.0:
                break
            under = Choice(variants=variants_under(self.payload, self.flow, names, [models], own=False))
            stages.append(self._solve(under, _FIXED_SHARE, fixed=models))
        bound = relaxed.answer.bound
        if len(left) <= _MAX_LISTED and self._left_s() > 0.0:
            listed = variants | variants_under(self.payload, self.flow, left, proposals)
            hint = min(stages, key=lambda stage: stage.value)
            joint = self._solve(Choice(variants=listed), _JOINT_SHARE, hint=hint)
            stages.append(joint)
            bound = bound if left else max(bound, joint.answer.bound)
        best = min(stages, key=lambda stage: stage.value)
        error = max(s.answer.error for s in (relaxed, *stages))
        proved = best.answer.value is not None and best.value <= bound + 2.0 * error + 1e-9 * abs(best.value)
        return Joint(best=best, bound=min(bound, best.value), is_proved=proved, worlds=self.worlds)

    def _left_s(self) -> float:
        """Return the seconds that are left of the time limit."""
        return self.problem.options.time_limit_s - (time.monotonic() - self.began)

    def _solve(
        self, choice: Choice, share: float, *, fixed: dict[str, str] | None = None, hint: Stage | None = None
    ) -> Stage:
        """Solve within a share of the time; `hint` may have solved another choice of the same calls."""
        combined = lower_worlds(self.payload.graph, self.worlds, {}, fixed or {}, choice)
        start = None if hint is None else _carried(hint, combined)
        limit_s = self.problem.options.time_limit_s
        options = ScheduleOptions(
            time_limit_s=max(min(limit_s * share, self._left_s()), _LEAST_S),
            seed=self.problem.options.seed,
            num_workers=self.problem.options.num_workers,
        )
        progress = self.diagnostics.progress
        answer = solve_schedule(combined.problem, options, hint=start, on_progress=progress)
        return Stage(combined=combined, answer=answer, variants=choice.variants)

    def _proposals(self, stages: list[Stage]) -> list[dict[str, str]]:
        """Return the different choices of models that the stages made, for every model call."""
        first = {
            c.name: usable_models(self.payload.graph, c.work)[0].name
            for c in self.flow.flat.calls
            if isinstance(c.work, LlmCall)
        }
        found: list[dict[str, str]] = []
        for stage in stages:
            models = first | stage.models()
            if models not in found:
                found.append(models)
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

"""The genetic search for orders: valid, never worse than its start, and the same every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from planner.frontend.instances import read_instance
from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, Schedule, SchedulingProblem, Task
from planner.search import agent_cpsat, agent_population
from planner.search.agent_cpsat import ScheduleOptions, solve_schedule
from planner.search.agent_population import (
    Effort,
    Floats,
    SearchInterrupted,
    improved_schedule,
    is_improvable,
)
from planner.search.heft import heft, list_schedule
from planner.search.serial_schedules import Ints
from planner.verify.task_schedule import schedule_violations

DATA = Path(__file__).resolve().parents[1] / "data" / "scheduling"
LITTLE = Effort(num_placements=300_000)


def _heft(problem: SchedulingProblem) -> Schedule:
    start = heft(problem)
    assert start is not None
    return start


def test_reaches_the_published_optimum_of_a_hard_project_of_thirty() -> None:
    problem = read_instance(DATA / "psplib" / "j3029_5.sm")
    start = _heft(problem)
    assert problem.objective(start) > 98
    found = improved_schedule(problem, start, target=98, effort=Effort(num_placements=1_500_000), seed=0)
    assert schedule_violations(problem, found) == []
    assert problem.objective(found) == 98


def test_the_same_seed_finds_the_same_with_any_number_of_threads() -> None:
    problem = read_instance(DATA / "psplib" / "j3029_5.sm")
    effort = Effort(num_placements=200_000)
    found = improved_schedule(problem, _heft(problem), target=0, effort=effort, seed=1)
    for num_threads in (1, 3):
        threads = replace(effort, num_threads=num_threads)
        assert improved_schedule(problem, _heft(problem), target=0, effort=threads, seed=1) == found


def test_without_effort_the_start_is_never_made_worse() -> None:
    problem = read_instance(DATA / "psplib" / "j3010_1.sm")
    start = _heft(problem)
    found = improved_schedule(problem, start, target=0, effort=Effort(num_placements=0), seed=3)
    assert problem.objective(found) <= problem.objective(start)
    assert schedule_violations(problem, found) == []


def test_a_past_deadline_ends_it_at_once() -> None:
    problem = read_instance(DATA / "psplib" / "j3029_5.sm")
    start = _heft(problem)
    effort = Effort(num_placements=10**12, deadline=0.0)
    found = improved_schedule(problem, start, target=0, effort=effort, seed=0)
    assert problem.objective(found) <= problem.objective(start)


def test_only_problems_that_serial_schedules_can_hold_are_taken() -> None:
    problem = read_instance(DATA / "psplib" / "j3010_1.sm")
    assert is_improvable(problem)
    assert not is_improvable(replace(problem, period_s=10.0))
    latest = replace(problem, lags=(replace(problem.lags[0], lag_s=-1.0), *problem.lags[1:]))
    assert not is_improvable(latest)
    cyclic = replace(problem, lags=(*problem.lags, Lag(before=31, after=0)))
    assert not is_improvable(cyclic)


def _calls(num_calls: int, scale: float) -> SchedulingProblem:
    """Pairs of streaming calls on two models of three slots, with a rate limit, of very unequal lengths."""
    tasks: list[Task] = []
    lags: list[Lag] = []
    for t in range(num_calls):
        length = scale * (1 + (t * 37) % 53)
        demands = (Demand(resource=t % 2, amount=1), Demand(resource=2, amount=1, hold_s=20 * scale))
        tasks.append(Task(name=str(t), modes=(Mode(name="m", duration_s=length, demands=demands),)))
        if t % 2:
            lags.append(Lag(before=t - 1, after=t, kind="start_start", lag_s=2 * scale))
            lags.append(Lag(before=t - 1, after=t, kind="end_end", lag_s=scale))
    resources = tuple(Resource(name=str(r), capacity=c) for r, c in enumerate((3, 3, 9)))
    return SchedulingProblem(name="calls", tasks=tuple(tasks), resources=resources, lags=tuple(lags))


@pytest.mark.parametrize("scale", [1, 1_000])
def test_lags_of_streams_and_rate_limits_are_kept_on_a_coarse_clock_too(scale: float) -> None:
    problem = _calls(60, scale)
    start = list_schedule(problem, list(range(60)))
    assert start is not None
    found = improved_schedule(problem, start, target=0, effort=LITTLE, seed=0)
    assert schedule_violations(problem, found) == []
    assert problem.objective(found) < problem.objective(start)


def test_weights_of_ends_count() -> None:
    problem = _calls(40, 1)
    tasks = tuple(replace(t, weight=float(i % 7 == 0)) for i, t in enumerate(problem.tasks))
    weighted = replace(problem, tasks=tasks, makespan_weight=0.0)
    start = _heft(weighted)
    found = improved_schedule(weighted, start, target=0, effort=LITTLE, seed=0)
    assert schedule_violations(weighted, found) == []
    assert weighted.objective(found) < weighted.objective(start)


def test_what_it_finds_is_proved_by_refuting_one_less() -> None:
    problem = read_instance(DATA / "psplib" / "j3029_5.sm")
    answer = solve_schedule(problem, ScheduleOptions(time_limit_s=60, deterministic_limit=10))
    assert (answer.status, answer.value, answer.bound) == ("optimal", 98.0, 98.0)


def test_an_interrupt_brings_the_best_schedule_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = read_instance(DATA / "psplib" / "j3029_5.sm")
    start = _heft(problem)
    drawn: list[int] = []
    children = agent_population._Evolution._children

    def interrupted(self: agent_population._Evolution, starts: Ints, kept: int) -> Floats:
        drawn.append(kept)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return children(self, starts, kept)

    monkeypatch.setattr(agent_population._Evolution, "_children", interrupted)
    with pytest.raises(SearchInterrupted) as caught:
        improved_schedule(problem, start, target=0, effort=LITTLE, seed=0)
    assert schedule_violations(problem, caught.value.schedule) == []
    assert problem.objective(caught.value.schedule) < problem.objective(start)
    monkeypatch.undo()
    monkeypatch.setattr(agent_cpsat, "improved_schedule", _raising(caught.value))
    answer = solve_schedule(problem, ScheduleOptions(time_limit_s=60, deterministic_limit=0.01))
    assert answer.status == "feasible"
    assert answer.value is not None
    assert answer.value <= problem.objective(caught.value.schedule)


def _raising(stop: SearchInterrupted) -> Callable[..., Schedule]:
    def improved(*_: object, **__: object) -> Schedule:
        raise stop

    return improved

"""The exact scheduler: rounding, objectives, interruption, answers that are not schedules."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace

import pytest
from ortools.sat.python import cp_model

from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task
from planner.search import agent_cpsat
from planner.search.agent_cpsat import ScheduleAnswer, ScheduleOptions, solve_schedule
from planner.search.agent_solver import SolverLimits
from planner.verify.task_schedule import schedule_violations

Solved = tuple[cp_model.CpSolverStatus | None, cp_model.CpSolver]


def _task(name: str, duration_s: float, *, resource: int | None = 0, **kwargs: float) -> Task:
    demands = () if resource is None else (Demand(resource=resource, amount=1),)
    return Task(name=name, modes=(Mode(name="", duration_s=duration_s, demands=demands),), **kwargs)


def _hard(num_tasks: int = 60) -> SchedulingProblem:
    """Tasks with three modes each on three machines: never proved within a second."""
    tasks = tuple(
        Task(
            name=str(t),
            modes=tuple(
                Mode(
                    name=str(m),
                    duration_s=7 + (t * 37 + m * 101) % 53,
                    demands=(Demand(resource=m, amount=1 + (t + m) % 2),),
                )
                for m in range(3)
            ),
        )
        for t in range(num_tasks)
    )
    lags = tuple(Lag(before=t, after=t + 1 + t % 4) for t in range(0, num_tasks - 5, 2))
    return SchedulingProblem(
        name="hard",
        tasks=tasks,
        resources=tuple(Resource(name=str(r), capacity=3) for r in range(3)),
        lags=lags,
    )


def test_times_that_are_not_decimal_are_bounded_by_the_rounding_error() -> None:
    # two machines' worth of work on one: sum of the durations, which no tick divides
    durations = [2**0.5, 3**0.5, 5**0.5]
    problem = SchedulingProblem(
        name="irrational",
        tasks=tuple(_task(str(i), d) for i, d in enumerate(durations)),
        resources=(Resource(name="gpu", capacity=1),),
    )
    answer = solve_schedule(problem, ScheduleOptions())
    assert answer.status == "optimal"
    assert answer.value == pytest.approx(sum(durations), rel=1e-12)
    assert 0 < answer.error < 1e-4
    assert sum(durations) - answer.error - 1e-9 <= answer.bound <= sum(durations)


def test_streaming_lags_let_the_consumer_start_early_and_end_late() -> None:
    # producer 10 s, consumer 4 s: it may start 1 s after the producer, and ends 0.5 s after it
    problem = SchedulingProblem(
        name="stream",
        tasks=(_task("producer", 10, resource=None), _task("consumer", 4, resource=None)),
        lags=(
            Lag(before=0, after=1, kind="start_start", lag_s=1.0),
            Lag(before=0, after=1, kind="end_end", lag_s=0.5),
        ),
    )
    answer = solve_schedule(problem, ScheduleOptions())
    assert answer.value == pytest.approx(10.5)


def test_rate_limit_is_a_capacity_held_for_the_window() -> None:
    # one call per 5 s, calls of 1 s: starts at 0, 5, 10, so the third ends at 11
    mode = Mode(name="", duration_s=1, demands=(Demand(resource=0, amount=1, hold_s=5),))
    problem = SchedulingProblem(
        name="rate",
        tasks=tuple(Task(name=str(i), modes=(mode,)) for i in range(3)),
        resources=(Resource(name="calls", capacity=1),),
    )
    assert solve_schedule(problem, ScheduleOptions()).value == 11


def test_weighted_ends_and_costs() -> None:
    # fast mode: end 1, cost 5; slow mode: end 3, cost 0; with weight 1 slow wins (3 < 6)
    modes = (Mode(name="fast", duration_s=1, cost=5), Mode(name="slow", duration_s=3))
    problem = SchedulingProblem(
        name="w", tasks=(Task(name="t", modes=modes, weight=1.0),), makespan_weight=0.0
    )
    assert solve_schedule(problem, ScheduleOptions()).value == 3
    dear = replace(problem, tasks=(replace(problem.tasks[0], weight=4.0),))
    assert solve_schedule(dear, ScheduleOptions()).value == 9


def test_deadline_that_no_order_meets_is_infeasible() -> None:
    tasks = (_task("a", 4, deadline_s=5), _task("b", 4, deadline_s=5))
    problem = SchedulingProblem(name="late", tasks=tasks, resources=(Resource(name="gpu", capacity=1),))
    answer = solve_schedule(problem, ScheduleOptions())
    assert (answer.status, answer.schedule, answer.value) == ("infeasible", None, None)


def test_positive_cycle_of_lags_is_infeasible() -> None:
    lags = (Lag(before=0, after=1), Lag(before=1, after=0))
    tasks = (_task("a", 1, resource=None), _task("b", 1, resource=None))
    problem = SchedulingProblem(name="cycle", tasks=tasks, lags=lags)
    assert solve_schedule(problem, ScheduleOptions()).status == "infeasible"


def test_malformed_problem_is_refused() -> None:
    problem = SchedulingProblem(name="bad", tasks=(_task("a", 1, resource=3),))
    with pytest.raises(ValueError, match="resource 3"):
        solve_schedule(problem, ScheduleOptions())


def test_empty_problem_is_done_at_time_zero() -> None:
    answer = solve_schedule(SchedulingProblem(name="empty", tasks=()), ScheduleOptions())
    assert (answer.status, answer.value) == ("optimal", 0.0)


def test_same_seed_gives_the_same_schedule() -> None:
    options = ScheduleOptions(time_limit_s=600, deterministic_limit=0.5)  # a busy machine may be slow
    first, second = (solve_schedule(_hard(), options) for _ in range(2))
    assert first.schedule == second.schedule
    assert (first.value, first.bound) == (second.value, second.bound)


def _check_interrupted(answer: ScheduleAnswer) -> None:
    assert answer.status == "feasible"
    assert answer.schedule is not None
    assert schedule_violations(_hard(200), answer.schedule) == []
    assert answer.gap is not None
    assert 0 < answer.gap < 1


def test_interrupt_of_the_solver_keeps_the_incumbent() -> None:
    began = time.monotonic()
    told: list[str] = []

    def interrupt(text: str) -> None:
        if not told:
            os.kill(os.getpid(), signal.SIGINT)
        told.append(text)

    answer = solve_schedule(_hard(200), ScheduleOptions(time_limit_s=60), on_progress=interrupt)
    assert time.monotonic() - began < 40
    assert told
    _check_interrupted(answer)


def test_interrupt_before_the_solver_keeps_the_heuristic(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.search.agent_cpsat.seed_schedule", interrupted)
    answer = solve_schedule(_hard(200), ScheduleOptions(time_limit_s=60))
    _check_interrupted(answer)
    assert answer.value == answer.heft_value


def test_interrupt_while_the_model_is_built_keeps_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("planner.search.agent_cpsat.build", interrupted)
    _check_interrupted(solve_schedule(_hard(200), ScheduleOptions(time_limit_s=60)))


def test_interrupt_between_limits_on_the_makespan_keeps_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[int]] = []
    together = agent_cpsat.solve_together

    def interrupted(models: list[cp_model.CpModel], limits: SolverLimits) -> list[Solved]:
        asked.append([0] * len(models))
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            return together(models, limits)
        finally:
            timer.cancel()

    monkeypatch.setattr(agent_cpsat, "solve_together", interrupted)
    monkeypatch.setattr(agent_cpsat, "_FIRST_SHARE", 1e-9)
    monkeypatch.setattr(agent_cpsat, "_FIRST_ATTEMPT_SHARE", 1.0)
    began = time.monotonic()
    answer = solve_schedule(_hard(200), ScheduleOptions(time_limit_s=120, num_workers=2))
    assert time.monotonic() - began < 100
    assert len(asked) == 1
    _check_interrupted(answer)

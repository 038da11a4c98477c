"""The exact scheduler against enumeration of every mode and every start on tiny problems."""

from __future__ import annotations

import random
from itertools import product

import pytest

from planner.ir.scheduling_problem import (
    Demand,
    Lag,
    LagKind,
    Mode,
    Resource,
    Run,
    Schedule,
    SchedulingProblem,
    Task,
)
from planner.search.agent_cpsat import ScheduleOptions, solve_schedule
from planner.verify.task_schedule import schedule_violations

HORIZON = 9
KINDS: tuple[LagKind, ...] = ("end_start", "start_start", "end_end", "start_end")


def _random_problem(seed: int) -> SchedulingProblem:
    rng = random.Random(seed)
    num_tasks = rng.choice([3, 3, 4])
    resources = (
        Resource(name="slots", capacity=rng.randint(1, 3)),
        Resource(name="rate", capacity=1),
        Resource(name="money", capacity=rng.randint(2, 6), renewable=False),
    )
    tasks = tuple(
        Task(
            name=str(t),
            modes=tuple(
                Mode(
                    name=str(m),
                    duration_s=rng.randint(0, 3),
                    demands=(
                        Demand(resource=0, amount=rng.randint(0, 2)),
                        Demand(resource=1, amount=rng.randint(0, 1), hold_s=rng.choice([None, 1, 2])),
                        Demand(resource=2, amount=rng.randint(0, 3)),
                    ),
                    site=rng.choice("ab"),
                    cost=rng.choice([0, 0, 1]) if seed % 3 == 0 else 0,
                )
                for m in range(rng.randint(1, 2))
            ),
            release_s=rng.choice([0, 0, 1]),
            deadline_s=rng.choice([None, None, 5]),
            weight=rng.choice([0, 1, 2]) if seed % 3 == 0 else 0,
        )
        for t in range(num_tasks)
    )
    lags = tuple(
        Lag(
            before=before,
            after=after,
            kind=rng.choice(KINDS),
            lag_s=rng.randint(-2, 1) if rng.random() < 0.2 else rng.randint(0, 1),
            off_site_s=rng.choice([0, 0, 1]),
        )
        for before in range(num_tasks)
        for after in range(before + 1, num_tasks)
        if rng.random() < 0.5
    )
    return SchedulingProblem(name=str(seed), tasks=tasks, resources=resources, lags=lags)


def _best_by_enumeration(problem: SchedulingProblem) -> float | None:
    best: float | None = None
    choices = [[(m, s) for m in range(len(t.modes)) for s in range(HORIZON)] for t in problem.tasks]
    for picks in product(*choices):
        runs = tuple(
            Run(mode=m, start_s=s, end_s=s + t.modes[m].duration_s)
            for t, (m, s) in zip(problem.tasks, picks, strict=True)
        )
        schedule = Schedule(runs=runs)
        value = problem.objective(schedule)
        if (best is None or value < best) and not schedule_violations(problem, schedule):
            best = value
    return best


@pytest.mark.parametrize("seed", range(24))
def test_equals_enumeration(seed: int) -> None:
    problem = _random_problem(seed)
    if len(problem.tasks) == 4 and sum(len(t.modes) for t in problem.tasks) > 5:
        problem = SchedulingProblem(
            name=problem.name,
            tasks=problem.tasks[:3],
            resources=problem.resources,
            lags=tuple(lag for lag in problem.lags if lag.after < 3),
        )
    expected = _best_by_enumeration(problem)
    answer = solve_schedule(problem, ScheduleOptions(time_limit_s=10))
    if expected is None:
        assert answer.status == "infeasible"
        return
    assert answer.status == "optimal"
    assert answer.value == pytest.approx(expected)
    assert answer.bound == pytest.approx(expected)
    assert answer.schedule is not None
    assert schedule_violations(problem, answer.schedule) == []

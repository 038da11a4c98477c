"""Chains that could swap their places: found where they are equal, and only there."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task
from planner.search.agent_chains import equal_chains
from planner.search.agent_cpsat import ScheduleOptions, solve_schedule
from planner.verify.task_schedule import schedule_violations


def _task(name: str, duration_s: float, machine: int) -> Task:
    demands = (Demand(resource=machine, amount=1),)
    return Task(name=name, modes=(Mode(name="", duration_s=duration_s, demands=demands),))


def _jobs(num_jobs: int, lengths: tuple[float, ...]) -> SchedulingProblem:
    """Identical jobs, their i-th task on machine i."""
    tasks = [_task(f"{j}.{i}", length, i) for j in range(num_jobs) for i, length in enumerate(lengths)]
    width = len(lengths)
    lags = [
        Lag(before=j * width + i, after=j * width + i + 1) for j in range(num_jobs) for i in range(width - 1)
    ]
    machines = tuple(Resource(name=str(i), capacity=1) for i in range(width))
    return SchedulingProblem(name="jobs", tasks=tuple(tasks), resources=machines, lags=tuple(lags))


def test_identical_jobs_are_one_class() -> None:
    assert equal_chains(_jobs(3, (2, 3))) == [[(0, 1), (2, 3), (4, 5)]]


def test_jobs_that_differ_anywhere_are_not() -> None:
    jobs = _jobs(2, (2, 3))
    late = replace(jobs, tasks=(*jobs.tasks[:3], replace(jobs.tasks[3], deadline_s=9.0)))
    apart = replace(jobs, lags=(jobs.lags[0], replace(jobs.lags[1], lag_s=1.0)))
    paired = replace(jobs, tasks=(*jobs.tasks[:3], replace(jobs.tasks[3], twin=1)))
    assert [equal_chains(p) for p in (late, apart, paired)] == [[], [], []]


def test_what_stands_before_and_after_must_be_the_same() -> None:
    # a source and a sink around two chains of two; a further task waits for the first of one chain
    inner = _jobs(2, (2, 3))
    tasks = (*inner.tasks, _task("source", 1, 0), _task("sink", 1, 0), _task("other", 1, 1))
    around = [Lag(before=4, after=0), Lag(before=4, after=2), Lag(before=1, after=5), Lag(before=3, after=5)]
    problem = replace(inner, tasks=tasks, lags=(*inner.lags, *around))
    assert equal_chains(problem) == [[(0, 1), (2, 3)]]
    # now 0 has two followers: 0 and 1 are no chain any more, and 2 with 3 has no equal
    assert equal_chains(replace(problem, lags=(*problem.lags, Lag(before=0, after=6)))) == []


def test_under_a_period_only_single_tasks_swap() -> None:
    assert equal_chains(replace(_jobs(2, (2, 3)), period_s=20.0)) == []
    single = replace(_jobs(2, (2,)), period_s=20.0)
    assert equal_chains(single) == [[(0,), (1,)]]


def test_the_order_of_equal_chains_costs_nothing() -> None:
    # a flow shop of 5 equal jobs on machines of 2 and 3: 2 + 5 * 3 = 17
    answer = solve_schedule(_jobs(5, (2, 3)), ScheduleOptions(time_limit_s=10))
    assert (answer.status, answer.value) == ("optimal", 17.0)
    assert answer.schedule is not None
    assert schedule_violations(_jobs(5, (2, 3)), answer.schedule) == []


def test_a_long_chain_is_one_chain() -> None:
    lengths = tuple(float(1 + i % 3) for i in range(6))
    (group,) = equal_chains(_jobs(2, lengths))
    assert group == [tuple(range(6)), tuple(range(6, 12))]
    assert all(b == a + 1 for chain in group for a, b in pairwise(chain))

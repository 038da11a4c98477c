"""The checker of schedules names each kind of fault."""

from __future__ import annotations

import pytest

from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, Run, Schedule, SchedulingProblem, Task
from planner.verify.task_schedule import schedule_violations

PROBLEM = SchedulingProblem(
    name="p",
    tasks=(
        Task(
            name="a", modes=(Mode(name="", duration_s=2, demands=(Demand(resource=0, amount=1),), site="x"),)
        ),
        Task(
            name="b",
            modes=(
                Mode(name="near", duration_s=3, demands=(Demand(resource=0, amount=1),), site="x"),
                Mode(name="far", duration_s=1, demands=(Demand(resource=1, amount=5),), site="y"),
            ),
            release_s=1,
            deadline_s=9,
        ),
    ),
    resources=(Resource(name="gpu", capacity=1), Resource(name="money", capacity=4, renewable=False)),
    lags=(Lag(before=0, after=1, off_site_s=2),),
)


def _schedule(*runs: tuple[int, float, float]) -> Schedule:
    return Schedule(runs=tuple(Run(mode=m, start_s=s, end_s=e) for m, s, e in runs))


def test_a_valid_schedule_has_no_violations() -> None:
    assert schedule_violations(PROBLEM, _schedule((0, 0, 2), (0, 2, 5))) == []


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        ([(0, 0, 2)], "1 runs for 2 tasks"),
        ([(0, 0, 2), (7, 2, 5)], "no mode 7"),
        ([(0, 0, 2), (0, 2, 4)], "runs 2 s, not 3"),
        ([(0, -1, 1), (0, 2, 5)], "before its release"),
        ([(0, 0, 2), (0, 8, 11)], "after its deadline"),
        ([(0, 0, 2), (0, 1, 4)], "lag 'a' to 'b'"),
        ([(0, 0, 2), (0, 1, 4)], "'gpu': 2 of 1"),
        ([(0, 0, 2), (1, 3, 4)], "1 s of 2"),
        ([(0, 0, 2), (1, 4, 5)], "'money': 5 of 4"),
    ],
)
def test_each_fault_is_named(runs: list[tuple[int, float, float]], words: str) -> None:
    assert any(words in v for v in schedule_violations(PROBLEM, _schedule(*runs)))

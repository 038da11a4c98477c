"""The list scheduler against values derived by hand."""

from __future__ import annotations

from planner.ir.scheduling_problem import Demand, Lag, Mode, Resource, SchedulingProblem, Task
from planner.search.heft import heft, upward_ranks
from planner.verify.task_schedule import schedule_violations


def _on(machine: int, duration_s: float) -> Mode:
    return Mode(
        name=str(machine),
        duration_s=duration_s,
        demands=(Demand(resource=machine, amount=1),),
        site=str(machine),
    )


def test_fork_on_two_machines() -> None:
    # ranks: a 2+max(4,4)... by hand: mean a 2, b 3, c 4; edges a->b, a->c of 1 s between machines.
    # a on machine 0 ends at 2; c (rank 4) on 0 ends at 5 (3 s) against 2+1+5=8; b then on 1: 2+1+2=5.
    problem = SchedulingProblem(
        name="fork",
        tasks=(
            Task(name="a", modes=(_on(0, 2), _on(1, 2))),
            Task(name="b", modes=(_on(0, 4), _on(1, 2))),
            Task(name="c", modes=(_on(0, 3), _on(1, 5))),
        ),
        resources=(Resource(name="0", capacity=1), Resource(name="1", capacity=1)),
        lags=(Lag(before=0, after=1, off_site_s=1), Lag(before=0, after=2, off_site_s=1)),
    )
    assert upward_ranks(problem) == [2 + 0.5 + 4, 3, 4]
    schedule = heft(problem)
    assert schedule is not None
    assert [(r.mode, r.start_s, r.end_s) for r in schedule.runs] == [(0, 0, 2), (1, 3, 5), (0, 2, 5)]
    assert schedule_violations(problem, schedule) == []


def test_insertion_fills_a_gap() -> None:
    # x holds both units over [0, 4) after its release at 2; a short task goes before it
    unit = Resource(name="u", capacity=2)
    wide = Mode(name="", duration_s=4, demands=(Demand(resource=0, amount=2),))
    narrow = Mode(name="", duration_s=2, demands=(Demand(resource=0, amount=1),))
    problem = SchedulingProblem(
        name="gap",
        tasks=(Task(name="x", modes=(wide,), release_s=2), Task(name="s", modes=(narrow,))),
        resources=(unit,),
    )
    schedule = heft(problem)
    assert schedule is not None
    assert [r.start_s for r in schedule.runs] == [2, 0]


def test_budget_steers_the_modes() -> None:
    # only one of the two may take the dear mode
    modes = (
        Mode(name="dear", duration_s=1, demands=(Demand(resource=0, amount=3),)),
        Mode(name="cheap", duration_s=5, demands=(Demand(resource=0, amount=1),)),
    )
    problem = SchedulingProblem(
        name="budget",
        tasks=(Task(name="a", modes=modes), Task(name="b", modes=modes)),
        resources=(Resource(name="money", capacity=4, renewable=False),),
    )
    schedule = heft(problem)
    assert schedule is not None
    assert sorted(r.mode for r in schedule.runs) == [0, 1]


def test_cyclic_lags_have_no_list_schedule() -> None:
    mode = Mode(name="", duration_s=1)
    problem = SchedulingProblem(
        name="cycle",
        tasks=(Task(name="a", modes=(mode,)), Task(name="b", modes=(mode,))),
        lags=(Lag(before=0, after=1), Lag(before=1, after=0, lag_s=-5)),
    )
    assert heft(problem) is None

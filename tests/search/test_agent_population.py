"""The genetic search for projects: valid, never worse than its start, and the same every time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from planner.frontend.instances import read_instance
from planner.search.agent_population import improved_schedule, is_improvable
from planner.search.heft import heft
from planner.verify.task_schedule import schedule_violations

DATA = Path(__file__).resolve().parents[1] / "data" / "scheduling"


def test_reaches_the_published_optimum_of_a_hard_project_of_thirty() -> None:
    problem = read_instance(DATA / "psplib" / "j3029_5.sm")
    start = heft(problem)
    assert start is not None
    assert problem.objective(start) > 98
    found = improved_schedule(problem, start, target=98, num_generations=40, seed=0)
    assert schedule_violations(problem, found) == []
    assert problem.objective(found) <= 100
    again = improved_schedule(problem, start, target=98, num_generations=40, seed=0)
    assert found == again


def test_without_generations_the_start_is_never_made_worse() -> None:
    problem = read_instance(DATA / "psplib" / "j3010_1.sm")
    start = heft(problem)
    assert start is not None
    found = improved_schedule(problem, start, target=0, num_generations=0, seed=3)
    assert problem.objective(found) <= problem.objective(start)
    assert schedule_violations(problem, found) == []


def test_only_plain_projects_are_taken() -> None:
    problem = read_instance(DATA / "psplib" / "j3010_1.sm")
    assert is_improvable(problem)
    assert not is_improvable(read_instance(DATA / "psplib" / "j1019_1.mm"))
    lagged = replace(problem, lags=(replace(problem.lags[0], lag_s=1.0), *problem.lags[1:]))
    assert not is_improvable(lagged)
    weighted = replace(problem, tasks=(replace(problem.tasks[0], weight=1.0), *problem.tasks[1:]))
    assert not is_improvable(weighted)

"""Narrowing a bracket: right whatever stays open, closed with effort enough, and over when the budget is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.frontend.instances import read_instance
from planner.search import agent_cpsat
from planner.search.agent_bracket import Ask, Attempt, Bracket, narrowed
from planner.verify.task_schedule import schedule_violations

DATA = Path(__file__).resolve().parents[1] / "data" / "scheduling"


def _oracle(optimum: int, slack: int, asked: list[tuple[int, float]]) -> Ask:
    """Answer limits rightly, the sooner the farther from the optimum; finds are `slack` below the limit."""

    def answer(limit: int, effort: float) -> Attempt:
        asked.append((limit, effort))
        needed = 8.0 / (1 + abs(limit - optimum))
        if effort < needed:
            return Attempt(outcome="open", effort=effort)
        if limit < optimum:
            return Attempt(outcome="refuted", effort=needed)
        return Attempt(outcome="found", effort=needed, makespan=max(limit - slack, optimum))

    return lambda limits, effort: [answer(limit, effort) for limit in limits]


@given(
    low=st.integers(0, 50),
    below=st.integers(0, 40),
    above=st.integers(0, 40),
    slack=st.integers(0, 3),
    budget=st.floats(0.0, 200.0),
    width=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_the_optimum_stays_inside_and_the_budget_holds(
    low: int, below: int, above: int, slack: int, budget: float, width: int
) -> None:
    optimum = low + below
    asked: list[tuple[int, float]] = []
    found = narrowed(
        Bracket(low=low, high=optimum + above),
        _oracle(optimum, slack, asked),
        width=width,
        first_effort=0.5,
        budget=budget,
    )
    assert low <= found.low <= optimum <= found.high <= optimum + above
    assert all(low <= limit < optimum + above for limit, _ in asked)
    if budget == 0.0:
        assert asked == []


@given(below=st.integers(0, 30), above=st.integers(0, 30), width=st.integers(1, 4))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_effort_enough_closes_it(below: int, above: int, width: int) -> None:
    bracket = Bracket(low=10, high=10 + below + above)
    found = narrowed(bracket, _oracle(10 + below, 0, []), width=width, first_effort=0.25, budget=1e6)
    assert (found.low, found.high, found.is_closed) == (10 + below, 10 + below, True)


def test_what_stays_open_is_asked_again_with_twice_the_effort() -> None:
    asked: list[tuple[int, float]] = []
    narrowed(Bracket(low=0, high=4), _oracle(2, 0, asked), width=1, first_effort=1.0, budget=1e3)
    for limit in (1, 2):
        efforts = [effort for tried, effort in asked if tried == limit]
        assert efforts == sorted(set(efforts))
        assert efforts[-1] >= 4.0


def test_it_ends_at_once_when_the_user_stops() -> None:
    calls: list[int] = []

    def ask(limits: list[int], effort: float) -> list[Attempt]:
        calls.extend(limits)
        return [Attempt(outcome="stopped", effort=effort)]

    found = narrowed(Bracket(low=0, high=100), ask, width=1, first_effort=1.0, budget=1e9)
    assert (found.low, found.high, found.stopped, len(calls)) == (0, 100, True, 1)


def test_attempts_that_cost_nothing_use_up_the_budget_too() -> None:
    calls: list[int] = []

    def ask(limits: list[int], effort: float) -> list[Attempt]:
        calls.extend(limits)
        return [Attempt(outcome="open", effort=0.0)]

    narrowed(Bracket(low=0, high=1000), ask, width=1, first_effort=1.0, budget=1.0)
    assert 0 < len(calls) <= 101


@pytest.mark.parametrize(("name", "optimum"), [("ft06_edata", 55.0), ("fattahi10", 516.0)])
def test_shops_that_the_first_try_leaves_open_are_closed_by_limits_alone(
    name: str, optimum: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_cpsat, "_FIRST_SHARE", 1e-9)
    monkeypatch.setattr(agent_cpsat, "_LEAST_NEAR_TASKS", 1)
    monkeypatch.setattr(agent_cpsat, "_NEAR_SHARE", 0.0)
    problem = read_instance(DATA / "fjsp" / f"{name}.txt")
    options = agent_cpsat.ScheduleOptions(time_limit_s=60, deterministic_limit=20, num_workers=2)
    answer = agent_cpsat.solve_schedule(problem, options)
    assert answer.schedule is not None
    assert schedule_violations(problem, answer.schedule) == []
    assert (answer.status, answer.value, answer.bound) == ("optimal", optimum, optimum)
    if name == "fattahi10":
        assert agent_cpsat.solve_schedule(problem, options).schedule == answer.schedule

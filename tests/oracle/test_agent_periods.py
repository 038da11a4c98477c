"""Schedules that repeat with a period, against enumeration with the occupation counted run by run."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest

from planner.ir.scheduling_problem import (
    Demand,
    Lag,
    Mode,
    Resource,
    Schedule,
    SchedulingProblem,
    Task,
)
from planner.ir.scheduling_problem import (
    Run as Placed,
)
from planner.pipeline import Run, check, make_plan
from planner.search.agent_cpsat import ScheduleOptions, solve_schedule
from planner.verify.task_schedule import schedule_violations

HORIZON = 11


def _random_problem(seed: int) -> SchedulingProblem:
    rng = random.Random(seed)
    resources = (Resource(name="slots", capacity=rng.randint(1, 2)), Resource(name="rate", capacity=2))
    tasks = tuple(
        Task(
            name=str(t),
            modes=tuple(
                Mode(
                    name=str(m),
                    duration_s=rng.randint(1, 4),
                    demands=(
                        Demand(resource=rng.randint(0, 1), amount=1),
                        Demand(resource=1, amount=rng.randint(0, 1), hold_s=rng.choice([None, 3])),
                    ),
                )
                for m in range(rng.randint(1, 2))
            ),
        )
        for t in range(3)
    )
    lags = tuple(Lag(before=b, after=a) for b, a in ((0, 1), (0, 2), (1, 2)) if rng.random() < 0.6)
    return SchedulingProblem(
        name=str(seed), tasks=tasks, resources=resources, lags=lags, period_s=rng.randint(2, 6)
    )


def _fits(problem: SchedulingProblem, runs: tuple[Placed, ...]) -> bool:
    """Whether no resource is short in any second while runs begin every period for a long time."""
    assert problem.period_s is not None
    period, last = int(problem.period_s), 40
    for lag in problem.lags:
        if runs[lag.after].start_s < runs[lag.before].end_s:
            return False
    used = [[0] * (HORIZON + 20) for _ in problem.resources]
    for begin in range(-last * period, HORIZON + 20, period):
        for task, run in zip(problem.tasks, runs, strict=True):
            mode = task.modes[run.mode]
            for demand in mode.demands:
                start = int(begin + run.start_s)
                for second in range(start, start + int(mode.hold_s(demand))):
                    if 0 <= second < HORIZON + 20:
                        used[demand.resource][second] += demand.amount
    return all(max(row) <= r.capacity for row, r in zip(used, problem.resources, strict=True))


@pytest.mark.parametrize("seed", range(14))
def test_equals_enumeration(seed: int) -> None:
    problem = _random_problem(seed)
    best: float | None = None
    choices = [[(m, s) for m in range(len(t.modes)) for s in range(HORIZON)] for t in problem.tasks]
    for picks in product(*choices):
        runs = tuple(
            Placed(mode=m, start_s=s, end_s=s + t.modes[m].duration_s)
            for t, (m, s) in zip(problem.tasks, picks, strict=True)
        )
        value = problem.objective(Schedule(runs=runs))
        if (best is None or value < best) and _fits(problem, runs):
            best = value
    answer = solve_schedule(problem, ScheduleOptions(time_limit_s=10))
    if best is None:
        assert answer.status == "infeasible"
        return
    assert answer.status == "optimal"
    assert answer.value == pytest.approx(best)
    assert answer.schedule is not None
    assert _fits(problem, answer.schedule.runs)
    assert schedule_violations(problem, answer.schedule) == []


GRAPH = """\
kind: agents
period_s: 1.5
models:
  m: {prefill_tokens_per_s: 1e12, decode_s_per_token: 0.01, overhead_s: 0, slots: 2}
  n: {prefill_tokens_per_s: 1e12, decode_s_per_token: 0.01, overhead_s: 0}
nodes:
  a: {model: m, output: 100}
  b: {model: n, output: 50}
  c: {model: m, output: 200}
  d: {model: n, output: 100}
edges: [a -> b, a -> c, b -> d, c -> d]
"""


def test_a_periodic_graph_shares_its_slots_with_the_runs_under_way(tmp_path: Path) -> None:
    # two slots of 1.5 s are full with the 3 s of a and c, the slot of n with b and d
    spec = tmp_path / "agents.yaml"
    spec.write_text(GRAPH)
    plan = make_plan(spec, Run())
    assert plan.objective.value == pytest.approx(4.0)
    assert plan.predicted["runs_per_s"].value == pytest.approx(1 / 1.5)
    assert check(plan).passed
    spec.write_text(GRAPH.replace("period_s: 1.5", "period_s: 1.49"))
    late = make_plan(spec, Run())
    assert late.status == "infeasible"
    assert late.infeasibility is not None
    reach = late.infeasibility.relaxed["period_s"]
    spec.write_text(GRAPH.replace("period_s: 1.5", f"period_s: {reach}"))
    assert make_plan(spec, Run()).status == "optimal"


def test_the_checker_folds_slots_into_the_period(tmp_path: Path) -> None:
    spec = tmp_path / "agents.yaml"
    spec.write_text(GRAPH)
    plan = make_plan(spec, Run())
    spec.write_text(GRAPH.replace("period_s: 1.5", "period_s: 9"))
    slow = make_plan(spec, Run())
    assert "agent-schedule" not in check(slow).failed_rules
    squeezed = plan.model_copy(update={"details": slow.details})
    calls = {str(c["name"]): c for c in squeezed.details["calls"]}  # pyright: ignore
    # half a second later b still waits for nothing wrong, but meets d of the run before
    calls["b"]["start_s"] += 0.7
    calls["b"]["end_s"] += 0.7
    assert "agent-schedule" in check(squeezed).failed_rules

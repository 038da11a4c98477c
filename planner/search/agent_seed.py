"""A good first schedule: HEFT, other list rules and a short randomised search, in ticks.

The seed bounds the horizon, is the solver's hint and the answer of last resort. Work is counted, not
timed, so the same problem and seed give the same schedule.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from planner.ir.scheduling_problem import Schedule, SchedulingProblem, restricted
from planner.search.agent_bounds import Bounds
from planner.search.agent_lp import Relaxation, promising
from planner.search.heft import list_schedule, upward_ranks

_MAX_PLACEMENTS = 12_000


def seed_schedule(problem: SchedulingProblem, limits: Bounds, *, seed: int) -> Schedule | None:
    """Return the best schedule of a few list rules and perturbed restarts, None if all fail."""
    ranks = upward_ranks(problem)
    if ranks is None:
        return None
    rules: list[Sequence[float]] = [ranks, list(limits.tails), _resource_ranks(problem, limits)]
    best: tuple[float, Sequence[float], Schedule] | None = None
    for rule in rules:
        best = _better(problem, rule, best)
    generator = random.Random(seed)
    choices = sum(len(t.modes) for t in problem.tasks)
    for _ in range(min(_MAX_PLACEMENTS // max(choices, 1), 200)):
        if best is not None and problem.objective(best[2]) <= limits.makespan * problem.makespan_weight:
            break
        base = best[1] if best is not None else ranks
        spread = 0.1 * (max(base, default=1.0) or 1.0)
        best = _better(problem, [p + generator.uniform(-spread, spread) for p in base], best)
    return None if best is None else best[2]


def guided_schedule(
    problem: SchedulingProblem, limits: Bounds, relaxation: Relaxation, *, least: float
) -> Schedule | None:
    """Return the best list schedule in the modes that the linear relaxation uses, None if all fail."""
    modes = promising(problem, relaxation, least=least)
    narrow = restricted(problem, modes)
    ranks = upward_ranks(narrow)
    best: tuple[float, Sequence[float], Schedule] | None = None
    for rule in (ranks, [-s for s in relaxation.starts], list(limits.tails)):
        if rule is not None:
            best = _better(narrow, rule, best)
    if best is None:
        return None
    runs = tuple(replace(r, mode=used[r.mode]) for r, used in zip(best[2].runs, modes, strict=True))
    return Schedule(runs=runs)


def _better(
    problem: SchedulingProblem, rule: Sequence[float], best: tuple[float, Sequence[float], Schedule] | None
) -> tuple[float, Sequence[float], Schedule] | None:
    schedule = list_schedule(problem, rule)
    if schedule is None:
        return best
    value = problem.objective(schedule)
    return (value, rule, schedule) if best is None or value <= best[0] else best


def _resource_ranks(problem: SchedulingProblem, limits: Bounds) -> list[float]:
    """Tails plus the share of the scarcest resource that a task takes: big blocks go early."""
    ranks: list[float] = []
    for t, task in enumerate(problem.tasks):
        share = max(
            (
                d.amount / problem.resources[d.resource].capacity
                for m in task.modes
                for d in m.demands
                if problem.resources[d.resource].renewable and problem.resources[d.resource].capacity
            ),
            default=0.0,
        )
        ranks.append(limits.tails[t] * (1.0 + share))
    return ranks

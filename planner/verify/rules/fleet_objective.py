"""The objective of a fleet follows from its pools, and over a day from what runs and starts at each level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from planner.verify.fleet import busiest, payload_of, served_rps, unit_cost
from planner.verify.report import Violation
from planner.verify.resources import devices_by_group
from planner.verify.rule import FLEET, Case, Rule, differs

_ARITHMETIC = 1e-4


def _check(case: Case) -> Iterator[Violation]:
    objective, asked = case.plan.objective, case.problem.objective.name
    if objective.name != asked:
        yield Violation(message=f"the plan optimises {objective.name}, asked was {asked}")
        return
    if objective.value is None:
        return
    sense = "max" if asked.startswith("max_") else "min"
    if objective.sense != sense:
        yield Violation(message=f"{asked} has sense {sense}, the plan says {objective.sense}")
    own = _value(case, asked)
    if differs(objective.value, own, _ARITHMETIC):
        yield Violation(
            message=f"{asked} is {own:.6g}, the plan says {objective.value:.6g}",
            numbers=(("own", own), ("claimed", objective.value)),
        )
    if payload_of(case).levels:
        yield from _main_level(case)


def _value(case: Case, goal: str) -> float:
    payload = payload_of(case)
    if goal == "max_goodput":
        return sum(
            model.priority * served_rps(case, model.name) * _tokens(model.serving) for model in payload.models
        )
    if goal == "max_load":
        factor = busiest(payload).factor
        loads = [
            served_rps(case, m.name) / (m.rate_rps * factor)
            for m in payload.models
            if m.rate_rps * factor > 0
        ]
        return min(loads, default=0.0)
    if payload.levels:
        return _day(case, goal)
    return sum(unit_cost(group, goal) * count for group, count in devices_by_group(case))


def _tokens(serving: Any) -> float:
    return 1.0 if serving is None else float(serving.workload.lengths.mean_output)


def _levels(case: Case) -> Sequence[Mapping[str, Any]]:
    found = case.plan.details.get("levels")
    return cast("Sequence[Mapping[str, Any]]", found) if isinstance(found, list) else ()


def _day(case: Case, goal: str) -> float:
    """Return the mean over the day: hours of each level at its devices, and every start."""
    payload = payload_of(case)
    day = sum(level.hours for level in payload.levels)
    costs = {group.name: unit_cost(group, goal) for group in case.problem.cluster.groups}
    start_hours = payload.start_s / 3600.0
    total = 0.0
    for level, facts in zip(payload.levels, _levels(case), strict=True):
        used = sum(costs[pool["node_group"]] * pool["devices"] for pool in facts["pools"].values())
        started = sum(costs[group] * count for group, count in facts["started_devices"].items())
        total += level.hours * used + start_hours * started
    return total / day


def _main_level(case: Case) -> Iterator[Violation]:
    """Check that the pools of the plan are those of its busiest level."""
    name = busiest(payload_of(case)).name
    facts = next((level for level in _levels(case) if level.get("name") == name), None)
    if facts is None:
        yield Violation(message=f"the plan does not say what runs at level {name}")
        return
    stated = Counter({pool: int(own["replicas"]) for pool, own in facts["pools"].items()})
    own = Counter({pool.name: pool.replicas for pool in case.plan.pools})
    if stated != own:
        yield Violation(message=f"the pools of the plan are not those of level {name}")


RULE = Rule(
    says="the objective follows from the pools of the fleet",
    check=_check,
    kinds=FLEET,
    requires=("ranks", "fleet-demand"),
)

"""The plan is of a known version, answers this problem, and its parts fit its status."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite

from planner.plan.schema import SCHEMA_VERSION, Plan
from planner.verify.report import Violation
from planner.verify.rule import Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    plan = case.plan
    if plan.schema_version.split(".")[0] != SCHEMA_VERSION.split(".")[0]:
        yield Violation(message=f"schema version {plan.schema_version} is not {SCHEMA_VERSION}")
    if plan.kind != case.problem.kind:
        yield Violation(message=f"a plan of kind {plan.kind!r} for a problem of kind {case.problem.kind!r}")
    yield from _status(plan)
    yield from _numbers(plan)


def _status(plan: Plan) -> Iterator[Violation]:
    if plan.status == "infeasible":
        if plan.pools or plan.placement or plan.objective.value is not None:
            yield Violation(message="an infeasible plan has pools, a placement or a value")
        return
    if plan.objective.value is None:
        yield Violation(message=f"status {plan.status} without a value of the objective")
    if plan.infeasibility is not None:
        yield Violation(message=f"status {plan.status} with a reason for being infeasible")
    names = [pool.name for pool in plan.pools]
    if len(set(names)) != len(names):
        yield Violation(message="two pools have the same name")


def _numbers(plan: Plan) -> Iterator[Violation]:
    quantities = [(name, q) for name, q in plan.predicted.items()]
    for pool in plan.pools:
        quantities += [(f"{pool.name}.{name}", q) for name, q in pool.predicted.items()]
    for name, q in quantities:
        if not isfinite(q.value) or q.value < 0:
            yield Violation(message=f"predicted {name} is {q.value}")
        low, high = q.low if q.low is not None else q.value, q.high if q.high is not None else q.value
        if not low <= q.value <= high:
            yield Violation(message=f"predicted {name} = {q.value:.6g} lies outside [{low:.6g}, {high:.6g}]")


RULE = Rule(says="the plan is complete and answers this problem", check=_check, with_pools=False)

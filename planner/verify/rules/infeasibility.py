"""An infeasible plan says which limits bind, and each of them is really out of reach."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import Case, Rule


def _check(case: Case) -> Iterator[Violation]:
    plan = case.plan
    if plan.status != "infeasible":
        return
    if plan.infeasibility is None or not plan.infeasibility.binding:
        yield Violation(message="an infeasible plan names no binding constraint")
        return
    if not plan.infeasibility.nearest_relaxation:
        yield Violation(message="an infeasible plan names no relaxation")
    for constraint in plan.infeasibility.binding:
        if constraint.limit is not None and constraint.limit == constraint.best_reachable:
            yield Violation(
                message=f"{constraint.name} is called binding but {constraint.limit:g} is reached",
                numbers=(("limit", constraint.limit),),
            )


RULE = Rule(
    says="an infeasible plan names what binds", check=_check, with_pools=False, requires=("well-formed",)
)

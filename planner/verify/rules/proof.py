"""Value, bound, gap and status fit together: nothing is called optimal that its bound does not prove."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.rule import Case, Rule

OPTIMAL_GAP = 1e-4
"""Largest gap of a plan that is called optimal: a tenth of what counts as a tie."""
_ARITHMETIC = 1e-6


def _check(case: Case) -> Iterator[Violation]:
    objective, status = case.plan.objective, case.plan.status
    value, bound, gap = objective.value, objective.bound, objective.gap
    if value is None:
        return
    if bound is None or gap is None:
        if status == "optimal":
            yield Violation(message="called optimal without a bound and a gap")
        return
    own_gap = abs(value - bound) / max(abs(value), 1e-300) if value != bound else 0.0
    numbers = (("value", value), ("bound", bound), ("gap", gap), ("own_gap", own_gap))
    better = bound - value if objective.sense == "max" else value - bound
    if better < -_ARITHMETIC * max(abs(value), abs(bound)):
        yield Violation(
            message=f"the value {value:.6g} is better than its bound {bound:.6g}", numbers=numbers
        )
    if abs(gap - own_gap) > _ARITHMETIC + 1e-3 * own_gap:
        yield Violation(message=f"the gap is {own_gap:.3g}, the plan says {gap:.3g}", numbers=numbers)
    if status == "optimal" and own_gap > OPTIMAL_GAP:
        yield Violation(message=f"called optimal with a gap of {own_gap:.3g}", numbers=numbers)


RULE = Rule(says="value, bound, gap and status fit together", check=_check, requires=("well-formed",))

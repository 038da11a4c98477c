"""No runner-up beats the plan, and each states its distance and how near that is correctly."""

from __future__ import annotations

from collections.abc import Iterator

from planner.plan.schema import Alternative
from planner.verify.report import Violation
from planner.verify.rule import Case, Rule

_ARITHMETIC = 1e-6


def _check(case: Case) -> Iterator[Violation]:
    value = case.plan.objective.value
    if value is None:
        return
    low, high = case.plan.objective.low, case.plan.objective.high
    if case.plan.alternatives and low is not None and high is not None and not low <= value <= high:
        yield Violation(message=f"the objective ({value:.6g}) lies outside its interval {low} to {high}")
    for number, other in enumerate(case.plan.alternatives, start=1):
        if other.objective_value is not None:
            yield from _alternative(case, f"runner-up {number}", value, other)


def _alternative(case: Case, name: str, value: float, other: Alternative) -> Iterator[Violation]:
    found = other.objective_value or 0.0
    sign = 1.0 if case.plan.objective.sense == "max" else -1.0
    worse_by = sign * (value - found) / max(abs(value), 1e-300)
    numbers = (("plan", value), ("runner_up", found))
    if worse_by < -_ARITHMETIC:
        yield Violation(message=f"{name} ({found:.6g}) beats the plan ({value:.6g})", numbers=numbers)
    if other.relative is not None and abs(other.relative - worse_by) > _ARITHMETIC + 1e-3 * abs(worse_by):
        message = f"{name} is {worse_by:.4%} worse, the plan says {other.relative:.4%}"
        yield Violation(message=message, numbers=numbers)
    low, high = case.plan.objective.low, case.plan.objective.high
    if other.within_error != (low is not None and high is not None and low <= found <= high):
        yield Violation(
            message=f"{name} ({found:.6g}) and the interval {low} to {high}: within_error is "
            f"{other.within_error}",
            numbers=numbers,
        )
    tolerance = case.problem.options.tie_tolerance
    if other.tie != (worse_by <= tolerance * (1 + _ARITHMETIC)) and abs(worse_by - tolerance) > _ARITHMETIC:
        yield Violation(message=f"{name} is {worse_by:.4%} away and tie is {other.tie}", numbers=numbers)


RULE = Rule(says="no runner-up beats the plan", check=_check, requires=("well-formed",))

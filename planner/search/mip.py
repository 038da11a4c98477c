"""Typed access to linear models of OR-tools, whose rows come from overloaded comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from math import inf

from ortools.math_opt.python import mathopt

Expression = mathopt.LinearBase | float | int
Terms = Sequence[Expression]


def total(terms: Iterable[Expression]) -> mathopt.LinearExpression:
    """Return the sum of terms."""
    return mathopt.as_flat_linear_expression(mathopt.fast_sum(list(terms)))


def row(model: mathopt.Model, *, low: float = -inf, high: float = inf) -> mathopt.LinearConstraint:
    """Add an empty row; its coefficients are set one by one."""
    return model.add_linear_constraint(lb=low, ub=high)  # pyright: ignore[reportUnknownMemberType] - an untyped overload


def at_least(model: mathopt.Model, terms: Terms, low: float = 0.0) -> None:
    """Require the sum of terms to be at least `low`."""
    model.add_linear_constraint(expr=total(terms), lb=low)  # pyright: ignore[reportUnknownMemberType] - an untyped overload


def at_most(model: mathopt.Model, terms: Terms, high: float = 0.0) -> None:
    """Require the sum of terms to be at most `high`."""
    model.add_linear_constraint(expr=total(terms), ub=high)  # pyright: ignore[reportUnknownMemberType] - an untyped overload


def exactly(model: mathopt.Model, terms: Terms, value: float) -> None:
    """Require the sum of terms to be `value`."""
    model.add_linear_constraint(expr=total(terms), lb=value, ub=value)  # pyright: ignore[reportUnknownMemberType] - an untyped overload


def solve_with_highs(
    model: mathopt.Model, seconds: float, gap: float, step: float = 0.0
) -> mathopt.SolveResult:
    """Solve an integer program to a relative gap, or within one `step` of the values of the objective."""
    parameters = mathopt.SolveParameters(
        time_limit=timedelta(seconds=max(seconds, 0.1)),
        relative_gap_tolerance=gap,
        absolute_gap_tolerance=0.999 * step if step > 0.0 else None,
    )
    return mathopt.solve(model, mathopt.SolverType.HIGHS, params=parameters)

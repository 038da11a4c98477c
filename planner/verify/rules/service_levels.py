"""Predicted latencies keep the limits at the percentile that the user set, and percentiles do not fall."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import cast

from planner.ir.serving import ServingProblem
from planner.ir.workload import Slo
from planner.plan.schema import Plan
from planner.verify.report import Violation
from planner.verify.rule import SERVING, Case, Rule

_ARITHMETIC = 1e-3
"""What the search's bisections leave of a limit."""
_LATENCIES = ("ttft", "tpot", "e2e")


def _check(case: Case) -> Iterator[Violation]:
    slo = cast("ServingProblem", case.problem.payload).workload.slo
    for name in _LATENCIES:
        limit: float | None = getattr(slo, f"{name}_s")
        if limit is not None:
            yield from _limit(case.plan, name, limit, slo)
        yield from _rising(case.plan, name)


def key_at(name: str, percentile: float) -> str:
    """Return the name of a prediction at a percentile (0 is the mean)."""
    return f"{name}_p{percentile:g}_s" if percentile > 0 else f"{name}_s"


def _limit(plan: Plan, name: str, limit: float, slo: Slo) -> Iterator[Violation]:
    key = key_at(name, slo.percentile)
    found = plan.predicted.get(key)
    if found is None:
        yield Violation(message=f"the plan does not predict {key}, which has a limit")
    elif found.value > limit * (1 + _ARITHMETIC):
        yield Violation(
            message=f"{key} is {found.value:.4g}, the limit is {limit:.4g}",
            numbers=(("predicted", found.value), ("limit", limit)),
        )


def _rising(plan: Plan, name: str) -> Iterator[Violation]:
    known = [
        (float(key.removeprefix(f"{name}_p").removesuffix("_s")), key, q.value)
        for key, q in plan.predicted.items()
        if key.startswith(f"{name}_p") and key.endswith("_s")
    ]
    known.sort()
    for (_, low_key, low), (_, high_key, high) in pairwise(known):
        if high < low * (1 - _ARITHMETIC):
            yield Violation(
                message=f"{high_key} = {high:.4g} is below {low_key} = {low:.4g}",
                numbers=((low_key, low), (high_key, high)),
            )


RULE = Rule(
    says="predicted latencies keep the limits",
    check=_check,
    kinds=SERVING,
    of_parts=True,
    requires=("well-formed",),
)

"""The hourly price of the devices in use keeps to the budget and is what the plan says."""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.resources import usd_per_hour
from planner.verify.rule import Case, Rule, differs

_TOLERANCE = 1e-6


def _check(case: Case) -> Iterator[Violation]:
    own, limit = usd_per_hour(case), case.problem.budget.usd_per_hour
    if limit is not None and own is None:
        yield Violation(message="there is a budget of money but a device without a price")
    if own is None:
        return
    if limit is not None and own > limit * (1 + _TOLERANCE):
        yield Violation(
            message=f"{own:.2f} USD/h, the budget is {limit:.2f}", numbers=(("own", own), ("budget", limit))
        )
    claimed = case.plan.predicted.get("usd_per_hour")
    if claimed is not None and differs(claimed.value, own, _TOLERANCE):
        yield Violation(
            message=f"the plan says {claimed.value:.4f} USD/h, its devices cost {own:.4f}",
            numbers=(("claimed", claimed.value), ("own", own)),
        )


RULE = Rule(
    says="the plan keeps to the budget of money and states its price",
    check=_check,
    requires=("inventory", "ranks"),
)

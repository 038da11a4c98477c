"""The power provisioned for the devices in use keeps to the budget.

Each device counts with its rated power and its share of what the rest of its node takes.
"""

from __future__ import annotations

from collections.abc import Iterator

from planner.verify.report import Violation
from planner.verify.resources import power_w
from planner.verify.rule import Case, Rule

_TOLERANCE = 1e-6


def _check(case: Case) -> Iterator[Violation]:
    own, limit = power_w(case), case.problem.budget.power_w
    if limit is not None and own > limit * (1 + _TOLERANCE):
        yield Violation(
            message=f"{own:.0f} W, the budget is {limit:.0f}", numbers=(("own", own), ("budget", limit))
        )


RULE = Rule(says="the plan keeps to the budget of power", check=_check, requires=("inventory", "ranks"))

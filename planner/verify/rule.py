"""What a rule is: a check of a plan against its problem, for some kinds of problem or for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from planner.ir.problem import Problem
from planner.plan.schema import Plan
from planner.verify.report import Violation


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A plan with the problem it claims to solve.

    `thorough` lets rules take seconds where they would otherwise sample; `derived` keeps what rules have
    worked out, by name.
    """

    plan: Plan
    problem: Problem[Any]
    thorough: bool = False
    derived: dict[str, Any] = field(default_factory=dict[str, Any])

    def once(self, name: str, derive: Callable[[], Any]) -> Any:
        """Return what `derive` returns, worked out once per plan."""
        if name not in self.derived:
            self.derived[name] = derive()
        return self.derived[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. `check` yields what is wrong; nothing is yielded for a plan that keeps the rule.

    Parameters
    ----------
    says
        The rule in one sentence, shown when it holds.
    check
        The check.
    kinds
        Kinds of problem that the rule knows; None is every kind.
    with_pools
        Whether the rule only applies to a plan that has pools (not to an infeasible one).
    requires
        Rules without which this one makes no sense; it is skipped when one of them fails.
    """

    says: str
    check: Callable[[Case], Iterable[Violation]]
    kinds: frozenset[str] | None = None
    with_pools: bool = True
    requires: tuple[str, ...] = ()

    def applies(self, case: Case) -> bool:
        """Return whether the rule speaks about this kind of plan."""
        known = self.kinds is None or case.problem.kind in self.kinds
        return known and (bool(case.plan.pools) or not self.with_pools)


SERVING = frozenset({"serving"})
TRAINING = frozenset({"training"})


def differs(claimed: float, own: float, tolerance: float) -> bool:
    """Return whether two numbers lie further apart than `tolerance`, relative to the larger one."""
    return not abs(claimed - own) <= tolerance * max(abs(claimed), abs(own)) + 1e-12

"""What a rule is: a check of a plan against its problem, for some kinds of problem or for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from planner.ir.cost_sources import step_source
from planner.ir.problem import Problem
from planner.plan.schema import Plan
from planner.verify.report import Violation

FLEET_KIND = "fleet"
SERVING = frozenset({"serving"})
FLEET = frozenset({FLEET_KIND})
TRAINING = frozenset({"training"})


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
    of_parts
        Whether the rule also holds of every model of a fleet, seen as a serving plan of its own.
    requires
        Rules without which this one makes no sense; it is skipped when one of them fails.
    of_steps
        Whether the rule rests on the checker's own step times or memory. Such rules say nothing on plans
        whose source of costs estimates whole workers; the rule on those does.
    is_slow
        Whether the models of a fleet are worth checking in several processes.
    """

    says: str
    check: Callable[[Case], Iterable[Violation]]
    kinds: frozenset[str] | None = None
    with_pools: bool = True
    of_parts: bool = False
    requires: tuple[str, ...] = ()
    of_steps: bool = False
    is_slow: bool = False

    def applies(self, case: Case) -> bool:
        """Return whether the rule speaks about this kind of plan."""
        kind = case.problem.kind
        known = self.kinds is None or kind in self.kinds or (self.of_parts and kind == FLEET_KIND)
        if self.of_steps and estimated_whole(case):
            return False
        return known and (bool(case.plan.pools) or not self.with_pools)


def estimated_whole(case: Case) -> bool:
    """Return whether the problem's source of costs estimates whole workers."""
    if case.problem.kind not in SERVING:
        return False
    source: str = case.problem.payload.choices.costs
    return step_source(source) != source


def differs(claimed: float, own: float, tolerance: float) -> bool:
    """Return whether two numbers lie further apart than `tolerance`, relative to the larger one."""
    return not abs(claimed - own) <= tolerance * max(abs(claimed), abs(own)) + 1e-12

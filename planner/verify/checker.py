"""Runs the rules on a plan, those first on which others rest."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter
from typing import Any, cast

from planner.errors import InputError
from planner.forks import each
from planner.ir.parser import parse_ir
from planner.ir.problem import Problem
from planner.plan.parts import model_parts
from planner.plan.schema import Plan
from planner.registry import Registry
from planner.verify.report import Finding, VerificationReport, Violation
from planner.verify.rule import FLEET_KIND, Case, Rule

RULES: Registry[Rule] = Registry(what="verification rule", package="planner.verify.rules", attribute="RULE")
"""Rules by name."""

_SHOWN_VIOLATIONS = 3
_WORTH_COPYING = 4
"""Models of a fleet from which a slow rule looks at them in several processes."""


def verify_plan(plan: Plan, problem: Problem[Any], *, thorough: bool = False) -> VerificationReport:
    """Check a plan against its problem with every rule that knows its kind.

    Never raises for a wrong plan: what is wrong with it stands in the report. A `thorough` check tries
    more of what could contradict an optimum, and takes seconds.
    """
    case = Case(plan=plan, problem=problem, thorough=thorough)
    rules = dict(RULES.items())
    findings: dict[str, Finding] = {}
    for name in _ordered(rules):
        rule = rules[name]
        if rule.applies(case):
            findings[name] = _finding(name, rule, case, findings)
    return VerificationReport(findings=tuple(findings.values()))


def problem_of(plan: Plan, file: str | None = None) -> Problem[Any]:
    """Return the problem that a plan carries in the text form of the IR.

    Raises
    ------
    InputError
        If the plan carries none, or the text is no problem.
    """
    if not plan.problem:
        raise InputError("the plan does not say which problem it solves", file=file, key="problem")
    root = parse_ir(plan.problem, file=file)
    if not isinstance(root, Problem):
        raise InputError(
            "this is no problem", file=file, key="problem", value=type(root).__name__, allowed="Problem"
        )
    return cast("Problem[Any]", root)


def doubted_pools(plan: Plan, problem: Problem[Any]) -> tuple[str, ...]:
    """Return the pools of a fleet that the rule on loads holds to be slower than the plan says."""
    rule = RULES.get("load")
    found: list[str] = []
    for part in model_parts(plan, problem):
        for pool in part.plan.pools:
            seats = [seat for seat in part.plan.placement if seat.pool == pool.name]
            alone = part.plan.model_copy(update={"pools": [pool], "placement": seats})
            if any(True for _ in rule.check(Case(plan=alone, problem=part.problem))):
                found.append(pool.name)
    return tuple(found)


def _ordered(rules: Mapping[str, Rule]) -> list[str]:
    graph = {name: sorted(rule.requires) for name, rule in sorted(rules.items())}
    return list(TopologicalSorter(graph).static_order())


def _cases(rule: Rule, case: Case) -> tuple[Case, ...]:
    """Return what a rule looks at: the plan, or the plan of each model where it speaks of single models."""
    if case.problem.kind != FLEET_KIND or not rule.of_parts:
        return (case,)
    found: tuple[Case, ...] = case.once("models", lambda: _part_cases(case))
    return found


def _violations(rule: Rule, cases: tuple[Case, ...]) -> list[Violation]:
    def task(number: int) -> list[Violation]:
        return list(rule.check(cases[number]))

    alone = not rule.is_slow or len(cases) < _WORTH_COPYING
    return [v for found in each(len(cases), task, 1 if alone else None) for v in found]


def _part_cases(case: Case) -> tuple[Case, ...]:
    return tuple(
        Case(plan=part.plan, problem=part.problem, thorough=case.thorough)
        for part in model_parts(case.plan, case.problem)
    )


def _finding(name: str, rule: Rule, case: Case, findings: Mapping[str, Finding]) -> Finding:
    broken = [r for r in rule.requires if r in findings and not findings[r].passed]
    if broken:
        return Finding(rule=name, outcome="skipped", message=f"rests on {', '.join(broken)}")
    try:
        violations = _violations(rule, _cases(rule, case))
    except (ArithmeticError, LookupError, ValueError, InputError) as error:
        message = f"cannot be checked: {type(error).__name__}: {error}"
        return Finding(rule=name, outcome="failed", message=message)
    if not violations:
        return Finding(rule=name, outcome="passed", message=rule.says)
    shown = "; ".join(v.message for v in violations[:_SHOWN_VIOLATIONS])
    more = len(violations) - _SHOWN_VIOLATIONS
    return Finding(
        rule=name,
        outcome="failed",
        message=shown + (f"; and {more} more" if more > 0 else ""),
        numbers=tuple(n for v in violations[:_SHOWN_VIOLATIONS] for n in v.numbers),
    )

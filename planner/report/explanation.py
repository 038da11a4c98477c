"""What there is to say about a plan: the parts of an explanation, and the protocol of a kind's explainer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from planner.ir.candidates import SearchResult
from planner.ir.problem import Problem
from planner.plan.schema import Plan
from planner.registry import Registry
from planner.report.figures import percent

_PERCENTILE = re.compile(r"_p[0-9.]+_")

AnyProblem = Problem[Any]
Sort = Literal["resource", "limit", "why_not"]
"""resource: something is added; limit: a limit of the user is lifted; why_not: a choice is fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bottleneck:
    """Where the time of one phase of a pool goes: (kind of work, share of the step), largest first.

    `step_s` is the time of the step that is broken down; `step` says in words which step that is.
    """

    pool: str
    step: str
    step_s: float
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variation:
    """A changed problem that is solved again to see what the change is worth."""

    sort: Sort
    change: str
    problem: AnyProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a variation changes: the objective there, and by which share it is better (0 for no better).

    `value` is None where the varied problem has no answer; `reason` says why then. `is_proved`: the plan is
    known to be the best, so that a better change is not one of its choices.
    """

    sort: Sort
    change: str
    value: float | None
    better: float | None
    reason: str = ""
    predicted: tuple[tuple[str, float], ...] = ()
    is_proved: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """An explained plan. Effects are in the order in which they were asked for."""

    plan: Plan
    facts: tuple[str, ...]
    bottlenecks: tuple[Bottleneck, ...]
    effects: tuple[Effect, ...]


class Explainer(Protocol):
    """What a kind of problem knows about explaining its plans."""

    def facts(self, problem: AnyProblem, plan: Plan) -> list[str]:
        """Return sentences about the plan that need no re-solving."""
        ...

    def bottlenecks(self, problem: AnyProblem, plan: Plan) -> list[Bottleneck]:
        """Return where the time goes, per pool and step."""
        ...

    def variations(self, problem: AnyProblem, plan: Plan) -> list[Variation]:
        """Return the changes that are worth asking about."""
        ...

    def fixed(self, problem: AnyProblem, choices: Mapping[str, object]) -> AnyProblem:
        """Return the problem with choices of the planner fixed by the user.

        Raises
        ------
        InputError
            If there is no such choice.
        """
        ...


EXPLAINERS: Registry[Explainer] = Registry(what="kind", package="planner.report.kinds", attribute="EXPLAINER")
"""Explainers by kind of problem."""


def effect_of(plan: Plan, variation: Variation, result: SearchResult) -> Effect:
    """Return what a variation, whose answer is `result`, changes against the plan."""
    value = result.objective.value
    reason = ""
    if result.status == "nothing_found":
        reason = "nothing was found within the time limit"
    elif value is None and result.infeasibility is not None:
        reason = "; ".join(f"{limit.name}: {limit.message}" for limit in result.infeasibility.binding)
    elif variation.sort == "why_not":
        reason = _compared(plan, result)
    return Effect(
        sort=variation.sort,
        change=variation.change,
        value=value,
        better=_improvement(plan.objective.sense, plan.objective.value, value),
        reason=reason,
        is_proved=plan.status == "optimal",
        predicted=tuple((name, estimate.value) for name, estimate in result.predicted),
    )


def words_of(choices: Mapping[str, object]) -> str:
    """Return choices in words: ``tp=8, weights=bf16``."""
    return ", ".join(f"{name}={value}" for name, value in choices.items())


def _compared(plan: Plan, result: SearchResult) -> str:
    """Return the best such plan and the predictions in which it differs most from the plan."""
    pools = " + ".join(
        f"{pool.replicas} x "
        + (" ".join(f"{name}{value}" for name, value in pool.degrees if value > 1) or "tp1")
        for pool in result.pools
    )
    changes = [
        (estimate.value / plan.predicted[name].value - 1, name)
        for name, estimate in result.predicted
        if name in plan.predicted and plan.predicted[name].value and not _PERCENTILE.search(name)
    ]
    largest = sorted((c for c in changes if abs(c[0]) >= 0.01), key=lambda c: (-abs(c[0]), c[1]))[:3]
    words = ", ".join(f"{name} {percent(change, signed=True)}" for change, name in largest)
    # plans of some kinds have no pools
    parts = [f"Best such plan: {pools}" if pools else "", words]
    return "; ".join(part for part in parts if part)


def _improvement(sense: Literal["min", "max"], before: float | None, after: float | None) -> float | None:
    """Return the share by which `after` is better than `before`: 0.1 is 10 % more, or 10 % cheaper."""
    if before is None or after is None or not before:
        return None
    gain = (after - before) if sense == "max" else (before - after)
    return gain / abs(before)

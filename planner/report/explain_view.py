"""An explanation in plain words, and as plain data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from planner.report.explanation import Bottleneck, Effect, Explanation
from planner.report.figures import figure, percent, printable
from planner.report.plan_view import pool_words

_NEGLIGIBLE = 1e-3
_MIN_SHARE = 0.01


def explanation_lines(explanation: Explanation) -> list[str]:
    """Return the explanation as lines of text."""
    lines = [*_headline(explanation), *(f"  {fact}" for fact in explanation.facts)]
    lines += _section("Where the time goes", [_bottleneck(found) for found in explanation.bottlenecks])
    unit = explanation.plan.objective.unit
    for sort, (title, line) in _SECTIONS.items():
        lines += _section(title, [line(e, unit) for e in explanation.effects if e.sort == sort])
    return [printable(line) for line in lines]


def explanation_data(explanation: Explanation) -> dict[str, object]:
    """Return the explanation as plain data."""
    plan = explanation.plan
    return {
        "name": plan.name,
        "status": plan.status,
        "objective": plan.objective.model_dump(),
        "facts": list(explanation.facts),
        "bottlenecks": [{**asdict(found), "shares": dict(found.shares)} for found in explanation.bottlenecks],
        "effects": [
            {**asdict(effect), "predicted": dict(effect.predicted)} for effect in explanation.effects
        ],
        "infeasibility": plan.infeasibility.model_dump() if plan.infeasibility else None,
    }


def _headline(explanation: Explanation) -> list[str]:
    plan = explanation.plan
    goal = plan.objective
    if plan.infeasibility is not None:
        lines = [f"{plan.name}: no plan meets every limit."]
        lines += [f"  {limit.name}: {limit.message}" for limit in plan.infeasibility.binding]
        return [*lines, f"The nearest change that would do: {plan.infeasibility.nearest_relaxation}."]
    pools = " + ".join(pool_words(pool) for pool in plan.pools)
    lines = [f"{plan.name}: {pools}." if pools else f"{plan.name} ({plan.kind})."]
    proof = f"{goal.name} is {figure(goal.value, goal.unit)}"
    if plan.status == "optimal":
        proof += f"; no plan of the space does better (gap {percent(goal.gap)})"
    elif goal.bound is not None:
        proof += f"; nothing better than {figure(goal.bound, goal.unit)} exists (gap {percent(goal.gap)})"
    return [*lines, f"{proof}."]


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _bottleneck(found: Bottleneck) -> str:
    named = [(kind, share) for kind, share in found.shares if share >= _MIN_SHARE]
    shares = ", ".join(f"{kind} {percent(round(share, 3))}" for kind, share in named)
    return f"{found.pool}, {found.step} ({figure(found.step_s, 's')}): {shares}"


def _limit_line(effect: Effect, unit: str) -> str:
    if effect.better is None or effect.better <= _NEGLIGIBLE:
        return f"{effect.change}: does not bind"
    gain = f"{percent(effect.better)} better"
    return f"{effect.change}: binds; without it the objective is {figure(effect.value, unit)}, {gain}"


def _resource_line(effect: Effect, unit: str) -> str:
    if effect.value is None:
        return f"{effect.change}: {effect.reason or 'unknown'}"
    if effect.better is None or effect.better <= _NEGLIGIBLE:
        return f"{effect.change}: nothing, the plan stays as good as it is"
    return f"{effect.change}: {percent(effect.better)} better ({figure(effect.value, unit)})"


def _why_not_line(effect: Effect, unit: str) -> str:
    if effect.value is None:
        return f"{effect.change}: not feasible. {effect.reason}".rstrip()
    if effect.better is None:
        return f"{effect.change}: {figure(effect.value, unit)}"
    if abs(effect.better) <= _NEGLIGIBLE:
        return f"{effect.change}: it does as well ({figure(effect.value, unit)}); the two are tied"
    value = figure(effect.value, unit)
    if effect.better > 0:
        why = (
            "but the spec rules it out"
            if effect.is_proved
            else "so the search for the plan was cut too short"
        )
        ruled_out = f"{percent(effect.better)} better ({value}), {why}"
        return f"{effect.change}: {ruled_out}. {effect.reason}".rstrip()
    return f"{effect.change}: {percent(-effect.better)} worse ({value}). {effect.reason}".rstrip()


_SECTIONS: dict[str, tuple[str, Callable[[Effect, str], str]]] = {
    "limit": ("Your limits", _limit_line),
    "resource": ("What more hardware would be worth", _resource_line),
    "why_not": ("Why not", _why_not_line),
}

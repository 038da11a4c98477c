"""Why there is no plan: each limit by itself, what could be reached, and the nearest change that helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from cost_models.serving.capacity import LatencyLimits
from planner.ir.candidates import BindingLimit, InfeasibilityReport
from planner.search.serving_fit import explain_no_replica
from planner.search.serving_optimum import best_solution
from planner.search.serving_pools import PoolTables
from planner.search.serving_question import Question

_BISECTIONS = 16
_WIDEST = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Knob:
    """One limit: its value, whether a larger value is looser, and the question with another value."""

    name: str
    unit: str
    limit: float
    rises: bool
    ask: Callable[[float], Question]


def explain_infeasible(tables: PoolTables, question: Question) -> InfeasibilityReport:
    """Return what binds and the nearest relaxation; every value named was reached by solving again.

    Each limit is loosened alone, to the least value at which a plan exists (to a relative 1e-4); the
    nearest relaxation is the one of least relative change. If no single limit suffices, all latency
    limits are dropped together, then the demand too.
    """
    if not tables.catalogue.offers:
        return explain_no_replica(tables.catalogue)
    binding: list[BindingLimit] = []
    best: tuple[float, _Knob, float] | None = None
    for knob in _knobs(question):
        reached = _least_loosened(tables, knob)
        if reached is None:
            continue
        binding.append(_binding(knob, reached))
        change = max(reached / knob.limit, knob.limit / reached)
        if best is None or change < best[0]:
            best = (change, knob, reached)
    if best is None:
        return _nothing_alone(tables, question)
    _, knob, reached = best
    return InfeasibilityReport(
        binding=tuple(binding),
        nearest_relaxation=f"set {knob.name} to {reached:.6g} {knob.unit}",
        relaxed=((knob.name, reached),),
    )


def _binding(knob: _Knob, reached: float) -> BindingLimit:
    return BindingLimit(
        name=knob.name,
        limit=knob.limit,
        best_reachable=reached,
        unit=knob.unit,
        message=f"{knob.limit:.4g} {knob.unit} is out of reach with all else as asked; "
        f"{reached:.4g} {knob.unit} is not",
    )


def _knobs(question: Question) -> Iterator[_Knob]:
    yield from _latency_knobs(question)
    if question.rate_rps is not None:
        yield _Knob(
            name="rate_rps",
            unit="request/s",
            limit=question.rate_rps,
            rises=False,
            ask=lambda value: replace(question, rate_rps=value),
        )
    if question.concurrency is not None and question.concurrency > 1:
        yield _Knob(
            name="concurrency",
            unit="requests",
            limit=float(question.concurrency),
            rises=False,
            ask=lambda value: replace(question, concurrency=max(1, int(value))),
        )
    yield from _budget_knobs(question)


def _latency_knobs(question: Question) -> Iterator[_Knob]:
    limits = question.limits
    for name, limit in (("ttft_s", limits.ttft_s), ("tpot_s", limits.tpot_s), ("e2e_s", limits.e2e_s)):
        if np.isfinite(limit):
            yield _Knob(
                name=name, unit="s", limit=float(limit), rises=True, ask=_with_latency(question, name)
            )


def _with_latency(question: Question, name: str) -> Callable[[float], Question]:
    def ask(value: float) -> Question:
        limits = question.limits
        loosened = LatencyLimits(
            ttft_s=value if name == "ttft_s" else limits.ttft_s,
            tpot_s=value if name == "tpot_s" else limits.tpot_s,
            e2e_s=value if name == "e2e_s" else limits.e2e_s,
            percentile=limits.percentile,
        )
        return replace(question, limits=loosened)

    return ask


def _budget_knobs(question: Question) -> Iterator[_Knob]:
    budget = question.budget
    if budget.num_devices is not None:
        yield _Knob(
            name="budget.num_devices",
            unit="devices",
            limit=float(budget.num_devices),
            rises=True,
            ask=lambda value: replace(question, budget=replace(budget, num_devices=int(value))),
        )
    if budget.usd_per_hour is not None:
        yield _Knob(
            name="budget.usd_per_hour",
            unit="USD/h",
            limit=budget.usd_per_hour,
            rises=True,
            ask=lambda value: replace(question, budget=replace(budget, usd_per_hour=value)),
        )
    if budget.power_w is not None:
        yield _Knob(
            name="budget.power_w",
            unit="W",
            limit=budget.power_w,
            rises=True,
            ask=lambda value: replace(question, budget=replace(budget, power_w=value)),
        )


def _least_loosened(tables: PoolTables, knob: _Knob) -> float | None:
    """Return the value nearest to the limit at which a plan exists, or None; bisects the logarithm."""

    def feasible(value: float) -> bool:
        return best_solution(tables, knob.ask(value)) is not None

    far = knob.limit * _WIDEST if knob.rises else knob.limit / _WIDEST
    if knob.limit <= 0.0 or tables.out_of_time() or not feasible(far):
        return None
    near = knob.limit
    for _ in range(_BISECTIONS):
        if tables.out_of_time():
            return far
        middle = float(np.sqrt(near * far))
        if feasible(middle):
            far = middle
        else:
            near = middle
    return _tidy(knob, far, feasible)


def _tidy(knob: _Knob, value: float, feasible: Callable[[float], bool]) -> float:
    """Return a round value just on the feasible side, checked, or the value as it is."""
    digits = 3 - int(np.floor(np.log10(value)))
    step = 10.0**-digits
    rounded = np.ceil(value / step) * step if knob.rises else np.floor(value / step) * step
    rounded = float(round(rounded, max(digits, 0)))
    if knob.unit in ("devices", "requests"):
        rounded = float(int(value))
    return rounded if rounded > 0.0 and feasible(rounded) else value


def _nothing_alone(tables: PoolTables, question: Question) -> InfeasibilityReport:
    """Report limits that only help when loosened together."""
    free = replace(question, limits=LatencyLimits(percentile=question.limits.percentile))
    knobs = list(_latency_knobs(question))
    together = best_solution(tables, free) is not None
    binding = tuple(
        BindingLimit(
            name=knob.name,
            limit=knob.limit,
            best_reachable=_best_alone(tables, free, knob),
            unit=knob.unit,
            message="has to be loosened together with the others",
        )
        for knob in knobs
    )
    if together:
        factor = _common_factor(tables, question)
        if factor is None:
            relaxed = tuple((knob.name, "none") for knob in knobs)
            return InfeasibilityReport(
                binding=binding, nearest_relaxation="drop all latency limits together", relaxed=relaxed
            )
        values = tuple((knob.name, knob.limit * factor) for knob in knobs)
        words = ", ".join(f"{name} to {value:.6g} s" for name, value in values)
        return InfeasibilityReport(binding=binding, nearest_relaxation=f"set {words}", relaxed=values)
    unloaded = replace(free, rate_rps=None, concurrency=None)
    relaxed = (*((knob.name, "none") for knob in knobs), ("rate_rps", "none"))
    possible = best_solution(tables, unloaded) is not None
    return InfeasibilityReport(
        binding=binding
        or (
            BindingLimit(
                name="demand",
                limit=question.rate_rps or question.concurrency,
                best_reachable=None,
                unit="",
                message="no plan within the budget serves any load",
            ),
        ),
        nearest_relaxation="drop the latency limits and the demand" if possible else "raise the budget",
        relaxed=relaxed if possible else (),
    )


def _common_factor(tables: PoolTables, question: Question) -> float | None:
    """Return the least factor on all latency limits at which a plan exists, rounded up and checked."""
    limits = question.limits

    def ask(factor: float) -> Question:
        loosened = replace(
            limits,
            ttft_s=limits.ttft_s * factor,
            tpot_s=limits.tpot_s * factor,
            e2e_s=limits.e2e_s * factor,
        )
        return replace(question, limits=loosened)

    return _least_loosened(tables, _Knob(name="latency", unit="", limit=1.0, rises=True, ask=ask))


def _best_alone(tables: PoolTables, free: Question, knob: _Knob) -> float | None:
    """Return the best value of one latency when the others are free, or None."""
    name = knob.name
    return _least_loosened(
        tables,
        _Knob(name=name, unit=knob.unit, limit=knob.limit, rises=True, ask=_with_latency(free, name)),
    )

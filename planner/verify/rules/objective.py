"""The value of the objective follows from the pools, their devices and their rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

from planner.ir.serving import ServingProblem
from planner.verify.report import Violation
from planner.verify.resources import num_devices, power_w, usd_per_hour
from planner.verify.rule import SERVING, Case, Rule, differs

_ARITHMETIC = 1e-3


def _predicted(case: Case, name: str) -> float | None:
    found = case.plan.predicted.get(name)
    return found.value if found is not None else None


def _cost_per_token(case: Case) -> float | None:
    price, tokens = usd_per_hour(case), _predicted(case, "output_tokens_per_s")
    return price / (tokens * 3600.0) * 1e6 if price is not None and tokens else None


def _throughput(case: Case) -> float | None:
    """Return what the plan can serve: more than it does serve, if a rate is demanded."""
    tokens, rate = _predicted(case, "output_tokens_per_s"), _predicted(case, "request_rate_rps")
    capacity = _predicted(case, "capacity_rps")
    workload = cast("ServingProblem", case.problem.payload).workload
    if workload.rate_rps is None or not rate:
        return tokens
    return None if tokens is None or capacity is None else capacity * tokens / rate


_VALUES: dict[str, tuple[str, Callable[[Case], float | None]]] = {
    "max_throughput": ("max", _throughput),
    "min_devices": ("min", lambda case: float(num_devices(case))),
    "min_cost": ("min", usd_per_hour),
    "min_power": ("min", power_w),
    "min_latency": ("min", lambda case: _predicted(case, "e2e_s")),
    "min_cost_per_token": ("min", _cost_per_token),
}


def _check(case: Case) -> Iterator[Violation]:
    objective = case.plan.objective
    asked = case.problem.objective.name
    if objective.name != asked:
        yield Violation(message=f"the plan optimises {objective.name}, asked was {asked}")
        return
    if asked not in _VALUES or objective.value is None:
        return
    sense, value_of = _VALUES[asked]
    if objective.sense != sense:
        yield Violation(message=f"{asked} has sense {sense}, the plan says {objective.sense}")
    own = value_of(case)
    if own is None:
        yield Violation(message=f"the plan does not say what {asked} follows from")
    elif differs(objective.value, own, _ARITHMETIC):
        yield Violation(
            message=f"{asked} is {own:.6g}, the plan says {objective.value:.6g}",
            numbers=(("own", own), ("claimed", objective.value)),
        )


RULE = Rule(
    says="the value of the objective follows from the pools",
    check=_check,
    kinds=SERVING,
    requires=("totals",),
)

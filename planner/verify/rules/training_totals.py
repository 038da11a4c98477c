"""Throughput, money, energy and the whole run follow from the step; the objective and the deadline too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.training import TrainingProblem
from planner.verify.report import Violation
from planner.verify.resources import usd_per_hour
from planner.verify.rule import TRAINING, Case, Rule, differs
from planner.verify.training.arithmetic import step_flops, step_tokens

_ARITHMETIC = 1e-3
_HOUR_S = 3600.0
_VALUES = {"min_step_time": "step_time_s", "min_cost": "usd_per_step", "min_energy": "energy_per_step_j"}


def _check(case: Case) -> Iterator[Violation]:
    found = {name: quantity.value for name, quantity in case.plan.predicted.items()}
    step = found.get("step_time_s", 0.0)
    if step <= 0:
        yield Violation(message="a step takes no time")
        return
    for name, own in _expected(case, step).items():
        if name in found and differs(found[name], own, _ARITHMETIC):
            yield Violation(
                message=f"{name} is {own:.6g}, the plan says {found[name]:.6g}",
                numbers=(("own", own), ("claimed", found[name])),
            )
    if found.get("mfu", 0.0) > 1.0:
        yield Violation(message=f"{found['mfu']:.3g} of the peak is used")
    longest = cast("TrainingProblem", case.problem.payload).workload.longest_step_s
    if longest is not None and step > longest * (1 + _ARITHMETIC):
        yield Violation(
            message=f"a step takes {step:.4g} s, the deadline allows {longest:.4g}",
            numbers=(("step", step), ("longest", longest)),
        )
    yield from _objective(case, found)


def _objective(case: Case, found: dict[str, float]) -> Iterator[Violation]:
    objective, asked = case.plan.objective, case.problem.objective.name
    if objective.name != asked or objective.sense != "min":
        yield Violation(message=f"the plan takes {objective.sense} of {objective.name}, asked was {asked}")
        return
    own = found.get(_VALUES.get(asked, ""))
    if own is None:
        yield Violation(message=f"the plan does not say what {asked} follows from")
    elif objective.value is None or differs(objective.value, own, _ARITHMETIC):
        yield Violation(
            message=f"{asked} is {own:.6g}, the plan says {objective.value}", numbers=(("own", own),)
        )


def _expected(case: Case, step_s: float) -> dict[str, float]:
    """Return the figures that follow from the step."""
    payload = cast("TrainingProblem", case.problem.payload)
    devices = sum(len(replica.devices) for replica in case.plan.placement)
    tokens = step_tokens(payload)
    flops = step_flops(payload) / step_s / max(devices, 1)
    own = {
        "tokens_per_s": tokens / step_s,
        "tokens_per_s_per_device": tokens / step_s / max(devices, 1),
        "num_devices": float(devices),
        "model_flops_per_s_per_device": flops,
    }
    usd = usd_per_hour(case)
    power = case.plan.predicted.get("power_w")
    if usd is not None:
        own["usd_per_step"] = usd / _HOUR_S * step_s
    if power is not None:
        own["energy_per_step_j"] = power.value * step_s
    if payload.workload.num_tokens is not None:
        steps = payload.workload.num_tokens / tokens
        own |= {"run_time_s": steps * step_s}
        own |= {"run_usd": own["usd_per_step"] * steps} if usd is not None else {}
        own |= {"run_energy_j": own["energy_per_step_j"] * steps} if power is not None else {}
    return own


RULE = Rule(
    says="throughput, money and the run follow from the step",
    check=_check,
    kinds=TRAINING,
    requires=("training-step",),
)

"""A plan that is called optimal is not beaten by simple configurations that the checker prices itself.

One pool of equal servers, a few degrees, each group alone. The checker's times and memory are its own,
so only a configuration that wins by more than 15 % counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.ir.problem import Problem
from planner.ir.serving import ServingProblem
from planner.verify.report import Violation
from planner.verify.resources import device_power_w
from planner.verify.rule import SERVING, Case, Rule
from planner.verify.serving.sampler import Sample, samples

MARGIN = 0.15


def _check(case: Case) -> Iterator[Violation]:
    problem = cast("Problem[ServingProblem]", case.problem)
    objective = case.plan.objective
    if case.plan.status != "optimal" or objective.value is None:
        return
    if "aggregated" not in problem.payload.choices.modes or problem.payload.workload.concurrency is not None:
        return
    for engine in problem.payload.choices.engines:
        for sample in samples(problem, engine, thorough=case.thorough):
            value = _value(problem, sample)
            if value is not None and _beats(value, objective.value, objective.sense):
                yield Violation(
                    message=f"{sample.summary} reaches {value:.5g}, better than {objective.value:.5g}",
                    numbers=(("sample", value), ("claimed", objective.value)),
                )


def _beats(value: float, claimed: float, sense: str) -> bool:
    return value > claimed * (1 + MARGIN) if sense == "max" else value < claimed * (1 - MARGIN)


def _value(problem: Problem[ServingProblem], sample: Sample) -> float | None:
    """Return the objective of a sample, None if it cannot be told."""
    group = sample.group
    tokens = sample.rate_rps * problem.payload.workload.lengths.mean_output
    price = None if group.usd_per_device_hour is None else group.usd_per_device_hour * sample.num_devices
    return {
        "max_throughput": tokens,
        "min_devices": float(sample.num_devices),
        "min_cost": price,
        "min_power": device_power_w(group) * sample.num_devices,
        "min_latency": sample.e2e_s,
        "min_cost_per_token": None if price is None or not tokens else price / (tokens * 3600.0) * 1e6,
    }.get(problem.objective.name)


RULE = Rule(
    says="no simple configuration beats the optimum",
    check=_check,
    kinds=SERVING,
    requires=("proof", "objective", "load"),
    of_steps=True,
)

"""The step of a training plan takes no less than its arithmetic at the peak, and its terms add up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule, differs
from planner.verify.training.arithmetic import step_flops
from planner.verify.training.counts import stage_counts
from planner.verify.training.schedule import least_step_s
from planner.verify.training.view import JobView, jobs, peak_flops_per_s

_ARITHMETIC = 1e-3


def _check(case: Case) -> Iterator[Violation]:
    step = case.plan.predicted.get("step_time_s")
    if step is None:
        yield Violation(message="the plan does not predict step_time_s")
        return
    terms = case.plan.details.get("step_time_terms_s")
    stated = cast("dict[str, float]", terms) if isinstance(terms, dict) else {}
    total = sum(stated.values())
    if differs(total, step.value, _ARITHMETIC) or any(value < 0 for value in stated.values()):
        yield Violation(
            message=f"the terms of the step are {total:.6g} s, the step {step.value:.6g} s",
            numbers=(("terms", total), ("step", step.value)),
        )
    for job in jobs(case):
        own = _least_s(job)
        if step.value < own * (1 - _ARITHMETIC):
            yield Violation(
                message=f"the arithmetic alone takes {own:.4g} s at the peak, the plan says {step.value:.4g}",
                numbers=(("own", own), ("claimed", step.value)),
            )
        compute = stated.get("compute_s", step.value)
        if compute > step.value * (1 + _ARITHMETIC):
            yield Violation(message=f"{compute:.4g} s of a step of {step.value:.4g} s are compute")


def _least_s(job: JobView) -> float:
    """Return the time of the step's arithmetic at the peak of the precision (or of 16 bit, if higher)."""
    peak = peak_flops_per_s(job)
    if job.settings.rank_tokens:
        devices = job.strategy.tp * job.strategy.dp
        return step_flops(job.problem.payload) / peak / devices
    forward_s = [count.forward_flops / peak for count in stage_counts(job)]
    whole = job.settings.recompute == "full" and not job.settings.recompute_layers
    return least_step_s(job, forward_s, whole and not job.settings.recompute_stages)


RULE = Rule(
    says="the step takes no less than its arithmetic, and its terms add up",
    check=_check,
    kinds=TRAINING,
    requires=("training-layers",),
)

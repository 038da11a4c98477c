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
_COUNTED = 0.03
"""Parameters that are counted again may differ by so much, the size of padding."""
_STATE_BYTES = 8.0
"""Two moments in 32 bit; a master copy, where there is one, comes on top."""
_UPDATE_BYTES = 28.0


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
        once_s = stated.get("optimizer_s", step.value) + stated.get("data_parallel_s", 0.0)
        yield from _host_update(job, once_s)
        yield from _activations_move(job, step.value)
        compute = stated.get("compute_s", step.value)
        if compute > step.value * (1 + _ARITHMETIC):
            yield Violation(message=f"{compute:.4g} s of a step of {step.value:.4g} s are compute")


def _host_update(job: JobView, stated_s: float) -> Iterator[Violation]:
    """Yield where states on the host are updated quicker than its memory moves them, or do not fit it.

    Adam reads a gradient and reads and writes three numbers of 32 bit per parameter (Kingma 2015, algorithm
    1); the devices of a node share its memory.
    """
    settings, s = job.settings, job.strategy
    if settings.offload in ("none", "activations"):
        return
    sharded = settings.zero >= 1
    dense_ranks = settings.dp_shard * s.cp if sharded else 1
    expert_ranks = max(settings.dp_shard * s.cp * s.tp / (s.ep * s.etp), 1.0) if sharded else 1.0
    params = max(count.dense / dense_ranks + count.expert / expert_ranks for count in stage_counts(job))
    there = params * min(job.group.devices_per_node, s.tp * s.pp * s.dp * s.cp)
    held, room = there * _STATE_BYTES, job.group.host_memory_bytes
    if held > room * (1 + _COUNTED):
        yield Violation(message=f"a host has {room:.4g} bytes, states of {held:.4g} are offloaded to it")
    bandwidth = job.group.host_memory_bytes_per_s
    least_s = 0.0 if bandwidth is None else there * _UPDATE_BYTES / bandwidth
    if stated_s < least_s * (1 - _COUNTED):
        yield Violation(
            message=f"the host's memory takes {least_s:.4g} s for the update, the plan says {stated_s:.4g}",
            numbers=(("own", least_s), ("claimed", stated_s)),
        )


def _activations_move(job: JobView, step_s: float) -> Iterator[Violation]:
    """Yield where activations that are put on the host cannot cross the host link in a step."""
    if job.settings.offload not in ("activations", "optimizer_and_activations", "everything"):
        return
    most = max(count.kept_elements for count in stage_counts(job)) * 2.0 * job.num_micro
    least_s = most / job.group.host_link.bandwidth_bytes_per_s
    if step_s < least_s * (1 - _COUNTED):
        yield Violation(
            message=f"activations cross the host link in {least_s:.4g} s, the plan says {step_s:.4g} in all",
            numbers=(("own", least_s), ("claimed", step_s)),
        )


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

"""Replicas on several groups make up the batch together, and a step holds the slowest and their exchange."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import cast

from hardware_profiles.loader import load_trainer
from planner.plan.schema import OuterLoopSettings
from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule
from planner.verify.training.counts import stage_counts
from planner.verify.training.view import JobView, jobs

_ARITHMETIC = 1e-3
_BITS_PER_BYTE = 8.0
_HALF_BYTES = 2.0


def _check(case: Case) -> Iterator[Violation]:
    found = list(jobs(case))
    alone = len(found) == 1 and found[0].settings.share == 0 and found[0].settings.outer_loop is None
    if alone or any(job.settings.num_stages for job in found):
        return
    for message in (*_batch(found), *_alike(found), *_loop(found)):
        yield Violation(message=message)
    yield from _exchange(case, found)


def _batch(found: list[JobView]) -> Iterator[str]:
    """Yield what is wrong with the split of the batch, and groups that hold two parts or none of the job."""
    total, asked = sum(job.settings.share for job in found), found[0].settings.global_batch
    if total != asked:
        yield f"the parts run {total} sequences of {asked}"
    groups = [job.group.name for job in found]
    if len(set(groups)) != len(groups) or len(groups) < 2:
        yield f"a replica stands on each of two groups or more, these stand on {', '.join(groups)}"


def _alike(found: list[JobView]) -> Iterator[str]:
    first = found[0]
    for job in found[1:]:
        if job.pool.weight_dtype != first.pool.weight_dtype:
            yield f"pools {first.pool.name!r} and {job.pool.name!r} differ in precision"
        for name in ("outer_loop", "gradients"):
            if getattr(job.settings, name) != getattr(first.settings, name):
                yield f"pools {first.pool.name!r} and {job.pool.name!r} differ in {name}"
    if first.settings.gradients in ("int4", "1bit"):
        yield f"gradients in {first.settings.gradients} are exchanged inside one job alone"


def _loop(found: list[JobView]) -> Iterator[str]:
    """Yield settings of an outer loop that were not allowed."""
    loop, choices = found[0].settings.outer_loop, found[0].problem.payload.choices.outer_loop
    if loop is None:
        return
    if choices is None:
        yield "the groups exchange in an outer loop, which was not allowed"
        return
    for name in ("steps", "bits", "fragments", "overlap_steps"):
        allowed = cast("tuple[int, ...]", getattr(choices, name))
        if getattr(loop, name) not in allowed:
            yield f"{name}={getattr(loop, name)} of the loop is not among {', '.join(map(str, allowed))}"
    if loop.fragments * max(loop.overlap_steps, 1) > loop.steps:
        yield f"{loop.fragments} parts of {loop.overlap_steps} steps do not fit {loop.steps} steps"


def _exchange(case: Case, found: list[JobView]) -> Iterator[Violation]:
    """Hold the exchange in a step against the least that the links between groups take."""
    terms = cast("dict[str, float]", case.plan.details.get("step_time_terms_s", {}))
    stated = terms.get("exchange_s")
    step = case.plan.predicted.get("step_time_s")
    if stated is None or step is None:
        yield Violation(message="the plan does not say what the exchange between its parts takes")
        return
    local_s, loop = step.value - stated, found[0].settings.outer_loop
    own = _least_exchange_s(found, loop)
    if loop is not None:
        own = max(0.0, own - loop.overlap_steps * local_s) * loop.fragments / loop.steps
    if stated < own * (1 - _ARITHMETIC):
        yield Violation(
            message=f"the exchange takes at least {own:.4g} s of a step, the plan says {stated:.4g}",
            numbers=(("own", own), ("claimed", stated)),
        )


def _least_exchange_s(found: list[JobView], loop: OuterLoopSettings | None) -> float:
    """Return the least time of one exchange: 2 (n - 1) / n of its bytes leave every group of n.

    The fastest link of a group carries them, with all of the group's devices sending at once.
    """
    if len(found) < 2:
        return 0.0
    first, num = found[0], len(found)
    params = _params(first)
    if loop is not None:
        num_bytes = params * loop.bits / _BITS_PER_BYTE / loop.fragments
    else:
        sent = load_trainer(first.pool.engine).reduce_bytes.value
        num_bytes = params * (min(sent, _HALF_BYTES) if first.settings.gradients == "bf16" else sent)
    slowest = inf
    for job in found:
        slowest = min(slowest, max(_carried(job, other) for other in found if other is not job))
    return 2.0 * (num - 1) / num * num_bytes / slowest


def _params(job: JobView) -> float:
    """Return the parameters of the whole model, counted on the stages of one replica."""
    s = job.strategy
    return sum(count.dense * s.tp + count.expert * s.ep * s.etp for count in stage_counts(job))


def _carried(job: JobView, other: JobView) -> float:
    """Return the most bytes per second that one part can send to another."""
    joint = job.problem.cluster.between(job.group.name, other.group.name)
    devices = min(_devices(job), _devices(other))
    each = joint.link.bandwidth_bytes_per_s / joint.link.oversubscription
    return min(each * devices, joint.capacity_bytes_per_s or inf)


def _devices(job: JobView) -> int:
    s = job.strategy
    return s.tp * s.pp * s.dp * s.cp


RULE = Rule(
    says="replicas make up the batch, and what they exchange takes its time",
    check=_check,
    kinds=TRAINING,
    requires=("training-layers", "training-step"),
)

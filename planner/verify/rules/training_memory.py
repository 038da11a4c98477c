"""What a training rank holds fits: parts add up, states are what they must be, activations no less.

Weights, gradients and optimizer states are worked out again operator by operator and may differ from the
plan's by 3 %, the size of padding. Activations are held against what every trainer must keep: the inputs
of recomputed layers, or those of all matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator

from hardware_profiles.loader import load_trainer
from hardware_profiles.schema import TrainerProfile
from planner.plan.schema import DeviceMemory
from planner.verify.report import Violation
from planner.verify.rule import TRAINING, Case, Rule, differs
from planner.verify.training.counts import StageCount, stage_counts
from planner.verify.training.schedule import least_held
from planner.verify.training.view import JobView, jobs

STATE_TOLERANCE = 0.03
_SUM_TOLERANCE = 1e-6
_ELEMENT_BYTES = 2.0
_WEIGHTS_AWAY = ("optimizer_and_parameters", "everything")
_STATES_STAY = ("none", "activations")
_ACTIVATIONS_AWAY = ("activations", "optimizer_and_activations", "everything")
_OUTER_BYTES = 8.0
"""Common parameters and their momentum in 32 bit (DiLoCo, arXiv 2311.08105, algorithm 1)."""


def _check(case: Case) -> Iterator[Violation]:
    for job in jobs(case):
        stages = [memory.stage for memory in job.pool.memory]
        if sorted(stages) != list(range(job.strategy.pp)):
            yield Violation(message=f"pool {job.pool.name!r} states the memory of stages {stages}")
            continue
        trainer, counts, held = load_trainer(job.pool.engine), stage_counts(job), least_held(job)
        for memory in job.pool.memory:
            stage = memory.stage
            for violation in (
                *_sums(job, memory),
                *_states(job, memory, counts[stage], trainer),
                *_activations(job, memory, counts[stage], held[stage]),
            ):
                where = f"pool {job.pool.name!r}, stage {stage}: "
                yield Violation(message=where + violation.message, numbers=violation.numbers)


def _sums(job: JobView, memory: DeviceMemory) -> Iterator[Violation]:
    total = sum(part.num_bytes for part in memory.parts)
    there = job.group.device.memory_bytes.value
    numbers = (("parts", total), ("used", memory.used_bytes), ("capacity", memory.capacity_bytes))
    if differs(total, memory.used_bytes, _SUM_TOLERANCE):
        yield Violation(message="the parts are not what is used", numbers=numbers)
    if memory.used_bytes > memory.capacity_bytes * (1 + _SUM_TOLERANCE):
        yield Violation(message="more is used than there is", numbers=numbers)
    if memory.capacity_bytes > there * (1 + _SUM_TOLERANCE):
        yield Violation(message=f"the device has {there:.4g} bytes", numbers=numbers)
    free = job.problem.payload.memory_reserve_bytes
    stated = sum(part.num_bytes for part in memory.parts if part.name == "kept_free")
    if stated < free * (1 - _SUM_TOLERANCE):
        yield Violation(message=f"{stated:.4g} bytes are kept free, asked was {free:.4g}")


def _states(
    job: JobView, memory: DeviceMemory, count: StageCount, trainer: TrainerProfile
) -> Iterator[Violation]:
    s, settings = job.strategy, job.settings
    dense_ranks = settings.dp_shard * s.cp
    expert_ranks = max(dense_ranks * s.tp / (s.ep * s.etp), 1.0)
    parts = {part.name: part.num_bytes for part in memory.parts}
    for name, level, each, stays in (
        ("weights", 3, trainer.weight_bytes.value, settings.offload not in _WEIGHTS_AWAY),
        ("gradients", 2, _gradient_bytes(job, trainer), True),
        ("optimizer", 1, trainer.optimizer_bytes.value, settings.offload in _STATES_STAY),
        ("outer_optimizer", 1, _OUTER_BYTES, settings.outer_loop is not None),
    ):
        shared = settings.zero >= level
        params = count.dense / (dense_ranks if shared else 1) + count.expert / (expert_ranks if shared else 1)
        own = params * each if stays else 0.0
        if differs(parts.get(name, 0.0), own, STATE_TOLERANCE):
            yield Violation(
                message=f"{name} are {own / 1e9:.3f} GB, the plan says {parts.get(name, 0.0) / 1e9:.3f}",
                numbers=(("own", own), ("claimed", parts.get(name, 0.0))),
            )


def _gradient_bytes(job: JobView, trainer: TrainerProfile) -> float:
    """Return the bytes of a gradient: 2 where summed in 16 bit, with the two errors of 1-bit Adam."""
    own, sent = trainer.gradient_bytes.value, trainer.reduce_bytes.value
    if job.settings.gradients == "bf16" and own == sent:
        return min(own, 2.0)
    errors = 4.0 + 4.0 / (job.strategy.dp * job.strategy.cp)
    return own + (errors if job.settings.gradients == "1bit" else 0.0)


def _activations(job: JobView, memory: DeviceMemory, count: StageCount, held: float) -> Iterator[Violation]:
    own = count.kept_elements * _ELEMENT_BYTES * held
    if job.settings.offload in _ACTIVATIONS_AWAY:
        s, room = job.strategy, job.group.host_memory_bytes
        there = own * min(job.group.devices_per_node, s.tp * s.pp * s.dp * s.cp)
        if there > room * (1 + STATE_TOLERANCE):
            yield Violation(message=f"a host has {room:.4g} bytes, activations of {there:.4g} are put there")
        own = 0.0
    stated = next((part.num_bytes for part in memory.parts if part.name == "activations"), 0.0)
    if stated < own * (1 - STATE_TOLERANCE):
        yield Violation(
            message=f"at least {own / 1e9:.3f} GB of activations are kept, the plan says {stated / 1e9:.3f}",
            numbers=(("own", own), ("claimed", stated)),
        )


RULE = Rule(
    says="weights, states and activations fit, and the parts add up",
    check=_check,
    kinds=TRAINING,
    requires=("training-layers",),
)

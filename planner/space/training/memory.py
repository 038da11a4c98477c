"""Memory of every pipeline stage of a training plan, term by term.

Bytes per parameter follow mixed-precision Adam: 16-bit weight, gradient (16 or 32 bit by software),
32-bit master copy and two moments (Rajbhandari 2020, ZeRO, section 3.1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from planner.space.training.plans import SCHEDULES, IntArray, PlanArrays

WEIGHT_BYTES = 2.0
OPTIMIZER_BYTES = 12.0
_FSDP_GATHERED_LAYERS = 2.0  # the layer at work and the one prefetched


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoad:
    """What every stage of every plan holds; arrays are [stages, plans].

    `kept_bytes` is one micro-batch's activations under the plan's recompute choice, `working_bytes` the
    largest transient beside them, `layer_params` the parameters of the largest layer.
    """

    dense_params: FloatArray
    expert_params: FloatArray
    kept_bytes: FloatArray
    working_bytes: FloatArray
    layer_params: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes on a device of every stage; arrays are [stages, plans]."""

    weights: FloatArray
    gradients: FloatArray
    optimizer: FloatArray
    gathered: FloatArray
    activations: FloatArray
    workspace: FloatArray
    reserved: FloatArray

    @property
    def total(self) -> FloatArray:
        """Sum of all terms."""
        return (
            self.weights
            + self.gradients
            + self.optimizer
            + self.gathered
            + self.activations
            + self.workspace
            + self.reserved
        )


def in_flight(
    plans: PlanArrays, num_micro_batches: FloatArray, stages: IntArray, num_stages: int
) -> FloatArray:
    """Return micro-batches whose activations each of `stages` holds at its peak, [stages, plans].

    1F1B holds p - i on stage i (0-based), GPipe all m, interleaved 1F1B 2(p-i-1) + (v-1)p + 1 chunks of
    1/v each (Megatron-LM's warm-up count), ZB-H1 p on every stage (Qi 2024, section 3).
    """
    stage = stages.astype(np.float64)[:, None]
    p = float(num_stages)
    v = plans.num_chunks[None, :].astype(np.float64)
    m = num_micro_batches[None, :]
    name = plans.schedule[None, :]
    one_f_one_b = p - stage + 0.0 * m
    interleaved = (2.0 * (p - stage - 1.0) + (v - 1.0) * p + 1.0) / v
    held = np.select(
        [
            name == SCHEDULES.index("gpipe"),
            name == SCHEDULES.index("interleaved"),
            name == SCHEDULES.index("zb-h1"),
        ],
        [m + 0.0 * stage, interleaved, p + 0.0 * stage + 0.0 * m],
        one_f_one_b,
    )
    return np.minimum(held, m)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRules:
    """Constants of the software: gradient bytes per parameter, fixed bytes, allocator slack (share)."""

    grad_bytes: float
    reserved_bytes: float
    slack: float


def stage_memory(
    plans: PlanArrays,
    load: StageLoad,
    held: FloatArray,
    shards: tuple[FloatArray, FloatArray],
    rules: MemoryRules,
) -> StageMemory:
    """Return the memory of every stage.

    Parameters
    ----------
    shards
        Ranks over which dense and expert states may be sharded, each [plans].
    """
    zero = plans.zero[None, :]
    dense_shard, expert_shard = (s[None, :] for s in shards)

    def split(level: int, bytes_per_param: float) -> FloatArray:
        dense = load.dense_params / np.where(zero >= level, dense_shard, 1.0)
        expert = load.expert_params / np.where(zero >= level, expert_shard, 1.0)
        return (dense + expert) * bytes_per_param

    offload = plans.offload[None, :]
    weights = split(3, WEIGHT_BYTES)
    resident_weights = np.where(offload >= 2, 0.0, weights)
    gathered = np.where(
        (zero >= 3) | (offload >= 2), load.layer_params * WEIGHT_BYTES * _FSDP_GATHERED_LAYERS, 0.0
    )
    # A reduce bucket of gradients is unsharded while it is reduced.
    gradients = split(2, rules.grad_bytes) + np.where(zero >= 2, load.layer_params * rules.grad_bytes, 0.0)
    activations = load.kept_bytes * held
    workspace = load.working_bytes + rules.slack * (activations + load.working_bytes)
    return StageMemory(
        weights=resident_weights,
        gradients=gradients,
        optimizer=np.where(offload >= 1, 0.0, split(1, OPTIMIZER_BYTES)),
        gathered=gathered,
        activations=activations,
        workspace=workspace,
        reserved=np.full_like(activations, rules.reserved_bytes),
    )

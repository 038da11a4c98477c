"""Memory of every pipeline stage of a training plan, term by term.

Bytes per parameter are the software's: Megatron-LM keeps 16-bit weights, 32-bit gradients, a 32-bit
master copy and two moments (18 bytes, Korthikanti 2022, section 5; ZeRO, Rajbhandari 2020, section 3.1); FSDP
keeps one 32-bit copy that is cast while it is gathered.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cost_models.cost import FloatArray
from cost_models.memory.workspace import communication_bytes
from planner.space.training.activations import KEPT_LAYERS
from planner.space.training.gradients import chosen, error_bytes, held_bytes
from planner.space.training.plans import SCHEDULES, IntArray, PlanArrays, away
from planner.space.training.software import TrainingSoftware
from planner.space.training.tables import PlanTable

_GATHERED_LAYERS = 2.0
"""FSDP holds the layer at work and the one prefetched (PyTorch FSDP documentation, backward prefetch)."""
_CAST_BYTES = 2.0
_CAST_GRADIENT_BYTES = 4.0
_LARGEST_MATRIX = 1.0 / 3.0
"""Share of a layer's parameters in its largest matrix (4 h^2 of 12 h^2), which is gathered whole."""
_OPTIMIZER_CHUNK_BYTES = 0.5e9
"""Temporaries of an optimizer step, judged from torch memory snapshots; at most the states."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLoad:
    """What every stage of every plan holds; arrays are [stages, plans].

    `kept_bytes` is one micro-batch's activations under the plan's recompute choice, `rebuilt_bytes` those
    of the one layer that is recomputed at a time, `working_bytes` the largest transient of a layer,
    `logits_bytes` the head's, `layer_params` the parameters of the largest layer, `passed_bytes` what is held
    for what stages pass to each other, `layer_kept_bytes` the largest share of `kept_bytes` of one layer.
    """

    dense_params: FloatArray
    expert_params: FloatArray
    kept_bytes: FloatArray
    rebuilt_bytes: FloatArray
    working_bytes: FloatArray
    logits_bytes: FloatArray
    layer_params: FloatArray
    passed_bytes: FloatArray
    layer_kept_bytes: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StageMemory:
    """Bytes on a device of every stage; arrays are [stages, plans].

    `gathered` is what ZeRO-3 holds unsharded, `workspace` recomputed activations, transients and logits of
    the micro-batch at work; `allocator` is held free by the caching allocator; `reserved` is outside it:
    CUDA context, libraries and communication buffers.
    """

    weights: FloatArray
    gradients: FloatArray
    optimizer: FloatArray
    gathered: FloatArray
    activations: FloatArray
    workspace: FloatArray
    allocator: FloatArray
    reserved: FloatArray

    @property
    def allocated(self) -> FloatArray:
        """What the framework reports as its peak of allocated memory."""
        return (
            self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.workspace
        )

    @property
    def total(self) -> FloatArray:
        """What the device must have."""
        return self.allocated + self.allocator + self.reserved

    def plan(self, column: int) -> StageMemory:
        """Return the terms of one plan, arrays over its stages."""
        return StageMemory(**{f.name: getattr(self, f.name)[:, column] for f in fields(StageMemory)})

    def parts(self, stage: int) -> tuple[tuple[str, float], ...]:
        """Return the named terms of one stage of one plan, bytes."""
        return tuple((f.name, float(getattr(self, f.name)[stage])) for f in fields(StageMemory))


def in_flight(
    plans: PlanArrays, num_micro_batches: FloatArray, stages: IntArray, num_stages: int
) -> FloatArray:
    """Return micro-batches whose activations each of `stages` holds at its peak, [stages, plans].

    1F1B holds p - i on stage i (0-based), GPipe all m, interleaved 1F1B 2(p-i-1) + (v-1)p + 1 chunks of
    1/v each (Megatron-LM's warm-up count), ZB-H1 and ZB-V p on every stage, ZB-H2 2p - 1 (Qi 2024,
    sections 3 and 6).
    """
    stage = stages.astype(np.float64)[:, None]
    p = float(num_stages)
    v = plans.num_chunks[None, :].astype(np.float64)
    m = num_micro_batches[None, :]
    name = plans.schedule[None, :]
    every = 0.0 * stage + 0.0 * m
    held = np.select(
        [
            name == SCHEDULES.index(word)
            for word in ("gpipe", "interleaved", "zb-h1", "zb-h2", "zb-v", "zb-2p")
        ],
        [
            m + every,
            (2.0 * (p - stage - 1.0) + (v - 1.0) * p + 1.0) / v,
            p + every,
            2.0 * p - 1.0 + every,
            p + every,
            2.0 * p + every,
        ],
        p - stage + every,
    )
    return np.minimum(held, m)


def stage_memory(
    plans: PlanArrays,
    load: StageLoad,
    held: FloatArray,
    shards: tuple[FloatArray, FloatArray],
    software: TrainingSoftware,
) -> StageMemory:
    """Return the memory of every stage.

    Parameters
    ----------
    shards
        Ranks over which dense and expert states may be sharded, each [plans].
    """
    zero = plans.zero[None, :]
    dense_shard, expert_shard = (s[None, :] for s in shards)

    def split(level: int, bytes_per_param: float | FloatArray) -> FloatArray:
        dense = load.dense_params / np.where(zero >= level, dense_shard, 1.0)
        expert = load.expert_params / np.where(zero >= level, expert_shard, 1.0)
        return (dense + expert) * bytes_per_param

    absent = away(plans, "weights")[None, :]
    gathered = np.where((zero >= 3) | absent, _gathered(load, software), 0.0)
    bucket = np.minimum(load.layer_params, software.max_live_params) * software.reduce_bytes
    gathered = gathered + np.where((zero == 2) & ~absent, bucket, 0.0)
    # One replica of 16-bit weights stays whole until ZeRO-3, whatever the master copy's sharding.
    weights = split(3, software.weight_bytes)
    if software.casts_weights:
        # FSDP without resharding: the 32-bit copy is sharded, its 16-bit cast whole. Under a pipeline
        # gradients are summed whole and reduced after the last micro-batch (torch.distributed.pipelining).
        params = load.dense_params + load.expert_params
        sums = np.where(plans.pp[None, :] > 1, software.reduce_bytes, 0.0)
        weights = np.where(zero == 2, split(2, software.weight_bytes) + params * _CAST_BYTES, weights)
        gathered = gathered + np.where(zero == 2, params * sums, 0.0)
    states = np.where(away(plans, "states")[None, :], 0.0, split(1, software.optimizer_bytes))
    kept = load.kept_bytes * held
    two_layers = np.minimum(KEPT_LAYERS * load.layer_kept_bytes, kept)
    activations = np.where(away(plans, "activations")[None, :], two_layers, kept) + load.passed_bytes
    backward = load.rebuilt_bytes + load.working_bytes
    head = load.logits_bytes
    step = np.minimum(states, _OPTIMIZER_CHUNK_BYTES)
    workspace = np.maximum(np.maximum(backward, head), step)
    # Gradients summed in 16 bit are cast for the optimizer, when no activation is left.
    cast = np.where(chosen(plans, "bf16")[None, :], split(1, _CAST_GRADIENT_BYTES) - activations, 0.0)
    workspace = np.maximum(workspace, np.where(away(plans, "states")[None, :], 0.0, cast))
    errors = (load.dense_params + load.expert_params) * error_bytes(plans)[None, :]
    return StageMemory(
        weights=np.where(absent, 0.0, weights),
        gradients=split(2, held_bytes(plans, software)[None, :]) + errors,
        optimizer=states,
        gathered=gathered,
        activations=activations,
        workspace=workspace,
        allocator=software.allocator_slack * (activations + workspace + gathered),
        reserved=_reserved(plans, software)[None, :] + 0.0 * activations,
    )


def passed_bytes(
    table: PlanTable, plans: PlanArrays, num_micro: FloatArray, software: TrainingSoftware
) -> FloatArray:
    """Return the buffers of what stages receive, [plans], for stacks that have one per micro-batch of a step.

    Each holds the input of a chunk, or the gradient of its output. Source: torch.distributed.pipelining
    (stage.py), which allocates them when the step is set up.
    """
    input_bytes = table.layer("kept_full_bytes").max(axis=0)
    held = 2.0 * input_bytes * num_micro * plans.num_chunks
    return np.where((plans.pp > 1) & software.passed_buffers, held, 0.0)


def _gathered(load: StageLoad, software: TrainingSoftware) -> FloatArray:
    """Return what ZeRO-3 holds unsharded: the layer at work, the one prefetched, and gradients on their way.

    A stack that bounds the parameters it holds at once (DeepSpeed's stage3_max_live_parameters) gathers
    matrix by matrix and reduces through buckets.
    """
    most = software.max_live_params
    live = np.minimum(
        load.layer_params * _GATHERED_LAYERS, np.maximum(most, load.layer_params * _LARGEST_MATRIX)
    )
    return live * _CAST_BYTES + np.minimum(load.layer_params, most) * software.reduce_bytes


def _reserved(plans: PlanArrays, software: TrainingSoftware) -> FloatArray:
    """Return context and communication buffers, one communicator per parallel axis, [plans]."""
    axes = (plans.tp, plans.pp, plans.dp * plans.cp, plans.cp, plans.ep)
    count = sum((np.asarray(axis > 1, dtype=np.int64) for axis in axes), np.zeros(len(plans), dtype=np.int64))
    buffers = np.array([communication_bytes(n, custom_all_reduce=False) for n in range(len(axes) + 1)])
    return software.context_memory_bytes + buffers[count]

"""The checker's view of weights in host memory: what a stage leaves there, and how long steps wait."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray
from planner.ir.model_graph import Experts, Layer, ModelGraph, Op
from planner.ir.weight_offload import GIB, WeightOffload
from planner.plan.schema import Pool
from planner.verify.serving.shards import weight_bytes

_TILE_ROWS = 128
"""Rows of a grouped product for which an expert's weights are read once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Away:
    """What one stage leaves in host memory, layer by layer: bytes of each, 0 where all is on the device."""

    per_layer: tuple[float, ...]
    buffer_bytes: float
    only_asked: bool = False

    @property
    def num_bytes(self) -> float:
        """All of it."""
        return sum(self.per_layer)


def away_from(model: ModelGraph, pool: Pool, stage: int) -> Away | None:
    """Return what a stage of a pool leaves in host memory; None where it is nothing."""
    told = WeightOffload.of_limits(pool.limits)
    if told == WeightOffload():
        return None
    start = sum(pool.layers_per_stage[:stage])
    layers = model.layers[start : start + pool.layers_per_stage[stage]]

    def size(op: Op) -> float:
        return weight_bytes(op, model, pool.weight_dtype, pool.strategy)

    if told.group_size:
        return _grouped(layers, told.group_size, told.num_in_group, size)
    if told.first_gib:
        whole = [sum(size(op) for op in layer.ops) for layer in layers]
        return Away(per_layer=_filled(whole, told.first_gib * GIB), buffer_bytes=max(whole))
    experts = [sum(size(op) for op in layer.ops if isinstance(op, Experts)) for layer in layers]
    return Away(per_layer=_filled(experts, told.expert_gib * GIB), buffer_bytes=0.0, only_asked=True)


def _filled(sizes: Sequence[float], amount: float) -> tuple[float, ...]:
    """Return how much of an amount falls on each of some sizes, filled in their order."""
    found: list[float] = []
    for size in sizes:
        found.append(max(0.0, min(size, amount - sum(found))))
    return tuple(found)


def _grouped(layers: Sequence[Layer], size: int, last: int, weigh: Callable[[Op], float]) -> Away:
    per_layer: list[float] = []
    largest: dict[Op, int] = {}
    for index, layer in enumerate(layers):
        taken = index % size + last >= size
        per_layer.append(sum(map(weigh, layer.ops)) if taken else 0.0)
        for op in set(layer.ops) if taken else ():
            largest[op] = max(largest.get(op, 0), layer.ops.count(op))
    return Away(
        per_layer=tuple(per_layer), buffer_bytes=sum(weigh(op) * count for op, count in largest.items())
    )


def waits_s(away: Away, copy_s: Callable[[float], float], layer_s: Sequence[float]) -> float:
    """Return how long layers wait for their weights, one after the other, seconds.

    There is one buffer: a copy starts when the layer before that used it is done, and layers on the device
    compute meanwhile. What was fetched for the next step at the end of this one is waited for at its end.
    """
    waited, since = 0.0, None
    for num_bytes, seconds in zip(away.per_layer, layer_s, strict=True):
        if num_bytes:
            waited += max(0.0, copy_s(num_bytes) - (since or 0.0))
            since = 0.0
        elif since is not None:
            since += seconds
    return waited


def read_bytes(away: Away, layers: Sequence[Layer], tokens: FloatArray) -> FloatArray:
    """Return the bytes that experts' kernels read over the link when so many tokens pass."""
    total = np.zeros(np.shape(tokens))
    for num_bytes, layer in zip(away.per_layer, layers, strict=True):
        if num_bytes:
            op = next(op for op in layer.ops if isinstance(op, Experts))
            missed = (1.0 - op.top_k / op.num_experts) ** tokens
            rows = tokens * op.top_k / op.num_experts / np.maximum(1.0 - missed, 1e-12)
            total = total + num_bytes * (1.0 - missed) * np.maximum(1.0, np.ceil(rows / _TILE_ROWS - 1e-9))
    return total


def can_tell(pool: Pool) -> bool:
    """Return whether the engine of a pool can be told what the pool says of weights in host memory."""
    told = WeightOffload.of_limits(pool.limits)
    if pool.engine == "vllm":
        return not told.first_gib and told.num_in_group <= told.group_size
    if pool.engine == "sglang":
        return not told.group_size and not told.expert_gib and pool.strategy.pp == 1
    return told == WeightOffload()

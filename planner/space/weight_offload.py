"""Weights in host memory: what of a stage stays there, what that frees, and what steps take longer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.serving.streaming import expert_read_bytes, exposed_copies_s
from cost_models.serving.tables import TimeTables
from cost_models.work import HostTransfer, LinkSpec
from hardware_profiles.provenance import Provenance
from planner.ir.cluster import NodeGroup
from planner.ir.model_graph import Experts, Layer, Op
from planner.ir.strategy import ServingStrategy
from planner.ir.weight_offload import GIB, WeightOffload

HOST_SHARE = 0.8
"""Share of a node's memory that weights may take, pinned, beside engine, caches and system (assumed)."""
OpBytes = Callable[[Op], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """What a device of a stage leaves in host memory.

    `buffer_bytes` stay on the device to copy into. A step makes `num_copies` copies of `host_bytes` together,
    of which `num_hidden` each run beside `between_share` of its layers. Of `experts`, (bytes, top k, number),
    only those asked for are read.
    """

    host_bytes: float
    buffer_bytes: float = 0.0
    num_copies: int = 0
    num_hidden: int = 0
    between_share: float = 0.0
    experts: tuple[tuple[float, float, float], ...] = ()


def held_back(layers: Sequence[Layer], offload: WeightOffload, op_bytes: OpBytes) -> HeldBack:
    """Return what stays in host memory of a stage with these layers, in their order."""
    if offload.group_size:
        return _every_few(layers, offload, op_bytes)
    if offload.first_gib:
        sizes = [sum(map(op_bytes, layer.ops)) for layer in layers]
        amount = min(offload.first_gib * GIB, sum(sizes))
        return HeldBack(host_bytes=amount, buffer_bytes=max(sizes), num_copies=1)
    return _experts(layers, offload.expert_gib * GIB, op_bytes)


def _every_few(layers: Sequence[Layer], offload: WeightOffload, op_bytes: OpBytes) -> HeldBack:
    """Return the last few of every group of layers.

    A copy hides behind the layers between two groups; behind the last group nothing is left to hide in, as
    copies are waited for at the end of a step. The buffer has room for one of each weight.
    """
    size, last = offload.group_size, offload.num_in_group
    chosen = [layer for index, layer in enumerate(layers) if index % size >= size - last]
    num_groups = sum(index % size == size - last for index in range(len(layers)))
    buffer: Counter[Op] = Counter()
    for layer in dict.fromkeys(chosen):
        buffer |= Counter(layer.ops)
    return HeldBack(
        host_bytes=sum(op_bytes(op) for layer in chosen for op in layer.ops),
        buffer_bytes=sum(op_bytes(op) * count for op, count in buffer.items()),
        num_copies=len(chosen),
        num_hidden=max(0, num_groups - 1) if size > last else 0,
        between_share=(size - last) / len(layers),
    )


def _experts(layers: Sequence[Layer], most_bytes: float, op_bytes: OpBytes) -> HeldBack:
    """Return the routed experts of the first layers, up to so many bytes."""
    found: list[tuple[float, float, float]] = []
    left = most_bytes
    for op in (op for layer in layers for op in layer.ops if isinstance(op, Experts)):
        held = min(left, op_bytes(op))
        left -= held
        if held > 0.0:
            found.append((held, float(op.top_k), float(op.num_experts)))
    return HeldBack(host_bytes=sum(held for held, _, _ in found), experts=tuple(found))


def host_room_bytes(group: NodeGroup) -> float:
    """Return what each device may leave in host memory when all devices of a node do."""
    sharing = min(group.devices_per_node, group.num_devices)
    return HOST_SHARE * group.host_memory_bytes / sharing


def with_streaming(
    tables: TimeTables,
    held: Sequence[HeldBack],
    strategy: ServingStrategy,
    costs: CostModel,
    link: LinkSpec,
) -> TimeTables:
    """Return the tables of a replica whose stages stream what they hold back; `held` has one entry a row."""
    rows: list[FloatArray] = []
    sigma, provenance = tables.sigma, tables.provenance
    for seconds, one in zip(tables.token_time_s, held, strict=True):
        moved = _moved_bytes(one, tables.token_grid, strategy)
        cost = costs.price(HostTransfer(num_bytes=moved, link=link))
        time_s = np.broadcast_to(cost.time_s, tables.token_grid.shape)
        if one.num_copies:
            each = float(time_s[-1]) / one.num_copies
            time_s = exposed_copies_s(one.num_copies, one.num_hidden, each, seconds * one.between_share)
        rows.append(seconds + time_s)
        spread = np.sqrt(np.max(cost.variance_s2)) / max(float(np.max(cost.time_s)), 1e-300)
        sigma, provenance = max(sigma, float(spread)), max(provenance, cost.provenance)
    return replace(
        tables,
        token_time_s=np.array(rows),
        sigma=sigma,
        first_token_sigma=max(tables.first_token_sigma, sigma),
        provenance=Provenance(provenance),
    )


def _moved_bytes(held: HeldBack, tokens: FloatArray, strategy: ServingStrategy) -> FloatArray:
    """Return the bytes that cross the link in steps of so many tokens per attention rank."""
    if not held.experts:
        return np.array([held.host_bytes])
    together = tokens * strategy.attention_dp * strategy.prefill_cp
    sizes = Counter(held.experts)
    return np.sum(
        [count * expert_read_bytes(size, together, k, e) for (size, k, e), count in sizes.items()], axis=0
    )

"""Moving parameters and optimizer states from one parallel layout to another.

A layout gives each rank a box of the state: some layers, a part of each tensor, a part of what the
data-parallel ranks share out. What a node needs and does not hold yet has to come over its network
link; ranks of a node share what they have.

Source: derived here; the layouts are those of Megatron-LM (tensor, then data, then pipeline ranks).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cost_models.cost import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class StateLayout:
    """How `num_layers` layers lie on tensor x data x pipeline ranks.

    With `sharded`, the data-parallel ranks hold a part each (optimizer states under ZeRO-1, all states under
    ZeRO-3); otherwise all hold the same.
    """

    tensor: int
    data: int
    pipeline: int
    sharded: bool = True

    @property
    def num_ranks(self) -> int:
        """Ranks of the layout."""
        return self.tensor * self.data * self.pipeline


@dataclass(frozen=True, slots=True, kw_only=True)
class ReshardCost:
    """Bytes that the busiest node receives, bytes over all nodes, and the time over the nodes' links."""

    busiest_node_bytes: float
    total_bytes: float
    time_s: float


def reshard_cost(
    old: StateLayout,
    new: StateLayout,
    *,
    state_bytes: float,
    ranks_per_node: int,
    node_bytes_per_s: float,
) -> ReshardCost:
    """Return the cost of moving `state_bytes` from `old` to `new` over the network.

    Both layouts begin on the same first rank. Senders are spread over the nodes that hold a part, so
    that receiving is what takes longest. A node that is new holds nothing.
    """
    num_ranks = max(old.num_ranks, new.num_ranks)
    num_nodes = -(-num_ranks // ranks_per_node)
    held = _boxes(old, num_nodes * ranks_per_node).reshape(num_nodes, ranks_per_node, 6)
    wanted = _boxes(new, num_nodes * ranks_per_node).reshape(num_nodes, ranks_per_node, 6)
    held = _without_copies(held)
    wanted = _without_copies(wanted)
    need = _volume(wanted).sum(axis=1)
    have = np.zeros(num_nodes)
    for i in range(ranks_per_node):
        for j in range(ranks_per_node):
            low = np.maximum(wanted[:, i, :3], held[:, j, :3])
            high = np.minimum(wanted[:, i, 3:], held[:, j, 3:])
            have += np.prod(np.maximum(high - low, 0.0), axis=1)
    missing = np.maximum(need - have, 0.0) * state_bytes
    missing[missing < state_bytes * 1e-12] = 0.0
    busiest = float(missing.max())
    return ReshardCost(
        busiest_node_bytes=busiest, total_bytes=float(missing.sum()), time_s=busiest / node_bytes_per_s
    )


def missing_volume(held: FloatArray | None, wanted: FloatArray) -> float:
    """Return the volume of `wanted` boxes that no `held` box covers.

    Boxes are rows (three lower, three upper ends); those of one layout are equal or apart, and each is given
    once.
    """
    need = float(_volume(wanted).sum())
    if held is None or not len(held):
        return need
    low = np.maximum(wanted[:, None, :3], held[None, :, :3])
    high = np.minimum(wanted[:, None, 3:], held[None, :, 3:])
    found = need - float(np.prod(np.maximum(high - low, 0.0), axis=2).sum())
    return found if found > need * 1e-12 else 0.0


def through_storage_s(state_bytes: float, write_bytes_per_s: float, read_bytes_per_s: float) -> float:
    """Return the time of writing the state to storage and reading it back in the new layout, seconds."""
    return state_bytes / write_bytes_per_s + state_bytes / read_bytes_per_s


def _boxes(layout: StateLayout, num_slots: int) -> FloatArray:
    """Return the box (low, high in layers, tensor, data) of each rank, empty if it has none."""
    boxes = np.zeros((num_slots, 6))
    ranks = np.arange(layout.num_ranks)
    tensor, rest = ranks % layout.tensor, ranks // layout.tensor
    data, pipeline = rest % layout.data, rest // layout.data
    parts = ((pipeline, layout.pipeline), (tensor, layout.tensor), (data, layout.data))
    for axis, (index, count) in enumerate(parts):
        whole = axis == 2 and not layout.sharded
        boxes[: len(ranks), axis] = 0.0 if whole else index / count
        boxes[: len(ranks), axis + 3] = 1.0 if whole else (index + 1) / count
    return boxes


def _volume(boxes: FloatArray) -> FloatArray:
    return np.prod(boxes[..., 3:] - boxes[..., :3], axis=-1)


def _without_copies(boxes: FloatArray) -> FloatArray:
    """Return the boxes of each node with repeated ones emptied: a node needs and has each part once."""
    kept = boxes.copy()
    for i in range(1, boxes.shape[1]):
        for j in range(i):
            same = np.all(boxes[:, i] == boxes[:, j], axis=1)
            kept[same, i] = 0.0
    return kept

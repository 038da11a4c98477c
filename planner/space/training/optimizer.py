"""Adam at the end of a step: on the device, or on the host that keeps its states.

On the host, gradients go down the host link when the backward pass is over; then every parameter is
updated, while updated weights go back up, tile by tile (ZeRO-Offload, Ren 2021, arXiv 2101.06840, section
4.2), so that the slower of the two shows. The devices of a node share its memory bandwidth, for transfers as
for updates. States that the memory of a node cannot hold take forever.
"""

from __future__ import annotations

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import HostTransfer, Stream
from planner.ir.cluster import NodeGroup
from planner.space.training.activations import ranks_of_host
from planner.space.training.plans import PlanArrays, away
from planner.space.training.software import TrainingSoftware

_DEVICE_BYTES_PER_PARAM = 46.0
"""Norm and overflow check read the gradient (8), it is unscaled (8) and read again (4), master and moments
are read and written (24), the weight is written (2): mixed-precision Adam, ZeRO section 3.1."""
HOST_BYTES_PER_PARAM = 30.0
"""The gradient is read (4), master and moments are read and written (24), the weight is written (2)."""
_HOST_SHARE = 0.45
"""Share of the host's memory bandwidth that an update reaches. DeepSpeed's CPU Adam takes 0.22 to 0.30 s per
1e9 parameters on the host of a DGX-2 (256 GB/s: two sockets with six channels of DDR4-2666; ZeRO-Offload,
table 4). Users report 0.5 to 0.7 s on hosts that they do not describe (DeepSpeed pull request 735,
issue 6834)."""
GRADIENT_BYTES = 4.0
WEIGHT_BYTES = 2.0


def update_s(
    costs: CostModel,
    group: NodeGroup,
    software: TrainingSoftware,
    plans: PlanArrays,
    params: FloatArray,
) -> FloatArray:
    """Return the seconds of the update, [plans]; `params` is what one rank updates.

    Where the host's memory bandwidth is not known, the transfers alone count.
    """
    on_device = costs.price(Stream(num_bytes=params * _DEVICE_BYTES_PER_PARAM, num_kernels=8.0)).time_s
    if not away(plans, "states").any():
        return on_device
    there = params * ranks_of_host(plans, group)
    down, up = (_transfer_s(costs, group, params, there, size) for size in (GRADIENT_BYTES, WEIGHT_BYTES))
    bandwidth = group.host_memory_bytes_per_s
    if bandwidth is None:
        on_host = down + up
    else:
        on_host = down + np.maximum(up, there * HOST_BYTES_PER_PARAM / (bandwidth * _HOST_SHARE))
    weights = np.where(away(plans, "weights"), software.weight_bytes, 0.0)
    full = there * (software.optimizer_bytes + weights) > group.host_memory_bytes
    return np.where(away(plans, "states"), np.where(full, np.inf, on_host), on_device)


def _transfer_s(
    costs: CostModel, group: NodeGroup, params: FloatArray, there: FloatArray, size: float
) -> FloatArray:
    """Return the seconds in which every device of a node moves `size` bytes per parameter."""
    link = costs.price(HostTransfer(num_bytes=params * size)).time_s
    if group.host_memory_bytes_per_s is None:
        return link
    return np.maximum(link, there * size / group.host_memory_bytes_per_s)

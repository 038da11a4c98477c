"""Activations that leave for the host when a layer is done, and return before its backward pass.

The host link carries them out behind the forward pass and back behind the backward pass of a micro-batch,
both ways at once; what does not hide there shows (vDNN, Rhu 2016, arXiv 1602.08124; Calculon, Isaev 2023,
section 3.3). The device keeps two layers: the one at work and the one on its way. The devices of a node share
the bandwidth of its memory.
"""

from __future__ import annotations

import numpy as np

from cost_models.base import CostModel
from cost_models.cost import FloatArray
from cost_models.work import HostTransfer
from planner.ir.cluster import NodeGroup
from planner.space.training.plans import PlanArrays, away

KEPT_LAYERS = 2.0


def ranks_of_host(plans: PlanArrays, group: NodeGroup) -> FloatArray:
    """Return how many devices of the job share a host, [plans]."""
    ranks = np.minimum(plans.tp * plans.pp * plans.dp * plans.cp, group.devices_per_node)
    return np.asarray(ranks, dtype=np.float64)


def shown_s(
    costs: CostModel,
    group: NodeGroup,
    plans: PlanArrays,
    kept_bytes: FloatArray,
    windows: tuple[FloatArray, FloatArray],
) -> FloatArray:
    """Return what of a micro-batch's transfers does not hide, [stages, plans].

    `kept_bytes` is what a micro-batch keeps on a stage, `windows` are its forward and its backward pass.
    """
    if not away(plans, "activations").any():
        return np.zeros_like(kept_bytes)
    moved = costs.price(HostTransfer(num_bytes=kept_bytes)).time_s
    if group.host_memory_bytes_per_s is not None:
        both_ways = 2.0 * kept_bytes * ranks_of_host(plans, group)
        moved = np.maximum(moved, both_ways / group.host_memory_bytes_per_s)
    shown = sum((np.maximum(moved - window, 0.0) for window in windows), np.zeros_like(kept_bytes))
    return np.where(away(plans, "activations"), shown, 0.0)


def fits_host(
    group: NodeGroup, plans: PlanArrays, held_bytes: FloatArray, state_bytes: FloatArray
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return whether a node's memory holds what its devices put there, [plans].

    `held_bytes` are the activations of all micro-batches in flight on the fullest stage, `state_bytes` the
    states that are away, both of one device.
    """
    there = np.where(away(plans, "activations"), held_bytes, 0.0) + state_bytes
    return np.asarray(there * ranks_of_host(plans, group) <= group.host_memory_bytes, dtype=np.bool_)

"""Terms of a collective between nodes, over network adapters.

A library crosses the network by rings and trees of whole nodes: every message waits for adapters, their
driver and a proxy thread, which is microseconds per hop where a link inside a node takes nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log2

import numpy as np

from cost_models.communication.fitted import LevelTerms
from cost_models.cost import FloatArray
from cost_models.work import LinkSpec


def network_terms(
    op: str, num_bytes: FloatArray, groups: int, inside: int, link: LinkSpec, constants: Mapping[str, float]
) -> LevelTerms:
    """Return the terms of `op` among `groups` nodes with `inside` devices each, `num_bytes` per device.

    latency = hops (link latency + hop_mid_s min(1, sqrt(bytes / hop_mid_bytes))): a hop costs the link's
    latency and, once messages outgrow the low-latency protocols, the hand-over of chunks through buffers.
    Wire bytes F over (bandwidth eff), with the F of `crossing_factor`.

    Source: step counts and protocols of NCCL (src/graph/tuning.cc); constants as the curve's source says.
    """
    hops = _hops(op, groups, in_switch=link.in_network_reduction)
    filled = np.minimum(1.0, np.sqrt(num_bytes / max(constants["hop_mid_bytes"], 1.0)))
    factor = crossing_factor(op, groups, inside, in_switch=link.in_network_reduction)
    return LevelTerms(
        latency_s=hops * (link.latency_s + constants["hop_mid_s"] * filled),
        wire_s=num_bytes * factor / (link.bandwidth_bytes_per_s * constants["eff"]),
        launch_s=constants["software_s"],
    )


def crossing_factor(op: str, groups: int, inside: int, *, in_switch: bool = False) -> float:
    """Return bytes that one device's adapter sends over the bytes of its share of the buffer.

    all_reduce of two nodes exchanges halves of a tree (1); of more, a ring over all devices or a tree whose
    inner nodes send up once and down twice sends nearly 2, an in-network reduction 1 + 1 / groups. all_gather
    and reduce_scatter run rings over all devices, so that nearly the whole buffer leaves every node.

    Source: ring bounds of nccl-tests PERFORMANCE.md; NCCL's double binary trees.
    """
    ranks = groups * inside
    ring = (ranks - 1.0) / ranks
    if op == "all_reduce":
        if groups == 2:
            return min(1.0, 2.0 * ring)
        return min(1.0 + 1.0 / groups, 2.0 * ring) if in_switch else 2.0 * ring
    if op in ("all_gather", "reduce_scatter"):
        return ring
    return (groups - 1.0) / groups if op == "all_to_all" else 1.0


def _hops(op: str, groups: int, *, in_switch: bool) -> float:
    """Return messages in sequence: the smaller of ring and tree; exchanges are posted at once."""
    if op == "all_reduce":
        if in_switch:
            return 2.0
        return min(2.0 * (groups - 1.0), 2.0 * log2(groups) + 2.0)
    if op in ("all_gather", "reduce_scatter", "broadcast"):
        return min(groups - 1.0, log2(groups) + 1.0)
    return 1.0

"""Time of point-to-point transfers: KV cache between pools, and device to host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cost_models.cost import FloatArray
from cost_models.work import HostTransfer, KvTransfer


def kv_transfer_time_s(work: KvTransfer, constants: Mapping[str, float]) -> FloatArray:
    """Return seconds to move a request's cache: setup + latency + bytes / (lanes bandwidth eff).

    Source: alpha-beta; set-up and efficiency as the curve's source says.
    """
    lanes = np.asarray(work.num_lanes, dtype=np.float64)
    num_bytes = np.asarray(work.num_bytes, dtype=np.float64)
    rate = work.link.bandwidth_bytes_per_s * constants["eff"] * lanes
    total = constants["software_s"] + work.link.latency_s + num_bytes / rate
    return np.where(num_bytes > 0, total, 0.0)


def host_transfer_time_s(
    work: HostTransfer,
    constants: Mapping[str, float],
    link_bandwidth_bytes_per_s: float,
    link_latency_s: float,
) -> FloatArray:
    """Return seconds of a copy over the host link: latency + bytes / (bandwidth eff).

    Source: alpha-beta; efficiency of pinned copies as the curve's source says.
    """
    num_bytes = np.asarray(work.num_bytes, dtype=np.float64)
    total = (
        link_latency_s + constants["software_s"] + num_bytes / (link_bandwidth_bytes_per_s * constants["eff"])
    )
    return np.where(num_bytes > 0, total, 0.0)

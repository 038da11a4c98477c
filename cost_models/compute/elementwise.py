"""Time of memory-bound kernels and of recurrent state updates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import FORMATS
from cost_models.work import StateScan, Stream


def stream_time_s(work: Stream, constants: Mapping[str, float], facts: DeviceFacts) -> FloatArray:
    """Return seconds to move bytes: num_kernels launch + bytes / (bandwidth memory_eff).

    Source: STREAM-like roof; the efficiency's source is the curve's.
    """
    num_bytes = np.asarray(work.num_bytes, dtype=np.float64)
    launches = np.asarray(work.num_kernels, dtype=np.float64) * constants["launch_s"]
    return launches + num_bytes / (facts.memory_bandwidth_bytes_per_s * constants["memory_eff"])


def scan_time_s(work: StateScan, constants: Mapping[str, float], facts: DeviceFacts) -> FloatArray:
    """Return seconds of a state update.

    Every sequence reads and writes its fp32 state once; each token costs 4 operations per state element
    (decay, outer product, read-out) at `eff` of the half-precision peak.

    Source: operation count of the recurrence (Mamba-2, gated delta net); efficiency from the curve.
    """
    tokens, batch, state = (
        np.asarray(x, dtype=np.float64) for x in (work.num_tokens, work.batch, work.state_elems)
    )
    bandwidth = facts.memory_bandwidth_bytes_per_s * constants["memory_eff"]
    state_s = 8.0 * batch * state / bandwidth
    compute_s = 4.0 * tokens * state / (facts.peak(FORMATS["bf16"]) * constants["eff"])
    return constants["launch_s"] + state_s + compute_s

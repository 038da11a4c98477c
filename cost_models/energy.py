"""Power and energy of devices: an idle part, and a part that grows with what is busy, up to the limit.

P = idle + (limit - idle) min(1, a u_compute + b u_memory): arithmetic and memory draw on one budget. The
weights say that saturated memory alone reaches about 60 % of the dynamic range and saturated matrix
units nearly all of it, which is the pattern of published prompt (compute-bound) and token
(memory-bound) phases: prefill runs at or near the power limit, decode well below it.

Source: form after the phase characterisation of Patel et al., Splitwise (ISCA 2024) and POLCA (ASPLOS
2024); the two weights are planning figures of this project, not fitted.
"""

from __future__ import annotations

import numpy as np

from cost_models.cost import FloatArray
from hardware_profiles.schema import DeviceProfile

COMPUTE_WEIGHT = 0.95
MEMORY_WEIGHT = 0.6


def device_power_w(
    device: DeviceProfile, compute_utilisation: float | FloatArray, memory_utilisation: float | FloatArray
) -> FloatArray:
    """Return watts of one device at shares of its arithmetic peak and of its memory bandwidth.

    Raises
    ------
    ValueError
        If a utilisation is outside 0 to 1.
    """
    compute, memory = (
        np.asarray(share, dtype=np.float64) for share in (compute_utilisation, memory_utilisation)
    )
    for share in (compute, memory):
        if not bool(np.all((share >= 0.0) & (share <= 1.0))):
            raise ValueError("a utilisation lies between 0 and 1")
    load = np.minimum(1.0, COMPUTE_WEIGHT * compute + MEMORY_WEIGHT * memory)
    idle, limit = device.idle_w.value, device.tdp_w.value
    return idle + (limit - idle) * load


def energy_j(power_w: float | FloatArray, time_s: float | FloatArray) -> float | FloatArray:
    """Return joules at a power over a time."""
    return power_w * time_s

"""Time of a linear layer: the best of several tile shapes against a memory roof.

The forms are non-decreasing in m, n and k and never improve when a peak falls. A kernel library
picks a tile per shape; the minimum over tiles is that choice, and a minimum of monotone functions
is monotone, which a wave factor on unpadded work is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cost_models.cost import FloatArray
from cost_models.facts import DeviceFacts
from cost_models.formats import NumberFormat
from cost_models.work import Gemm

STATIC_QUANT_SHARE = 0.6
"""Bytes of a quantisation pass with a static scale over those with a dynamic one: read 16 bit, write 8,
instead of reading 16 bit twice and writing 8."""
TILES = ((64, 64), (64, 128), (128, 128), (128, 256))


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmSetting:
    """How the layer runs: how activations are quantised; `replay` reads L2-hot weights.

    `quant` is ``dynamic`` (a pass of its own), ``static`` (fused, known scale) or ``none`` (a bare kernel).
    `bare_launch_s` is the launch of a product alone: tables of quantised layers hold that of the quantisation
    kernels in theirs.
    """

    quant: Literal["dynamic", "static", "none"] = "dynamic"
    replay: bool = False
    bare_launch_s: float | None = None


def gemm_time_s(
    work: Gemm, constants: Mapping[str, float], facts: DeviceFacts, fmt: NumberFormat, setting: GemmSetting
) -> FloatArray:
    """Return seconds of y[m, n] = x[m, k] W[k, n].

    t = launch + (Tc^p + Tm^p)^(1/p) + Tq with, over tiles (a, b),
    Tc = min 2 a b S (k + k0) ((1 - w) x + w ceil(x)) / (peak eff_ab), x = ceil(m/a) ceil(n/b) / S
    on S multiprocessors, Tm = bytes / (bandwidth memory_eff) and
    Tq = m k (2 + activation bytes) / (bandwidth quant_eff) + quant_launch for dynamic quantisation. A static
    scale needs no pass that finds the largest value, and its kernel is fused with what comes before: the
    rest of the bytes moves all the same (`STATIC_QUANT_SHARE`), and of the launch no more remains than
    `bare_launch_s` where the setting states it.

    Source: own form; constants fitted as the curve's source says.
    """
    m, n, k = (np.asarray(x, dtype=np.float64) for x in (work.m, work.n, work.k))
    compute_s = _tile_time_s(m, n, k, constants, facts, facts.rate(fmt))
    weight_bytes = n * k * fmt.weight_bytes
    num_bytes = weight_bytes + m * k * fmt.activation_bytes + 2.0 * m * n
    bandwidth = facts.memory_bandwidth_bytes_per_s
    memory_s = num_bytes / (bandwidth * constants["memory_eff"])
    if setting.replay:
        memory_s = memory_s / (
            1.0 + constants.get("hot_gain", 0.0) * _hot_share(weight_bytes, constants, facts)
        )
    sharpness = constants["sharpness"]
    total = (compute_s**sharpness + memory_s**sharpness) ** (1.0 / sharpness) + _launch_s(
        constants, fmt, setting
    )
    if fmt.quantises and setting.quant != "none":
        share = 1.0 if setting.quant == "dynamic" else STATIC_QUANT_SHARE
        quant_bytes = m * k * (2.0 + fmt.activation_bytes) * share
        total = total + quant_bytes / (bandwidth * constants.get("quant_eff", 0.3))
    return np.where(m * n * k > 0, total, 0.0)


def _launch_s(constants: Mapping[str, float], fmt: NumberFormat, setting: GemmSetting) -> float:
    launch = constants["launch_s"]
    if not fmt.quantises or setting.quant == "none":
        return launch
    if setting.quant == "dynamic":
        return launch + constants.get("quant_launch_s", 0.0)
    return launch if setting.bare_launch_s is None else min(launch, setting.bare_launch_s)


def _tile_time_s(
    m: FloatArray,
    n: FloatArray,
    k: FloatArray,
    constants: Mapping[str, float],
    facts: DeviceFacts,
    peak_flops_per_s: float,
) -> FloatArray:
    share, depth = constants["wave_share"], k + constants["extra_k"]
    best = None
    for rows, cols in TILES:
        eff = constants.get(f"eff_{rows}x{cols}", 0.0)
        if eff <= 0.0:
            continue
        waves = np.ceil(m / rows) * np.ceil(n / cols) / facts.num_sms
        padded = (1.0 - share) * waves + share * np.ceil(waves)
        time_s = 2.0 * rows * cols * facts.num_sms * depth * padded / (peak_flops_per_s * eff)
        best = time_s if best is None else np.minimum(best, time_s)
    if best is None:
        raise ValueError("a gemm curve needs at least one tile efficiency")
    return best


def _hot_share(weight_bytes: FloatArray, constants: Mapping[str, float], facts: DeviceFacts) -> FloatArray:
    """Share of weights that stay in L2 when a benchmark replays six copies of one layer.

    Copies that are read in a circle either all fit or evict each other, hence the steep edge.
    """
    reach = max(facts.l2_bytes * constants.get("hot_share", 1.0), 1.0)
    return 1.0 / (1.0 + (6.0 * weight_bytes / reach) ** 6)
